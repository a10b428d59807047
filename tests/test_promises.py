"""Every test that the promises of CONTRIBUTING.md name exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tests_that_promises_name_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 20
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def test_every_promise_names_a_test():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    page = text.partition("## What survives what")[2].partition("\n## ")[0]
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 30
    for row in rows:
        assert "`tests/" in row.rsplit("|", 2)[1], row
