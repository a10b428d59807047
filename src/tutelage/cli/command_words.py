"""Words that several commands take."""

from __future__ import annotations

from tutelage.cli.reader import Option

DEVICES = Option(
    "hardware.devices",
    "1",
    "ranks that share the work: processes on the CPU, or GPUs (auto: all of them)",
)
RUNS_DIR = Option("runs_dir", "runs", "the folder of runs")
CODE = Option(
    "code",
    "",
    "modules, separated by commas, that the run's configuration may import: said where a run that you did not"
    " make names your own code",
    value="my_networks",
)
