"""What a frozen network gives for each training sample, computed once where that is right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch

log = logging.getLogger("tutelage")
Keep = Callable[[str, Tensor], None]


class TrainingSamples(Protocol):
    """The training samples as every epoch shows them, in a fixed order and in fixed batches."""

    def on(self, device: torch.device) -> Iterable[Batch]:
        """Return their batches on a device."""

    def __len__(self) -> int:
        """How many samples there are."""


class Memory:
    """Named tensors (n, ...) of a frozen network for every training sample, from one pass over them at the first question.

    That is what the network would give in the step as long as it sees each sample alone and unchanged: without augmentation, and with
    batch norms that use running statistics. Values may differ in the last bits, where a kernel rounds by its place in the batch.
    look: runs the network on a batch and hands each tensor to `keep(name, tensor)`.
    name: the network's, for messages. Raises UserError where it would change what is computed.
    """

    def __init__(
        self,
        look: Callable[[Batch, Keep], object],
        samples: TrainingSamples | None,
        network: FrozenNetwork,
        *,
        name: str,
    ) -> None:
        if samples is None:
            raise UserError(
                f"method.cache=[{name}] needs data that look the same in each epoch; these are augmented: set data.augment=null, or "
                "method.cache=[]"
            )
        if network.norm_mode != "eval":
            raise UserError(
                f"method.cache=[{name}] needs norm_mode=eval, got {network.norm_mode}: batch statistics depend on the batch"
            )
        self._look, self._samples, self._name = look, samples, name
        self._stored: dict[str, Tensor] = {}
        self._row_of = torch.empty(0, dtype=torch.long)

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return the tensors of a training batch's samples."""
        if not self._stored:
            self._fill(batch.inputs)
        rows = self._row_of.index_select(0, batch.index.to(self._row_of.device))
        # as matrices: index_select copies whole rows of those, and of anything else piece by piece
        return {
            name: values.flatten(1).index_select(0, rows).view(-1, *values.shape[1:])
            for name, values in self._stored.items()
        }

    def forget(self) -> None:
        """Give the memory back; the next question fills it anew."""
        self._stored = {}

    @torch.no_grad()
    def _fill(self, like: Tensor) -> None:
        device = like.device
        count, first, indices = len(self._samples), 0, []
        stored: dict[str, Tensor] = {}

        def keep(name: str, values: Tensor) -> None:
            if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
                values = values.permute(0, 2, 3, 1)  # kept in the order of its memory
            if name not in stored:
                needed = count * (values.nbytes // len(values))
                if device.type == "cpu":  # what was asked for before is not taken until it is written
                    needed += sum(part.nbytes for part in stored.values())
                self._check_room(needed, device)
                stored[name] = values.new_empty((count, *values.shape[1:]))
            stored[name][first : first + len(values)] = values

        for batch in self._samples.on(device):
            # Lightning brings its own batches to half or double precision, not these
            self._look(batch._replace(inputs=batch.inputs.to(like.dtype)), keep)
            indices.append(batch.index)
            first += len(batch.index)
        index = torch.cat(indices).to(device)
        self._row_of = torch.full((int(index.max()) + 1,), -1, device=device)
        self._row_of[index] = torch.arange(count, device=device)
        self._stored = stored
        size = sum(part.nbytes for part in stored.values()) / 2**20
        log.debug("cache of %s: %.0f MiB of %d samples", self._name, size, count)

    def _check_room(self, needed: int, device: torch.device) -> None:
        free = _free_bytes(device)
        if free is not None and needed > free:
            raise UserError(
                f"method.cache=[{self._name}] would take {needed / 2**30:.3g} GiB and more for {len(self._samples)} samples, "
                f"{free / 2**30:.3g} GiB are free on {device}: compare fewer layers, or set method.cache=[]"
            )


def _free_bytes(device: torch.device) -> int | None:
    """Memory that a device can still give; None where it does not say."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
