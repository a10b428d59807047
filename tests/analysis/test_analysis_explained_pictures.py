"""Pictures of explanations, artist by artist; which guides a diagnosis tries, how probes are told apart and ranked."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tutelage.analysis import diagnosis, explanation_picture
from tutelage.analysis.explanation_picture import Picture
from tutelage.errors import UserError
from tutelage.reporting.palette import style
from tutelage.tasks import Batch, Tokens


@pytest.fixture
def drawn(monkeypatch):
    """Give a function that draws pictures and returns the figure."""
    figures = []
    monkeypatch.setattr(explanation_picture, "save", lambda figure, path: figures.append(figure))

    def do(
        pictures, inputs, targets, *, real=None, tokens=False, count=3, signed=("b",), entries=None, **facts
    ):
        batch = Batch(inputs, torch.tensor(targets), torch.arange(len(inputs)))
        there = torch.ones(inputs.shape[:2], dtype=torch.bool) if real is None else real
        question = SimpleNamespace(is_image=inputs.ndim == 4, tokens=tokens, real=there)
        data = SimpleNamespace(facts=facts, entries=entries, normalization=facts.pop("normalization", None))
        explanation_picture.draw(
            pictures, "path", batch=batch, data=data, question=question, count=count, signed=signed
        )
        return figures[-1]

    return do


def names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_images_with_the_maps_of_two_networks(drawn):
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 2, 3) / 10
    maps = {"a_b": torch.ones(5, 2, 3), "b": -torch.arange(30.0).reshape(5, 2, 3)}
    pictures = [
        Picture("x/one seed 0", maps),
        Picture("two", {"b": torch.arange(5.0).view(5, 1, 1).expand(5, 2, 3)}),
    ]
    figure = drawn(
        pictures, images, [0, 1, 2, 3, 4], classes=["c$", "d", "e"], normalization=((0.1,), (2.0,))
    )
    grid = np.array(figure.axes).reshape(6, 3)
    assert [axes.get_title() for axes in grid[0]] == [
        "sample",
        "a b",
        "b",
    ] and figure.get_size_inches().tolist() == pytest.approx([5.1, 8.4])
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["class c\\$\none\nseed\n0", "two", "class e\none\nseed\n0", "two",
     "class 4\none\nseed\n0",
                                                         "two"]  # fmt: skip
    assert [axes.images[0].get_array()[0, 0] for axes in grid[::2, 0]] == pytest.approx([0.1, 0.5, 0.9])
    assert [axes.axison for axes in grid[:2, 1]] == [True, False]
    assert grid[0, 1].images[0].get_clim() == (0.0, 1.0) and grid[2, 2].images[0].get_clim() == (-17.0, 17.0)
    clims = [axes.images[0].get_clim() for axes in grid[1::2, 2]]
    assert clims == [(-1.0, 1.0), (-2.0, 2.0), (-4.0, 4.0)]  # the first is nothing but zeros
    assert figure.get_suptitle() == (
        "What answers rest on\nviolet speaks for the true class, orange against it; one hue: the lighter, the more it matters"
    )
    alone = drawn([Picture("two", {"b": torch.zeros(5, 2, 3)})], images, [0] * 5, count=9)
    said = "two: what its answer rests on\nviolet speaks for the true class, orange against it"
    assert len(alone.axes) == 10 and alone.get_suptitle() == said
    coloured = drawn([Picture("two", {"b": torch.zeros(1, 2, 2)})], torch.full((1, 3, 2, 2), 1.5), [0])
    assert coloured.axes[0].images[0].get_array().tolist() == [[[1.0] * 3] * 2] * 2


def test_tokens_and_columns_are_bars(drawn):
    tokens = torch.tensor([[1, 2, 9, 0]])
    real = torch.tensor([[True, True, True, False]])
    figure = drawn(
        [Picture("m", {"b": torch.tensor([[0.5, -1.0, 0.0, 7.0]])})],
        tokens,
        [1],
        real=real,
        tokens=True,
        entries=["p", "_u", "w"],
    )
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [0.5, -1.0, 0.0]
    colours = [tuple(round(255 * part) for part in bar.get_facecolor()[:3]) for bar in axes.patches]
    expected = [tuple(int(style(place)[0][at : at + 2], 16) for at in (1, 3, 5)) for place in (0, 1, 0)]
    assert (
        colours == expected and names(axes.xaxis) == ["\u2009_u", "w", "9"] and axes.get_ylabel() == "class 1"
    )
    columns = drawn([Picture("m", {"b": torch.ones(1, 2)})], torch.ones(1, 2), [0], features=["f", "g"])
    assert names(columns.axes[0].xaxis) == ["f", "g"]
    assert names(
        drawn([Picture("m", {"b": torch.ones(1, 2)})], torch.ones(1, 2), [0], features=["f"]).axes[0].xaxis
    ) == ["0", "1"]


@pytest.mark.parametrize(("places", "every"), [(40, 1), (41, 2), (81, 3)])
def test_so_many_places_are_named(drawn, places, every):
    figure = drawn([Picture("m", {"b": torch.ones(1, places)})], torch.ones(1, places), [0])
    assert (
        names(figure.axes[0].xaxis) == [str(place) for place in range(places)][::every]
        and len(figure.axes[0].patches) == places
    )


# --- a diagnosis ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "vocabulary", "shape", "kind"), [
    (Tokens(5, monitor="accuracy", next_token=True), 5, (7,), "tokens ahead"), (Tokens(5, monitor="accuracy"), 5, (7,), "tokens"),
    (None, 5, (7,), "tokens"), (None, None, (1, 4, 4), "images"), (None, None, (7, 2), "series"), (None, None, (7,), None),
])  # fmt: skip
def test_the_guides_that_are_tried(task, vocabulary, shape, kind):
    data = SimpleNamespace(task=task, vocab_size=vocabulary, input_shape=shape)
    assert diagnosis.guides_for(data) == ({} if kind is None else diagnosis.GUIDES[kind])


def probe(depth=0.5, loss=1.0, readable=(0.1,), samples=200):
    return SimpleNamespace(
        state=SimpleNamespace(depth_read=depth, loss=loss, readable=readable, samples=samples)
    )


@pytest.mark.parametrize(("mine", "theirs", "apart"), [
    (probe(0.5), probe(0.59), False), (probe(0.5), probe(0.61), True), (probe(0.61), probe(0.5), True), (probe(0.02), probe(0.06), True),
    (probe(loss=1.0, readable=()), probe(loss=1.01), False), (probe(loss=1.02, readable=()), probe(loss=1.0), True),
    (probe(loss=0.98, readable=()), probe(loss=1.0), True), (probe(loss=-1.0, readable=()), probe(loss=-1.005), False),
])  # fmt: skip
def test_probes_are_told_apart(mine, theirs, apart):
    assert diagnosis.told_apart(mine, theirs) == apart


def test_the_most_promising_probe_comes_first():
    first, second, third = probe(0.3), probe(0.7), probe(0.5)
    assert diagnosis.ranked([first, second, third]) == [second, third, first]
    first, second = (probe(loss=loss, readable=()) for loss in (2.0, 1.0))
    assert diagnosis.ranked([first, second]) == [second, first]


def test_a_probe_is_a_short_run_of_its_command(monkeypatch):
    clock, ran = iter([10.0, 12.5]), []
    plan = SimpleNamespace(config={"runs_dir": "r"}, name="diagnose/a", identity="i")
    monkeypatch.setattr("tutelage.config.planner.plan_of", lambda words: ran.append(words) or plan)
    monkeypatch.setattr("tutelage.jobs.launch.run_plan", lambda given, say: ran.append(given))
    monkeypatch.setattr(
        "tutelage.runs.store.Store",
        lambda root: SimpleNamespace(run=lambda *key: SimpleNamespace(path=f"{root}/{key[0]}")),
    )
    monkeypatch.setattr(
        "tutelage.engine.load.load_run", lambda path, runs_dir: SimpleNamespace(network=str(path))
    )
    monkeypatch.setattr(diagnosis, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(
        diagnosis,
        "_signal",
        lambda network, data, config: SimpleNamespace(layers=[SimpleNamespace(name="l")]),
    )
    monkeypatch.setattr(diagnosis, "state_of", lambda network, data, layers: (network, data, layers))
    found = diagnosis._probe("a", ["model=fcn"], 7, SimpleNamespace(data="d", config={}))
    assert (found.label, found.words, found.steps, found.seconds) == ("a", ("model=fcn",), 7, 2.5)
    assert found.state == ("r/diagnose/a", "d", ["l"]) and ran[1] is plan
    lengths = [f"fit.{key}=7" for key in ("max_steps", "validate_every_steps", "log_every_steps")]
    assert ran[0] == ["model=fcn", "name=diagnose/a", "logger=none", *lengths]


def test_the_words_of_a_command_without_its_guide():
    words = ["method=guidance", "model@guide=fcn", "guide.width=4", "model=cnn", "name=x", "+model@teacher=a", "method.x=1",
     "teacher.a=1", "seed=3",
             "guided=1"]  # fmt: skip
    assert diagnosis.apart_from_method(words) == (["model=cnn", "seed=3", "guided=1"], ["method.x=1"])


def test_probes_are_of_the_network_alone_and_under_each_guide(monkeypatch):
    def probed(label, words, steps, subject):
        if label == "bad":
            raise UserError("it cannot be\nmore")
        return label, list(words), steps

    monkeypatch.setattr(diagnosis, "_probe", probed)
    words = ["data=digits", "model=fcn", "model@guide=lstm", "method=guidance"]
    guides = {"yours": [], "cnn": ["model@guide=convnet"], "bad": ["model@guide=x"]}
    found = list(
        diagnosis.probes(
            words, guides, steps=5, subject=SimpleNamespace(config={"guide": {"x": 1}, "teacher": None})
        )
    )
    assert found == [
        ("alone", ["data=digits", "model=fcn", "method=supervised", "guide=null"], 5), ("yours", words, 5),
        ("cnn", ["data=digits", "model=fcn", "method=guidance", "model@guide=convnet"], 5), ("bad", "it cannot be"),
    ]  # fmt: skip
    (alone,) = diagnosis.probes(
        ["data=digits"], {}, steps=5, subject=SimpleNamespace(config={"guide": None, "teacher": {"x": 1}})
    )
    assert alone[1] == ["data=digits", "method=supervised", "teacher=null"]


def test_samples_lie_evenly_over_a_part(monkeypatch):
    asked = []
    monkeypatch.setattr(diagnosis, "SAMPLES", 4)
    monkeypatch.setattr(
        diagnosis,
        "SplitBatches",
        lambda store, chosen, batch_size: asked.append((chosen.tolist(), batch_size)) or Batches(),
    )

    class Batches:
        def __iter__(self):
            return iter(["first"])

        def close(self):
            asked.append("closed")

    for count, chosen in ((10, [100, 103, 106, 109]), (4, [100, 101, 102, 103]), (3, [100, 101, 102])):
        data = SimpleNamespace(splits={"train": 100 + np.arange(count)}, store=None)
        assert diagnosis._samples(data, "train") == "first" and asked == [(chosen, 4), "closed"]
        asked.clear()
    read = diagnosis.State(1.0, 0.5, (0.25, 0.75, 0.5))
    assert read.depth_read == 0.5 and np.isnan(diagnosis.State(1.0, 0.5, ()).depth_read)
