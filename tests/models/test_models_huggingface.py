"""Hugging Face models: built for the data, their own weights, vocabulary, sizes and LoRA; refused with one message."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

import hugging_face_models as small
from tutelage.alignment.taps import activations, probe, weight_layers
from tutelage.errors import UserError
from tutelage.models.forward_calls import Call
from tutelage.models.heads import head_of
from tutelage.models.huggingface import hugging_face_model
from tutelage.models.weights_files import digest
from tutelage.runs.model_folders import model_digest

TOKENS = torch.tensor([[2, 3, 4, 0, 0], [5, 6, 7, 8, 9]])
MASK = TOKENS > 0


@pytest.fixture
def bert(tmp_path):
    return small.bert(small.tokenizer(tmp_path))


def text_model(folder, **options):
    given = {"input_shape": (5,), "output_size": 2, "vocab_size": 12, "padding_token": 0}
    return hugging_face_model(str(folder), **(given | options))


def tokenizer_digest(folder):
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()


def test_pretrained_answers_as_transformers_own_with_the_mask(bert):
    ours = text_model(bert, pretrained=True, vocabulary_sha256=tokenizer_digest(bert)).eval()
    theirs = AutoModelForSequenceClassification.from_pretrained(bert).eval()
    with torch.no_grad():
        expected = theirs(input_ids=TOKENS, attention_mask=MASK.long()).logits
        assert torch.equal(Call.of(ours)(ours, TOKENS, MASK), expected)
    changed = TOKENS.clone()
    changed[0, 3:] = 11  # behind the mask
    assert torch.allclose(Call.of(ours)(ours, changed, MASK), expected, atol=1e-6)


def test_layers_keep_the_names_people_know(bert):
    network = text_model(bert)
    found = activations(network, ["bert.encoder.layer.1"], TOKENS)
    assert found["bert.encoder.layer.1"].shape == (2, 5, 16)
    assert str(head_of(network, TOKENS)) == "classifier"


def test_scratch_is_drawn_from_the_seed_for_the_datas_vocabulary_and_classes(bert):
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(text_model(bert, vocab_size=40, output_size=5, options={"num_hidden_layers": 1}))
    assert digest(made[0]) == digest(made[1])
    assert made[0].bert.embeddings.word_embeddings.num_embeddings == 40
    assert len(made[0].bert.encoder.layer) == 1
    assert Call.of(made[0])(made[0], TOKENS).shape == (2, 5)


def test_gpt2_reads_causally_and_its_conv1d_counts_as_linear(tmp_path):
    folder = small.gpt2(tmp_path)
    shape = {"input_shape": (5,), "output_size": 12, "vocab_size": 12, "per_position": True}
    network = hugging_face_model(str(folder), next_token=True, pretrained=True, **shape).eval()
    changed = TOKENS.clone()
    changed[:, 3:] = 11
    call = Call.of(network)
    assert call(network, TOKENS).shape == (2, 5, 12)
    assert torch.allclose(call(network, TOKENS)[:, :3], call(network, changed)[:, :3], atol=1e-6)
    assert "transformer.h.0.attn.c_attn" in [layer.name for layer in weight_layers(probe(network, TOKENS))]
    classifier = text_model(folder)  # reads the last real token, which it finds by the number of padding
    longer = torch.cat([TOKENS[:1], torch.zeros(1, 2, dtype=torch.long)], dim=1)
    classifier.eval()
    assert torch.allclose(classifier(TOKENS[:1]).logits, classifier(longer).logits, atol=1e-6)


def test_a_masked_language_model_answers_at_every_position(bert):
    shape = {"input_shape": (5,), "output_size": 12, "vocab_size": 12, "per_position": True}
    assert Call.of(n := hugging_face_model(str(bert), **shape))(n, TOKENS).shape == (2, 5, 12)


def test_images_have_the_weights_size_and_say_their_normalisation(tmp_path):
    folder = small.vit(tmp_path, labels=3)
    ours = hugging_face_model(str(folder), (1, 12, 12), 3, pretrained=True).eval()
    theirs = AutoModelForImageClassification.from_pretrained(folder).eval()
    images = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    at_8 = torch.nn.functional.interpolate(images, size=(8, 8), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert torch.equal(Call.of(ours)(ours, images), theirs(at_8).logits)
    assert ours.pretrained_normalization == ((0.25,), (0.5,))
    with pytest.raises(UserError, match=r"images of 1 channels, the data have 3: read them so .*channels=1"):
        hugging_face_model(str(folder), (3, 8, 8), 3, pretrained=True)
    scratch = hugging_face_model(str(folder), (3, 16, 16), 7)
    assert scratch(torch.zeros(2, 3, 16, 16)).logits.shape == (2, 7)


def test_a_head_of_other_classes_is_fresh_and_the_body_is_not(bert, caplog):
    caplog.set_level("INFO")
    known = tokenizer_digest(bert)
    ours = text_model(bert, pretrained=True, vocabulary_sha256=known, output_size=4)
    same = text_model(bert, pretrained=True, vocabulary_sha256=known)
    assert "drawn afresh: classifier.bias, classifier.weight" in caplog.text
    assert not [one for one in caplog.records if one.name.startswith("transformers")]
    assert digest(ours.bert) == digest(same.bert)


def _called(folder, names):
    said = json.loads((folder / "config.json").read_text())
    named = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(said | named))


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2", "vit", "deit"])
def test_a_pretrained_head_answers_in_the_order_of_the_datas_classes(tmp_path, kind, caplog):
    """By the names in its configuration, whatever their case; the mean cross-entropy of a teacher would otherwise be of other classes."""
    caplog.set_level("INFO")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    text = kind not in ("vit", "deit")
    if text:
        sizes |= {"vocab_size": 12, "max_position_embeddings": 16}
    else:
        sizes |= {"image_size": 8, "patch_size": 4}
    config = AutoConfig.for_model(kind, **sizes, pad_token_id=0, bos_token_id=0, eos_token_id=0, num_labels=3)
    maker = AutoModelForSequenceClassification if text else AutoModelForImageClassification
    if kind == "deit":  # two heads
        config.architectures = ["DeiTForImageClassificationWithTeacher"]
    torch.manual_seed(0)
    theirs = maker.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    _called(tmp_path, ["Not_sure", "Positive", "negative"])
    classes = ["negative", "not sure", "positive"]
    inputs = TOKENS if text else torch.randn(2, 3, 8, 8)
    rest = {"vocab_size": 12, "padding_token": 0} if text else {}
    shape = tuple(inputs.shape[1:])
    ours = hugging_face_model(str(tmp_path), shape, 3, pretrained=True, class_names=classes, **rest).eval()
    with torch.no_grad():
        mask = (MASK,) if text else ()
        found, expected = (Call.of(net)(net, inputs, *mask) for net in (ours, theirs))
    assert torch.allclose(found, expected[:, [2, 0, 1]], atol=1e-6)
    assert "each is taken for the class of its name" in caplog.text


@pytest.mark.parametrize(
    ("theirs", "classes", "said"),
    [
        (["negative", "positive"], ["negative", "positive"], ""),
        (["LABEL_0", "LABEL_1"], ["negative", "positive"], ""),
        (["spam", "ham"], ["negative", "positive"], "spam, ham, .* in this order"),
        (["positive", "other"], ["negative", "positive"], "some are the same, at other places"),
    ],
)
def test_other_names_of_outputs_are_said_or_refused(bert, caplog, theirs, classes, said):
    _called(bert, theirs)
    made = {"pretrained": True, "vocabulary_sha256": tokenizer_digest(bert), "class_names": classes}
    if "other places" in said:
        with pytest.raises(UserError, match=said):
            text_model(bert, **made)
        return
    caplog.set_level("INFO")
    ours = text_model(bert, **made).eval()
    assert bool(re.search(said, caplog.text)) and (bool(said) or not caplog.text)
    plain = text_model(bert, **(made | {"class_names": None})).eval()
    assert torch.equal(Call.of(ours)(ours, TOKENS, MASK), Call.of(plain)(plain, TOKENS, MASK))


def test_lora_trains_low_rank_updates_and_the_final_layer_alone(bert):
    known = tokenizer_digest(bert)
    plain = text_model(bert, pretrained=True, vocabulary_sha256=known).eval()
    network = text_model(bert, pretrained=True, vocabulary_sha256=known, lora={"rank": 2})
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {n for n in trained if "lora_" not in n} == {"classifier.weight", "classifier.bias"}
    assert sum(p.numel() for n, p in network.named_parameters() if "lora_" in n) == 2 * 2 * 2 * 2 * 16
    network.eval()
    assert torch.equal(network(TOKENS).logits, plain(TOKENS).logits)  # B starts at 0
    wider = text_model(bert, lora={"rank": 1, "layers": ["query", "dense"]})
    assert any("intermediate.dense.lora_A" in n for n, p in wider.named_parameters() if p.requires_grad)


def test_content_names_a_model_not_its_place(bert, tmp_path):
    copy = tmp_path.parent / "elsewhere"
    shutil.copytree(bert, copy)
    (copy / "README.md").write_text("A note.")
    assert model_digest(str(copy)) == model_digest(str(bert))
    (copy / "config.json").write_text((copy / "config.json").read_text().replace("0.1", "0.2"))
    assert model_digest(str(copy)) != model_digest(str(bert))


def _without_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _other_body(folder):
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"num_hidden_layers": 3}))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"pretrained": True, "vocabulary_sha256": "another"}, "another vocabulary.*data.tokenizer="),
        (_without_weights, {"pretrained": True}, "no weights as safetensors .pytorch_model.bin is a pickle"),
        (_other_body, {"pretrained": True}, "bert.encoder.layer.2.* is missing"),
        (None, {"input_shape": (40,)}, "16 positions, see data.length"),
        (None, {"input_shape": (1, 8, 8), "vocab_size": None}, "'bert', of which .* no classifier of images"),
        (None, {"input_shape": (5, 2)}, "takes images .* or tokens"),
        (None, {"options": {"hidden_sise": 3}}, "`options`.hidden_sise; did you mean 'hidden_size'"),
        (None, {"lora": {"rnk": 3}}, "`lora`.rnk does not exist; did you mean 'rank'"),
        (None, {"lora": {"rank": 0}}, "rank must be a whole number"),
        (None, {"lora": {"layers": ["quary"]}}, "chooses no layers.*query"),
        (lambda folder: (folder / "config.json").write_text("{}"), {}, "no model that transformers knows"),
        (lambda folder: (folder / "config.json").unlink(), {}, "holds no config.json"),
    ],
)
def test_what_does_not_fit_is_one_message(bert, change, options, message):
    if change:
        change(bert)
    if "vocabulary_sha256" not in options and (bert / "tokenizer.json").exists():
        options = options | {"vocabulary_sha256": tokenizer_digest(bert)}
    with pytest.raises(UserError, match=message):
        text_model(bert, **options)


def test_a_name_that_is_not_cached_is_one_message():
    for name in ("nobody/nothing-of-this-name", "./nowhere", "a/b/c", "no such name"):
        with pytest.raises(UserError, match=r"no such folder, and the local cache .* hf download"):
            hugging_face_model(name, (5,), 2, vocab_size=12)
