"""What a stored run may name, which rank a process is, and the room that PyTorch has."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from expected import refused
from tutelage.engine import rank_environment as ranks
from tutelage.engine import torch_room, trust


def test_every_target_with_its_key():
    config = {
        "a": {"_target_": "x.A", "b": [{"_target_": "y.B"}, 3]},
        "_target_": "z.C",
        "d": ({"_target_": 5},),
    }
    assert list(trust.targets(config)) == [
        ("a._target_", "x.A"),
        ("a.b.0._target_", "y.B"),
        ("_target_", "z.C"),
        ("d.0._target_", 5),
    ]
    assert trust.modules("[a, b,,c]") == ["a", "b", "c"] and trust.modules("") == []


def test_what_a_command_named_is_noted_with_its_place_and_trusted_there_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_nets.py").write_text("raise RuntimeError('imported')")
    config = {
        "model": {"_target_": "mine_nets.Net"},
        "data": {"_target_": "tutelage.data.images.Digits"},
        "x": {"_target_": 3},
    }
    stored = {"model": {"_target_": "mine_nets.Net"}}
    place = os.path.realpath(tmp_path / "mine_nets.py")
    message = refused(trust.check_stored, stored, tmp_path)
    assert (
        f"names model._target_=mine_nets.Net, which would be imported from {place}. Importing it executes it"
        in message
    )
    assert "which is not found here" in refused(
        trust.check_stored, {"a": {"_target_": "no_such_module.Net"}}, tmp_path
    )
    (tmp_path / "own_code").mkdir()
    (tmp_path / "own_code" / "no_such_module.py").touch()
    assert f"which is not found here ({tmp_path / 'own_code'} holds a copy" in refused(
        trust.check_stored, {"a": {"_target_": "no_such_module.Net"}}, tmp_path
    )
    trust.check_stored(stored, tmp_path, code=["mine_nets"])
    trust.note(config)
    trust.note(config)
    assert (tmp_path / "state" / "tutelage" / "named.txt").read_text() == f"mine_nets.Net\t{place}\n"
    trust.check_stored(stored, tmp_path)
    assert "refused" in refused(trust.check_stored, {"model": {"_target_": "mine_nets.Other"}}, tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "mine_nets.py").rename(tmp_path / "sub" / "mine_nets.py")
    monkeypatch.chdir(tmp_path / "sub")
    assert "refused" in refused(trust.check_stored, stored, tmp_path)


def test_where_a_module_would_come_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spaced").mkdir()
    assert trust.place_of("spaced") == os.path.realpath(tmp_path / "spaced")
    assert trust.place_of("no-name") is None and trust.place_of("no_such_module") is None
    assert trust.place_of("torch") == os.path.realpath(torch.__file__)
    assert trust.place_of("sys") is None  # built in: it has no place
    here, before = str(Path.cwd()), list(sys.path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != here])
    with trust.working_folder_first():
        assert sys.path[0] == here
        with trust.working_folder_first():
            assert sys.path.count(here) == 1
    assert here not in sys.path and len(before) >= len(sys.path)


@pytest.mark.parametrize(("told", "rank", "joined"), [
    ({}, (0, 1), {}), ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4), {}),
    ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2", "SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2",
      "SLURM_JOB_ID": "541", "SLURM_STEP_ID": "3", "SLURM_STEP_NODELIST": "n[3-4]"}, (5, 6),
     {"LOCAL_RANK": "2", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "n3", "MASTER_PORT": "12020"}),
    ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "MASTER_ADDR": "m"}, (1, 2),
     {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "m", "MASTER_PORT": "12000"}),
    ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NAME": "interactive"}, (0, 1), {}),
])  # fmt: skip
def test_which_rank_this_process_is(monkeypatch, told, rank, joined):
    theirs = ("SLURM_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_", "GROUP_RANK", "MASTER_")
    monkeypatch.setattr(
        os, "environ", {k: v for k, v in os.environ.items() if not k.startswith(theirs)} | told
    )
    assert ranks.in_ranks() == (
        "SLURM_STEP_NUM_TASKS" in told and told.get("SLURM_JOB_NAME") != "interactive"
    )
    assert ranks.join_environment() == rank and ranks.global_rank() == rank[0]
    assert {name: os.environ.get(name) for name in joined} == joined
    local = int(joined.get("LOCAL_WORLD_SIZE", rank[1]))
    assert ranks.ranks_and_nodes() == (local, rank[1] // local)


@pytest.mark.parametrize("several", [True, False])
def test_lightning_is_told_of_the_ranks_there_are(monkeypatch, several):
    joined = []
    monkeypatch.setattr(ranks, "in_ranks", lambda: several)
    monkeypatch.setattr(ranks, "join_environment", lambda: joined.append(1))
    found = type(ranks.lightning_environment()).__name__
    assert (found, joined) == (("TorchElasticEnvironment", [1]) if several else ("LightningEnvironment", []))


@pytest.mark.parametrize(("limit", "in_use", "code", "fits", "given"), [
    (2**31, 2**29, 0, True, 2**31 - 2**29 - 2**28), (2**31, 2**29, 1, False, 2**31 - 2**29 - 2**28), (2**29, 2**28, 0, False, None),
    (2**29, 2**28 - 1, 0, True, 2**26), (2**29, 2**28 + 1, 0, False, None),
])  # fmt: skip
def test_pytorch_is_tried_within_what_is_left(monkeypatch, limit, in_use, code, fits, given):
    tried = []
    monkeypatch.setattr(torch_room.resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(torch_room, "_in_use", lambda: in_use)
    monkeypatch.setattr(
        "subprocess.run", lambda command, **_: tried.append(command) or SimpleNamespace(returncode=code)
    )
    room = torch_room._Room()
    monkeypatch.setattr(sys, "meta_path", [room, *sys.meta_path])
    assert room.find_spec("numpy", None) is None and room in sys.meta_path and not tried
    if fits:
        assert room.find_spec("torch", None) is None
    else:
        with pytest.raises(MemoryError):
            room.find_spec("torch", None)
    assert room not in sys.meta_path
    assert [command[2] for command in tried] == (
        []
        if given is None
        else [f"import resource as r; r.setrlimit(r.RLIMIT_AS, ({given},) * 2); import torch"]
    )


@pytest.mark.parametrize(("limit", "platform", "loaded", "watches"), [
    (torch_room.AMPLE - 1, "linux", False, True), (torch_room.AMPLE, "linux", False, False), (-1, "linux", False, False),
    (2**31, "darwin", False, False), (2**31, "linux", True, False),
])  # fmt: skip
def test_the_import_is_watched_where_a_limit_is_tight(monkeypatch, limit, platform, loaded, watches):
    monkeypatch.setattr(torch_room.resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(torch_room.resource, "RLIM_INFINITY", -1)
    before = list(sys.meta_path)
    monkeypatch.setattr(sys, "meta_path", list(before))
    monkeypatch.setattr(sys, "platform", platform)
    if not loaded:
        monkeypatch.delitem(sys.modules, "torch")
    torch_room.watch()
    added = sys.meta_path[: len(sys.meta_path) - len(before)]
    assert [type(one) for one in added] == ([torch_room._Room] if watches else [])


def test_how_much_this_process_has_of_the_address_space():
    assert 2**26 < torch_room._in_use() < 2**47
