"""What analyses print, record and tabulate, from made-up networks and numbers: whole lines and rows, without a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from expected import refused
from tutelage.alignment.guides import FeatureGuide
from tutelage.alignment.taps import Layer
from tutelage.analysis import (
    alignment_curves,
    analysis_request,
    attention_rollout,
    attributions,
    calibration,
    explain,
    network_cost,
    opening,
    probe,
    robustness,
    sample_quality,
    similarity_map,
)
from tutelage.analysis import (
    attribution_scores as scores,
)
from tutelage.analysis.analysis_request import Request, Subject, told_apart
from tutelage.analysis.attribution_scores import by_chance, curves
from tutelage.analysis.attributions import SIGNED, cannot
from tutelage.analysis.network_cost import Cost, Latency
from tutelage.analysis.question import Question
from tutelage.models.frozen import FrozenNetwork
from tutelage.reporting.statistics import summarize
from tutelage.tasks import Batch, Binary, Classification, Forecasting


def subject(arm="a", seed=0, role="", label=None, **run):
    return SimpleNamespace(
        arm=arm,
        seed=seed,
        role=role,
        label=label or f"{arm}{seed}{role and ':'}{role}",
        run=SimpleNamespace(**run),
    )


# --- requests and what is shared ----------------------------------------------------------------------------------


def test_the_folder_of_a_request_is_that_of_what_it_asks():
    def folder(arm="p/a", asked=None, **more):
        options = {
            "out": "",
            "split": "test",
            "samples": "",
            "layers": "all",
            "measure": "cka",
            "runs_dir": "r",
            **more,
        }
        run = SimpleNamespace(identity="abcdef0123456789")
        return Request([Subject(run, arm)], options, {}, asked or {}).folder

    plain = folder()
    assert plain == folder(samples="1000") != folder(samples="10") and str(plain).startswith(
        "r/analysis/p-a-"
    )
    assert plain == folder(asked={"split": "test", "samples": "5"}) != folder(asked={"steps": "5"})
    assert plain == folder(other="", explainers="") != folder(other="x")
    assert folder(forms="x") != folder(explainers="x") or folder(forms="x").name.startswith("p-a-")
    assert (
        folder(asked={"a": "1", "b": "2"}) == folder(asked={"b": "2", "a": "1"})
        and str(folder(out="o")) == "o"
    )
    runs = [SimpleNamespace(identity=identity) for identity in ("abcdef01", "abcdef02")]
    assert [one.label for one in told_apart([Subject(run, "n", "guide") for run in runs])] == [
        "n abcdef01:guide",
        "n abcdef02:guide",
    ]


@pytest.mark.parametrize(
    ("word", "found"), [("", 7), ("1", 1), ("12", 12), ("0", None), ("-1", None), ("x", None), ("1.5", None)]
)
def test_whole_numbers_of_a_command(word, found):
    if found is None:
        said = f"samples must be a whole number of at least 1, got {word!r}"
        assert refused(opening.whole, "samples", {"samples": word}, 7) == said
    else:
        assert opening.whole("samples", {"samples": word}, 7) == found


def test_intervals_and_metrics_of_runs():
    assert opening.over_runs(summarize([0.5])) == "" and opening.between(-0.25, 1) == "-0.250 to 1.000"
    assert opening.over_runs(summarize([0.25, 0.25])) == " (95 % over 2 runs 0.250 to 0.250)"
    result = {"selection": {"monitor": "f1"}, "best": {"test": {"f1": 0.5}}}
    assert opening.monitored(subject(result=result)) == ("f1", {"test_f1": 0.5})
    for one in (subject(result=result, role="guide"), subject(result={}), subject(result=None)):
        assert opening.monitored(one) == ("", {})


def data(shape=(1, 2, 2), vocabulary=None, normalization=None):
    return SimpleNamespace(input_shape=shape, vocab_size=vocabulary, normalization=normalization)


def test_a_network_beside_another_sees_the_others_inputs_as_its_own():
    ours = ([0.5], [2.0])
    network = FrozenNetwork(nn.Identity())
    assert opening.beside(network, data(), data(), ("a", "b")) is network
    seen = opening.beside(network, data(normalization=ours), data(), ("a", "b"))
    assert seen(torch.full((1, 1, 2, 2), 4.5)).unique().tolist() == [2.0]
    raw = opening.beside(network, data(), data(normalization=ours), ("a", "b"))
    assert raw(torch.full((1, 1, 2, 2), 2.0)).unique().tolist() == [4.5]
    declared = FrozenNetwork(nn.Identity(), expects=([0.0], [4.0]))
    seen = opening.beside(declared, data(normalization=ours), data(), ("a", "b"))
    assert seen(torch.full((1, 1, 2, 2), 8.0)).unique().tolist() == [2.0]
    for other in (data((1, 2, 3)), data(vocabulary=3)):
        said = f"b has inputs {other.input_shape}, a takes (1, 2, 2)"
        assert refused(opening.beside, network, data(), other, ("a", "b")) == said


# --- alignment ----------------------------------------------------------------------------------------------------


def guided(arm, seed, first, last, **more):
    rows = [{"step": 10, "train/alignment": 1 - first, "train/similarity/01": first},
            {"step": 20, "train/alignment": 1 - last, "train/similarity/01": last}]  # fmt: skip
    return subject(arm, seed, key=f"{arm}/{seed}", metrics=SimpleNamespace(rows=rows))


def test_alignment_in_lines_and_curves(monkeypatch):
    method = {"objectives": {"alignment": {"pairs": [{"guide": "g", "network": "n"}]}}}
    monkeypatch.setattr(alignment_curves, "method_of", lambda subject: method)
    drawn = []
    monkeypatch.setattr(alignment_curves, "save", lambda figure, path: drawn.append(figure))
    subjects = [guided("a", 0, 0.25, 0.5), guided("a", 1, 0.5, 1.0), guided("b", 0, math.inf, 0.5)]
    said, _, rows, draw = alignment_curves.outcome(SimpleNamespace(subjects=subjects))
    assert said == [
        "a0: 0.250 at step 10, 0.500 at step 20",
        "a1: 0.500 at step 10, 1.000 at step 20",
        "b0: 0.500 at step 20, 0.500 at step 20",
    ]
    assert [tuple(row.values()) for row in rows] == [
        ("a0", 10, 0.25),
        ("a0", 20, 0.5),
        ("a1", 10, 0.5),
        ("a1", 20, 1.0),
        ("b0", 20, 0.5),
    ]
    draw("x")
    axes = drawn[0].axes[0]
    assert axes.get_title() == "Alignment over training: mean over runs with its 95 % interval"
    assert [(line.get_label(), line.get_xydata().tolist()) for line in axes.lines] == [
        ("a (n = 2)", [[10, 0.375], [20, 0.75]]), ("b (n = 1)", [[20, 0.5]]),
    ]  # fmt: skip
    corners = axes.collections[0].get_paths()[0].get_extents().extents.tolist()
    assert corners == [10, -1.0, 20, 1.0]  # as far as similarities go
    close = [([1], [0.5]), ([1], [0.51])]
    half = 12.7062 * 0.005
    assert [one[1] for one in alignment_curves.over_seeds(close)] == [
        pytest.approx([0.505]), pytest.approx([0.505 - half], abs=1e-4), pytest.approx([0.505 + half], abs=1e-4)
    ]  # fmt: skip
    alignment_curves.draw_arms({"b": [([1], [0.5])]}, "x")
    assert drawn[1].axes[0].get_title() == "Alignment over training: mean over runs"
    said, _, rows, draw = alignment_curves.outcome(SimpleNamespace(subjects=subjects[:1]))
    assert said == [
        "mean over pairs: 0.250 at step 10, 0.500 at step 20",
        "1 g > n: 0.250 at step 10, 0.500 at step 20",
    ]
    draw("x")
    assert drawn[2].axes[0].get_title() == "a0: similarity of its layer pairs"
    monkeypatch.setattr(alignment_curves, "method_of", lambda subject: {})
    assert refused(alignment_curves.outcome, SimpleNamespace(subjects=subjects)) == (
        "a/0 recorded no alignment of layers: expected a run of method=guidance"
    )


@pytest.mark.parametrize(("roles", "cells"), [
    (("", "guide"), [(0, 1), (1, 0)]), (("guide", ""), [(1, 0), (0, 1)]), (("", "teacher"), []), (("guide", "guide"), []), (("", ""), []),
])  # fmt: skip
def test_cells_of_layers_that_were_aligned(tmp_path, roles, cells):
    pairs = [
        {"network": "a", "guide": "b"},
        {"network": "b", "guide": "a"},
        {"network": "a", "guide": "gone"},
        {"network": "gone", "guide": "a"},
    ]
    (tmp_path / "setup.json").write_text(
        __import__("json").dumps({"method": {"objectives": {"x": {"pairs": pairs}}}})
    )
    layers = tuple(SimpleNamespace(name=name) for name in ("a", "b"))
    found = similarity_map.SimilarityMap(layers, layers, np.zeros((2, 2)), 4)
    subjects = [subject(role=role, path=tmp_path) for role in roles]
    assert similarity_map._aligned(subjects, found) == cells
    nowhere = [subject(role=role, path=tmp_path / "none") for role in roles]
    assert similarity_map._aligned(nowhere, found) == []


class Sizes(FeatureGuide):
    """A rule of two features."""

    def features(self, batch):
        return {"sum": batch.inputs.sum(1, keepdim=True), "both": batch.inputs[:, :2]}


def test_the_layers_of_a_rule_and_of_a_network():
    batch = Batch(torch.randn(5, 3), torch.zeros(5), torch.arange(5))
    rule, network = (
        FrozenNetwork(Sizes()),
        FrozenNetwork(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))),
    )

    def layers(of, which):
        return [(one.name, one.shape) for one in similarity_map.layers_of(of, batch, which)]

    assert layers(rule, "weights") == layers(rule, "all") == [("sum", (1,)), ("both", (2,))] and layers(
        rule, "both"
    ) == [("both", (2,))]
    assert layers(network, "weights") == [("0", (4,)), ("2", (2,))]
    assert layers(network, "all") == [("0", (4,)), ("1", (4,)), ("2", (2,))] and layers(network, "2,0") == [
        ("2", (2,)),
        ("0", (4,)),
    ]
    for of, which, said in (
        (rule, "bot", "Sizes has no layer 'bot'; did you mean 'both'?"), (network, "0,9", "Sequential has no layer '9'; "),
        (FrozenNetwork(nn.ReLU()), "weights", "ReLU has no layer of weights; layers=all compares every module"),
    ):  # fmt: skip
        assert refused(similarity_map.layers_of, of, batch, which).startswith(said)


@pytest.mark.parametrize(("measure", "chance", "shown"), [
    ("unbiased_cka", None, "unbiased CKA from 0.250 to 0.750, mean 0.500"),
    ("procrustes", np.array([[0.125, 0.25]]),
     "procrustes from 0.250 to 0.750, mean 0.500; by chance, each pair in one random order, 0.125 to 0.250"),
])  # fmt: skip
def test_two_networks_compared_in_a_line(monkeypatch, tmp_path, measure, chance, shown):
    layers = (Layer("a", "linear", (3,)), Layer("b", "linear", (2,)))
    found = similarity_map.SimilarityMap(layers[:1], layers, np.array([[0.25, 0.75]]), 60, measure, chance)
    monkeypatch.setattr(
        similarity_map, "opened", lambda one, request, samples=None: (nn.Identity(), one.label, samples)
    )
    monkeypatch.setattr(similarity_map, "beside", lambda second, theirs, data, names: second)
    monkeypatch.setattr(similarity_map, "similarity_map", lambda first, second, batches, **more: found)
    monkeypatch.setattr(similarity_map, "draw", lambda found, path, **more: more)
    options = {"samples": "60", "device": "cpu", "layers": "weights", "measure": measure}
    subjects = [subject("x", 0, path=tmp_path), subject("y", 1, path=tmp_path)]
    said, record, rows, draw = similarity_map.outcome(SimpleNamespace(subjects=subjects, options=options))
    assert said == [f"x0 | y1: 1 by 2 layers, 60 samples, {shown}"] and [row[measure] for row in rows] == [
        0.25,
        0.75,
    ]
    assert (record["samples"], "chance" in record) == (60, chance is not None)
    assert draw("p") == {"first": "x0", "second": "y1", "aligned": []}
    for few in (subjects[:1], [*subjects, subjects[0]]):
        said = f"similarity compares two networks, got {len(few)}: {', '.join(one.label for one in few)}"
        assert refused(similarity_map.outcome, SimpleNamespace(subjects=few, options=options)) == said


def test_a_map_needs_four_samples_and_room(monkeypatch):
    network = FrozenNetwork(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)))
    batch = lambda n: Batch(torch.randn(n, 3), torch.zeros(n), torch.arange(n))  # noqa: E731
    assert similarity_map.similarity_map(network, network, [batch(4)]).samples == 4
    assert "at least 4 samples, got 3" in refused(similarity_map.similarity_map, network, network, [batch(3)])
    exactly = 4 * 6**2 * 4 / 2**30
    monkeypatch.setattr(similarity_map, "MOST_GIB", exactly)
    similarity_map.similarity_map(network, network, [batch(6)])
    said = refused(similarity_map.similarity_map, network, network, [batch(7)])
    assert said.startswith(
        f"the similarity of 2 by 2 layers over 7 samples needs {4 * 49 * 4 / 2**30:.1f} GiB, allowed are {exactly}: "
    )


# --- cost ---------------------------------------------------------------------------------------------------------


def cost(factor=1.0):
    times = (
        Latency(1, 1, 0.002 * factor, 0.001, 0.003, 0.25),
        Latency(1, 2, 0.004, 0.0, 1.0, 0.5),
        Latency(64, 1, 0.5, 0.4, 0.6, 8.125),
    )
    return Cost(1200, 900, 1.2345, 5000, times)


def test_what_networks_cost_in_lines_rows_and_columns(monkeypatch):
    assert cost().columns == {
        "parameters": 1200, "nonzero": 900, "size_mb": 1.234, "operations": 5000, "latency_ms_batch_1_threads_1": 2.0,
        "peak_mb_batch_1_threads_1": 0.25, "latency_ms_batch_1_threads_2": 4.0, "peak_mb_batch_1_threads_2": 0.5,
        "latency_ms_batch_64_threads_1": 500.0, "peak_mb_batch_64_threads_1": 8.125,
    }  # fmt: skip
    found = iter([cost(), cost(2), cost(3)])
    monkeypatch.setattr(network_cost, "opened", lambda *given, **more: (None, None, iter([None])))
    monkeypatch.setattr(network_cost, "network_cost", lambda *given, **more: next(found))
    monkeypatch.setattr(network_cost, "cpu_model", lambda: "a CPU")
    monkeypatch.setattr(network_cost, "draw", lambda points, path, **more: (points, more))
    result = {"selection": {"monitor": "f1", "mode": "max"}, "best": {"test": {"f1": 0.5}}}
    subjects = [
        subject("a", 0, result=result),
        subject("a", 1, result=result),
        subject("a", 0, "guide", result=result),
    ]
    said, record, rows, draw = network_cost.outcome(
        SimpleNamespace(subjects=subjects, options={"device": "cpu"})
    )
    assert said == [
        "a0: 1,200 parameters, 5,000 operations, 1.23 MiB, one sample 2.00 ms (1.00 to 3.00)",
        "a1: 1,200 parameters, 5,000 operations, 1.23 MiB, one sample 4.00 ms (1.00 to 3.00)",
        "a0:guide: 1,200 parameters, 5,000 operations, 1.23 MiB, one sample 6.00 ms (1.00 to 3.00)",
    ]
    threads = sorted({1, torch.get_num_threads()})
    assert record == {
        "machine": {"device": "cpu", "cpu": "a CPU", "threads": threads, "torch": torch.__version__}
    }
    assert [row.get("test_f1") for row in rows] == [0.5, 0.5, None]
    assert draw("x") == ([("a", 5000, [0.5, 0.5])], {"metric": "f1", "better": "higher is better"})
    found = iter([cost()])
    monkeypatch.setattr(network_cost, "draw", lambda points, path, **more: (points, more))
    *_, draw = network_cost.outcome(SimpleNamespace(subjects=subjects[2:], options={"device": "cpu"}))
    assert draw("x") == ([], {"metric": "metric", "better": ""})


@pytest.mark.parametrize(("threads", "columns"), [
    ([1], {"latency of 1": "2 ms (guide 4 ms)", "memory of 1": "0.25 MiB (guide 0.25 MiB)", "latency of 64": "500 ms (guide 500 ms)",
     "memory of 64": "8.12 MiB (guide 8.12 MiB)"}),
    ([1, 2], {"latency of 1, 1 thread": "2 ms (guide 4 ms)", "latency of 1, 2 threads": "4 ms (guide 4 ms)",
     "memory of 1": "0.5 MiB (guide 0.5 MiB)",
     "latency of 64, 1 thread": "500 ms (guide 500 ms)", "memory of 64": "8.12 MiB (guide 8.12 MiB)"}),
])  # fmt: skip
def test_what_a_run_and_its_guide_cost_in_words(monkeypatch, threads, columns):
    whole = [cost(), cost(2)]
    if len(threads) == 1:
        whole = [replace(one, latencies=one.latencies[::2]) for one in whole]
    found = iter(whole)
    monkeypatch.setattr(network_cost, "thread_counts", lambda device: threads)
    monkeypatch.setattr(network_cost, "_opened", lambda run, runs_dir, role: (None, None, iter([None])))
    monkeypatch.setattr(network_cost, "network_cost", lambda *given, **more: next(found))
    run = SimpleNamespace(config={"guide": {"x": 1}, "teacher": None, "method": {}})
    monkeypatch.setattr(network_cost, "makes", lambda config: "")
    got = network_cost.of_run(run, "runs")
    assert got == columns
    monkeypatch.setattr(network_cost, "makes", lambda config: "generator")
    assert set(network_cost.of_run(run, "runs").values()) == {"- (a generator)"}


def test_samples_are_repeated_up_to_a_batch_and_storages_counted_while_they_live():
    example = Batch(torch.arange(3), torch.arange(3) + 5, torch.arange(3) + 10)
    assert network_cost._repeated(example, 7).inputs.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert network_cost._repeated(example, 2).targets.tolist() == [5, 6]

    class Net(nn.Module):
        def forward(self, x):
            y = x[:1].view(-1)  # of the input's own storage
            return (x * 2).view(-1) + y.sum()  # a view of what was made takes no more

    assert (
        network_cost.peak_bytes(
            FrozenNetwork(Net()), Batch(torch.ones(4, 8), torch.zeros(4), torch.arange(4))
        )
        == 2 * 4 * 8 * 4 + 4
    )


def test_seconds_are_taken_after_the_warm_forwards(monkeypatch):
    ticks = iter(range(1000))
    clocks = SimpleNamespace(thread_time=lambda: next(ticks) ** 2, perf_counter=lambda: next(ticks) * 100)
    monkeypatch.setattr(network_cost, "time", clocks)
    monkeypatch.setattr(network_cost, "WARM", 2)
    monkeypatch.setattr(network_cost, "TIMED", 4)
    monkeypatch.setattr(network_cost, "peak_bytes", lambda *given: 3 * 2**19)
    calls = []
    batch = SimpleNamespace(inputs=torch.ones(5, 1), mask=None)
    found = network_cost._latency(lambda *given: calls.append(given), batch, 1)
    # a warm forward ticks once: 0, 1, then 2-3, 4-5, 6-7, 8-9
    seconds = [b**2 - a**2 for a, b in ((2, 3), (4, 5), (6, 7), (8, 9))]
    assert len(calls) == 6 and (found.batch, found.threads, found.peak_mb) == (5, 1, 1.5)
    assert (found.low_s, found.median_s, found.high_s) == (
        seconds[0] + 1,
        (seconds[1] + seconds[2]) / 2,
        seconds[3] - 1,
    )
    before = torch.get_num_threads()
    assert network_cost._latency(lambda *given: None, batch, 2).median_s == 100
    assert torch.get_num_threads() == before


# --- explanations -------------------------------------------------------------------------------------------------


def asked(network, inputs, task=None, mask=None, **more):
    batch = Batch(inputs, torch.arange(len(inputs)) % 2, torch.arange(len(inputs)), mask)
    return Question.of(
        FrozenNetwork(network.eval()), SimpleNamespace(task=task or Classification(3), **more), batch
    )


def test_the_explainers_asked_for():
    assert (
        explain._asked("") == ()
        and "lime" in explain._asked("all")
        and explain._asked("lime,saliency,lime") == ("lime", "saliency")
    )
    question = asked(nn.Linear(4, 3), torch.randn(2, 4))
    lines = []
    assert explain._fitting((), question, subject(), lines) == [
        "saliency",
        "integrated_gradients",
        "occlusion",
    ]
    assert [line.partition(":")[0] for line in lines] == ["without grad_cam", "without attention_rollout"]
    assert explain._fitting((), question, subject(), None) == [
        "saliency",
        "integrated_gradients",
        "occlusion",
    ]
    every = explain._fitting(explain._asked("all"), question, subject(), lines)
    assert set(every) == {"saliency", *SIGNED} and len(lines) == 4
    said = refused(explain._fitting, ("saliency", "grad_cam"), question, subject(), lines)
    assert said.startswith(
        "a0: Grad-CAM is of convolutions over images; explainers=... names others: saliency, "
    )


def row(arm="a", explainer="grad_cam", insertion=0.5, **more):
    found = {"arm": arm, "explainer": explainer, "insertion": insertion, "deletion": 0.25}
    return (
        found
        | {
            f"{key}_{end}": value
            for key in ("insertion", "deletion")
            for end, value in (("low", 0.125), ("high", 0.75))
        }
        | more
    )


def test_explanations_in_lines():
    more = {"": 0.5, "_low": 0.25, "_high": 0.75, "_by_chance": -0.125}
    more = {f"agreement_guide{end}": value for end, value in more.items()} | {"randomised": 0.0625}
    begins = "a0, grad cam: insertion 0.500 (0.125 to 0.750), deletion 0.250 (0.125 to 0.750)"
    assert explain._line("a0", row(), {"guide": None}) == begins
    assert explain._line("a0", row(**more), {"guide": None, "teacher": None}) == (
        f"{begins}, agreement with its guide 0.500 (0.250 to 0.750), by chance -0.125, with shuffled weights 0.062"
    )
    rows = [
        row(),
        row(insertion=0.5, agreement_guide=0.5),
        row(agreement_guide=0.5),
        row("b"),
        row(explainer="random order"),
    ]
    assert explain._over_runs(rows) == [
        "a, grad cam, 95 % over 3 runs: insertion 0.500 (0.500 to 0.500), deletion 0.250 (0.250 to 0.250), "
        "agreement guide 0.500 (0.500 to 0.500)"
    ]
    assert explain._over_runs([row(insertion=0.0), row(insertion=1.0)])[0].startswith(
        "a, grad cam, 95 % over 2 runs: insertion 0.500 (0.000 to 1.000)"
    )
    opposed = explain._over_runs([row(agreement_teacher=-0.5), row(agreement_teacher=0.5)])[0]
    assert opposed.endswith("agreement teacher 0.000 (-1.000 to 1.000)")


def test_agreement_is_held_against_that_of_other_samples():
    question = SimpleNamespace(real=torch.ones(3, 4, dtype=torch.bool))
    ours = torch.tensor([[1.0, 2, 3, 4], [1.0, 3, 2, 4], [0.0, 0, 0, 0]])
    theirs = torch.tensor([[1.0, 2, 3, 4], [4.0, 2, 3, 1], [1.0, 2, 3, 4]])
    found = explain._agreement("guide", ours, theirs, question)
    assert found["agreement_guide"] == pytest.approx(0.0) and found["agreement_guide_n"] == 2
    assert (found["agreement_guide_low"], found["agreement_guide_high"]) == (-1.0, 1.0)
    # the first map with the last sample's: 1; the second with the first's: 0.8
    assert found["agreement_guide_by_chance"] == pytest.approx(0.9)
    assert by_chance(ours, theirs, question.real)[:2].tolist() == pytest.approx([1.0, 0.8])
    flat = explain._agreement("guide", torch.zeros(3, 4), theirs, question)
    assert flat["agreement_guide_n"] == 0 and math.isnan(flat["agreement_guide_by_chance"])


def test_places_are_shown_and_hidden_in_their_order_by_a_loop():
    class Sum(nn.Module):
        def forward(self, x):
            total = (x * torch.arange(1.0, x.shape[1] + 1)).sum(1)
            return torch.stack([total / 40, total / 90, total * 0], 1)

    inputs = torch.rand(2, 23, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(23)[None] < torch.tensor([23, 14])[:, None]
    question = asked(Sum(), inputs)
    object.__setattr__(question, "real", mask)
    maps = torch.rand(2, 23, generator=torch.Generator().manual_seed(1))
    shown, hidden = curves(question, maps)
    assert shown.shape == hidden.shape == (2, 21)
    for n, count in ((0, 23), (1, 14)):
        order = sorted(range(count), key=lambda k: -float(maps[n, k]))
        for step in range(21):
            first = round(count * step / 20 + (1e-9 if (count * step / 20) % 2 == 1.5 else -1e-9))
            for curve, kept in ((shown, order[:first]), (hidden, order[first:])):
                seen = torch.where(
                    torch.isin(torch.arange(23), torch.tensor([*kept, *range(count, 23)], dtype=torch.long)),
                    inputs[n],
                    0.0,
                )
                wanted = question.network.network(seen[None]).softmax(1)[0, n % 2]
                assert curve[n, step] == pytest.approx(float(wanted), abs=1e-6), (n, step)


def test_weights_are_shuffled_from_the_output_on_each_layer_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.randn(7))
            self.layers = nn.Sequential(
                *[nn.Linear(7, 7) for _ in range(4)], nn.Linear(7, 3), nn.PReLU()
            )  # of one number

        def forward(self, x):
            return self.layers(x + self.token)

    torch.manual_seed(0)
    question, seen = asked(Net(), torch.randn(2, 7)), []
    own = {name: p.clone() for name, p in question.network.network.named_parameters()}

    def explain_by_weights(one):
        seen.append({name: p.clone() for name, p in one.network.network.named_parameters()})
        return torch.tensor([[1.0, -2, 3, 4, 5, 6, 7]] * 2)

    maps = torch.tensor([[-1.0, 2, 3, 4, 5, 6, 7], [7.0, 6, 5, 4, 3, 2, -1]])
    found = scores.randomised(question, explain_by_weights, maps)
    assert found == [(count, pytest.approx(0.0)) for count in (1, 3, 5)]  # of the sizes: 1 and -1
    for (count, _), state in zip(found, seen, strict=True):
        changed = {name for name in own if not torch.equal(own[name], state[name])}
        layers = {f"layers.{place}.{kind}" for place in range(5 - count, 5) for kind in ("weight", "bias")}
        assert changed == layers | ({"token"} if count == 5 else set())
        assert all(
            torch.equal(own[name].flatten().sort().values, state[name].flatten().sort().values)
            for name in own
        )
    for name in ("layers.4.weight", "layers.4.bias"):
        assert torch.equal(seen[0][name], seen[2][name])


def test_questions_of_networks_that_have_no_answer():
    for task in (Forecasting(1, 3),):
        assert "choose one class for each sample, got a task of" in refused(
            asked, nn.Linear(4, 3), torch.randn(2, 4), task
        )
    assert "has no logit for each of 2 classes" in refused(
        asked, nn.Linear(4, 2), torch.randn(2, 4), Binary()
    )  # made four
    assert "answers (4,) has no logit for each of 3 classes" in refused(
        asked, nn.Linear(4, 4), torch.randn(2, 4)
    )
    assert "answers (1, 3) has no logit" in refused(
        asked, nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (1, 3))), torch.randn(2, 4)
    )
    ways = (
        {},
        {"padding": 3},
        {"padding": None},
        {"entries": ["a"], "padding": 2},
        {"entries": ["a", "<unk>"]},
    )
    hidden = [asked(nn.Linear(4, 3), torch.randn(2, 4), **more).hidden for more in ways]
    assert hidden == [0, 3, 0, 2, 1]
    small = asked(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3)), torch.randn(2, 1, 4, 4))
    assert (
        small.fitted(torch.ones(2, 2, 2)).shape == (2, 4, 4)
        and small.fitted(maps := torch.ones(2, 4, 4)) is maps
    )
    line = asked(nn.Linear(4, 3), torch.randn(2, 4))
    assert line.fitted(maps) is maps and cannot("lime", line) == ""
    assert [(part.start, part.stop) for part in asked(nn.Linear(4, 3), torch.randn(65, 4)).blocks()] == [
        (0, 64),
        (64, 128),
    ]


# --- pseudo data and robustness -----------------------------------------------------------------------------------


def test_a_judge_compares_as_many_images_as_its_reference():
    torch.manual_seed(0)
    network = FrozenNetwork(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)))
    images = torch.randn(70, 1, 2, 2)
    judge = sample_quality.Judge(network, (images, None))
    answers = network(images).argmax(1)
    torch.testing.assert_close(judge.features, network.network[:3](images))
    found = judge.judge("same", images, torch.where(torch.arange(70) < 7, 5, answers))
    assert (found.count, found.accuracy, found.precision, found.recall) == (70, 0.9, 1.0, 1.0)
    assert found.frechet_distance == pytest.approx(0, abs=1e-4)
    assert refused(judge.judge, "few", images[:69], answers) == "few: 69 images against a reference of 70"


def of_set(label, pseudo):
    result = {"pseudo": {}} if pseudo else {}
    return SimpleNamespace(
        label=label, arm=label, run=SimpleNamespace(result=result, path=Path(label)), role=""
    )


@pytest.mark.parametrize(
    ("made", "counts"),
    [((), "0 and 0"), ((False,), "1 and 0"), ((True,), "0 and 1"), ((False, False, True), "2 and 1")],
)
def test_quality_is_of_one_classifier_and_some_sets(made, counts):
    subjects = [of_set(f"s{place}", pseudo) for place, pseudo in enumerate(made)]
    said = "quality needs one classifier's run and at least one run of `tutelage synthesize`, got "
    names = ", ".join(one.label for one in subjects)
    assert refused(sample_quality.outcome, SimpleNamespace(subjects=subjects)) == f"{said}{counts}: {names}"


class Kept:
    """Images by their numbers, as a store gives them."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def to(self, device):
        return self


@pytest.mark.parametrize("split", ["validation", "train"])
def test_the_quality_of_sets_in_lines_and_pictures(monkeypatch, split):
    generator = torch.Generator().manual_seed(0)
    own = torch.randint(256, (30, 1, 2, 2), generator=generator).float()
    labels = torch.arange(30) % 3
    data = SimpleNamespace(
        splits={"train": np.arange(20), "validation": np.arange(20, 30)}, store=Kept((own / 255 - 0.5) / 0.25, labels),
        normalization=((0.5,), (0.25,)), facts={"classes": ["x", "y"]},
    )  # fmt: skip
    network = FrozenNetwork(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    judged = []

    class Judge:
        def __init__(self, classifier, reference):
            judged.append(("reference", classifier, *reference))

        def judge(self, name, images, labels):
            judged.append((name, images, labels))
            return sample_quality.Quality(name, len(images), 0.5, 12.345678, 0.25, 0.125)

    found = SimpleNamespace(images=own[:9].byte(), labels=labels[:9])
    monkeypatch.setattr(sample_quality, "opened", lambda one, request: (network, data, None))
    monkeypatch.setattr(sample_quality.pseudo, "read", lambda path: found)
    monkeypatch.setattr(
        sample_quality,
        "SplitBatches",
        lambda store, index, batch_size: [Batch(store.images[index], store.labels[index], None)],
    )
    monkeypatch.setattr(sample_quality, "Judge", Judge)
    monkeypatch.setattr(sample_quality, "draw", lambda shown, table, path: (shown, table))
    subjects = [of_set("judge", False), of_set("made", True)]
    options = {"split": split, "device": "cpu", "samples": ""}
    said, record, rows, draw = sample_quality.outcome(SimpleNamespace(subjects=subjects, options=options))
    names = ["made"] if split == "train" else ["training images", "made"]
    assert said == [f"against 9 {split} images, in the features of judge:"] + [
        f"{name}: source accuracy 0.500, Frechet distance 12.35, precision 0.250, recall 0.125"
        for name in names
    ]
    assert record == {"reference": split, "count": 9} and [row["images"] for row in rows] == names
    begin, count = (0, 20) if split == "train" else (20, 10)
    at = begin + sample_quality.drawn(count, 9)
    assert torch.equal(judged[0][2], data.store.images[at]) and torch.equal(judged[0][3], labels[at])
    torch.testing.assert_close(judged[-1][1], (own[:9] / 255 - 0.5) / 0.25)
    shown, table = draw("x")
    torch.testing.assert_close(shown["made"][0], own[:9] / 255)
    assert shown["made"][1] == ["x", "y", "2"] * 3 and [one.images for one in table] == names
    options["samples"] = "4"
    assert sample_quality.outcome(SimpleNamespace(subjects=subjects, options=options))[1]["count"] == 4
    found.images = torch.zeros(9, 3, 2, 2, dtype=torch.uint8)
    said = "made holds images (3, 2, 2), judge takes (1, 2, 2)"
    assert refused(sample_quality.outcome, SimpleNamespace(subjects=subjects, options=options)) == said


def request(**more):
    options = {
        "attacks": "",
        "corruptions": "all",
        "samples": "",
        "steps": "2",
        "restarts": "1",
        "queries": "3",
        "epsilon": "0.1",
        "norm": "linf",
    }
    return SimpleNamespace(options=options | more)


class Even(nn.Module):
    """Answers by whether the sum of an input is above its threshold."""

    def forward(self, x):
        total = x.flatten(1).sum(1, keepdim=True)
        return torch.cat([2.0 - total, total - 2.0], 1)


def test_missing_values_and_typos_at_each_severity(monkeypatch):
    monkeypatch.setattr(
        robustness, "missing", lambda inputs, severity, index: inputs - severity * (index[:, None] == 11)
    )
    batches = [
        Batch(torch.full((2, 2), 3.0), torch.tensor([1, 0]), torch.tensor([10, 11])),
        Batch(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([12])),
    ]
    found = robustness._of_others(
        FrozenNetwork(Even()), SimpleNamespace(task=Classification(2)), batches, request()
    )
    assert [(one["condition"], one.get("severity"), one["n"]) for one in found[:-1]] == [
        ("clean", None, 3), *((f"missing_values_{s}", s, 3) for s in range(1, 6)),
    ]  # fmt: skip
    # 6 - 2 s is at most 2 from the second severity on, which ties for class 0
    assert [one["accuracy"] for one in found] == pytest.approx([2 / 3, 2 / 3, 1, 1, 1, 1, (2 / 3 + 4) / 5])
    assert (found[-1]["condition"], found[-1]["n"]) == ("corruptions", 3)
    task = Forecasting(1, 1)
    values = [Batch(torch.zeros(2, 1, 1), torch.ones(2, 1, 1), torch.tensor([0, 11]))]
    monkeypatch.setattr(robustness, "missing", lambda inputs, severity, index: inputs + severity)
    found = robustness._of_others(FrozenNetwork(nn.Identity()), SimpleNamespace(task=task), values, request())
    errors = [1.0, 0.0, 1.0, 4.0, 9.0, 16.0]
    assert [one[task.monitor] for one in found] == pytest.approx([*errors, sum(errors[1:]) / 5]) and found[0][
        "n"
    ] == 2
    monkeypatch.setattr(
        robustness,
        "typos",
        lambda inputs, real, severity, index, entries, words: inputs + severity * real * (1 + words),
    )
    for level, step in (("word", 2), ("character", 1)):
        seen = []
        network = lambda inputs, mask, seen=seen: seen.append(inputs.tolist()) or torch.zeros(1, 2)  # noqa: E731
        texts = [
            Batch(torch.tensor([[5, 6]]), torch.tensor([0]), torch.tensor([0]), torch.tensor([[True, False]]))
        ]
        robustness._of_others(
            network,
            SimpleNamespace(task=Classification(2), level=level, entries=["a", "b", "c"]),
            texts,
            request(),
        )
        assert seen == [[[5 + step * s, 6]] for s in range(6)]
    for more in (
        {"entries": ["a", "b"], "level": "word"},
        {"entries": ["a", "b", "c"], "level": "byte"},
        {"level": "word"},
    ):
        given = SimpleNamespace(task=Classification(2), **more)
        assert refused(robustness._of_others, None, given, texts, request()).startswith(
            "typos are made in words or characters"
        )


def test_images_under_corruptions_and_attacks(monkeypatch):
    images = torch.tensor([0.9, 0.9, 0.1, 0.6]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    batches = [Batch(images[:3], torch.tensor([1, 0, 0]), torch.arange(3), target_mask=torch.tensor([True, False, True])),
               Batch(images[3:], torch.tensor([1]), torch.tensor([3]))]  # fmt: skip
    monkeypatch.setattr(robustness, "CORRUPTIONS", {"fog": 1, "snow": 1})
    monkeypatch.setattr(
        robustness,
        "corrupted",
        lambda pixels, kind, severity, index: pixels - 0.05 * severity * (kind == "fog"),
    )
    found = robustness._of_images(
        "x",
        FrozenNetwork(Even()),
        SimpleNamespace(task=Classification(2), normalization=None),
        batches,
        request(attacks="none"),
    )
    accuracies = [1.0, *(1.0 if s < 2 else 2 / 3 for s in range(1, 6)), *[1.0] * 5]
    assert [one["condition"] for one in found] == [
        "clean",
        *(f"{kind}_{s}" for kind in ("fog", "snow") for s in range(1, 6)),
        "corruptions",
    ]
    assert [one["accuracy"] for one in found[:-1]] == pytest.approx(accuracies)
    over = summarize([1.0, 1.0, 0.6], bounds=(0.0, 1.0))
    assert found[-1] == {
        "condition": "corruptions",
        "n": 3,
        "accuracy": pytest.approx(over.mean),
        "low": pytest.approx(over.low, abs=1e-6),
        "high": 1.0,
    }
    bare = robustness._of_images("x", FrozenNetwork(Even()), SimpleNamespace(task=Classification(2), normalization=None), batches,
                                 request(corruptions="none", attacks="fgsm"))  # fmt: skip
    assert (
        [one["condition"] for one in bare][:2] == ["clean", "fgsm"]
        and bare[1]["epsilon"] == 0.1
        and bare[1]["norm"] == "linf"
    )
    assert all(one["condition"].startswith("check: ") for one in bare[2:]) and len(bare) == 5


@pytest.mark.parametrize(("inputs", "task", "attacks", "goes"), [
    (torch.zeros(2, 1, 2, 2), Classification(2), "", "images"), (torch.zeros(2, 1, 2, 2), Binary(), "all", "images"),
    (torch.zeros(2, 3), Classification(2), "", "others"), (torch.zeros(2, 3), Classification(2), "none", "others"),
    (torch.zeros(2, 3), Classification(2), "all", None), (torch.zeros(2, 1, 2, 2), Forecasting(1, 1), "", "others"),
    (torch.zeros(2, 1, 2, 2, dtype=torch.long), Classification(2), "", "others"),
])  # fmt: skip
def test_what_is_measured_of_which_data(monkeypatch, inputs, task, attacks, goes):
    batch = Batch(inputs, torch.zeros(2), torch.arange(2))
    monkeypatch.setattr(
        robustness,
        "opened",
        lambda one, request, samples: (FrozenNetwork(nn.Identity()), SimpleNamespace(task=task), [batch]),
    )
    for name in ("images", "others"):
        monkeypatch.setattr(robustness, f"_of_{name}", lambda *given, name=name: [{"condition": name}])
    if goes is None:
        assert "have no range: say attacks=none" in refused(
            robustness.measure, subject(), request(attacks=attacks)
        )
    else:
        assert robustness.measure(subject(), request(attacks=attacks)) == [
            {"network": "a0", "arm": "a", "seed": 0, "condition": goes}
        ]


def test_what_was_measured_before_is_read_again(monkeypatch):
    kept, measured, remembered = {"a/0": [{"condition": "clean", "n": 1, "accuracy": 0.5}]}, [], []
    monkeypatch.setattr(robustness, "recall", lambda root, run, name, asked: kept.get(run.key))
    monkeypatch.setattr(
        robustness, "remember", lambda root, run, name, asked, rows: remembered.append(run.key)
    )
    monkeypatch.setattr(
        robustness,
        "measure",
        lambda one, request: measured.append(one.label) or [{"condition": "clean", "n": 1, "accuracy": 1.0}],
    )
    subjects = [subject("a", 0, key="a/0"), subject("a", 1, key="a/1"), subject("a", 0, "guide", key="a/0")]
    asking = SimpleNamespace(subjects=subjects, options={"runs_dir": "r"}, asked={})
    said, _, rows, _ = robustness.outcome(asking)
    assert (measured, remembered) == (["a1", "a0:guide"], ["a/1"])
    assert (
        said[:3]
        == ["a0: clean: accuracy 0.500", "a1: clean: accuracy 1.000", "a0:guide: clean: accuracy 1.000"]
        and len(said) == 4
    )
    assert [row["network"] for row in rows] == ["a0", "a1", "a0:guide"]


# --- calibration, probes, explanations ----------------------------------------------------------------------------


def test_calibration_in_lines_rows_and_figures(monkeypatch):
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), np.array([0, 1, 1])
    found = iter([0.25, 0.5, 0.125])
    made = calibration.Calibration(3, 0.75, 0.0, 0.0, 0.5, 2.0, 0.125, 1.0, 0.5, 0.25, 0.25)
    monkeypatch.setattr(
        calibration,
        "opened",
        lambda one, request: (None, SimpleNamespace(task=None, batches=lambda split, device: split), "test"),
    )
    monkeypatch.setattr(
        calibration,
        "logits_of",
        lambda network, task, batches: (batches, *logits) if batches == "validation" else logits,
    )
    monkeypatch.setattr(calibration, "calibration", lambda validation, judged: replace(made, ece=next(found)))
    monkeypatch.setattr(calibration, "draw", lambda shown, path: shown)
    monkeypatch.setattr(calibration, "on_other", lambda network, data, request: (None, None, "theirs"))
    monkeypatch.setattr(
        calibration, "outside_logits", lambda seen, task, theirs: np.array([[0.5, 0.0], [0.0, 1.5]])
    )
    subjects = [subject("a", 0), subject("a", 1), subject("b", 0)]
    asking = SimpleNamespace(subjects=subjects, options={"device": "cpu", "other": ""})
    said, record, rows, draw = calibration.outcome(asking)
    tail = "95 % over samples 0.000 to 0.500; at the temperature 2.000 learnt on validation 0.125; errors 0.250, of the surest 80 % 0.250"
    assert said == [
        f"a0: ECE 0.250, {tail}", f"a1: ECE 0.500, {tail}", f"b0: ECE 0.125, {tail}", "a: mean ECE 0.375, 95 % over 2 runs 0.000 to 1.000",
    ]  # fmt: skip
    assert record == {"bins": 15} and [(row["network"], row["arm"], row["seed"], row["ece"]) for row in rows] == [
        ("a0", "a", 0, 0.25), ("a1", "a", 1, 0.5), ("b0", "b", 0, 0.125),
    ]  # fmt: skip
    shown = draw("x")
    assert [len(runs) for runs in shown.values()] == [2, 1] and shown["b"][0][0] == 0.125
    assert shown["b"][0][1] == pytest.approx([1 / (1 + math.exp(-z)) for z in (2, 1, 3)]) and shown["b"][0][
        2
    ].tolist() == [1, 1, 0]
    found = iter([0.25])
    asking = SimpleNamespace(subjects=subjects[:1], options={"device": "cpu", "other": "wild"})
    said, _, rows, _ = calibration.outcome(asking)
    # the surest of 2, 1 and 3 against 0.5 and 1.5; their energies against those, too
    assert said[1] == "  told from wild, area under the ROC curve: max_softmax 0.833, energy 0.833"
    assert (rows[0]["auroc_max_softmax"], rows[0]["auroc_energy"]) == (
        pytest.approx(5 / 6),
        pytest.approx(5 / 6),
    )


def test_probes_in_lines(monkeypatch):
    found = iter(
        [
            probe.Probe(0.5, 0.25, 0.1, 8, "l"),
            probe.Probe(0.75, 0.25, 0.1, 8, "l"),
            probe.Probe(1.0, 0.5, 0.1, 8, "l"),
        ]
    )
    data = SimpleNamespace(task=None, splits={"train": range(12)}, batches=lambda split, device: split)
    monkeypatch.setattr(probe, "_with_labels", lambda one, request: (None, data))
    monkeypatch.setattr(probe, "probe", lambda network, task, batches: next(found))
    subjects = [subject("a", 0, key="a/0"), subject("a", 1, key="a/1"), subject("b", 0, "guide", key="b/0")]
    said, _, rows, _ = probe.outcome(SimpleNamespace(subjects=subjects, options={"device": "cpu"}))
    assert said == [
        "a: linear probe 0.625 (95 % over 2 runs 0.000 to 1.000), 20 nearest neighbours 0.250 (95 % over 2 runs 0.250 to 0.250); "
        "accuracy on test",
        "b: linear probe 1.000, 20 nearest neighbours 0.500; accuracy on test",
    ]
    assert [(row["arm"], row["run"], row["role"], row["labelled"], row["linear"]) for row in rows] == [
        ("a", "a/0", "", 12, 0.5), ("a", "a/1", "", 12, 0.75), ("b", "b/0", "guide", 12, 1.0),
    ]  # fmt: skip


def test_the_penalty_of_a_probe_is_chosen_on_validation_and_features_are_scaled(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    splits = {
        name: (5 + 3 * torch.randn(n, 3, generator=draw), torch.arange(n) % 2)
        for name, n in (("train", 12), ("validation", 8), ("test", 10))
    }
    splits["train"][0][:, 2] = 7.0
    asked_for = []

    def linear(train, *, classes, penalty):
        asked_for.append((train[0], classes, penalty))
        return penalty

    monkeypatch.setattr(probe, "_features", lambda network, batches: ("head", splits[batches]))
    monkeypatch.setattr(probe, "linear", linear)
    monkeypatch.setattr(
        probe,
        "accuracy",
        lambda weights, split: {8: {1e-3: 0.75, 1e-2: 0.75}.get(weights, 0.5), 10: weights}[len(split[0])],
    )
    monkeypatch.setattr(
        probe, "neighbours", lambda train, features, classes: torch.arange(len(features)) // 5
    )
    found = probe.probe(None, Classification(2), {name: name for name in splits})
    assert found == probe.Probe(1e-3, 0.6, 1e-3, 3, "head")
    assert [penalty for _, _, penalty in asked_for] == list(probe.PENALTIES) and asked_for[0][1] == 2
    scaled = asked_for[0][0]
    assert torch.allclose(scaled.mean(0), torch.zeros(3), atol=1e-5) and torch.allclose(
        scaled.std(0), torch.tensor([1.0, 1, 0]), atol=1e-5
    )


@pytest.mark.parametrize(("arms", "pictured"), [
    (["a", "a"], ["a 0", "a 0:guide"]),
    (list("abcdefgh"), ["a 0", "a 0:guide", "b 0", "b 0:guide", "c 0", "c 0:guide"]),
])  # fmt: skip
def test_one_network_of_each_arm_is_pictured_with_its_guide(monkeypatch, arms, pictured):
    inputs = torch.randn(2, 4)
    question = asked(nn.Linear(4, 3), inputs)
    monkeypatch.setattr(
        explain,
        "opened",
        lambda one, request, samples: (
            question.network,
            SimpleNamespace(task=Classification(3)),
            [question.batch],
        ),
    )
    monkeypatch.setattr(explain, "_others", lambda one, request, samples, lines: [("guide", question)])
    maps = torch.ones(2, 4)
    columns = {f"{name}{end}": 0.5 for name in ("insertion", "deletion") for end in ("", "_low", "_high")}
    explained = maps, {"guide": 2 * maps}, columns, {"randomised": []}
    monkeypatch.setattr(explain, "_explanation", lambda name, question, others: explained)
    monkeypatch.setattr(explain, "draw", lambda pictures, path, **more: (pictures, more))
    subjects = [
        subject(arm, place, label=f"{arm} {place if arm == 'a' else 0}") for place, arm in enumerate(arms)
    ]
    asking = SimpleNamespace(subjects=subjects, options={"explainers": "saliency", "samples": ""})
    said, record, rows, draw = explain.outcome(asking)
    pictures, more = draw("x")
    assert [one.label for one in pictures] == pictured and more["count"] == 4 and more["signed"] == SIGNED
    assert len(rows) == 2 * len(subjects) and record["samples"] == 2 and record["index"] == [0, 1]
    assert len(said) == 2 * len(subjects) + (2 if arms == ["a", "a"] else 0)
    for place, one in enumerate(subjects):  # a line of each row
        for line, row in zip(said[2 * place :][:2], rows[2 * place :], strict=False):
            share = f"{row['insertion']:.3f} ({row['insertion_low']:.3f} to {row['insertion_high']:.3f})"
            assert line.startswith(f"{one.label}, {row['explainer']}: insertion {share}, deletion ")


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("read", "images"),
    [("mean", False), ("first", False), ("last", False), ("mean", True), ("first", True), ("last", True)],
)
def test_what_a_head_reads_of_the_rolled_attention(monkeypatch, read, images, masked):
    """Of images the mask is none of the patches', and two tokens for the class are left out."""
    rolled = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(attention_rollout, "attention_of", lambda *given: ([torch.zeros(2, 1, 6, 6)], False))
    monkeypatch.setattr(attention_rollout, "roll", lambda layers: rolled)
    monkeypatch.setattr(attention_rollout, "_read_from", lambda *given: read)
    inputs = torch.zeros(2, 1, 4, 4) if images else torch.zeros(2, 6)
    mask = torch.tensor([[True] * 6, [True, True, False, True, False, False]]) if masked else None
    network = FrozenNetwork(nn.Identity())
    found = attention_rollout.attention_rollout(network, inputs, mask)
    prefix = 2 if images else 0
    for n in range(2):
        there = [k for k in range(prefix, 6) if images or mask is None or mask[n, k]]
        rows = {
            "mean": there,
            "first": [0],
            "last": [max(k for k in range(6) if mask is None or mask[n, k])],
        }[read]
        slow = [sum(float(rolled[n, k, j]) for k in rows) / len(rows) for j in range(prefix, 6)]
        assert found[n].tolist() == pytest.approx(slow, abs=1e-6)
    for layers, said in (([], "has no attention"), ([torch.zeros(2, 1, 6, 6), torch.zeros(2, 1, 5, 5)], "attend within parts"),
                         ([torch.zeros(4, 1, 6, 6)], "attend within parts")):  # fmt: skip
        monkeypatch.setattr(attention_rollout, "attention_of", lambda *given, layers=layers: (layers, False))
        assert said in refused(attention_rollout.attention_rollout, network, inputs, mask)


def test_the_last_convolution_over_more_than_a_point():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1),
        nn.Conv2d(2, 2, 1),
        nn.Conv2d(2, 2, 3),
        nn.Conv2d(2, 2, 2),
        nn.Flatten(),
        nn.Linear(2, 3),
    )
    assert attributions._last_convolution(asked(network, torch.randn(2, 1, 4, 4))) is network[2]
    flat = nn.Sequential(nn.Conv2d(1, 2, (4, 2)), nn.Flatten(), nn.Linear(6, 3))
    assert "whose output is more than a point" in refused(
        attributions._last_convolution, asked(flat, torch.randn(2, 1, 4, 4))
    )


# --- what is asked for --------------------------------------------------------------------------------------------


def test_the_words_of_a_command_are_a_request(monkeypatch):
    run = SimpleNamespace(identity="abcdef01")
    monkeypatch.setattr(
        analysis_request, "subjects", lambda name, runs_dir, data: [Subject(run, f"{runs_dir}/{name}")]
    )
    options = {"runs_dir": "r", "split": "test", "steps": "5", "out": "o"}
    found = analysis_request.read(
        ["a", "b", "a"], options, ["data.root=x=y", "data.length=3"], ["steps", "out", "runs_dir"]
    )
    assert [one.label for one in found.subjects] == ["r/a abcdef", "r/b abcdef"] and found.options is options
    assert found.data == {"root": "x=y", "length": 3}
    assert found.asked == {"steps": "5", "data.root": "x=y", "data.length": "3"}
    assert refused(analysis_request.read, [], options, []).startswith(
        "analyse needs the runs to look at, such as demo/plain"
    )


def stored(name, complete=True, **config):
    return SimpleNamespace(name=name, key=f"{name}/0", is_complete=complete, state="running", config=config)


def test_the_networks_that_a_word_means(monkeypatch, tmp_path):
    runs = {
        "a": [stored("a", guide={"x": 1}), stored("a", complete=False)],
        "b": [stored("b", complete=False)],
        "c": [],
    }
    store = SimpleNamespace(
        named=lambda name: runs[name],
        find=lambda name: runs["a"][0] if name == "c" else stored(name, complete=False),
    )
    monkeypatch.setattr("tutelage.runs.store.Store", lambda root: store)
    monkeypatch.setattr("tutelage.reporting.table_paths.table_path", lambda name: None)
    monkeypatch.setattr(analysis_request, "_arms", lambda done, store: [(run, "arm") for run in done])

    def networks(word):
        return [(one.run.key, one.arm, one.role) for one in analysis_request.subjects(word, "r", {})]

    assert networks("a") == [("a/0", "arm", "")] == networks("c") and networks("a:guide") == [
        ("a/0", "arm", "guide")
    ]
    assert (
        refused(networks, "b")
        == "b/0 is running: only a complete run can be analysed; give its train command again"
    )
    assert refused(networks, "a:teacher") == "'a:teacher': a/0 has no teacher (it has guide)"
    assert refused(networks, "a:gide").startswith(
        "'a:gide': a run has no network 'gide'; did you mean 'guide'?"
    )
    (tmp_path / "config.yaml").touch()
    assert (
        refused(networks, str(tmp_path))
        == f"{tmp_path}/0 is running: only a complete run can be analysed; give its train command again"
    )


def test_runs_of_a_name_are_arms_where_their_settings_differ(monkeypatch):
    def arms(*labels):
        rows = [SimpleNamespace(key=f"{place}/0") for place in range(len(labels))]
        groups = [
            SimpleNamespace(
                label=label, rows=[row for row, own in zip(rows, labels, strict=True) if own == label]
            )
            for label in dict.fromkeys(labels)
        ]
        monkeypatch.setattr("tutelage.reporting.collect.row_of", lambda run, store: run)
        monkeypatch.setattr("tutelage.reporting.collect.group", lambda given: groups)
        return [
            arm
            for _, arm in analysis_request._arms(
                [SimpleNamespace(name="n", key=row.key) for row in rows], None
            )
        ]

    assert arms("x") == ["n"] and arms("x", "x") == ["n", "n"] and arms("x", "y", "x") == ["x", "y", "x"]


def test_the_latency_of_a_run_is_of_one_sample_on_one_thread_in_milliseconds(monkeypatch):
    batch, asked_for = Batch(torch.arange(3), torch.arange(3), torch.arange(3)), []
    monkeypatch.setattr(network_cost, "_opened", lambda run, runs_dir, role: ("network", None, iter([batch])))
    monkeypatch.setattr(
        network_cost,
        "_latency",
        lambda network, one, threads: (
            asked_for.append((network, len(one.inputs), threads)) or cost().latencies[1]
        ),
    )
    assert network_cost.latency_ms(None, "runs") == 4.0 and asked_for == [("network", 1, 1)]
