"""What the analyses share: a subject's network with its data, what its run recorded, and how an interval is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tutelage.analysis.analysis_request import Request, Subject
from tutelage.errors import NoValue, UserError

if TYPE_CHECKING:
    from tutelage.data.base import DataModule
    from tutelage.models.frozen import FrozenNetwork
    from tutelage.reporting.statistics import Summary

BLOCK = 125  # samples whose features are held at once: 0.3 GB for a ResNet-18 at 32 px
SPLITS = ("train", "validation", "test")


def opened(
    subject: Subject, request: Request, *, split: str = "", samples: int | None = None
) -> tuple[FrozenNetwork, Any, Any]:
    """Return a subject's network on the device, its data module and the batches of the split asked for.

    samples: at most so many of the split, evenly spaced.
    """
    import numpy as np
    import torch

    from tutelage.data.base import SplitBatches
    from tutelage.engine import trust
    from tutelage.engine.inherited import check_reads
    from tutelage.engine.load import load_run
    from tutelage.engine.networks import build_frozen
    from tutelage.models.frozen import FrozenNetwork

    if not subject.role:
        check_reads(subject.run.key, subject.run.config)
    device, split = torch.device(request.options["device"]), split or request.options["split"]
    options = {"runs_dir": request.options["runs_dir"], "code": trust.modules(request.options["code"])}
    loaded = load_run(subject.run.path, **options, **request.data)  # type: ignore[arg-type]
    loaded.data.open_test()
    if subject.role:
        network: Any = build_frozen(subject.role, loaded.config, loaded.data)
    else:
        network = FrozenNetwork(loaded.network)
    batches: Any = loaded.data.batches(split, device=device)
    if samples is not None:
        index = loaded.data.splits[split]
        chosen = index[np.linspace(0, len(index) - 1, min(samples, len(index))).round().astype(int)]
        batches = SplitBatches(loaded.data.store.to(device), chosen, batch_size=BLOCK)
    return network.to(device), loaded.data, batches


def method_of(subject: Subject) -> dict[str, Any]:
    """Return what a run recorded of its method. Raises UserError where it recorded nothing."""
    from tutelage.runs.records import read_json

    if not (path := subject.run.path / "setup.json").is_file():
        raise UserError(
            f"{subject.run.key} has no {path.name}: its pairs are not known; its command with rerun=true makes it anew"
        )
    return dict(read_json(path)["method"])


def monitored(subject: Subject) -> tuple[str, dict[str, float]]:
    """The monitored metric of a run's own network and its value on the test split; none of a guide or teacher."""
    result = subject.run.result or {}
    if subject.role or "selection" not in result:
        return "", {}
    monitor = str(result["selection"]["monitor"])
    return monitor, {f"test_{monitor}": float(result["best"]["test"][monitor])}


def whole(key: str, options: Mapping[str, str], default: int = 1000) -> int:
    """Return an option that is a whole number of at least 1, or the default. Raises UserError for another."""
    word = options[key] or str(default)
    if not word.isdigit() or int(word) < 1:
        raise UserError(f"{key} must be a whole number of at least 1, got {word!r}")
    return int(word)


def between(low: float, high: float) -> str:
    """Return an interval in words."""
    return f"{low:.3f} to {high:.3f}"


def over_runs(summary: Summary) -> str:
    """Return the interval of a mean over runs, in brackets; of one run nothing."""
    return f" (95 % over {summary.n} runs {between(summary.low, summary.high)})" if summary.n > 1 else ""


def beside(
    network: FrozenNetwork, own: DataModule, shown: DataModule, names: tuple[str, str]
) -> FrozenNetwork:
    """Return a network of its own data as it sees the inputs of other data. Raises UserError where these do not fit it.

    names: of the network and of the other data, for the message.
    """
    from tutelage.models.frozen import FrozenNetwork, recorded

    if tuple(own.input_shape) != tuple(shown.input_shape) or own.vocab_size != shown.vocab_size:
        raise UserError(
            f"{names[1]} has inputs {tuple(shown.input_shape)}, {names[0]} takes {tuple(own.input_shape)}"
        )
    if own.normalization == shown.normalization:
        return network
    return FrozenNetwork(
        network.network,
        norm_mode=network.norm_mode,
        expects=network.expects or recorded(own.normalization, like=shown.normalization),
        given=shown.normalization,
        input_size=network.input_size,
    )


def on_other(network: FrozenNetwork, own: DataModule, request: Request) -> tuple[FrozenNetwork, Any, Any]:
    """Return a network as it sees the data that the option `other` names, brought to its own normalisation; these data, and their test
    batches. Raises UserError where they do not fit it.
    """
    from tutelage.config.compose import compose
    from tutelage.engine.data_sets import build_data

    other, device = request.options["other"], request.options["device"]
    try:
        words = dict(compose([f"data={other}", *request.other])["data"])
    except NoValue as error:
        key = error.key.removeprefix("data.")
        raise UserError(f"other={other} needs to know its {key}: add other.{key}=...") from error
    theirs = build_data({"data": words, "runs_dir": request.options["runs_dir"]})
    seen = beside(network, own, theirs, ("the network", f"other={other}")).to(device)
    theirs.open_test()
    return seen, theirs, theirs.batches("test", device=device)
