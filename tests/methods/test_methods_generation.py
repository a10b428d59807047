"""Training of generators: the averages that are kept, two optimisers that count once, scores, and wrong input."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tutelage.config.compose import compose
from tutelage.config.settings import Fit
from tutelage.engine.build import build
from tutelage.engine.fit import plan_steps
from tutelage.engine.trainer import make_trainer, quiet_lightning
from tutelage.errors import UserError
from tutelage.generators.gan_networks import GanGenerator
from tutelage.generators.protocol import image_seeds
from tutelage.methods.base import step_seed
from tutelage.methods.generation import QUALITY_SEED, check_range
from tutelage.models.average import Average
from tutelage.models.weights_files import load_weights
from tutelage.tasks import Batch
from tutelage.typed import read

WORDS = ["logger=none", "hardware.threads=1", "fit.max_steps=6", "data.batch_size=32", "data.normalization=[[0.5],[0.5]]",
         "model@source=residual_convnet", "source.width=4", "method.quality_samples=16"]  # fmt: skip
KINDS = {
    "gan": ["model=generator/gan", "method=gan", "model.width=8", "model.latent=8", "method.critic_width=8"],
    "diffusion": [
        "model=generator/diffusion",
        "method=diffusion",
        "model.width=8",
        "model.depth=1",
        "model.sampling_steps=2",
    ],
}


def made(tmp_path, kind, *words):
    return build(compose([*WORDS, *KINDS[kind], f"runs_dir={tmp_path}", *words]))


def trained(tmp_path, kind, *words, steps=3):
    quiet_lightning()
    config = compose([*WORDS, *KINDS[kind], f"runs_dir={tmp_path}", *words])
    built = build(config)
    built.method.max_steps = steps
    stream = built.data.train_stream(seed=0, device="cpu")
    stream.seek(0, steps)
    trainer = make_trainer(config, tmp_path, [], steps)
    trainer.fit(built.method, stream, built.data.batches("validation", device="cpu"))
    return built.method, trainer


def test_quality_is_judged_by_eight_images_at_least(tmp_path):
    assert made(tmp_path, "gan", "method.quality_samples=8").method.quality_samples == 8
    with pytest.raises(UserError, match="quality_samples must be at least 8, got 7"):
        made(tmp_path, "gan", "method.quality_samples=7")


def test_average_is_the_weighted_sum_of_the_networks_seen_and_buffers_are_the_latest():
    network = torch.nn.BatchNorm1d(2)
    average = Average(network, decay=0.5)
    expected = network.weight.detach().clone()
    for count, value in enumerate((3.0, -1.0, 7.0), start=1):
        torch.nn.init.constant_(network.weight, value)
        network.running_mean.fill_(value)
        average.update(network, count)
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average.network.weight, expected)
    assert torch.equal(average.network.running_mean, network.running_mean)
    assert not average.network.weight.requires_grad
    average.train()
    assert not average.network.training


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_counts_once_and_moves_everything_and_the_average_is_evaluated_and_kept(tmp_path, kind):
    method, trainer = trained(tmp_path, kind)
    assert method.step == trainer.global_step == 3
    fresh = made(tmp_path, kind).method
    for (name, before), after in zip(fresh.named_parameters(), method.parameters(), strict=True):
        assert not torch.equal(before, after), name
    assert method.evaluated is method.average.network
    state = method.state_dict()
    assert any(name.startswith("trained.") for name in state)
    kept = {
        name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")
    }
    assert kept.keys() == method.network.state_dict().keys()
    assert all(torch.equal(value, method.average.network.state_dict()[name]) for name, value in kept.items())
    fresh.load_state_dict(state)
    for name in ("network", "average"):
        loaded, original = getattr(fresh, name).state_dict(), getattr(method, name).state_dict()
        assert all(torch.equal(loaded[key], original[key]) for key in original)
    trainer.save_checkpoint(tmp_path / "x.ckpt")  # the reader of weights files takes what was evaluated
    load_weights(fresh.network, tmp_path / "x.ckpt")
    assert torch.equal(fresh.network.last.weight, method.average.network.last.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_scored_and_shown(tmp_path, kind):
    method, _ = trained(tmp_path, kind)
    values = method.values["validation"]
    assert set(values) == {"loss", "accuracy", "frechet_distance", "precision", "recall"}
    assert all(math.isfinite(v) for v in values.values())
    assert method.task.monitor in values
    assert method.task.mode == "min"
    assert (tmp_path / "samples" / "step-0000003.png").stat().st_size > 0


def test_gan_schedules_follow_the_steps_of_the_generator(tmp_path):
    _, trainer = trained(tmp_path, "gan", "optimizer.schedule=linear", "optimizer.lr=0.1", steps=4)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == [
        pytest.approx(0.0, abs=1e-9),
        pytest.approx(0.0, abs=1e-9),
    ]  # the end is reached after 4 updates
    assert [s["step"].item() for o in trainer.optimizers for s in list(o.state.values())[:1]] == [4.0, 4.0]
    assert trainer.optimizers[1].defaults["lr"] == pytest.approx(0.4)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_a_gan_gathers_the_gradients_of_the_batches_of_a_step_and_clips_them(tmp_path, clip):
    words = [
        "optimizer=sgd",
        "optimizer.lr=0.01",
        "optimizer.momentum=0.0",
        "optimizer.nesterov=false",
        "optimizer.weight_decay=0.0",
        "method.ema_decay=0.5",
        "fit.accumulate=2",
    ]
    config = compose(
        [*WORDS, *KINDS["gan"], f"runs_dir={tmp_path}", *words, f"fit.gradient_clip={clip or 'null'}"]
    )
    quiet_lightning()
    built, twin = build(config), build(config)
    method, other = built.method, twin.method.train()
    plan_steps(read(Fit, config["fit"] | {"max_steps": 1}, "fit"), built)
    batches = built.data.train_stream(seed=0, device="cpu")
    batches.seek(0, 2)
    before, gathered = [p.detach().clone() for p in other.critic.parameters()], None
    for place, batch in enumerate(batches):
        torch.manual_seed(step_seed(config["seed"], place))
        loss = other.losses(batch)["critic"]
        gradients = torch.autograd.grad(loss / 2, list(other.critic.parameters()))
        gathered = (
            gradients if gathered is None else [a + b for a, b in zip(gathered, gradients, strict=True)]
        )
    norm = torch.stack([g.norm() for g in gathered]).norm()
    scale = 1.0 if clip is None else min(1.0, clip / float(norm))
    trainer = make_trainer(config, tmp_path, [], 1, by_hand=True)
    trainer.fit(method, batches, built.data.batches("validation", device="cpu"))
    assert trainer.global_step == method.step == 1
    for old, gradient, new in zip(before, gathered, method.critic.parameters(), strict=True):
        torch.testing.assert_close(
            new, old - 0.04 * scale * gradient
        )  # the critic's rate is four times the generator's


def test_gan_losses_are_the_hinge_and_the_generators_never_reaches_the_critic(tmp_path):
    method = made(tmp_path, "gan").method.eval()  # in eval, spectral norm does not move
    stream = method_batches(tmp_path)
    torch.manual_seed(0)
    terms = method.losses(stream)
    torch.manual_seed(0)
    labels = F.one_hot(stream.targets, 10).float()
    fake = method.network(torch.randn(len(labels), 8), labels)
    real, false = method.critic(stream.inputs, labels), method.critic(fake, labels)
    torch.testing.assert_close(terms["generator"], -false.mean())
    torch.testing.assert_close(
        terms["critic"], (1 - real).clamp(min=0).mean() + (1 + false).clamp(min=0).mean()
    )
    terms["generator"].backward()
    assert all(p.grad is None for p in method.critic.parameters())
    method.zero_grad()
    method.losses(stream)["critic"].backward()
    assert all(p.grad is None for p in method.network.parameters())


def method_batches(tmp_path):
    data = made(tmp_path, "gan").data
    return next(iter(data.batches("validation", device="cpu")))


def test_diffusion_loss_is_the_error_of_the_noise_and_zero_for_who_knows_it(tmp_path, monkeypatch):
    method = made(tmp_path, "diffusion").method
    batch = method_batches(tmp_path)
    levels = method._levels.alphas_cumprod

    def oracle(noisy, time, labels):
        share = levels[time].view(-1, 1, 1, 1)
        assert torch.equal(labels.argmax(dim=1), batch.targets)
        return (noisy - share.sqrt() * batch.inputs) / (1 - share).sqrt()

    monkeypatch.setattr(method.network, "forward", oracle)
    assert float(method.losses(batch)["denoising"]) < 1e-6


def test_wrong_input_is_named(tmp_path):
    for given in ("train", "null", "[[0.25],[0.75]]"):
        with pytest.raises(UserError, match=r"\[-1, 1\].*set data\.normalization=\[\[0\.5\],\[0\.5\]\]"):
            made(tmp_path, "gan", f"data.normalization={given}")
    with pytest.raises(UserError, match="trains a generator"):
        build(compose([*WORDS, "method=gan", f"runs_dir={tmp_path}", "model=fcn"]))
    with pytest.raises(UserError, match="same classes"):
        made(tmp_path, "diffusion", "+source.output_size=7")
    with pytest.raises(UserError, match="conditioning"):
        made(tmp_path, "gan", "method.conditioning=project")
    with pytest.raises(UserError, match="solver"):
        made(tmp_path, "diffusion", "model.solver=euler")
    with pytest.raises(UserError, match="ema_decay"):
        made(tmp_path, "gan", "method.ema_decay=1.0")


def test_mixed_labels_lie_between(tmp_path):
    generator = GanGenerator((1, 8, 8), 3, width=8, latent=8)
    half = torch.tensor([[0.5, 0.5, 0.0]])
    images = [generator.sample(labels, [7]) for labels in (torch.tensor([0]), torch.tensor([1]), half)]
    assert not any(torch.equal(images[2], other) for other in images[:2])


@pytest.mark.parametrize(
    ("low", "high", "normalization", "right"),
    [
        (-1, 1, ((0.5,), (0.5,)), True),
        (0, 1, None, False),  # half the contrast
        (0.2, 0.4, None, False),
        (-0.33, 1, ((0.25,), (0.75,)), False),
        (-0.8, 0.9, ((0.4,), (0.5,)), False),
        (-2, 2, ((0.5,), (0.25,)), False),
        (-1, 1, None, True),  # not of an image set in [0, 1]
        (-0.2, 0.2, ((0.0,), (20.0,)), True),
    ],
)
def test_black_is_at_minus_one_and_white_at_one(low, high, normalization, right) -> None:
    images = torch.linspace(low, high, 16).view(1, 1, 4, 4)
    with (
        nullcontext()
        if right
        else pytest.raises(UserError, match=r"set data\.normalization=\[\[0\.5\],\[0\.5\]\]")
    ):
        check_range(images, normalization)


def test_a_step_of_a_gan_takes_as_many_batches_as_it_gathers(tmp_path):
    config = compose([*WORDS, *KINDS["gan"], f"runs_dir={tmp_path}", "fit.accumulate=2"])
    quiet_lightning()
    built = build(config)
    plan_steps(read(Fit, config["fit"] | {"max_steps": 3}, "fit"), built)
    stream, places = built.data.train_stream(seed=0, device="cpu"), []
    stream.seek(0, 6)
    take = built.method.take
    built.method.take = lambda batch: (places.append(built.method._place), take(batch))[1]
    trainer = make_trainer(config, tmp_path, [], 3, by_hand=True)
    trainer.fit(built.method, stream, None)
    assert trainer.global_step == 3 and places == [0, 1, 0, 1, 0, 1]


REPA = ["+objective@method.objectives.repa=repa", "model@guide=residual_convnet", "guide.width=4"]


def pairs(*pairs):
    listed = ",".join(f"[{a},{b}]" for a, b in pairs)
    return f"method.objectives.repa.pairing={{strategy: explicit, k: null, pairs: [{listed}]}}"


def test_the_encoder_sees_the_images_and_the_noised_ones_become_like_it(tmp_path):
    built = made(tmp_path, "diffusion", *REPA, pairs(("blocks.2", "middle.0")))
    method, objective = built.method, built.method.objectives["repa"]
    stream = built.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    batch = next(iter(stream))
    seen, kept = {}, {}
    guide = method.frozen["guide"].network
    for name, network in (("guide", guide), ("network", method.network)):
        network.register_forward_pre_hook(lambda module, given, name=name: seen.update({name: given}))
    for name, layer in (("guide", guide.blocks[2]), ("network", method.network.middle[0])):
        layer.register_forward_hook(lambda module, given, out, name=name: kept.update({name: out}))
    torch.manual_seed(3)
    terms = method.train().losses(batch)
    assert torch.equal(seen["guide"][0], batch.inputs)
    torch.manual_seed(3)
    time = torch.randint(1000, (len(batch.inputs),))
    noise = torch.randn_like(batch.inputs)
    noisy, at, _ = seen["network"]
    assert torch.equal(at, time) and torch.equal(noisy, method._levels.add_noise(batch.inputs, noise, time))
    mine = objective.projectors[0].map(kept["network"])
    theirs = F.adaptive_avg_pool2d(kept["guide"], mine.shape[2:])
    torch.testing.assert_close(terms["repa"], 1 - F.cosine_similarity(mine, theirs).mean())
    torch.testing.assert_close(terms["denoising"], F.mse_loss(method.network(*seen["network"]), noise))
    terms["repa"].backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert "network.first.weight" in reached and "network.last.weight" not in reached
    assert any(name.startswith("objectives.terms.repa.") for name in reached)
    assert method._last_output is None


def test_a_generator_takes_no_loss_of_its_answers(tmp_path):
    soft = ["+objective@method.objectives.soft=task"]
    with pytest.raises(UserError, match="and those between its layers and a frozen network's: drop 'soft'"):
        made(tmp_path, "diffusion", *soft)
    with pytest.raises(UserError, match=r"Gan runs its network on noise and labels, .* drop 'repa'"):
        made(tmp_path, "gan", *REPA)
    with pytest.raises(UserError, match=r"the network has no layer 'middle\.7'"):
        made(tmp_path, "diffusion", *REPA, pairs(("blocks.2", "middle.7")))


INVERSION = ["model=generator/inversion", "method=inversion", "model.width=8", "model.latent=8", "data=synthetic",
             "data.num_classes=5"]  # fmt: skip


def inverted(tmp_path, *words):
    return build(compose([*WORDS, *INVERSION, f"runs_dir={tmp_path}", *words]))


@pytest.mark.parametrize("labels", ["given", "predicted"])
def test_inversion_sees_no_image_and_its_terms_are_slow_references_on_what_it_draws(tmp_path, labels):
    built = inverted(tmp_path, f"method.labels={labels}")
    method, source = built.method.train(), built.method.frozen["source"]
    before = source.digest()
    inputs = torch.full((32, 1, 8, 8), math.nan)
    torch.manual_seed(0)
    terms = method.losses(Batch(inputs, torch.zeros(32, dtype=torch.long), torch.arange(32)))
    torch.manual_seed(0)
    drawn = torch.randint(5, (32,))
    images = method.network(torch.randn(32, 8), F.one_hot(drawn, 5).float())
    norms, seen = [m for m in source.network.modules() if isinstance(m, torch.nn.BatchNorm2d)], {}
    handles = [m.register_forward_pre_hook(lambda m, x: seen.update({m: x[0]})) for m in norms]
    logits = source.network(images)
    for handle in handles:
        handle.remove()
    distances = [
        (x.mean((0, 2, 3)) - m.running_mean).norm() + (x.var((0, 2, 3), correction=0) - m.running_var).norm()
        for m, x in seen.items()
    ]
    p = logits.softmax(1).mean(0)
    slow = {
        "one_hot": F.cross_entropy(logits, drawn if labels == "given" else logits.argmax(1)),
        "information_entropy": (p * p.log()).sum(),
        "statistics": sum(distances),
    }
    for name, value in slow.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    assert terms["activation"] < 0
    sum(method.term_weights()[name] * value for name, value in terms.items()).backward()
    assert all(p.grad is not None for p in method.network.parameters())
    assert all(p.grad is None for p in source.network.parameters())
    assert source.digest() == before


def test_inversion_is_judged_by_its_own_terms_on_the_same_images_each_time(tmp_path, monkeypatch):
    method = inverted(tmp_path).method.eval()
    monkeypatch.setattr(type(method), "global_rank", 1)  # which draws no pictures
    values = []
    for _ in range(2):
        method.on_validation_epoch_start()
        method.validation_step(None, 0)
        method._finish("validation")
        values.append(method.values["validation"])
    assert values[0] == values[1] and set(values[0]) == {"loss", "accuracy", "objective"}
    index = np.arange(method.quality_samples)
    labels, seeds = torch.from_numpy(index % 5), torch.from_numpy(image_seeds(QUALITY_SEED, index))
    images = method.evaluated.sample(labels, seeds) * 2 - 1  # as networks take them
    terms, logits = method.terms(images, labels)
    weights = {objective.name: objective.weight for objective in method.objectives}
    wanted = {
        "loss": F.cross_entropy(logits, labels),
        "objective": sum(weights[n] * v for n, v in terms.items()),
    }
    assert {name: values[0][name] for name in wanted} == pytest.approx(
        {n: float(v.detach()) for n, v in wanted.items()}, rel=1e-4
    )
    assert method.task.monitor == "objective" and method.task.mode == "min"


def test_what_inversion_cannot_do_is_one_message(tmp_path):
    plain = ["model@source=fcn", "source.depth=2", "source.width=8", "source.batch_norm=false"]
    with pytest.raises(UserError, match=r"no batch norms with running statistics.*statistics\.weight=0"):
        inverted(tmp_path, *plain)
    assert inverted(tmp_path, *plain, "method.objectives.statistics.weight=0")
    with pytest.raises(UserError, match=r"images in \[-1, 1\]"):
        inverted(tmp_path, "data.normalization=[[0.0],[1.0]]")


@pytest.mark.parametrize(("ranks", "counts"), [(1, [5, 5, 1]), (2, [5, 1])])
def test_so_many_images_are_judged_over_the_ranks_together(tmp_path, monkeypatch, ranks, counts):
    built = made(tmp_path, "gan", "method.quality_samples=11")
    method, shown = built.method.eval(), []
    monkeypatch.setattr(type(method), "trainer", SimpleNamespace(world_size=ranks))
    read_by = method._read
    monkeypatch.setattr(method, "_read", lambda images: (shown.append(images), read_by(images))[1])
    whole = next(iter(built.data.batches("validation", device="cpu")))
    method._start("validation")
    for start in (0, 5, 10, 15):
        part = slice(start, start + 5)
        method._judge("validation", Batch(whole.inputs[part], whole.targets[part], whole.index[part]))
    assert [len(images) for images in shown] == [count for count in counts for _ in range(2)]
    count = sum(counts)
    assert torch.equal(torch.cat(shown[::2]), whole.inputs[:count])
    seeds = torch.from_numpy(image_seeds(QUALITY_SEED, whole.index[:count].numpy()))
    images = method.evaluated.sample(whole.targets[:count], seeds)
    torch.testing.assert_close(torch.cat(shown[1::2]), images * 2 - 1)  # from [0, 1], as the source sees them
    torch.testing.assert_close(torch.cat(method._kept["images"]), images)
