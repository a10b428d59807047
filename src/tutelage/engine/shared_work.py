"""Work that ranks share: each does its part, and all get everything in order, so that what follows is as in one process."""

from __future__ import annotations

import contextlib
import io
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from tutelage.data.streams import SplitBatches
from tutelage.engine.rank_environment import in_ranks, join_environment
from tutelage.errors import UserError

Item = TypeVar("Item")
Made = TypeVar("Made")
_sharing = False


class _Known(Exception):
    """An error that all ranks were told of."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def is_first() -> bool:
    """Whether this process alone speaks and writes: the first of the ranks, or the only process."""
    return not _sharing or dist.get_rank() == 0


@contextlib.contextmanager
def ranks_together() -> Iterator[None]:
    """Let `shared` share its work among the ranks there are, for as long as the block lasts.

    The block says and raises what it does in the first rank alone, and raises there what it raised in another.
    """
    global _sharing
    rank, ranks = join_environment() if in_ranks() else (0, 1)
    if ranks == 1:
        yield
        return
    dist.init_process_group("gloo")
    _sharing = True
    try:
        with contextlib.ExitStack() as stack:
            if rank:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            try:
                yield
            except _Known:
                raise
            except Exception as error:
                _exchange(None, error)
            _exchange(None)  # who failed after its last share says so here
    except _Known as told:
        if not rank:
            raise told.error from None
    finally:
        _sharing = False
        dist.destroy_process_group()


def shared(
    items: SplitBatches | Iterable[Item],
    work: Callable[[Item], Made],
    device: torch.device | str = "cpu",
) -> Iterator[Made]:
    """Yield what `work` makes of each item, in order. Of ranks that are together each does every so manieth, and all get all.

    items: the same in every rank; of a `SplitBatches` each rank reads its own batches alone.
    work: a function of its item alone, which takes nothing from a random state that goes on; what it returns can be pickled.
    device: where tensors come that another process made.

    Raises in every rank what `work` raised in any.
    """
    if not _sharing:
        yield from map(work, cast("Iterable[Item]", items))
        return
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if isinstance(items, SplitBatches):
        count, own = len(items), cast("Iterator[Item]", iter(items.part(rank, ranks)))
    else:
        every = list(items)
        count, own = len(every), iter(every[rank::ranks])
    for first in range(0, count, ranks):
        made, failed = None, None
        if first + rank < count:
            try:
                made = _moved(work(next(own)), "cpu")
            except Exception as error:
                failed = error
        yield from (_moved(one, device) for one in _exchange(made, failed)[: count - first])


def agreed(value: Made) -> Made:
    """Return the first rank's value in every rank: what a file says may differ while it is written."""
    return cast("Made", _exchange(value)[0]) if _sharing else value


def _exchange(value: Any, failed: Exception | None = None) -> list[Any]:
    """Return every rank's value. Raises where one failed."""
    found: list[Any] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(found, (value, None if failed is None else _portable(failed)))
    except RuntimeError as error:
        said = f"another rank of this command died: {str(error).splitlines()[0]}"
        raise _Known(UserError(said)) from error
    if first := next((error for _, error in found if error is not None), None):
        raise _Known(first)
    return [value for value, _ in found]


def _portable(error: Exception) -> Exception:
    """Return an error as it can travel, with the place that it comes from where it is no mistake of the user."""
    if not isinstance(error, UserError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        return cast("Exception", pickle.loads(pickle.dumps(error)))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _moved(value: Any, device: torch.device | str) -> Any:
    """Return a value with its tensors on a device, each with its own memory alone."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_moved(one, device) for one in value))
    if isinstance(value, tuple | list):
        return type(value)(_moved(one, device) for one in value)
    return value
