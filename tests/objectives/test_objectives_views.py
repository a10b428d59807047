"""Self-supervised learning: what is seen, what rests, what selects, and the start that it gives."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from small_runs import GUIDE, METHODS, SMALL
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError

V = "method.objectives.views"
WORDS = ["method=self_supervised", *METHODS["self_supervised"]]


def made(tmp_path, *more):
    built = build(compose([*SMALL, f"runs_dir={tmp_path}", *WORDS, *more]))
    built.method.on_fit_start()
    return built


def test_views_are_of_training_images_alone_and_no_label_is_read(tmp_path):
    built = made(tmp_path, "data.per_class=3", f"{V}.first=null", f"{V}.second=null")
    method, data = built.method.train(), built.data
    stream = data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    (batch,) = stream
    seen = set()
    for draw in range(60):
        views = method.pretext.stream.views(draw)
        index = method.pretext.stream.index
        assert torch.equal(views[0], views[1])
        torch.testing.assert_close(views[0], data.store.batch(index, None).inputs, atol=0.01, rtol=0)
        seen |= set(index.tolist())
    assert len(seen) > len(data.splits["train"])  # those without labels too
    assert not seen & {*data.splits["validation"].tolist(), *data.splits["test"].tolist()}
    wrong = batch._replace(targets=(batch.targets + 1) % 10)
    torch.manual_seed(0)
    first = method.losses(batch)["views"]
    torch.manual_seed(0)
    assert torch.equal(first, method.losses(wrong)["views"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.validation=0.001", "a validation batch holds 1 .*at least 2"),
        ("data.eval_batch_size=1", "a validation batch holds 1 .*at least 2.*data.eval_batch_size"),
        ("data.batch_size=1", "a train batch holds 1 .*at least 2 .*data.batch_size"),
    ],
)
def test_a_batch_of_one_image_has_nothing_to_tell_apart(command, word, said):
    with pytest.raises(UserError, match=said):
        command(*WORDS, word)


def test_nothing_is_selected_by_a_mean_of_no_values(tmp_path):
    with pytest.raises(UserError, match="views_loss: the validation samples hold nothing to judge by"):
        made(tmp_path).method.metrics_of["validation"].compute()


@pytest.mark.parametrize("loss", ["simclr", "vicreg", "barlow_twins", "byol"])
def test_each_loss_learns_selects_by_itself_and_gives_a_start(command, loss):
    run = command(*WORDS, f"{V}.loss={loss}")
    selection = run.result["selection"]
    assert (selection["monitor"], selection["mode"]) == ("views_loss", "min")
    rows = [row["validation/views_loss"] for row in run.metrics.rows if "validation/views_loss" in row]
    assert min(rows) < rows[0]
    assert run.result["best"]["validation"]["views_loss"] == min(rows)
    kept = load_file(run.path / "network.safetensors")
    started = command(
        f"model.weights={run.path}", "model.new_head=true", "fit.max_steps=1", "optimizer.lr=1e-30"
    )
    ours = load_file(started.path / "network.safetensors")
    body = [n for n in kept if n.endswith(("weight", "bias")) and not n.startswith("head.")]
    assert body and all(torch.equal(kept[name], ours[name]) for name in body)


def test_the_final_layer_rests_and_the_projector_is_not_kept(tmp_path):
    method = made(tmp_path).method
    resting = {name for name, p in method.network.named_parameters() if not p.requires_grad}
    assert resting == {"head.weight", "head.bias"}
    assert method.pretext.describe()["features"].startswith("head")


def test_byols_average_follows_network_and_projector_once_an_update_and_gets_no_gradient(tmp_path):
    method = made(tmp_path, f"{V}.loss=byol", f"+{V}.options.decay=0.5").method.train()
    views, before = method.pretext, [p.clone() for p in method.pretext.average.parameters()]
    loss = method.objectives.losses(method.take(None))["views"]
    loss.backward()
    assert all(p.grad is None for p in views.average.parameters())
    assert all(p.grad is not None for p in views.predictor.parameters())
    online = [*method.network.parameters(), *views.projector.parameters()]
    with torch.no_grad():
        for p in online:
            p.add_(1.0)
    views.updated(1)
    share = 1 - min(0.5, 2 / 11)
    for mine, old, theirs in zip(views.average.parameters(), before, online, strict=True):
        torch.testing.assert_close(mine, old + share * (theirs - old))


@pytest.mark.parametrize("command_name", ["evaluate", "predict", "export"])
def test_a_run_without_labels_gives_no_answers(command, tmp_path, command_name):
    from tutelage.cli.main import main

    run = command(*WORDS, "fit.max_steps=1")
    with pytest.raises(UserError, match=r"trained without labels.*analyse probe.*new_head=true"):
        command(
            "method=distillation",
            "model@teacher=fcn",
            "teacher.depth=2",
            "teacher.width=16",
            f"teacher.weights={run.path}",
        )
    assert main([command_name, str(run.path), f"runs_dir={tmp_path}"]) != 0


def test_a_guide_sees_the_views(command):
    run = command(*WORDS, "+objective@method.objectives.alignment=alignment", *GUIDE)
    assert any("train/alignment" in row for row in run.metrics.rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{V}.loss=simclear"], "did you mean 'simclr'|simclr"),
        ([f"+{V}.options.temprature=0.1"], "temprature.*did you mean 'temperature'"),
        ([f"{V}.projector=[]"], "at least one width"),
        (["method.unlabelled=null"], "give method.unlabelled=all"),
        (["+objective@method.objectives.task=task"], "reads no labels.*drop 'task'"),
        (["fit.metrics=[f1]"], "no label is read"),
        (["data=synthetic"], "images"),
    ],
)
def test_what_does_not_fit_is_one_message(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        made(tmp_path, *words)
