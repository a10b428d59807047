"""Masked images and tokens: what is hidden, what tells it, what rests, and the start that it gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from small_runs import METHODS, SMALL
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError
from tutelage.objectives.masked import _grid

M = "method.objectives.masked"
IMAGES = ["method=masked_images", *METHODS["masked_images"], "method.objectives.masked.augment=null"]
TEXTS = ["method=masked_tokens", *METHODS["masked_tokens"]]


def made(tmp_path, *words):
    model = next((word for word in reversed(words) if word.startswith("model=")), "model=fcn")
    small = [word for word in SMALL if "depth" not in word or model != "model=residual_convnet"]
    built = build(compose([*small, f"runs_dir={tmp_path}", *words]))
    built.method.on_fit_start()
    return built


@pytest.mark.parametrize("model", ["fcn", "residual_convnet"])
def test_hidden_patches_are_whole_as_many_in_each_image_and_all_that_counts(tmp_path, model):
    built = made(
        tmp_path,
        *(w for w in IMAGES if "dropout" not in w),
        f"model={model}",
        "model.width=4",
        f"{M}.ratio=0.25",
    )
    pretext = built.method.pretext
    seen = set()
    for draw in range(60):
        batch = pretext.seen(draw)
        patches = batch.target_mask.view(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).flatten(3).float().mean(dim=3)
        assert patches.flatten(1).sum(dim=1).eq(4).all() and patches.unique().tolist() == [0.0, 1.0]
        assert batch.inputs[batch.target_mask].eq(0).all()
        assert torch.equal(batch.inputs[~batch.target_mask], batch.targets[~batch.target_mask])
        seen |= set(batch.index.tolist())
    assert seen <= set(built.data.splits["train"].tolist())
    features = pretext.features_of(built.method.network, built.method.run, batch)
    loss = pretext.compare(features, batch)
    rows, columns = pretext.grid
    high, wide = pretext.cell
    total, count = 0.0, 0
    for n in range(len(batch.index)):  # position by position
        for y in range(8):
            for x in range(8):
                if batch.target_mask[n, 0, y, x]:
                    place = features[n] if features.ndim == 2 else features[n, :, y // high, x // wide]
                    guess = pretext.decoder(place)[(y % high) * wide + x % wide]
                    total, count = total + float(guess - batch.targets[n, 0, y, x]) ** 2, count + 1
    assert float(loss) == pytest.approx(total / count, rel=1e-4)
    assert (rows, columns) == ((1, 1) if model == "fcn" else tuple(features.shape[2:]))


def test_positions_are_found_after_tokens_of_other_kinds():
    assert _grid((65, 24), (3, 32, 32)) == (8, 8)
    assert _grid((5, 24), (3, 32, 32)) == (2, 2)
    assert _grid((18, 24), (3, 16, 16)) == (4, 4)
    assert _grid((9, 24), (3, 8, 16)) == (2, 4)
    assert _grid((64, 4, 4), (3, 32, 32)) == (4, 4)
    assert _grid((64, 3, 3), (3, 32, 32)) is None
    assert _grid((24,), (3, 32, 32)) is None


def test_tokens_are_chosen_among_real_ones_and_changed_as_published(tmp_path):
    built = made(tmp_path, *TEXTS, f"{M}.ratio=0.5", "data.batch_size=64")
    pretext, counts = built.method.pretext, torch.zeros(3)
    for draw in range(40):
        batch = pretext.seen(draw)
        assert not (batch.target_mask & ~batch.mask).any()
        assert torch.equal(batch.inputs[~batch.target_mask], batch.targets[~batch.target_mask])
        now, was = batch.inputs[batch.target_mask], batch.targets[batch.target_mask]
        counts += torch.tensor([(now == 1).sum(), ((now != 1) & (now != was)).sum(), (now == was).sum()])
    share = counts / counts.sum()
    words = built.data.vocab_size
    assert share[0] == pytest.approx(0.8 + 0.1 / words, abs=0.03)
    assert share[2] == pytest.approx(0.1 + 0.1 / words, abs=0.03)
    features = pretext.features_of(built.method.network.eval(), built.method.run, batch)
    rows = [(n, k) for n in range(len(features)) for k in range(features.shape[1]) if batch.target_mask[n, k]]
    slow = sum(
        float(F.cross_entropy(pretext.decoder(features[n, k]), batch.targets[n, k])) for n, k in rows
    ) / len(rows)
    assert float(pretext.compare(features, batch).detach()) == pytest.approx(slow, rel=1e-4)


def test_what_the_features_do_not_depend_on_rests(tmp_path):
    method = made(tmp_path, *TEXTS).method
    assert {n for n, p in method.network.named_parameters() if not p.requires_grad} == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize("words", [IMAGES, TEXTS], ids=["images", "texts"])
def test_it_learns_selects_by_itself_and_gives_a_start_at_fewer_labels(command, words):
    run = command(*words)
    assert run.result["selection"]["monitor"] == "masked_loss"
    rows = [row["validation/masked_loss"] for row in run.metrics.rows if "validation/masked_loss" in row]
    assert min(rows) < rows[0] and run.result["best"]["validation"]["masked_loss"] == min(rows)
    kept = load_file(run.path / "network.safetensors")
    few = [word for word in words if not word.startswith("method")]  # and none of its settings
    started = command(
        *few,
        f"model.weights={run.path}",
        "model.new_head=true",
        "data.train_size=40",
        "fit.max_steps=1",
        "optimizer.lr=1e-30",
    )
    ours = load_file(started.path / "network.safetensors")
    body = [n for n in kept if n.endswith(("weight", "bias", "values")) and not n.startswith("head.")]
    assert body and all(torch.equal(kept[name], ours[name]) for name in body)


def test_texts_of_a_language_set_serve_a_network_that_looks_both_ways(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a b c d e f g h\n" * 200)
    words = [
        "method=masked_tokens",
        "data=text",
        f"data.root={path}",
        "data.length=8",
        "model=transformer_encoder",
    ]
    pretext = made(tmp_path, *words).method.pretext
    assert pretext.seen(0).inputs.shape == (32, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*IMAGES, f"{M}.patch=3"], "must divide the images of 8 x 8"),
        ([*IMAGES, f"{M}.patch=8"], "into several patches"),
        ([*IMAGES, f"{M}.ratio=1"], "between 0 and 1"),
        ([*IMAGES, "method.unlabelled=null"], "masked images need images"),
        ([*TEXTS[:1], "data=digits"], "masked tokens need texts"),
        ([*TEXTS, "method.unlabelled=rest"], "all training rows have their targets"),
        ([*TEXTS, "method.unlabelled=some"], "'train'|train"),
    ],
)
def test_what_does_not_fit_is_one_message(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        made(tmp_path, *words)
