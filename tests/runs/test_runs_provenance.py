"""Provenance: what code, what machine; nothing private; cheap enough to ask once per job."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tutelage.runs import provenance


@pytest.fixture
def checkout(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "-q")
    git("config", "user.email", "a@example.org")
    git("config", "user.name", "A")
    (tmp_path / "code.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-qm", "one")
    provenance.repository.cache_clear()
    yield tmp_path
    provenance.repository.cache_clear()


def test_clean_changed_and_untracked(checkout):
    clean = provenance.repository(checkout)
    assert (
        len(clean["commit"]) == 40
        and not clean["changed"]
        and "diff" not in clean
        and "untracked" not in clean
    )
    (checkout / "code.py").write_text("x = 2\n")
    (checkout / "new file.py").write_text("")
    assert provenance.repository(checkout) == clean  # one reading per process
    provenance.repository.cache_clear()
    changed = provenance.repository(checkout)
    assert changed["commit"] == clean["commit"] and changed["changed"]
    assert "-x = 1\n+x = 2" in changed["diff"] and changed["untracked"] == ["new file.py"]


def test_changes_elsewhere_do_not_change_the_code(checkout):
    (checkout / "package").mkdir()
    (checkout / "code.py").write_text("x = 2\n")
    assert not provenance.repository(checkout / "package", below=True)["changed"]
    assert provenance.repository(checkout / "package")["changed"]


def test_long_diff_is_cut(checkout, monkeypatch):
    monkeypatch.setattr(provenance, "DIFF_LIMIT_BYTES", 100)
    (checkout / "code.py").write_text("y = 3\n" * 1000)
    facts = provenance.repository(checkout)
    assert len(facts["diff"]) < 120 and facts["diff"].endswith("[cut]\n") and len(facts["diff_sha256"]) == 64


def test_no_repository_no_git_no_commit(tmp_path, monkeypatch):
    assert provenance.repository(Path("/")) is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert provenance.repository(tmp_path)["commit"] is None
    monkeypatch.setenv("PATH", "")
    assert provenance.repository(tmp_path / "elsewhere") is None


def test_collect_is_json_and_names_what_matters():
    facts = provenance.collect(command=["tutelage", "train", "seed=1"], gpus=["A GPU"])
    facts = json.loads(json.dumps(facts, allow_nan=False))
    assert facts["command"] == ["tutelage", "train", "seed=1"]
    placed = provenance.collect(command=["/home/me/env/bin/tutelage", "train"])["command"]
    assert placed == ["tutelage", "train"]
    assert facts["machine"]["gpus"] == ["A GPU"] and facts["machine"]["cores"] >= 1
    total = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert total is None or facts["machine"]["memory_mb"] == pytest.approx(int(total[1]) / 1024, abs=1)
    assert facts["code"]["version"] and len(facts["code"]["digest"]) == 16
    assert facts["started"].endswith("+00:00")
    assert not facts["packages"] or "torch" in facts["packages"]


def test_nothing_private(monkeypatch, tmp_path):
    import socket

    monkeypatch.setattr(Path, "home", lambda: Path("/home/secretname"))
    work = tmp_path / "project"
    work.mkdir()
    monkeypatch.chdir(work)
    command = [
        "/home/secretname/.venv/bin/tutelage",
        f"data.root={work}/images",
        "x=/home/secretname",
        "y=/home/secretnameX",
    ]
    words = provenance.collect(command=command)["command"]
    assert words == ["tutelage", "data.root=./images", "x=~", "y=/home/secretnameX"]
    text = json.dumps(provenance.collect(command=[])["machine"])
    assert len(socket.gethostname()) < 4 or socket.gethostname() not in text


def test_a_second_reading_starts_no_process(monkeypatch):
    first = provenance.collect(command=[])
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("git was asked again"))
    assert provenance.collect(command=[])["code"] == first["code"]


def test_changed_rooms_and_commits():
    attempt = json.loads(json.dumps(provenance.collect()))
    assert provenance.changed_packages([{}, attempt]) == []
    attempt["code"]["packages"]["runs"] = "0" * 16
    attempt["code"]["packages"]["gone"] = "0" * 16
    assert provenance.changed_packages([{}, attempt]) == ["gone", "runs"]
    assert provenance.changed_packages([]) == []
    attempts = [
        {"code": {"commit": "a" * 40}},
        {"code": {"commit": "a" * 40}},
        {"code": {"commit": "b" * 40, "changed": True, "digest": "c" * 16}},
        {"code": {"digest": "d" * 16}},
        {},
    ]
    assert provenance.commits(attempts) == ["aaaaaaaaa", "bbbbbbbbb+cccccc", "code ddddddddd", "unknown"]
