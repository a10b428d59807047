"""P-SSL: one forward over all views, targets without gradient, batch norms by a stated policy, weight 0 the supervised run."""

import pytest
import torch
import torch.nn.functional as F

from tutelage.config.compose import compose
from tutelage.data import cache
from tutelage.data.pseudo import read
from tutelage.engine.build import build
from tutelage.engine.trainer import make_trainer, quiet_lightning
from tutelage.errors import UserError
from tutelage.generators import shards
from tutelage.generators.conditioning import Conditioning
from tutelage.generators.noise import NoiseDomain
from tutelage.losses.consistency import fixmatch, mean_teacher, pseudo_label, uda
from tutelage.models.convnet import ConvNet
from tutelage.objectives.unlabelled import UnlabelledStream, batch_norm_apart, pseudo_images

WORDS = ["logger=none", "hardware.threads=1", "fit.max_steps=6", "data.batch_size=16", "data.normalization=[[0.5],[0.5]]",
         "model=residual_convnet", "model.width=4"]  # fmt: skip
C = "method.objectives.consistency"
P_SSL = [f"{C}.weak={{horizontal_flip: {{}}}}", f"{C}.strong={{rand_augment: {{}}}}"]
EASY = {
    "uda": {"temperature": 0.4, "threshold": 0.0},
    "fixmatch": {"threshold": 0.0},
    "pseudo_label": {"threshold": 0.0},
    "mean_teacher": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pseudo")
    write(path)
    return path


def write(path, shape=(1, 8, 8), count=48):
    generator, labels = NoiseDomain(shape, 10), Conditioning("uniform", classes=10, seed=0)
    shards.write(path, generator, labels, shards.recipe(generator, labels, count=count, seed=0))


def made(tmp_path, folder, algorithm="uda", *words):
    options = [f"{C}.{name}={value}" for name, value in EASY[algorithm].items()]
    return build(
        compose([*WORDS, f"method=pseudo_ssl/{algorithm}", *P_SSL, f"{C}.ratio=1.5", *options, f"{C}.pseudo={folder}",
                 f"runs_dir={tmp_path}", *words])
    )  # fmt: skip


def first_batch(built):
    stream = built.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    return next(iter(stream))


def views(tmp_path, folder, algorithm="uda"):
    """The views that step 0 draws, from an object of its own."""
    method = made(tmp_path, folder, algorithm).method
    method.on_fit_start()
    return method.objectives["consistency"].stream.views(0)


@pytest.mark.parametrize("algorithm", EASY)
def test_the_term_is_the_algorithms_loss_on_the_views_and_its_target_has_no_gradient(
    tmp_path, folder, algorithm
):
    built = made(tmp_path, folder, algorithm)
    method, batch = built.method, first_batch(built)
    method.on_fit_start()
    for module in method.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # so that parts may go through the network apart
    if method.average is not None:
        with torch.no_grad():
            method.average.network.head.weight.mul_(2)
    seen = views(tmp_path, folder, algorithm)
    assert seen[0].shape == (24, 1, 8, 8)
    outputs = [method.network(view) for view in seen]
    expected = {
        "uda": lambda: uda(outputs[0].detach(), outputs[1], threshold=0.0),
        "fixmatch": lambda: fixmatch(outputs[0].detach(), outputs[1], threshold=0.0),
        "pseudo_label": lambda: pseudo_label(outputs[0].detach(), outputs[0], threshold=0.0),
        "mean_teacher": lambda: mean_teacher(method.average.network(seen[1]).detach(), outputs[0]),
    }[algorithm]()
    terms = method.losses(batch)
    torch.testing.assert_close(terms["consistency"], expected)
    torch.testing.assert_close(terms["task"], F.cross_entropy(method.network(batch.inputs), batch.targets))
    parameters = list(method.network.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(terms["consistency"], parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def trained(tmp_path, *words, steps=5):
    quiet_lightning()
    config = compose([*WORDS, f"runs_dir={tmp_path}", *words])
    built = build(config)
    built.method.max_steps = steps
    stream = built.data.train_stream(seed=0, device="cpu")
    stream.seek(0, steps)
    make_trainer(config, tmp_path, [], steps).fit(
        built.method, stream, built.data.batches("validation", device="cpu")
    )
    return built.method


def test_weight_zero_is_the_supervised_run_bit_by_bit(tmp_path, folder):
    supervised = trained(tmp_path, "method=supervised")
    zero = trained(
        tmp_path,
        "method=pseudo_ssl/uda",
        *P_SSL,
        f"method.objectives.consistency.pseudo={folder}",
        "method.objectives.consistency.weight=0.0",
    )
    one = trained(
        tmp_path,
        "method=pseudo_ssl/uda",
        *P_SSL,
        f"method.objectives.consistency.pseudo={folder}",
        "method.objectives.consistency.threshold=0.0",
    )
    state = supervised.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in zero.network.state_dict().items())
    assert any(not torch.equal(value, state[name]) for name, value in one.network.state_dict().items())


def test_pseudo_images_of_a_step_are_the_same_for_one_rank_and_two_and_a_pass_sees_each_once(
    tmp_path, folder
):
    def ranks(world):
        parts = []
        for rank in range(world):
            pseudo = UnlabelledStream(
                pseudo_images(str(folder), channels=1, normalization=[[0.5], [0.5]]),
                size=(8, 8),
                count=12,
                views=({}, {"horizontal_flip": {}}),
                name="pseudo images",
            )
            pseudo.start(seed=3, rank=rank, world_size=world, device=torch.device("cpu"))
            parts.append([pseudo.views(step) for step in range(4)])
        return parts

    (one,), two = ranks(1), ranks(2)
    for step in range(4):
        for view in range(2):
            assert torch.equal(torch.cat([two[0][step][view], two[1][step][view]]), one[step][view])
    plain = torch.cat([step[0] for step in one])
    images = read(folder).images.float() / 127.5 - 1
    torch.testing.assert_close(plain.flatten(1).sort(dim=0).values, images.flatten(1).sort(dim=0).values)


def test_views_are_resized_to_what_the_network_takes(folder):
    source = pseudo_images(str(folder), channels=1, normalization=None)
    pseudo = UnlabelledStream(source, size=(12, 10), count=4, views=({},), name="pseudo images")
    pseudo.start(seed=0, rank=0, world_size=1, device=torch.device("cpu"))
    (view,) = pseudo.views(0)
    assert view.shape == (4, 1, 12, 10)
    assert view.min() >= 0 and view.max() <= 1


def test_batch_norms_apart_treat_the_first_part_as_if_alone():
    torch.manual_seed(0)
    inputs = torch.randn(11, 1, 8, 8)
    networks = []
    for _ in range(3):
        torch.manual_seed(1)
        networks.append(ConvNet((1, 8, 8), 3, width=4).train())
    together, alone, rest = networks
    with batch_norm_apart(together, 5):
        output = together(inputs)
    torch.testing.assert_close(output[:5], alone(inputs[:5]))
    torch.testing.assert_close(output[5:], rest(inputs[5:]))
    for ours, theirs in zip(together.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(together(inputs[:5]), alone(inputs[:5]))  # afterwards all is as before


@pytest.mark.parametrize("policy", ["joint", "labelled"])
def test_the_policy_says_which_images_move_the_running_statistics(tmp_path, folder, policy):
    built = made(tmp_path, folder, "uda", f"method.objectives.consistency.batch_norm={policy}")
    method, batch = built.method, first_batch(built)
    method.on_fit_start()
    method.train()
    calls = []
    method.network.register_forward_hook(lambda *_: calls.append(1))
    method.losses(batch)
    assert calls == [1]
    assert int(method.network.stem.norm.num_batches_tracked) == 1
    seen = [batch.inputs] if policy == "labelled" else [batch.inputs, *views(tmp_path, folder)]
    expected = 0.1 * method.network.stem.conv(torch.cat(seen)).mean(dim=(0, 2, 3))
    torch.testing.assert_close(method.network.stem.norm.running_mean, expected)


@pytest.mark.parametrize("algorithm", ["uda", "fixmatch"])
def test_a_weak_view_without_a_gradient_is_a_part_of_its_own_and_leaves_no_trace(tmp_path, folder, algorithm):
    built = made(tmp_path, folder, algorithm, f"{C}.batch_norm=labelled", f"{C}.weak_gradient=false")
    method, batch = built.method, first_batch(built)
    method.on_fit_start()
    sizes = []
    method.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    terms = method.train().losses(batch)
    assert sizes == [24, 16 + 24]
    apart = made(tmp_path, folder, algorithm).method.network.train()
    labelled = apart(batch.inputs)
    state = {name: value.clone() for name, value in apart.named_buffers()}
    weak, strong = (apart(view) for view in views(tmp_path, folder, algorithm))
    loss = {"uda": uda, "fixmatch": fixmatch}[algorithm](weak.detach(), strong, threshold=0.0)
    torch.testing.assert_close(terms["consistency"], loss)
    torch.testing.assert_close(terms["task"], F.cross_entropy(labelled, batch.targets))
    for name, value in method.network.named_buffers():
        torch.testing.assert_close(value, state[name])
    for ours, theirs in zip(
        torch.autograd.grad(sum(terms.values()), list(method.network.parameters())),
        torch.autograd.grad(loss + F.cross_entropy(labelled, batch.targets), list(apart.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="PseudoLabel has no strong view"):
        made(tmp_path, folder, "pseudo_label", f"{C}.weak_gradient=false")
    with pytest.raises(UserError, match=r"weak_gradient=false needs .*batch_norm=labelled"):
        made(tmp_path, folder, algorithm, f"{C}.weak_gradient=false")


def test_the_weight_rises_and_the_record_names_what_was_read(tmp_path, folder, monkeypatch):
    method = made(
        tmp_path,
        folder,
        "uda",
        "method.objectives.consistency.schedule.name=ramp_up",
        "method.objectives.consistency.schedule.steps=10",
        "method.objectives.consistency.weight=2.0",
    ).method
    assert method.term_weights()["consistency"] == pytest.approx(2 * 2.718281828**-5)
    monkeypatch.setattr(type(method), "step", 10)
    assert method.term_weights() == {"task": 1.0, "consistency": 2.0}
    assert (
        method.describe()["objectives"]["consistency"]["pseudo"]["content_sha256"]
        == read(folder).manifest["content_sha256"]
    )
    assert not method.frozen  # neither the source's data nor its networks take part


def test_wrong_input_is_named(tmp_path, folder):
    with pytest.raises(UserError, match=r"no complete pseudo data set .*give the folder of the run"):
        made(tmp_path, tmp_path / "none")
    with pytest.raises(UserError, match="numbers"):
        made(tmp_path, folder, "uda", "data.normalization=train")
    with pytest.raises(UserError, match=r"lower method\.objectives\.consistency\.ratio"):
        made(tmp_path, folder, "uda", "method.objectives.consistency.ratio=4.0")
    with pytest.raises(UserError, match="ema_decay"):
        made(tmp_path, folder, "mean_teacher", "method.ema_decay=0.0")
    with pytest.raises(UserError, match="did you mean 'fixmatch'"):
        made(tmp_path, folder, "uda", "objective@method.objectives.consistency=fixmach")
    write(tmp_path / "colour", (3, 8, 8))
    with pytest.raises(UserError, match="3 channels, the target data 1"):
        made(tmp_path, tmp_path / "colour")
    cache.forget()
    shard = next((tmp_path / "colour").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        made(tmp_path, tmp_path / "colour")
