"""`tutelage synthesize`: a pseudo data set as a run, made or finished, and mended where a shard is damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.errors import UserError

if TYPE_CHECKING:
    from tutelage.runs.needs import Plan

HELP = """usage: tutelage synthesize [group=choice ...] [key=value ...]
       tutelage synthesize <run> [runs_dir=runs] [code=my_networks]

Images of a frozen generator as shards in runs/<name>/<identity>/shards, with a manifest of hashes. The same command gives the same
folder: killed, it goes on; complete, every shard is checked, and what is missing or damaged is made again with the same bytes.

  model=generator/diffusion model.weights=<run of a generator>     or generator/gan, biggan, dit, noise
  method.labelling=uniform                  classes in turn (PP) | soft | sampled | argmax: a source classifier reads target images
  model@source=<model> source.weights=<run> data=<target data>     for soft, sampled and argmax
  method.count=10000 seed=0 hardware=gpu
  experiment=transfer/shards chain=digits   a prepared one

Its readers: `data=pseudo data.root=<folder>` (PP) and `method=pseudo_ssl/uda method.pseudo=<folder>` (P-SSL), or need:<name>.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    words = list(arguments)
    if not words or any(word in ("-h", "--help") for word in words):
        print(HELP)
        return 0 if words else 2
    from tutelage.config.compose import plan_of
    from tutelage.jobs.launch import mend, run_plan
    from tutelage.jobs.outcomes import headline
    from tutelage.runs.setting import is_synthesis

    if "=" not in words[0]:
        plan = _plan_of_run(words[0], words[1:])
    else:
        spoken = {word.partition("=")[0] for word in words}
        name = [] if spoken & {"experiment", "name"} else ["name=pseudo"]
        plan = plan_of([*([] if "method" in spoken else ["method=synthesis"]), *name, *words])
    if not is_synthesis(plan.config):
        raise UserError(
            f"{plan.name} makes no pseudo data set: the file of its method ({plan.config['method']['_target_']}) does not declare "
            "`_makes_: pseudo_data`"
        )
    result = mend(plan) or run_plan(plan, rerun=plan.config["rerun"])
    print(f"{plan.key}: {headline(result)}\n{plan.config['runs_dir']}/{plan.key}/shards")
    return 0


def _plan_of_run(name: str, words: Sequence[str]) -> Plan:
    from tutelage.config.compose import compose, hydra_ready
    from tutelage.engine import trust
    from tutelage.runs import needs
    from tutelage.runs.store import Store

    options = {"runs_dir": "", "code": ""}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in options or not equals:
            raise UserError(f"synthesize <run> takes runs_dir=<folder> and code=<modules>, got {word!r}")
        options[key] = value
    run = Store(options["runs_dir"] or "runs").find(name)
    trust.check_stored(run.config, run.path, code=trust.modules(options["code"]))
    # The folder of runs is the one that it lies in here, not the one that its configuration tells of.
    lies, stored = run.path.resolve().parent, str(run.config.get("name"))
    root = lies.parents[stored.count("/")] if str(lies).endswith(f"/{stored}") else Path("runs")
    config = run.config | {"runs_dir": options["runs_dir"] or _short(root)}
    with hydra_ready():
        return needs.plan(config, lambda overrides: compose(overrides))


def _short(folder: Path) -> str:
    """Return a folder as a user would give it: below the working folder by its relative path."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
