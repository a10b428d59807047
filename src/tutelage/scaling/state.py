"""States of samplers in files: safetensors, so that nothing in one can run code; written atomically, checked when read."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tutelage.errors import UserError
from tutelage.runs.records import replacing


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors; a kill leaves the old file or the whole new one."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def load(path: Path, like: Tensor) -> dict[str, Tensor]:
    """Read what `save` wrote, on the CPU; its "flat" must have the shape of `like`.

    Raises:
        UserError: when the file is missing, unreadable or of another ensemble.
    """
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    with contextlib.suppress(Exception):
        state = load_file(path)
    if "flat" not in state or state["flat"].shape != like.shape:
        came = f"parameters of shape {tuple(state['flat'].shape)}" if "flat" in state else "no readable state"
        raise UserError(
            f"cannot continue from {path}: expected parameters of shape {tuple(like.shape)}, found {came}. "
            "Remove the file to start again"
        )
    return state
