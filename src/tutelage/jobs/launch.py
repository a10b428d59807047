"""From a plan to finished runs: needs first, then the run itself, in this process or in ranks of its own.

A run of one rank trains here. A run of several starts its own torch elastic group by command; each rank reads the finished
`config.yaml` of the run's folder, so no rank composes anything and a multirun of such runs just works. Where the ranks exist
already (torchrun, srun) they are used.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tutelage.engine import trust
from tutelage.engine.rank_environment import global_rank, in_ranks
from tutelage.errors import UnknownArgument, UserError, exit_code, out_of_memory, refused
from tutelage.jobs.longer import begin_from_shorter
from tutelage.jobs.mended import carry_absent, take_over
from tutelage.jobs.plain_log import take_held, warnings_logged
from tutelage.jobs.ranks import check_ranks, ranks_of, start_ranks
from tutelage.runs import needs, provenance
from tutelage.runs.needs import Plan
from tutelage.runs.run import Run, RunBusy
from tutelage.runs.setting import is_synthesis
from tutelage.runs.store import Store

log = logging.getLogger("tutelage")
Make = Callable[[dict[str, Any], Run], Any]
"""Makes the run of a configuration complete, or raises."""


def fit_or_synthesize(config: dict[str, Any], run: Run) -> None:
    """Train, or make a pseudo data set, as the configuration says."""
    if is_synthesis(config):
        from tutelage.engine.pseudo_data import make

        make(config, run)
    else:
        _import_mirror_first(config)
        from tutelage.engine.fit import fit

        fit(config, run)


def _import_mirror_first(config: dict[str, Any]) -> None:
    """Import W&B, where a run is mirrored there, before torch: beside torch's thousands of modules it takes twice the work.

    (Its classes look for their own source among all modules.) What keeps it from being imported, the mirror says.
    """
    kind = config["logger"]["kind"]
    if (
        "wandb" in ([kind] if isinstance(kind, str) else kind)
        and "torch" not in sys.modules
        and global_rank() == 0
    ):
        with contextlib.suppress(Exception, SystemExit):
            importlib.import_module("wandb")


def run_plan(
    plan: Plan,
    *,
    rerun: bool = False,
    wait: bool = True,
    say: Callable[[str], None] = log.info,
    make: Make = fit_or_synthesize,
) -> dict[str, Any]:
    """Return the result of a planned run: stored, if it is complete; otherwise after running what is missing of it.

    A failure that is no mistake of the user is tried again `retry` times, each time from the last checkpoint.

    rerun: archive the earlier attempt first (of this run, not of its needs).
    wait: whether to wait for a process that works on this run; otherwise RunBusy is raised.
    say: takes a line on what is reused or waited for.
    make: what makes the run itself.
    """
    store = Store(plan.config["runs_dir"])
    run = store.run(plan.name, plan.identity)
    if rerun and in_ranks():
        raise UserError(
            f"rerun=true cannot be given where the ranks exist already (torchrun, srun): each would set the others' run aside. "
            f"Move {run.path} away first, or give the command without them: it starts its own ranks"
        )
    if run.is_complete and not rerun:
        say(f"{run.key} is complete: its stored result is used")
        if changed := provenance.changed_files(run.attempts, plan.config):
            other = " and ".join(changed)
            log.warning(
                f"{run.key} was made with another {other}: its stored result is of that code; rerun=true makes it anew"
            )
        store.also_called(plan.name, run)
        return run.result or {}
    check_ranks(plan.config)
    for left in reversed(range(plan.config["retry"] + 1)):
        try:
            _run_missing(plan, store, run, rerun=rerun, wait=wait, say=say, make=make)
            break
        except Exception as error:
            if message := refused(error):
                raise message from error
            if not left or in_ranks() or is_mistake(error) or isinstance(error, RunBusy):
                raise
            log.warning("%s failed (%s) and is tried again", run.key, first_line(error))
            rerun = False  # what the failed attempt left is resumed
    if not in_ranks() or global_rank() == 0:
        store.also_called(plan.name, run)
    return run.result or {}


def _run_missing(
    plan: Plan,
    store: Store,
    run: Run,
    *,
    rerun: bool,
    wait: bool,
    say: Callable[[str], None],
    make: Make,
) -> None:
    if in_ranks() and (missing := [n for n in plan.prerequisites() if not store.at(n.key).is_complete]):
        commands = "\n".join(f"  tutelage train {' '.join(_command_of(plan, need))}" for need in missing)
        raise UserError(
            f"{plan.key} needs runs that are not complete; make them before starting ranks by hand:\n{commands}"
        )
    needs.ensure(plan, store, execute, say=say)
    if in_ranks():  # the ranks are one run: its first rank alone takes the lock
        with run.lock(say=say) if global_rank() == 0 else contextlib.nullcontext():
            execute(plan, run, make)
        return
    with run.lock(wait=wait, say=say):
        if run.is_complete and not rerun:
            return
        if rerun:
            run.archive()
        execute(plan, run, make)


def _command_of(plan: Plan, wanted: Plan) -> list[str]:
    for above in (plan, *plan.prerequisites()):
        for role, need in above.needs.items():
            if need.identity == wanted.identity:
                return list(above.config["needs"][role]["command"])
    return [f"name={wanted.name}"]


def is_mistake(error: BaseException) -> bool:
    """Whether an error is one that the user can mend and that trying again cannot."""
    return isinstance(error, UserError) and getattr(error, "mistake", True)


def first_line(error: BaseException) -> str:
    """Return what a list of failures says of an error."""
    text = str(error).strip().splitlines()
    said = text[0] if text else ""
    return said if isinstance(error, UserError) else f"{type(error).__name__}{f': {said}' if said else ''}"


def mend(plan: Plan, *, say: Callable[[str], None] = log.info) -> dict[str, Any] | None:
    """Check a complete pseudo data set against its hashes, make damaged shards again, and return the result; None: it is not complete."""
    store = Store(plan.config["runs_dir"])
    run = store.run(plan.name, plan.identity)
    if not run.is_complete:
        return None
    from tutelage.engine import pseudo_data

    with run.lock(say=say):
        broken = pseudo_data.damaged(run)
        if not broken:
            say(f"{run.key} is complete, and every shard is what its manifest says")
            return run.result
        say(f"{run.key}: {', '.join(broken)} missing or damaged, made again")
        needs.ensure(plan, store, execute, say=say)
        pseudo_data.make(plan.config, run)
    return run.result


def execute(plan: Plan, run: Run, make: Make = fit_or_synthesize) -> None:
    """Do one run under its lock, and record its failure if it fails."""
    if run.is_complete:
        return
    first, store, history = not in_ranks() or global_rank() == 0, Store(plan.config["runs_dir"]), {}
    carry_absent(plan, run, store)
    if not in_ranks():  # ranks that exist already have composed their own configurations
        history = take_over(plan, run, store) or begin_from_shorter(plan.config, run, store)
    if first:
        if changed := provenance.changed_files(run.attempts, plan.config):
            log.warning(
                "%s was begun with another %s, and goes on with this one", run.key, " and ".join(changed)
            )
        trust.note(plan.config)
        given = {} if plan.words is None else {"words": [*map(provenance.scrub, plan.words)]}
        own_code = {"own_code": provenance.own_code(plan.config)}
        run.begin(plan.config, provenance.collect() | given | own_code | history)
        provenance.keep_own_code(plan.config, run.path / "own_code")
    try:
        with logging_to(run.log) if first else contextlib.nullcontext():
            if ranks_of(plan.config) > 1 and not in_ranks():
                start_ranks(plan, run)
            else:
                attempt(plan.config, run, make)
    except KeyboardInterrupt as interrupt:
        interrupt.begins_anew = "" if run.is_begun else run.key  # type: ignore[attr-defined]
        raise
    except UserError as error:
        if isinstance(error, UnknownArgument) and plan.words:
            from tutelage.config.origins import advice  # Hydra, which a rank or a worker has not loaded

            error.args = (f"{error}{advice(error.settings, plan.words)}",)
        # A mistake that was seen before the first step: its message says all, and the mended command is another run.
        if is_mistake(error) and not in_ranks() and _never_began(run):
            with contextlib.suppress(OSError):
                run.remove()
        raise


def _never_began(run: Run) -> bool:
    """Whether a run has nothing of its own: no row of metrics, no state, no failure that says that it had begun, and one attempt."""
    recorded = (run.path / "metrics.jsonl").exists() and (run.path / "metrics.jsonl").stat().st_size > 0
    states = list((run.path / "checkpoints").glob("*")) + list((run.path / "shards").glob("*"))
    failure = run.failure or {}
    return (
        not (recorded or states or failure.get("damaged") or failure.get("began")) and len(run.attempts) <= 1
    )


def attempt(config: dict[str, Any], run: Run, make: Make = fit_or_synthesize) -> None:
    """Make a run in this process; whatever that raises is recorded with the run and passed on."""
    try:
        make(config, run)
    except (KeyboardInterrupt, SystemExit):
        how = "resumes it" if run.is_begun else "begins it anew, for no state of it was saved yet"
        log.warning("%s was interrupted: the same command %s", run.key, how)
        raise
    except BaseException as raised:
        log.debug("%s", traceback.format_exc())
        error = _in_words(raised)
        facts = {
            "mistake": is_mistake(error),
            "exit_code": exit_code(error),
            "traceback": "" if isinstance(error, UserError) else traceback.format_exc(),
            "cause": "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else "",
            **getattr(error, "facts", {}),
        }
        with contextlib.suppress(OSError):  # a full disk has no room for the news either
            run.fail(type(error).__name__, str(error), **facts)
        if error is raised:
            raise
        raise error from raised


def _in_words(error: BaseException) -> BaseException:
    text = str(error)
    told = re.search(r'\(os error (\d+)\)(?: at path "(.*)")?', text)
    if told and type(error).__name__ == "SafetensorError":  # a full disk, as the writer of weights says it
        error = OSError(int(told[1]), os.strerror(int(told[1])), told[2] or "a file of weights")
    if message := refused(error):
        return message
    return out_of_memory(error) or error


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Copy what is logged (warnings included) into the run's log while it runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of a user's file may be no UTF-8.
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    apart = [
        logging.getLogger(name)
        for name in (
            "tutelage",
            "lightning.pytorch",
            "pytorch_lightning",
            "lightning.fabric",
            "lightning_fabric",
        )
    ]
    loggers = [logging.root, *(logger for logger in apart if not logger.propagate)]
    take_held(handler)
    for logger in loggers:
        logger.addHandler(handler)
    level = log.level
    log.setLevel(logging.DEBUG)
    try:
        with warnings_logged():
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        log.setLevel(level)
        handler.close()
