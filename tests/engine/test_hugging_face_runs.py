"""Every method with Hugging Face models: trained, guiding and teaching; one forward a step; exact resume; kept networks load back."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import resumes_exactly

import hugging_face_models as small
import tutelage
from tutelage.config.compose import compose
from tutelage.config.planner import plan_of
from tutelage.engine.build import build
from tutelage.engine.export import export
from tutelage.engine.exported import load_exported
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan
from tutelage.runs.store import Store

FIT = ["logger=none", "hardware.threads=1", "fit.max_steps=8", "fit.validate_every_steps=4", "fit.log_every_steps=2",
       "fit.checkpoint_every_s=0"]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name in ("vit", "bert", "gpt2", "words"):
        (root / name).mkdir()
    small.vit(root / "vit")
    small.bert(small.tokenizer(root / "bert"))
    small.gpt2(small.tokenizer(root / "gpt2"))
    small.reviews(root / "reviews.csv")
    return root


@pytest.fixture
def command(tmp_path):
    def do(*words, folder="runs", **options):
        plan = plan_of([*FIT, f"runs_dir={tmp_path / folder}", *words])
        run_plan(plan, **options)
        return Store(tmp_path / folder).run(plan.name, plan.identity)

    return do


def texts(root, model="bert"):
    return [
        "data=text_classification", f"data.root={root}/reviews.csv", f"data.tokenizer={root}/bert", "data.batch_size=16",
        *hugging_face("model", root / model),
    ]  # fmt: skip


def images(root):
    return ["data=digits", "data.batch_size=32", *hugging_face("model", root / "vit")]


def hugging_face(where, folder, weights="pretrained"):
    choice = "model" if where == "model" else f"model@{where}"
    return [f"{choice}=huggingface", f"{where}.name={folder}", f"{where}.weights={weights}"]


def cases(root):
    return {
        "images, supervised": images(root),
        "images, LoRA": [*images(root), "model.lora={rank: 2, dropout: 0.1}"],
        "images, guided": [*images(root), "method=guidance", *hugging_face("guide", root / "vit")],
        "images, distilled": [*images(root), "method=distillation", *hugging_face("teacher", root / "vit")],
        "images, features": [*images(root), "method=feature_distillation", *hugging_face("teacher", root / "vit")],
        "texts, supervised": texts(root),
        "texts, LoRA": [*texts(root), "model.lora={rank: 2}"],
        "texts, part frozen": [*texts(root), "optimizer.frozen=['bert.embeddings.*']"],
        "texts, guided": [*texts(root), "method=guidance", *hugging_face("guide", root / "bert", "scratch")],
        "texts, distilled": [*texts(root), "method=distillation", *hugging_face("teacher", root / "bert")],
    }  # fmt: skip


CASES = tuple(cases(Path("root")))


@pytest.mark.parametrize("case", CASES)
def test_one_forward_each_finite_terms_and_only_what_is_trained_moves(folders, tmp_path, case):
    made = build(compose([*FIT, f"runs_dir={tmp_path}", *cases(folders)[case]]))
    module = made.method
    module.max_steps = 10
    module.on_fit_start()
    module.train()
    calls: list[str] = []
    module.network.register_forward_hook(lambda *_: calls.append("network"))
    for frozen in module.frozen.values():
        first = next(m for m in frozen.network.modules() if not list(m.children()))
        first.register_forward_hook(lambda *_: calls.append("frozen"))
    optimizer = module.configure_optimizers()
    optimizer = optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer[0][0]
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    stream = made.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 2)
    for batch in stream:  # of low-rank updates the first half starts at zero
        calls.clear()
        optimizer.zero_grad()
        terms = module.losses(batch)
        assert calls.count("network") == 1
        assert calls.count("frozen") == len(module.frozen)
        assert all(value.ndim == 0 and value.isfinite() for value in terms.values())
        sum(terms.values()).backward()
        optimizer.step()
    for name, parameter in module.network.named_parameters():
        moved = not torch.equal(parameter, before[name])
        if not parameter.requires_grad:
            assert not moved, name
        elif not ("token_type" in name or "key.bias" in name or "k_proj.bias" in name):
            assert moved, name
    if "LoRA" in case:
        trained = [name for name, p in module.network.named_parameters() if p.requires_grad]
        assert {name.split(".")[0] for name in trained if "lora_" not in name} == {"classifier"}


@pytest.mark.parametrize("case", ["images, guided", "images, LoRA", "texts, LoRA", "texts, distilled"])
def test_a_resumed_run_is_the_undisturbed_one(folders, command, monkeypatch, case):
    resumes_exactly(command, monkeypatch, cases(folders)[case])


def test_a_run_is_loaded_back_and_its_base_is_the_folders(folders, command):
    run = command(*texts(folders), "model.lora={rank: 2}")
    kept = load_file(run.path / "network.safetensors")
    base = load_file(folders / "bert" / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query"
    assert torch.equal(kept[f"{name}.base_layer.weight"], base[f"{name}.weight"])
    loaded = tutelage.load_run(run.path)
    assert all(torch.equal(value, kept[key]) for key, value in loaded.network.state_dict().items())


def test_a_causal_language_model_with_its_tokeniser_trains_on_running_text_and_is_exported(
    folders, command, tmp_path
):
    text = tmp_path / "story.txt"
    text.write_text(" ".join(small.WORDS[(i * i + i // 7) % 10] for i in range(2000)))
    run = command(
        "data=text", f"data.root={text}", f"data.tokenizer={folders}/gpt2", "data.length=8", "data.batch_size=8",
        *hugging_face("model", folders / "gpt2"),
    )  # fmt: skip
    loaded = tutelage.load_run(run.path)
    export(loaded, tmp_path / "out", "safetensors", key=run.key)
    tokens = torch.arange(16).reshape(2, 8) % 12
    with torch.no_grad():
        said = loaded.network(tokens).logits
    assert torch.equal(load_exported(tmp_path / "out")(tokens), said)


def test_a_folder_in_place_of_weights_is_told_its_place(folders, command):
    with pytest.raises(UserError, match="a Hugging Face model is its `name`, with weights=pretrained"):
        command(*images(folders)[:-1], f"model.weights={folders}/vit")


def test_a_models_place_is_no_part_of_the_identity_its_content_is(folders, tmp_path):
    copy = tmp_path / "moved"
    shutil.copytree(folders / "vit", copy)
    here = plan_of([*FIT, *images(folders)]).identity
    assert plan_of([*FIT, "data=digits", "data.batch_size=32", *hugging_face("model", copy)]).identity == here
    small.vit(copy, labels=3)
    assert plan_of([*FIT, "data=digits", "data.batch_size=32", *hugging_face("model", copy)]).identity != here


def test_words_of_the_datas_own_are_refused_before_training(folders, command):
    words = [word for word in texts(folders) if not word.startswith("data.tokenizer")]
    with pytest.raises(UserError, match=r"model: .* another vocabulary .* data.tokenizer="):
        command(*words)
    command(*words[:-1], "model.weights=scratch")  # has the data's own


def test_a_teacher_that_does_not_know_the_classes_is_refused(folders, tmp_path):
    other = small.vit(tmp_path / "other", labels=3)
    words = [*images(folders), *hugging_face("teacher", other), f"runs_dir={tmp_path}"]
    with pytest.raises(UserError, match=r"teacher has no weights of its own .*classifier.*noise"):
        build(compose([*FIT, *words, "method=distillation"]))
    build(compose([*FIT, *words, "method=feature_distillation"]))  # of which the head is no part


def test_a_frozen_model_sees_its_own_normalisation_and_size(folders, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    words = [*images(folders), "method=distillation", *hugging_face("teacher", folders / "vit")]
    made = build(compose([*FIT, f"runs_dir={tmp_path}", *words]))
    assert made.method.frozen["teacher"].expects == ((0.25,), (0.5,))
