"""Where weights come from: one reading of what a configuration says."""

import hashlib

import pytest

from tutelage.errors import UserError
from tutelage.runs.identity import WEIGHTS_DIGEST, identify
from tutelage.runs.records import write_json, write_yaml
from tutelage.runs.store import Store
from tutelage.runs.weights import Weights, needed_folder, networks, run_around, stamp

KEY = "demo/cnn/0123456789ab"


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs" / KEY
    folder.mkdir(parents=True)
    write_yaml(folder / "config.yaml", {"name": "demo/cnn"})
    write_json(folder / "provenance.json", {"attempts": []})
    (folder / "network.safetensors").write_bytes(b"weights")
    (tmp_path / "w.pt").write_bytes(b"other")
    return tmp_path / "runs"


def weights(runs, said, **node):
    config = {
        "teacher": {"weights": said, **node},
        "runs_dir": str(runs),
        "needs": {"cnn": {"command": [], "run": KEY}},
    }
    return Weights.of(config, "teacher")


@pytest.mark.parametrize("said", [None, "scratch", "pretrained"])
def test_nothing_is_loaded(runs, said):
    found = weights(runs, said)
    assert found.kind == (said or "scratch") and not found.are_given and found.run() is None
    assert Weights.of({}, "guide").kind == "scratch"


@pytest.mark.parametrize(
    "said", ["need:cnn", KEY, "demo/cnn/012", "cnn/0123", "demo/cnn", "0123", "folder", "file"]
)
def test_a_run_by_any_name_is_that_run(runs, said):
    said = {"folder": str(runs / KEY), "file": str(runs / KEY / "network.safetensors")}.get(said, said)
    found = weights(runs, said)
    assert found.are_given and found.path() == runs / KEY / "network.safetensors"
    assert found.run().key == KEY
    assert (found.need, found.needed) == (("cnn", KEY) if said == "need:cnn" else (None, None))


def test_a_file_is_of_no_run(runs):
    found = weights(runs, str(runs.parent / "w.pt"))
    assert (found.kind, found.path(), found.run()) == ("file", runs.parent / "w.pt", None)
    assert run_around(runs.parent) is None


def test_what_is_missing_or_ambiguous_is_said(runs):
    with pytest.raises(
        UserError, match=r"teacher\.weights=w\.pth: no such file or run\. Expected scratch, pretrained"
    ):
        weights(runs, "w.pth").path()
    with pytest.raises(UserError, match=r"names no need 'cn'; did you mean 'cnn'\? Known: cnn"):
        weights(runs, "need:cn").path()
    (runs / KEY / "network.safetensors").unlink()
    with pytest.raises(UserError, match=rf"the run {KEY} has no network\.safetensors"):
        weights(runs, "need:cnn").path()
    with pytest.raises(UserError, match=r"no such file or run \(the run in .* has no network"):
        weights(runs, "demo/cnn").path()
    for wrong in (7, True, "", ["a"], {"a": 1}):
        with pytest.raises(UserError, match=r"teacher\.weights must be scratch, pretrained, a file"):
            weights(runs, wrong)
    with pytest.raises(UserError, match=r"teacher\.new_head must be true or false, got 3"):
        weights(runs, "scratch", new_head=3)
    other = runs / "demo" / "cnn" / "012399999999"
    other.mkdir()
    write_yaml(other / "config.yaml", {"name": "demo/cnn"})
    with pytest.raises(UserError, match="'demo/cnn' means 2 runs"):
        weights(runs, "demo/cnn")


def test_a_composed_configuration_notes_content_in_place_of_where_it_lies(runs):
    def stamped(said):
        config = {
            "name": "x",
            "model": {"weights": "scratch"},
            "frozen": {"big": {"weights": said}},
            "runs_dir": str(runs),
        }
        stamp(config)
        return config

    assert [where for where, _ in networks(stamped("scratch"))] == ["model", "frozen.big"]
    by_name, by_folder = stamped("demo/cnn/012"), stamped(str(runs / KEY))
    assert by_name["frozen"]["big"]["weights"] == KEY  # a later run cannot make the short name mean two
    digest = hashlib.sha256(b"weights").hexdigest()
    assert by_name["frozen"]["big"][WEIGHTS_DIGEST] == by_folder["frozen"]["big"][WEIGHTS_DIGEST] == digest
    assert identify(by_name) == identify(by_folder) != identify(stamped(str(runs.parent / "w.pt")))
    for said in ("scratch", "pretrained", "need:cnn", "missing.pt"):
        assert WEIGHTS_DIGEST not in stamped(said)["frozen"]["big"]
    assert Weights.of(by_name, "frozen.big").digest == digest


def test_needs_of_other_settings(runs):
    config = {"runs_dir": str(runs), "needs": {"cnn": {"command": [], "run": KEY}}}
    assert needed_folder(config, "data.root", "need:cnn") == Store(runs).at(KEY).path
    with pytest.raises(
        UserError, match=r"data\.root=need:x: the configuration names no need 'x'; known: cnn"
    ):
        needed_folder(config, "data.root", "need:x")
