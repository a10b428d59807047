"""Guidance as a method: its terms, schedules, balances and inputs, on every kind of task."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from made_methods import made as made_method
from small_runs import SMALL
from tutelage.alignment.guides import FeatureGuide
from tutelage.alignment.pairing import Pairing
from tutelage.alignment.rules import ClassHierarchy
from tutelage.alignment.similarity import CKA, RSA, Ridge, Similarity, cka
from tutelage.alignment.taps import activations
from tutelage.cli.main import main
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError
from tutelage.methods.guidance import Guidance
from tutelage.models.convnet import ConvNet
from tutelage.models.fcn import FCN
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.recurrent import Recurrent
from tutelage.models.transformer import Transformer
from tutelage.objectives.alignment import Alignment
from tutelage.objectives.schedule import Schedule
from tutelage.objectives.task import Task as TaskLoss
from tutelage.runs.store import Store
from tutelage.tasks import Batch, Classification, Forecasting, Task, Tokens


class AtStep(Guidance):
    """Guidance outside of a trainer, which would count the steps."""

    at = 0

    @property
    def step(self) -> int:
        return self.at


def images(n: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.randn(n, 1, 8, 8, generator=generator), torch.arange(n) % 4, torch.arange(n))


def method(guide: nn.Module | None = None, **settings: Any) -> AtStep:
    torch.manual_seed(0)
    network = FCN((1, 8, 8), 4, depth=3, width=16)
    guide = guide or ConvNet((1, 8, 8), 4, width=4, stages=2)
    return make(network, guide, Classification(4), images(4), **settings)


def make(network: nn.Module, guide: nn.Module, task: Task, example: Batch, **settings: Any) -> AtStep:
    weights = {"task": 1.0, "alignment": 1.0} | settings.pop("weights", {})
    frozen = FrozenNetwork(guide, norm_mode=settings.pop("norm_mode", "eval"))
    context = {key: settings.pop(key) for key in ("balance", "batch_size") if key in settings}
    objectives = {
        "task": TaskLoss(weight=weights["task"]),
        "alignment": Alignment(network="guide", weight=weights["alignment"], **settings),
    }
    return made_method(
        AtStep, network, objectives, frozen={"guide": frozen}, example=example, task=task, **context
    )


def schedule(name: str, steps: int | None = None) -> dict[str, Schedule]:
    return {"schedule": Schedule(name=name, steps=steps)}


def pairing(**settings: Any) -> dict[str, Pairing]:
    return {"pairing": Pairing(**settings)}


def calls(module: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    return seen


def test_the_terms_are_the_task_loss_and_the_sum_over_pairs() -> None:
    made, batch = method(), images()
    made.train()
    terms = made.losses(batch)
    pairs = made.describe()["objectives"]["alignment"]["pairs"]
    guides = activations(made.frozen["guide"].network, [row["guide"] for row in pairs], batch.inputs)
    ours = activations(made.network, [row["network"] for row in pairs], batch.inputs)
    expected = sum(
        1 - float(cka(ours[row["network"]].flatten(1), guides[row["guide"]].flatten(1))) for row in pairs
    )
    assert float(terms["alignment"].detach()) == pytest.approx(expected, abs=1e-4)
    assert float(terms["task"].detach()) == pytest.approx(
        float(nn.functional.cross_entropy(made._last_output, batch.targets)), abs=1e-6
    )
    assert next(row["network"] for row in pairs) == "layers.0.linear"


def test_alpha_is_the_weight_and_zero_leaves_the_guide_asleep() -> None:
    made = method(weights={"task": 1.0, "alignment": 0.25})
    assert made.term_weights() == {"task": 1.0, "alignment": 0.25}
    silent = method(weights={"task": 1.0, "alignment": 0.0})
    seen = calls(silent.frozen["guide"].network)
    assert set(silent.losses(images())) == {"task"}
    assert not seen


def test_until_and_alignment_first_switch_terms_and_forwards_off() -> None:
    made = method(**schedule("until", 3))
    seen = calls(made.frozen["guide"].network)
    for made.at, terms, weight in ((2, {"task", "alignment"}, 1.0), (3, {"task"}, 0.0)):
        assert set(made.losses(images())) == terms
        assert made.term_weights()["alignment"] == weight
    assert len(seen) == 1
    made = method(**schedule("alone_first", 3))
    for made.at, terms, weights in ((2, {"alignment"}, (0.0, 1.0)), (3, {"task"}, (1.0, 0.0))):
        assert set(made.losses(images())) == terms
        assert tuple(made.term_weights().values()) == weights


def test_decay_reaches_zero_at_the_end_of_the_run() -> None:
    made = method(**schedule("linear"), weights={"task": 1.0, "alignment": 2.0})
    made.max_steps = 10
    for made.at, weight in ((0, 2.0), (5, 1.0), (10, 0.0)):
        assert made.term_weights()["alignment"] == pytest.approx(weight)


def test_noise_goes_to_the_guide_or_to_both() -> None:
    batch = images()
    made = method(input="gaussian")
    guide, network = calls(made.frozen["guide"].network), calls(made.network)
    made.losses(batch)
    assert not torch.equal(guide[0], batch.inputs)
    assert torch.equal(network[0], batch.inputs)
    made = method(input="released_noise", noise_to="both", **schedule("alone_first", 1))
    guide, network = calls(made.frozen["guide"].network), calls(made.network)
    made.losses(batch)
    assert made._last_output is None  # or the record had the accuracy of answers to noise
    made.at = 1
    made.losses(batch)
    assert made._last_output is not None
    assert torch.equal(guide[0], network[0])
    assert float(guide[0].min()) == 0
    assert torch.equal(network[1], batch.inputs)
    assert len(guide) == 1


def test_learned_uncertainty_is_trained_and_leaves_the_record_alone() -> None:
    made, plain = method(balance="uncertainty"), method()
    terms, expected = made.losses(images()), plain.losses(images())
    for name in terms:
        torch.testing.assert_close(terms[name].detach(), expected[name].detach())
    weights = made.term_weights()
    torch.stack([weights[name] * terms[name] for name in terms]).sum().backward()
    slope = made.objectives.balance.log_variances.grad
    torch.testing.assert_close(slope, 0.5 - torch.stack(list(expected.values())).detach())
    assert any(p is made.objectives.balance.log_variances for p in made.parameters())


def test_only_gradient_norms_need_a_paired_layer_with_parameters_and_say_so_at_once() -> None:
    pairs = pairing(strategy="explicit", pairs=[["stem.conv", "layers.0.activation"]])
    assert set(method(balance="uncertainty", **pairs).losses(images())) == {"task", "alignment"}
    with pytest.raises(UserError, match="no parameters to balance gradients on"):
        method(balance="gradient_norm", **pairs)


def test_gradient_norms_move_the_balance_which_a_checkpoint_keeps() -> None:
    made = method(balance="gradient_norm")
    for _ in range(3):
        sum(made.losses(images()).values()).backward()
    weights = torch.stack([torch.as_tensor(w) for w in made.term_weights().values()])
    assert float(weights.sum()) == pytest.approx(2)
    assert not torch.equal(weights, torch.ones(2))
    other = method(balance="gradient_norm")
    other.load_state_dict(made.state_dict())
    assert torch.equal(torch.stack([torch.as_tensor(w) for w in other.term_weights().values()]), weights)


@pytest.mark.parametrize("norm_mode", ["eval", "batch"])
def test_the_guide_stays_bit_identical_and_the_network_runs_once(norm_mode: str) -> None:
    made = method(norm_mode=norm_mode)
    made.train()
    before = {k: v.clone() for k, v in made.frozen["guide"].network.state_dict().items()}
    counter = int(made.network.layers[0].norm.num_batches_tracked)
    sum(made.losses(images()).values()).backward()
    assert int(made.network.layers[0].norm.num_batches_tracked) == counter + 1
    after = made.frozen["guide"].network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in made.frozen["guide"].network.parameters())


def test_similarities_of_pairs_are_recorded_with_the_terms() -> None:
    made = method(**pairing(strategy="first", k=2))
    for _ in range(2):
        made.training_step(images(), 0)
    row = made.flush()
    assert {"train/alignment", "train/similarity/01", "train/similarity/02"} <= set(row)
    assert 2 - row["train/similarity/01"] - row["train/similarity/02"] == pytest.approx(
        row["train/alignment"], abs=1e-5
    )
    assert not made.flush()


class Parity(FeatureGuide):
    def features(self, batch: Batch) -> dict[str, Tensor]:
        return {"rows": batch.inputs.mean(-1), "parity": (batch.targets % 2).float().unsqueeze(1)}


def test_a_rule_over_inputs_and_labels_guides() -> None:
    made = method(Parity())
    assert [row["guide"] for row in made.describe()["objectives"]["alignment"]["pairs"]] == ["rows", "parity"]
    sum(made.losses(images()).values()).backward()
    with pytest.raises(UserError, match="no layer 'sums'"):
        method(Parity(), **pairing(strategy="explicit", pairs=[["sums", "head"]]))


@pytest.mark.parametrize("compare", ["samples", "tokens"])
@pytest.mark.parametrize("similarity", [CKA(), CKA(unbiased=True), RSA(), RSA(whole=True), Ridge()])
def test_sequences_of_tokens_and_series_with_padding(compare: str, similarity: Similarity) -> None:
    torch.manual_seed(0)
    mask = torch.arange(7) < torch.tensor([7, 5, 6, 3, 7, 2, 4, 7]).unsqueeze(1)
    tokens = torch.randint(9, (8, 7))
    batch = Batch(tokens, tokens, torch.arange(8), mask)
    network = Recurrent((7,), 9, vocab_size=9, depth=2, width=12)
    guide = Transformer((7,), 9, vocab_size=9, depth=1, width=8, heads=2, causal=True)
    made = make(network, guide, Tokens(9), batch, compare=compare, similarity=similarity)
    terms = made.losses(batch)
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    series = Batch(torch.randn(8, 7, 3), torch.randn(8, 2, 3), torch.arange(8))
    network = Recurrent((7, 3), 6, depth=2, width=12)
    guide = Transformer((7, 3), 6, depth=1, width=8, heads=2)
    made = make(
        network,
        guide,
        Forecasting(2, 3),
        series,
        compare=compare,
        similarity=similarity,
        **pairing(exclude_output=True),
    )
    sum(made.losses(series).values()).backward()


def test_tokens_per_step_are_drawn_unless_null() -> None:
    tokens = torch.randint(9, (8, 7))
    batch = Batch(tokens, tokens, torch.arange(8))
    for most in (10, None):
        network = Recurrent((7,), 9, vocab_size=9, depth=2, width=12)
        guide = Transformer((7,), 9, vocab_size=9, depth=1, width=8, heads=2)
        made = make(network, guide, Tokens(9), batch, compare="tokens", tokens_per_step=most)
        made.losses(batch)
        index = made.objectives["alignment"].comparison._picked[0]
        assert index is None if most is None else len(index.unique()) == most


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compare": "token"}, "did you mean 'tokens'"),
        ({"compare": "tokens"}, "two sequences of one length"),
        ({"input": "gausian"}, "did you mean 'gaussian'"),
        ({"noise_to": "network"}, "known: both, guide"),
        ({"noise_to": "both"}, "needs `schedule.name`=alone_first"),
        ({"similarity": CKA(unbiased=True), "batch_size": 3}, "at least 4 samples"),
        (pairing(strategy="first", k=99), "k` must be from 1 to"),
        (
            pairing(strategy="explicit", pairs=[["blocks.0", "layers.0.linaer"]]),
            "did you mean 'layers.0.linear'",
        ),
        (
            {"balance": "uncertainty", "weights": {"task": 1.0, "alignment": 0.0}},
            "must have a weight above 0",
        ),
        (
            {"balance": "gradient_norm", "weights": {"task": 0.0, "alignment": 1.0}},
            "must have a weight above 0",
        ),
        (
            {
                "guide": ClassHierarchy(tree={"a": ["0", "1"], "b": ["2", "3"]}, class_names="0123"),
                "input": "gaussian",
            },
            "does not look at",
        ),
    ],
)
def test_wrong_settings_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        method(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Schedule(name="until"), "needs `steps`"),
        (lambda: Schedule(name="untill", steps=3), "did you mean 'until'"),
        (lambda: Schedule(name="always", steps=3), "means nothing"),
        (lambda: Schedule(name="from", steps=-1), "at least 1"),
        (lambda: Ridge(penalty=0.0), "above 0"),
        (
            lambda: Pairing(strategy="one_to_many", positions="spread"),
            "does not go with `strategy`=one_to_many",
        ),
        (
            lambda: Pairing(strategy="explicit", pairs=[["a", "b"]], exclude_output=True),
            "does not go with `strategy`=explicit",
        ),
    ],
)
def test_wrong_parts_are_told(wrong: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        wrong()
    assert message in str(error.value)


def test_a_guide_of_another_input_size_is_told() -> None:
    with pytest.raises(UserError, match=r"ConvNet cannot run on inputs of shape \(4, 1, 8, 8\)"):
        method(ConvNet((3, 8, 8), 4, width=4, stages=2))


def test_learned_weights_are_recorded_and_pairs_are_printed(tmp_path, caplog) -> None:
    words = ["method=guidance", "model@guide=residual_convnet", "guide.width=4", "guide.blocks=1",
             "method.balance=uncertainty", "logger=none",
             "fit.max_steps=6", "fit.validate_every_steps=3", "fit.log_every_steps=2", "model.depth=2", "model.width=8"]  # fmt: skip
    assert main(["train", *words, f"runs_dir={tmp_path}"]) == 0
    (run,) = Store(tmp_path).runs()
    weights = [row["train/weight/alignment"] for row in run.metrics.rows if "train/weight/alignment" in row]
    assert len(weights) >= 3 and all(0 < value < 2 for value in weights) and len(set(weights)) > 1
    pairs = json.loads((run.path / "setup.json").read_text())["method"]["objectives"]["alignment"]["pairs"]
    log = (run.path / "log.txt").read_text()
    assert f"{len(pairs)} layer pairs" in log
    for pair in pairs:
        assert f"{pair['guide']} " in log and f"{pair['network']} " in log


PATCHES = ["model=convnet", "model.width=4", "model.blocks=1", "model@guide=residual_convnet", "guide.width=6", "guide.blocks=1",
           "method=guidance", "method.objectives.alignment.compare=patches"]  # fmt: skip


def test_patches_of_maps_are_compared_as_samples(tmp_path):
    words = [w for w in SMALL if not w.startswith("model")]
    pairs = "method.objectives.alignment.pairing={strategy: explicit, pairs: [[blocks.0, blocks.0], [stem, blocks.1]]}"
    made = build(compose([*words, f"runs_dir={tmp_path}", *PATCHES, pairs]))
    stream = made.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    batch = next(iter(stream))
    network, guide = made.method.network, made.method.frozen["guide"].network
    kept = {}
    for where, layer in (
        ("a", network.blocks[0]),
        ("b", network.blocks[1]),
        ("c", guide.blocks[0]),
        ("d", guide.stem),
    ):
        layer.register_forward_hook(
            lambda module, given, out, where=where: kept.update({where: out.detach()})
        )
    loss = made.method.train().losses(batch)["alignment"]

    def patches(maps):
        half = maps.shape[2] // 2
        return torch.stack(
            [
                image[:, y * half : (y + 1) * half, x * half : (x + 1) * half].flatten()
                for image in maps
                for y in range(2)
                for x in range(2)
            ]
        )

    wanted = sum(1 - cka(patches(kept[mine]), patches(kept[theirs])) for mine, theirs in ("ac", "bd"))
    assert float(loss) == pytest.approx(float(wanted), abs=1e-5)
    with pytest.raises(
        UserError, match=r"maps \(channels, height, width\) that can be cut into 3 x 3: the layer 'blocks\.0'"
    ):
        build(
            compose(
                [*words, f"runs_dir={tmp_path}", *PATCHES, pairs, "method.objectives.alignment.patches=3"]
            )
        )
    with pytest.raises(UserError, match=r"the layer 'head' is \(10,\)"):
        build(compose([*words, f"runs_dir={tmp_path}", *PATCHES]))
