"""Finished runs from Python: the trained network, its configuration and its result; and its evaluation on any data."""

from __future__ import annotations

import contextlib
import logging
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import UninitializedParameter
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from tutelage.data.base import DataModule
from tutelage.engine import trust
from tutelage.engine.data_sets import build_data
from tutelage.engine.networks import build_network, sizes_of
from tutelage.engine.shared_work import shared
from tutelage.errors import UserError, reason_of
from tutelage.models.forward_calls import Call
from tutelage.models.weights_files import load_weights, not_finite
from tutelage.runs.identity import flatten
from tutelage.runs.provenance import changed_files
from tutelage.runs.run import Run
from tutelage.runs.store import Store
from tutelage.runs.weights import FILE
from tutelage.tasks import Batch, Task

log = logging.getLogger("tutelage")
HUGGING_FACE = "tutelage.models.huggingface.hugging_face_model"
"""What builds a model of transformers."""
_LARGEST = 10**7
_SPARE_VALUES, _PARTS_OF_A_TENSOR, _SPARE_PARTS = 2**26, 30, 2000
"""How much larger than its stored weights a network may be while it is built: layers without weights, and ones that are replaced."""


@dataclass(frozen=True)
class LoadedRun:
    """A finished run.

    network: the trained network with the weights selected on validation, in eval mode, on the CPU. config: the resolved
    configuration. result: what the run recorded. data: its data module, set up; the test split is closed until `data.open_test()`.
    """

    network: nn.Module
    config: dict[str, Any]
    result: dict[str, Any]
    data: DataModule


def load_run(
    path: str | Path, runs_dir: str | Path = "runs", *, code: Collection[str] = (), **data_overrides: Any
) -> LoadedRun:
    """Load a complete run by its folder, or by its name and the first digits of its identity, as `tutelage list runs` shows it.

    The run may come from anybody: nothing in its folder is executed, and nothing is written or downloaded where its configuration says.

    Args:
        path: the run.
        runs_dir: the folder of the runs that a name is looked up in.
        code: modules that the run's configuration may name beyond what `tutelage.engine.trust` allows: your own, say ["my_networks"].
        data_overrides: arguments of the data module that differ here, such as `root` where the data lie elsewhere.

    Raises:
        UserError: the run is not complete, is damaged, or names what it may not.
    """
    run = Store(runs_dir).find(str(path))
    if not run.is_complete:
        if (result := run.path / "result.json").exists():
            raise UserError(
                f"{result} is damaged: give the run's train command again, which makes it anew (`tutelage list runs` shows {run.key})"
            )
        raise UserError(
            f"{run.key} is {run.state}: only a complete run can be loaded; give its train command again to finish it"
        )
    if "pseudo" in (run.result or {}):
        raise UserError(f"{run.key} is a pseudo data set: it has no network")
    config = stored_config(run, runs_dir=runs_dir, code=code)
    if changed := changed_files(run.attempts, config):
        log.warning(
            "%s was trained with another %s: its weights now run through other code",
            run.key,
            " and ".join(changed),
        )
    config["data"] |= data_overrides
    if "root" not in data_overrides and config["data"].get("root") and "download" in config["data"]:
        config["data"]["download"] = False  # a folder that the run names is read, never written to
    weights = run.path / FILE
    with _buildable(run.key):
        check_size(run.key, config, weights)
        data = build_data(config)
        sizes = sizes_of(data)
    network = restored(
        run.key, config, sizes, weights, advice="The run's command with rerun=true makes it anew"
    )
    return LoadedRun(network=network, config=config, result=run.result or {}, data=data)


def check_size(key: str, config: Mapping[str, Any], weights: Path) -> None:
    """Raise UserError where a network's section asks for a number that its stored weights could not fill."""
    most = max(_LARGEST, weights.stat().st_size if weights.is_file() else 0)
    for name, value in flatten(dict(config["model"])):
        if isinstance(value, int) and value > most:
            raise UserError(
                f"{key}: model.{name}={value} asks for a larger network than {weights.name} could fill"
            )


def restored(
    key: str, config: dict[str, Any], sizes: Mapping[str, Any], weights: Path, *, advice: str
) -> nn.Module:
    """Build the network of a stored configuration, and give it all its weights from a file: in eval mode, on the CPU.

    What the network once started from need not exist any more.

    Args:
        key: what messages call it.
        config: with the section `model`, once `trust.check_stored` has seen it.
        sizes: see `networks.sizes_of`.
        weights: a safetensors file.
        advice: what to do where the weights do not fit.

    Raises:
        UserError: it cannot be built, is larger than its weights, or does not fit them.
    """
    check_size(key, config, weights)
    with _buildable(key), within(weights):
        # what was pruned is in the weights: their zeros, or their shapes
        afresh: dict[str, Any] = {
            "weights": "scratch",
            **dict.fromkeys(config["model"].keys() & {"pruned", "pruned_by"}),
        }
        if config["model"].get("_target_") == HUGGING_FACE and config["model"].get("weights") == "pretrained":
            afresh["own_size"] = True  # of images, as it was built for the weights that it started from
        network = build_network("model", config | {"model": config["model"] | afresh}, sizes)
    try:
        load_weights(network, weights)
    except UserError as error:
        raise UserError(f"{error}\n{advice}") from error
    if broken := not_finite(network.state_dict()):
        log.warning(
            "the weights of %s are not finite numbers in %d of its tensors (%s, ...): what it answers means nothing",
            key,
            len(broken),
            broken[0],
        )
    return network.eval()


@contextlib.contextmanager
def _buildable(key: str) -> Iterator[None]:
    """Have what a damaged configuration may raise end in one message."""
    try:
        yield
    except (
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        raise UserError(f"{key} cannot be built from its configuration ({reason_of(error)})") from error


def stored_config(run: Run, *, runs_dir: str | Path, code: Collection[str] = ()) -> dict[str, Any]:
    """Return the configuration in a run's folder, once it is clear that building it executes nothing of a stranger's.

    Its `runs_dir`, a place on the machine where it was made, becomes the one of this command.

    Raises:
        UserError: it lacks a section, or names modules, files or runs that it may not.
    """
    config = run.config
    trust.check_stored(config, run.path, code=code)
    for section in ("data", "model", "method"):
        if not isinstance(config.get(section), dict):
            raise UserError(f"the configuration in {run.path} is damaged: expected a section '{section}'")
    seed = config.get("seed")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(
            f"the configuration in {run.path} is damaged: expected a seed from 0 to 2^32 - 1, got {seed!r:.80}"
        )
    for key, value in flatten(config["data"]):
        if isinstance(value, str) and _is_special(value):
            raise UserError(
                f"the configuration in {run.path} is refused: data.{key}={value} is a pipe, socket or device"
            )
    config["runs_dir"] = str(runs_dir)
    return config


def _is_special(text: str) -> bool:
    try:
        mode = Path(text).expanduser().stat().st_mode
    except (OSError, ValueError, RuntimeError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def within(weights: Path) -> Iterator[None]:
    """Build a network no larger than the file of its weights: a stranger's configuration may ask for more than the machine has.

    Raises:
        UserError: it registers far more tensors, or larger ones, than the file could fill.
    """
    size, stored = 0, 0
    if weights.is_file():  # what reads it would wait for ever at a pipe
        with contextlib.suppress(SafetensorError, OSError), safe_open(weights, framework="pt") as file:
            size, stored = weights.stat().st_size, len(file.keys())
    counts = {"values": 0, "parts": 0}

    def refuse(what: str) -> None:
        raise UserError(
            f"{weights.parent}: the network of its configuration has {what} than {weights.name} ({size / 1e6:,.1f} MB) could fill"
        )

    def parameter(_module: nn.Module, _name: str, tensor: torch.Tensor | None) -> None:
        counts["values"] += (
            0 if tensor is None or isinstance(tensor, UninitializedParameter) else tensor.numel()
        )
        if counts["values"] > size + _SPARE_VALUES:
            refuse("more weights")

    def part(_module: nn.Module, _name: str, _part: nn.Module | None) -> None:
        counts["parts"] += 1
        if counts["parts"] > _PARTS_OF_A_TENSOR * stored + _SPARE_PARTS:
            refuse("more parts")

    hooks = [
        register_module_parameter_registration_hook(parameter),
        register_module_module_registration_hook(part),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def evaluate_network(
    network: nn.Module, task: Task, batches: Any, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Return the task's metrics of a network over batches; each sample counts once. Ranks that are together share the batches."""
    network = network.to(device).eval()
    call = Call.of(network)
    metrics = task.metrics().to(device)

    def answered(batch: Batch) -> tuple[Tensor, Batch]:
        return call(network, batch.inputs, batch.mask), batch._replace(inputs=batch.inputs[:0])

    for output, batch in shared(batches, answered, device):
        metrics.update(output, batch)
    return metrics.compute()
