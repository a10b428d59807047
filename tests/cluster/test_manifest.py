"""The example for Kubernetes gives a command that means something."""

from __future__ import annotations

from pathlib import Path

import yaml

from tutelage.cli.sweep_words import arms_of
from tutelage.config.planner import plan_of

MANIFEST = Path(__file__).parents[2] / "docs" / "tutorials" / "kubernetes.yaml"


def test_the_manifest_gives_a_command_that_can_be_planned():
    job = yaml.safe_load(MANIFEST.read_text())["spec"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    for rule in job["podFailurePolicy"]["rules"]:  # what the schema of Kubernetes asks for
        (asked,) = set(rule) - {"action"}
        assert asked == "onExitCodes" or all(set(one) == {"type", "status"} for one in rule[asked])
    (container,) = job["template"]["spec"]["containers"]
    command, flag, *words = container["args"]
    assert (command, flag) == ("train", "-m")
    (commands,) = arms_of(None, words).values()
    assert len(commands) == 100
    assert plan_of(commands[-1]).config["runs_dir"].startswith(container["volumeMounts"][0]["mountPath"])
