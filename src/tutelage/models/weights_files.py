"""Weights files: read without executing code, loaded strictly, saved as safetensors, named by a digest."""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tutelage.errors import UserError, choices
from tutelage.models.heads import Head
from tutelage.models.pruning import take_shapes
from tutelage.runs.bounded import check_archive

PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".tar")
LISTED = 6  # names shown of each kind of mismatch
DEEPEST = 3  # how deep in a file's dictionaries a state is looked for
_AVERAGED = re.compile(r"(^|[_.])(ema|averaged?|swa)([_.]|$)", re.IGNORECASE)
_USUAL = ("state_dict", "model_state_dict", "model", "net", "network")  # where most files keep their state
log = logging.getLogger("tutelage")


class WeightsMismatch(UserError):
    """Weights that are not of a network.

    layer: the one layer that alone differs, and only in shape; empty otherwise. classes: how many outputs the file has there.
    """

    def __init__(self, message: str, *, layer: str = "", classes: int | None = None) -> None:
        super().__init__(message)
        self.layer, self.classes = layer, classes


def read_states(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Return every state (names to tensors) in a weights file, on the CPU, by where it stands: "" for the file itself.

    path: a safetensors file or one that PyTorch wrote, whatever its name ends in; the latter are read with weights_only: nothing in them
    is executed. States of optimisers are left out.
    Raises UserError for a file that is missing, damaged, of another kind or more than plain weights.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"expected a weights file at {path}, found {'a folder' if path.is_dir() else 'nothing'}"
        )
    if path.suffix == ".safetensors" or _looks_like_safetensors(path):
        try:
            return {"": safetensors.torch.load_file(path)}
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(f"the weights file {path} is damaged or not safetensors: {error}") from error
    if path.suffix not in PICKLED and not _looks_like_torch(path):
        raise UserError(
            f"unknown kind of weights file {path}: expected .safetensors, or one that torch.save wrote ({', '.join(PICKLED)})"
        )
    check_archive(path)
    try:
        # torch.load remarks on the pickles that it then refuses
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_plain_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers of damaged zip, tar and pickle files share no base class
        raise UserError(_refusal(path, error)) from error
    states = dict(_states(content))
    if not states:
        held = (
            f"a dictionary of {_some(list(map(str, content)))}"
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise UserError(f"the weights file {path} holds no state_dict (names to tensors), but {held}")
    return states


def _looks_like_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _looks_like_torch(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _plain_globals() -> list[Any]:
    """What checkpoints hold beside tensors that is a plain value: command-line arguments, numbers of numpy's. None runs anything."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    return [argparse.Namespace, np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar"), *kinds]


def _refusal(path: Path, error: Exception) -> str:
    text = str(error)
    if (
        "weights_only" in text or "Weights only" in text
    ):  # torch's own words advise to switch the protection off
        found = re.search(r"GLOBAL (\S+)|TorchScript", text)
        what = (found[1] or found[0]) if found else "an unknown pickle"
        return (
            f"the weights file {path} holds more than tensors and plain values ({what}); loading it could execute "
            "code, so it is refused. Save its state_dict alone, best as .safetensors"
        )
    reason = f"{type(error).__name__}: {text}".splitlines()[0].partition(". ")[0]
    return f"the weights file {path} is damaged or not a PyTorch file ({reason})"


def _states(content: object, at: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the states in what a file holds: dictionaries of names to tensors alone, optimisers left out."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    beside = [value for key, value in content.items() if key not in tensors]
    if tensors and (not beside or (any("." in key for key in tensors) and all(map(_is_plain, beside)))):
        yield at, tensors  # an epoch or a score may stand among them
    elif depth < DEEPEST:
        for key, value in content.items():
            if "optim" not in key.lower():
                yield from _states(value, f"{at}.{key}" if at else key, depth + 1)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _chosen(
    said: str,
    states: Mapping[str, Mapping[str, Tensor]],
    entry: str | None,
    needed: Sequence[str],
    *,
    where: str,
) -> str:
    """Return the place of the state that is meant: the one named; the only one, or only one of such a network; an average of weights
    beside those that it averages. Raises UserError where that leaves several.
    """
    if entry is not None and entry in states:
        return entry
    if entry is not None and not any(_named(_prefixes(state, needed), entry) for state in states.values()):
        known = {
            *filter(None, states),
            *(p.rstrip(".") for s in states.values() for p in _prefixes(s, needed) if p),
        }
        raise UserError(
            f"{where}.entry={entry}: {said} holds no such state or network; {choices(entry, known)}"
        )
    fitting = [at for at, state in states.items() if _prefixes(state, needed)]
    found = fitting or [at for at in states if at in _USUAL] or list(states)
    averaged = [at for at in found if _AVERAGED.search(at)]
    if len(found) == 2 and len(averaged) == 1:
        found = averaged
    if len(found) > 1:
        advice = f"say which: {where}.entry={found[0]}" if where else "save the one that is meant by itself"
        raise UserError(f"{said} holds {len(found)} states, {_some(found)}: {advice}")
    if found[0] and where:
        others = [at for at in states if at != found[0]]
        beside = f", not {_some(others)} ({where}.entry=... takes another)" if others else ""
        log.info("%s.weights=%s: taken are those under '%s'%s", where, said, found[0], beside)
    return found[0]


def load_weights(
    network: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    *,
    head: Head | None = None,
    entry: str | None = None,
    where: str = "",
) -> list[str]:
    """Copy weights into the network, strictly, and return the names that stay as they were.

    source: a file (see `read_states`) or a state. Names and shapes must be the network's, names up to one prefix under which the whole
    network lies (`model.`, `net.`, `module.` of other frameworks); nothing changes when they are not.
    head: the network's final layer where it is to stay fresh, whatever the source says of it (transfer to other classes).
    entry: which of several states or networks in the source is meant: its place in the file, or its prefix.
    where: the network's place in the configuration, for messages.
    Raises WeightsMismatch that lists what is missing, unexpected and of another shape; UserError for what cannot be read or told apart.
    """
    said = "the given state" if isinstance(source, Mapping) else str(source)
    own = network.state_dict()
    fresh = set(head.names) if head else set()
    if head and head.shared:
        raise UserError(
            f"the final layer '{head}' of {type(network).__name__} shares {_some(head.shared)} with other layers: it cannot start afresh "
            "alone. Build the network with weights of its own there"
        )
    # Files from before PyTorch 0.4.1 have no such counter; PyTorch itself starts it at 0.
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    places = Counter(tensor.data_ptr() for tensor in own.values() if tensor.numel())
    tied = {
        name for name, tensor in own.items() if places[tensor.data_ptr()] > 1
    }  # a file may hold them once
    needed = [name for name in own if name not in fresh | optional | tied]
    if isinstance(source, Mapping):
        state = dict(source)
    else:
        states = read_states(source)
        state = states[_chosen(said, states, entry, needed, where=where)]
        if _is_shrunk(source):
            take_shapes(network, {name: value.shape for name, value in state.items()}, sorted(fresh))
            own = network.state_dict()
    state = _without_prefix(state, needed, said, entry, where)
    below = tuple(f"{layer}." for layer in head.layers) if head else ()
    state = {
        n: tensor for n, tensor in state.items() if n not in fresh and (n in own or not n.startswith(below))
    }
    there = {tensor.data_ptr() for name, tensor in own.items() if name in state and name in tied}
    missing = [
        name
        for name, tensor in own.items()
        if name not in state and name not in fresh | optional and tensor.data_ptr() not in there
    ]
    unexpected = [name for name in state if name not in own]
    differing = [name for name in state if name in own and state[name].shape != own[name].shape]
    if missing or unexpected or differing:
        shapes = [f"{n} is {tuple(state[n].shape)} there, {tuple(own[n].shape)} here" for n in differing]
        kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds if names)
        layers = {name.rpartition(".")[0] or name for name in differing}
        text = f"the weights of {said} are not of this {type(network).__name__}. {listed}."
        if missing or unexpected or len(layers) > 1:
            raise WeightsMismatch(
                f"{text} Build the network with the sizes it had when its weights were saved, or choose others"
            )
        raise WeightsMismatch(text, layer=layers.pop(), classes=state[differing[0]].shape[0])
    network.load_state_dict(state, strict=False)
    return sorted(fresh)


def shrunk(network: nn.Module) -> dict[str, str]:
    """Return what a safetensors file says of a network whose channels were taken out; of others nothing."""
    return {"shrunk": "true"} if network.__dict__.get("shrunk") else {}


def _is_shrunk(path: str | Path) -> bool:
    if Path(path).suffix != ".safetensors":
        return False
    with safetensors.safe_open(path, framework="pt") as file:
        return "shrunk" in (file.metadata() or {})


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinite values."""
    return [
        name
        for name, tensor in state.items()
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all())
    ]


def _named(prefixes: Sequence[str], entry: str | None) -> list[str]:
    return [
        prefix
        for prefix in prefixes
        if prefix and entry is not None and prefix.rstrip(".") == entry.rstrip(".")
    ]


def _prefixes(state: Mapping[str, Tensor], needed: Sequence[str]) -> list[str]:
    """Return the prefixes under which a state holds all the needed names."""
    if not needed or all(name in state for name in needed):
        return [""]
    ends = [name.removesuffix(needed[0]) for name in state if name.endswith(f".{needed[0]}")]
    return [prefix for prefix in ends if all(prefix + name in state for name in needed)]


def _without_prefix(
    state: dict[str, Tensor], needed: Sequence[str], said: str, entry: str | None, where: str
) -> dict[str, Tensor]:
    """Return the part of a state under the one prefix that makes its names the needed ones; the state itself if there is none."""
    if any(name in state for name in needed):
        return state
    prefixes = _prefixes(state, needed)
    if named := _named(prefixes, entry):
        prefixes = named
    elif (
        "network." in prefixes
    ):  # a run's own state to resume from: beside it lie the raw weights of an average, projectors
        prefixes = ["network."]
    if len(prefixes) > 1:
        advice = (
            f"say which: {where}.entry={prefixes[0].rstrip('.')}"
            if where
            else "save the one that is meant by itself"
        )
        raise UserError(
            f"{said} holds such a network {len(prefixes)} times, under {', '.join(prefixes)}: {advice}"
        )
    if not prefixes or prefixes == [""]:
        return state
    return {n.removeprefix(prefixes[0]): tensor for n, tensor in state.items() if n.startswith(prefixes[0])}


def _some(names: Collection[str]) -> str:
    listed = ", ".join(list(names)[:LISTED])
    return listed if len(names) <= LISTED else f"{listed}, ... ({len(names)} in all)"


def digest(network: nn.Module) -> str:
    """Return the sha256 (hex) of the network's state: names, types, shapes, bytes; buffers included."""
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()
