"""A command whose work ranks share: `hardware.devices=2` starts them; those that torchrun or srun started are taken as they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from tutelage.cli.command_words import DEVICES
from tutelage.cli.reader import Given
from tutelage.engine.rank_environment import in_ranks, join_environment
from tutelage.errors import UserError

log = logging.getLogger("tutelage")
KEY = DEVICES.name


def run_in_ranks(
    name: str,
    given: Given,
    work: Callable[[Given], int],
    *,
    check: Callable[[Given], object] = lambda given: None,
    shares: bool = True,
) -> int:
    """Run a command in the ranks that it asks for or that there are; return its exit code. The first rank alone speaks and writes.

    work: what the command does in each rank.
    check: raises before ranks are started what the words alone say is wrong.
    shares: whether ranks can share it; else one process does all, and says so.
    """
    rank, there = join_environment() if in_ranks() else (0, 1)
    asked = _asked(given)
    if there > 1 and KEY in given.spoken and asked != there:
        raise UserError(
            f"{there} processes were started as ranks here (srun, torchrun), but {KEY}={given.options[KEY]}: leave that out"
        )
    if max(there, asked) == 1:
        return work(given)
    if not shares:
        if rank:
            return 0
        log.info("%s is done in one process: there is nothing that ranks could share", name)
        return work(given)
    if there == 1:
        check(given)
        return _start(name, given, asked)
    import torch

    from tutelage.engine.shared_work import ranks_together
    from tutelage.jobs.parallel import die_with_parent

    die_with_parent()
    if given.options["device"] in ("cuda", "gpu") and (gpus := torch.cuda.device_count()):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    with ranks_together():
        return work(given)
    return 0  # of a rank whose failure the first says


def _asked(given: Given) -> int:
    from tutelage.jobs.ranks import ranks_of

    word = given.options[KEY]
    on_cpu = given.options["device"] == "cpu"
    devices = int(word) if word.isdigit() else word
    if devices == 1:
        return 1
    return ranks_of(
        {
            "hardware": {
                "devices": devices,
                "num_nodes": 1,
                "accelerator": "cpu" if on_cpu else "gpu",
                "strategy": "ddp",
            }
        }
    )


def _start(name: str, given: Given, ranks: int) -> int:
    """Start the ranks with the same words, and return the exit code of the first that failed."""
    import torch

    from tutelage.jobs.ranks import killed_of, launched

    words = [f"{key}={given.options[key]}" for key in sorted(given.spoken - {KEY})]
    verb = [given.verb] if given.verb else []
    command = ["-m", "tutelage", name, *verb, *given.names, *sorted(given.flags), *words, *given.settings]
    threads = str(max(1, torch.get_num_threads() // ranks))
    failed, _ = launched(command, ranks, threads, f"{name}-{os.getpid()}")
    if killed := killed_of(failed):
        raise UserError(killed.format(name))
    return max(failed.values(), default=0)
