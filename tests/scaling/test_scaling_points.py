"""Points: settings refused, numbers repeated, runs of the store that are interrupted, fail, halve their step and are done again."""

import itertools
import json

import pytest
import torch

from tutelage.errors import UserError
from tutelage.runs.run import State
from tutelage.scaling import cases, stored
from tutelage.scaling.ensembles import AttentionHead, PatchConvolution, ThreeLayer, TwoLayer
from tutelage.scaling.grid import Point, build, run_point
from tutelage.scaling.layers import Attention, Convolution, Dense
from tutelage.scaling.targets import HermiteTarget

SETTINGS = {
    "draws": 2,
    "steps": 40,
    "measurements": 4,
    "test_points": 100,
    "temperature": 0.1,
    "step_size": 0.01,
    "friction": 0.5,
}
HARDWARE = {
    "accelerator": "cpu",
    "matmul_precision": "highest",
    "threads": None,
    "devices": 1,
    "num_nodes": 1,
}


def point(**changes):
    arguments = {
        "experiment": "two_layer",
        "name": "d4",
        "network": TwoLayer(inputs=4, width=4),
        "target": HermiteTarget(inputs=4, mixture={3: 1.0}),
        "samples": [6, 12],
        "sizes": {"d": 4, "N": 4},
        **SETTINGS,
    }
    return Point(**(arguments | changes))


def config(one, folder):
    return stored.config_of(one, given(folder), HARDWARE)


def given(folder):
    return {"runs_dir": str(folder), "rerun": False, "retry": 0, "on_failure": "continue"}


class Stop(BaseException):
    """What a kill is in these tests."""


def stopping_after(count):
    calls = itertools.count(1)

    def progress(step, alignments):
        if next(calls) > count:
            raise Stop

    return progress


@pytest.mark.parametrize("method", ["langevin", "adam"])
def test_the_same_point_gives_the_same_numbers_also_after_interruptions(tmp_path, method):
    long = point(steps=80, measurements=8, method=method, record=("overlaps", "spectrum"))
    whole, again = run_point(long), run_point(long)
    checkpoint = tmp_path / "state.safetensors"
    for count in (3, 3):  # the second kill comes among the late samples, whose overlaps are pooled
        with pytest.raises(Stop):
            run_point(long, checkpoint=checkpoint, progress=stopping_after(count))
        assert checkpoint.exists()
    resumed = run_point(long, checkpoint=checkpoint)
    assert not checkpoint.exists()
    for found in (again, resumed):
        assert {k: v for k, v in found.items() if k != "seconds"} == {
            k: v for k, v in whole.items() if k != "seconds"
        }
    assert len(whole["overlaps"]["weight"]) == whole["overlap_networks"] * 4
    assert whole["settings"]["network"] == {
        "class": "TwoLayer",
        "weight_variance": 0.5,
        "readout_variance": 32.0,
        "inputs": 4,
        "width": 4,
    }


def test_members_are_padded_to_the_largest_grid_value():
    sampler, points = build(point())
    assert sampler.inputs.shape == (4, 12, 4)
    assert points.tolist() == [6, 6, 12, 12]
    assert sampler.present.sum(1).tolist() == [6, 6, 12, 12]
    planted, _ = build(point(start="planted"))
    assert planted.network.unpack(planted.flat)["weight"][0, 0].tolist() == pytest.approx(
        [0.7, 1.5, 0.7, 1.5]
    )
    assert not torch.equal(planted.flat, sampler.flat)


def test_a_run_is_stored_once_and_continued_after_a_kill(tmp_path, monkeypatch):
    one = point(steps=80, measurements=8)
    own = config(one, tmp_path)
    run = stored.run_of(own)
    plain = stored._recorder

    def killed(tried, writer):
        record, stop = plain(tried, writer), stopping_after(4)
        return lambda step, alignments: (record(step, alignments), stop(step, alignments))

    monkeypatch.setattr(stored, "_recorder", killed)
    with pytest.raises(Stop):
        stored.run_stored(one, own)
    monkeypatch.setattr(stored, "_recorder", plain)
    run.path.joinpath("failed.json").unlink()  # a kill leaves none
    assert run.state is State.INTERRUPTED
    assert stored.results_of([own]) == ([], [stored.run_of(own)]) or stored.results_of([own])[0] == []
    result = stored.run_stored(one, own)
    undisturbed = json.loads(json.dumps(run_point(one)))  # as a record holds it
    assert {k: v for k, v in result.items() if k != "seconds"} == {
        k: v for k, v in undisturbed.items() if k != "seconds"
    }
    assert run.state is State.COMPLETE
    assert [row["step"] for row in run.metrics.rows] == result["trajectory_steps"]
    assert not list((run.path / "checkpoints").iterdir())
    assert len(run.attempts) == 2
    before = (run.path / "result.json").stat().st_mtime_ns
    assert stored.run_stored(one, own) == stored.measured(run)
    assert (run.path / "result.json").stat().st_mtime_ns == before
    stored.run_stored(one, own, rerun=True)
    assert (run.path.parent / ".archive" / f"{run.identity}-1").is_dir()


def test_whatever_changes_a_number_changes_the_identity_and_nothing_else_does(tmp_path):
    kinds = [
        point(),
        point(seed=1),
        point(steps=41),
        point(record=("overlaps",)),
        point(network=TwoLayer(inputs=4, width=5)),
    ]
    assert len({stored.run_of(config(kind, tmp_path)).identity for kind in kinds}) == len(kinds)
    threads = stored.config_of(point(), given("elsewhere"), {**HARDWARE, "threads": 2})
    assert stored.run_of(threads).identity == stored.run_of(config(point(), tmp_path)).identity


def test_a_diverging_point_is_halved_and_a_hopeless_one_is_recorded_as_failed(tmp_path):
    large = point(name="large", step_size=0.2, samples=[40, 80])
    result = stored.run_stored(large, config(large, tmp_path))
    assert "step size 0.2 diverged, halving it" in stored.run_of(config(large, tmp_path)).log.read_text()
    assert result["settings"]["step_size"] < 0.2
    assert result["settings"]["steps"] * result["settings"]["step_size"] == pytest.approx(8)
    hopeless = point(step_size=400.0)
    own = config(hopeless, tmp_path)
    with pytest.raises(UserError, match="Choose step_size"):
        stored.run_stored(hopeless, own)
    assert stored.run_of(own).state is State.FAILED


def test_a_halved_point_continues_at_the_halved_step(tmp_path, monkeypatch):
    one = point(steps=80, measurements=8)
    own = config(one, tmp_path)
    run = stored.run_of(own)
    file = run.path / "checkpoints" / "halved-1.safetensors"
    with pytest.raises(Stop):
        half = point(steps=160, measurements=8, step_size=0.005)
        run_point(half, checkpoint=file, progress=stopping_after(3))
    result = stored.run_stored(one, own)
    assert result["settings"]["step_size"] == 0.005
    assert result["alignment"] == run_point(half)["alignment"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "adm"}, "did you mean 'adam'"),
        ({"record": ("overlap",)}, "did you mean 'overlaps'"),
        ({"start": "warm"}, "'prior' or 'planted'"),
        ({"samples": [12, 6]}, "increasing grid"),
        ({"draws": 0}, "draws must be positive"),
        ({"temperature": -1.0}, "temperature must be positive"),
        (
            {
                "network": AttentionHead(inputs=4),
                "guide": PatchConvolution(patch_dim=2, patches=2, channels=2),
            },
            "needs a two-layer network",
        ),
    ],
)
def test_points_refuse_what_does_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        point(**changes)


def test_cases_make_a_point_for_each_size_on_the_predicted_grid():
    points = cases.two_layer(inputs=[8, 16], ratios=[1, 4], factors=[1, 2], **SETTINGS)
    assert [(p.sizes["d"], p.sizes["N"]) for p in points] == [(8, 8), (8, 32), (16, 16), (16, 64)]
    assert list(points[1].samples) == [16, 32]  # factors of d sqrt(N / d)
    (one,) = cases.three_layer(inputs=8, factors=[1], mixture={1: 1.0, 3: -0.3}, classify=True, **SETTINGS)
    assert one.target.classify
    assert one.target.mixture == {1: 1.0, 3: -0.3}
    (head,) = cases.attention(pairs=[(9, 4)], factors=[2], **SETTINGS)
    assert list(head.samples) == [108]  # 2 sqrt(4 * 9^3)
    (patch,) = cases.convolution(sides=4, channels=9, factors=[1], **SETTINGS)
    assert list(patch.samples) == [12]
    unguided, guided = cases.guided(
        sides=3, strengths=[0, 2.5], patches=2, channels=4, factors=[2], **SETTINGS
    )
    assert [p.sizes["strength"] for p in (unguided, guided)] == [0, 2.5]
    assert [p.name for p in (unguided, guided)] == ["d6_g0", "d6_g2.5"]
    for wrong in (0, "eight", [8, None], [], True):
        with pytest.raises(UserError, match="inputs must be a positive number or a list of them"):
            cases.two_layer(inputs=wrong, factors=[1], **SETTINGS)
    with pytest.raises(UserError, match="list of pairs"):
        cases.attention(pairs=[8, 4], factors=[1], **SETTINGS)


@pytest.mark.parametrize(
    ("layers", "scales", "kind", "sizes", "grid"),
    [
        ([Dense("N")], {"N": 1.5}, TwoLayer, {"d": 9, "N": 27}, [16]),  # sqrt(N d) = 15.6
        (
            [Dense("N1"), Dense(5)],
            {"N1": 1},
            ThreeLayer,
            {"d": 9, "N1": 9},
            [5],
        ),  # five second-layer neurons: d^(3/4)
        (
            [Convolution("C", "S", "n")],
            {"C": 0.5, "S": 0.5, "n": 0.5},
            PatchConvolution,
            {"d": 9, "C": 3, "S": 3, "n": 3},
            [5],
        ),
        ([Attention("L")], {"L": 0.5}, AttentionHead, {"d": 9, "L": 3}, [47]),
    ],
)
def test_a_described_architecture_is_sampled_on_its_own_predicted_grid(layers, scales, kind, sizes, grid):
    (one,) = cases.described(layers=layers, scales=scales, inputs=9, factors=[1], **SETTINGS)
    assert type(one.network) is kind
    assert one.sizes == sizes
    assert list(one.samples) == grid
    with pytest.raises(UserError, match="sampled"):
        cases.described(
            layers=[*layers, Dense(2), Dense(2)], scales=scales, inputs=9, factors=[1], **SETTINGS
        )
