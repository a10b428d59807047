"""What SLURM says of jobs: `squeue` while it remembers them, `sacct` afterwards, where the cluster keeps accounts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ENDINGS = {
    "CANCELLED": "was cancelled",
    "TIMEOUT": "used up its time (hydra.launcher.timeout_min) and was not queued again",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "got a node that did not start",
    "OUT_OF_MEMORY": "used more memory than it had asked for (hydra.launcher.mem_gb)",
    "PREEMPTED": "gave way to other jobs, and the cluster does not queue such jobs again",
    "DEADLINE": "missed its deadline",
    "FAILED": "failed",
    "COMPLETED": "ended without a result",
    "REVOKED": "was taken by another cluster",
    "GONE": "is no longer known to SLURM, and left no result",
}
"""How a job ends, by SLURM's names; in any other state it is still to run, runs, or is being cleared away. GONE is ours."""
ORDINARY = ("None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Dependency", "Cleaning", "")
"""Reasons to wait that need nobody's attention."""
_GIVEN_UP_AFTER_S = 60
_NOISE = re.compile(r"(submitit |srun: |slurmstepd: |\S*Warning: )")


class NoAnswer(Exception):
    """SLURM did not say how its jobs are."""


@dataclass(frozen=True)
class Seen:
    """A job as SLURM has it. state: SLURM's word, `GONE` when it remembers nothing. reason: why it waits. seconds: how long it has run."""

    state: str
    reason: str = ""
    seconds: float | None = None
    node: str = ""

    @property
    def is_over(self) -> bool:
        """Whether SLURM will not run the job any more."""
        return self.state in ENDINGS

    def comes_after_an_interruption_of(self, before: Seen) -> bool:
        """Whether the job has been queued again since: it waits after it ran, or has run for less than before."""
        if before.state not in ("RUNNING", "COMPLETING"):
            return False
        ran, runs = before.seconds, self.seconds
        return self.state == "PENDING" or (ran is not None and runs is not None and runs < ran)

    @property
    def ending(self) -> str:
        """What became of it, in words that follow its name."""
        said = ENDINGS[self.state]
        if self.state == "CANCELLED":
            return said + (" while it ran" if self.seconds else " before it began")
        return f"{said} {self.node}" if self.state == "NODE_FAIL" else said


def look(ids: Iterable[str]) -> dict[str, Seen]:
    """Return what SLURM knows of jobs, by their numbers (`7`, or `7_2` in an array).

    Raises NoAnswer where the controller cannot be asked.
    """
    wanted = set(ids)
    text = _ask("squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T|%r|%M|%N")
    seen = {}
    for line in text.splitlines():
        number, state, reason, elapsed, node = (*line.strip().split("|"), "", "", "", "")[:5]
        if number in wanted:
            seen[number] = Seen(state, reason, _seconds(elapsed), node)
    if forgotten := wanted - set(seen):
        seen |= _accounts(forgotten)
    return {number: seen.get(number, Seen("GONE")) for number in wanted}


def _accounts(ids: Iterable[str]) -> dict[str, Seen]:
    """Ask the accounts, which a cluster need not keep, for jobs that the controller has forgotten."""
    columns = "--format=JobID,State,ElapsedRaw,NodeList"
    try:
        text = _ask(
            "sacct", "--noheader", "--parsable2", "--allocations", columns, f"--jobs={','.join(sorted(ids))}"
        )
    except NoAnswer:
        return {}
    seen = {}
    for line in text.splitlines():
        number, state, elapsed, node = (*line.split("|"), "", "", "")[:4]
        seen[number] = Seen(state.partition(" ")[0], "", float(elapsed) if elapsed.isdigit() else None, node)
    return seen


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIVEN_UP_AFTER_S, check=True, errors="replace"
        )
    except subprocess.CalledProcessError as error:
        raise NoAnswer((error.stderr.strip() or f"{command[0]} failed").splitlines()[-1]) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswer(str(error)) from None
    return done.stdout


def _seconds(elapsed: str) -> float | None:
    """Read SLURM's `1-02:03:04`, with as many parts as there are."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+)*", elapsed):
        return None
    days, _, clock = elapsed.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return float(total + 86400 * int(days or 0))


def last_words(log: Path) -> str:
    """Return the last line of a job's log that it wrote itself; where there is none, how the cluster says that its process ended."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    ends = [found for line in lines if (found := re.match(r"srun: error: (\S+): tasks? \S+: (.+)", line))]
    if ends and ends[-1][2] == "Killed":
        return (
            f"its process was killed on {ends[-1][1]} (signal 9, which a machine short of memory sends too)"
        )
    own = [line for line in lines if line and not _NOISE.match(line)]
    if own:
        return own[-1][:300]
    return f"its process on {ends[-1][1]}: {ends[-1][2]}" if ends else ""


def cpus_per_node(listed: str) -> int:
    """Return the least number of CPUs that a node has in SLURM's list, such as `16(x2),8`."""
    counts = [int(count) for count in re.findall(r"(?:^|,)(\d+)", listed)]
    return min(counts, default=0)
