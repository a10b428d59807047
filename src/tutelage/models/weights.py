"""Weights files: read without executing code, loaded strictly, saved as safetensors, named by a digest."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.runs.bounded import check_archive

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
LISTED = 6  # names shown of each kind of mismatch


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, on the CPU.

    path: .safetensors, or .ckpt / .pt / .pth / .bin, which are read with weights_only: nothing in them is executed.
    A state under "state_dict" or "model" is unwrapped; of a Lightning checkpoint only `network.` is kept, without that
    prefix. Raises UserError for a file that is missing, damaged, of another kind or more than plain weights.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"expected a weights file at {path}, found {'a folder' if path.is_dir() else 'nothing'}"
        )
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(f"the weights file {path} is damaged or not safetensors: {error}") from error
    if path.suffix not in PICKLED:
        raise UserError(f"unknown kind of weights file {path}: expected .safetensors, {', '.join(PICKLED)}")
    check_archive(path)
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # torch.load remarks on the pickles that it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers of damaged zip, tar and pickle files share no base class
        raise UserError(_refusal(path, error)) from error
    return _tensors(path, state)


def _refusal(path: Path, error: Exception) -> str:
    text = str(error)
    if "weights_only" in text:  # torch's own words advise to switch the protection off
        found = re.search(r"GLOBAL (\S+)|TorchScript", text)
        what = (found[1] or found[0]) if found else "an unknown pickle"
        return (
            f"the weights file {path} holds more than tensors and plain values ({what}); loading it could execute "
            "code, so it is refused. Save its state_dict alone, best as .safetensors"
        )
    reason = f"{type(error).__name__}: {text}".splitlines()[0].partition(". ")[0]
    return f"the weights file {path} is damaged or not a PyTorch file ({reason})"


def _tensors(path: Path, state: object) -> dict[str, Tensor]:
    wrapped = False
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state, wrapped = state[key], True
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"the weights file {path} holds no state_dict (names to tensors), but {type(state).__name__}"
        )
    if wrapped and any(name.startswith("network.") for name in state):
        return {name.removeprefix("network."): t for name, t in state.items() if name.startswith("network.")}
    return dict(state)


def head_names(network: nn.Module) -> set[str]:
    """Return the names of the final layer's parameters: timm's declared classifier, else the last layer's."""
    names = [name for name, _ in network.named_parameters()]
    declared = (getattr(network, "pretrained_cfg", None) or {}).get("classifier") or ()
    owners = {declared} if isinstance(declared, str) else set(declared)
    found = {name for name in names if name.rpartition(".")[0] in owners}
    last = names[-1].rpartition(".")[0] if names else ""
    return found or {name for name in names if name.rpartition(".")[0] == last}


def load_weights(
    network: nn.Module, source: str | Path | Mapping[str, Tensor], *, new_head: bool = False
) -> list[str]:
    """Copy weights into the network, strictly, and return the names that stay as they were.

    source: a file (see `read_state`) or a state. Names and shapes must be the network's, names up to one prefix under which the whole
    network lies (`model.`, `net.`, `module.` of other frameworks); nothing changes when they are not.
    new_head: leave the final layer fresh, whatever the source says of it (transfer to other classes).
    Raises UserError that lists what is missing, unexpected and of another shape.
    """
    state = dict(source) if isinstance(source, Mapping) else read_state(source)
    where = "the given state" if isinstance(source, Mapping) else str(source)
    own = network.state_dict()
    head = head_names(network)
    fresh = head if new_head else set()
    # Files from before PyTorch 0.4.1 have no such counter; PyTorch itself starts it at 0.
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    state = _without_prefix(state, [name for name in own if name not in fresh | optional], where)
    state = {name: tensor for name, tensor in state.items() if name not in fresh}
    missing = [name for name in own if name not in state and name not in fresh | optional]
    unexpected = [name for name in state if name not in own]
    differing = [name for name in state if name in own and state[name].shape != own[name].shape]
    if missing or unexpected or differing:
        shapes = [f"{n} is {tuple(state[n].shape)} there, {tuple(own[n].shape)} here" for n in differing]
        kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds if names)
        only_head = not missing and not unexpected and set(differing) <= head
        advice = (
            "Only the final layer differs: +model.new_head=true starts that of the trained network afresh; a frozen network keeps its "
            "own with +<role>.output_size=<its number of classes>"
            if only_head
            else "Build the network with the sizes it had when its weights were saved, or choose others"
        )
        raise UserError(
            f"the weights of {where} are not of this {type(network).__name__}. {listed}. {advice}"
        )
    network.load_state_dict(state, strict=False)
    return sorted(fresh)


def _without_prefix(state: dict[str, Tensor], needed: Sequence[str], where: str) -> dict[str, Tensor]:
    """Return the part of a state under the one prefix that makes its names the needed ones; the state itself if there is none."""
    if not needed or any(name in state for name in needed):
        return state
    ends = [name.removesuffix(needed[0]) for name in state if name.endswith(f".{needed[0]}")]
    prefixes = [prefix for prefix in ends if all(prefix + name in state for name in needed)]
    if len(prefixes) > 1:
        raise UserError(
            f"{where} holds such a network {len(prefixes)} times, under {', '.join(prefixes)}: save the one that is meant by itself"
        )
    if not prefixes:
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
