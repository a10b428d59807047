"""BigGAN-deep: the public parameter names, the forward pass against a plain re-calculation, folders and wrong files."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tutelage.errors import UserError
from tutelage.generators.biggan import PUBLIC, BigGanDeep, _Spectral, biggan

CONFIG = {
    "output_dim": 16, "z_dim": 8, "class_embed_dim": 8, "channel_width": 8, "num_classes": 5, "eps": 1e-4, "n_stats": 3,
    "layers": [[False, 16, 16], [True, 16, 4], [False, 4, 4], [True, 4, 1]], "attention_layer_position": 2,
}  # fmt: skip


def small():
    torch.manual_seed(0)
    made = BigGanDeep(**{k: v for k, v in CONFIG.items() if k not in ("output_dim", "class_embed_dim")})
    for name, tensor in made.state_dict().items():
        if "running_means" in name or name.endswith("gamma"):
            tensor.normal_()
        elif "running_vars" in name:
            tensor.uniform_(0.5, 2)
        elif name.endswith("weight_orig"):
            tensor.normal_(std=0.3)
    for (
        module
    ) in made.modules():  # of random vectors u and v the weights would be large, and hide what else is added
        if isinstance(module, _Spectral):
            u, _, v = torch.linalg.svd(module.weight_orig.detach().flatten(1), full_matrices=False)
            module.weight_u.copy_(u[:, 0])
            module.weight_v.copy_(v[0])
    return made


def save(folder, made, kind="bin", **changes):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    if kind == "bin":
        torch.save(made.state_dict(), folder / "pytorch_model.bin")
    else:
        save_file(made.state_dict(), folder / "model.safetensors")
    return folder


def test_names_and_shapes_are_those_of_the_public_weights():
    state = small().state_dict()
    w = CONFIG["channel_width"]
    expected = {
        "embeddings.weight": (8, 5),
        "generator.gen_z.weight_orig": (16 * 16 * w, 16),
        "generator.gen_z.weight_u": (16 * 16 * w,),
        "generator.gen_z.weight_v": (16,),
        "generator.gen_z.bias": (16 * 16 * w,),
        "generator.layers.0.bn_0.running_means": (3, 16 * w),
        "generator.layers.0.bn_0.scale.weight_orig": (16 * w, 16),
        "generator.layers.0.bn_0.offset.weight_v": (16,),
        "generator.layers.0.conv_0.weight_orig": (4 * w, 16 * w, 1, 1),
        "generator.layers.1.conv_1.weight_orig": (4 * w, 4 * w, 3, 3),
        "generator.layers.1.conv_3.weight_orig": (4 * w, 4 * w, 1, 1),
        "generator.layers.1.conv_3.weight_v": (4 * w,),
        "generator.layers.2.snconv1x1_theta.weight_orig": (4 * w // 8, 4 * w, 1, 1),
        "generator.layers.2.snconv1x1_g.weight_u": (4 * w // 2,),
        "generator.layers.2.gamma": (1,),
        "generator.layers.4.conv_3.bias": (w,),
        "generator.bn.weight": (w,),
        "generator.bn.running_vars": (3, w),
        "generator.conv_to_rgb.weight_orig": (w, w, 3, 3),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected
    assert not any(name.endswith("theta.bias") or "scale.bias" in name for name in state)
    assert len(state) == 1 + 4 + 4 * (4 * (2 + 3 + 3) + 4 * 4) + (4 * 3 + 1) + (2 + 2) + 4


def test_the_forward_pass_by_hand():
    made = small().double().eval()
    state = made.state_dict()

    def weight(name):
        w = state[f"{name}.weight_orig"]
        sigma = state[f"{name}.weight_u"] @ w.reshape(len(w), -1) @ state[f"{name}.weight_v"]
        return w / sigma

    def conv(x, name, padding=0):
        return F.conv2d(x, weight(name), state.get(f"{name}.bias"), padding=padding)

    def norm(x, name, condition=None):
        out = x - state[f"{name}.running_means"][2].view(1, -1, 1, 1)
        out = out / (state[f"{name}.running_vars"][2].view(1, -1, 1, 1) + 1e-4) ** 0.5
        if condition is None:
            return out * state[f"{name}.weight"].view(1, -1, 1, 1) + state[f"{name}.bias"].view(1, -1, 1, 1)
        scale, offset = (condition @ weight(f"{name}.{part}").T for part in ("scale", "offset"))
        return out * (1 + scale)[:, :, None, None] + offset[:, :, None, None]

    def twice(x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    z, labels = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64).softmax(dim=1)
    c = torch.cat([z, labels @ state["embeddings.weight"].T], dim=1)
    x = c @ weight("generator.gen_z").T + state["generator.gen_z.bias"]
    x = x.view(3, 4, 4, 128).permute(0, 3, 1, 2)
    for place, (up, wide) in {0: (False, 128), 1: (True, 32), 3: (False, 32), 4: (True, 8)}.items():
        if place == 3:
            a = "generator.layers.2.snconv1x1_"
            q, k, v = (
                conv(x, a + "theta"),
                F.max_pool2d(conv(x, a + "phi"), 2),
                F.max_pool2d(conv(x, a + "g"), 2),
            )
            share = torch.einsum("nchw,ncij->nhwij", q, k).flatten(3).softmax(dim=3).view(3, 8, 8, 4, 4)
            x = x + state["generator.layers.2.gamma"] * conv(
                torch.einsum("nhwij,ncij->nchw", share, v), a + "o_conv"
            )
        b = f"generator.layers.{place}."
        y = conv(norm(x, b + "bn_0", c).relu(), b + "conv_0")
        y = norm(y, b + "bn_1", c).relu()
        y = conv(twice(y) if up else y, b + "conv_1", 1)
        y = conv(norm(y, b + "bn_2", c).relu(), b + "conv_2", 1)
        y = conv(norm(y, b + "bn_3", c).relu(), b + "conv_3")
        x = y + (twice(x[:, :wide]) if up else x[:, :wide])
    x = conv(norm(x, "generator.bn").relu(), "generator.conv_to_rgb", 1)[:, :3].tanh()
    torch.testing.assert_close(made.render(z, labels), x)
    assert x.std() > 0.1


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_a_saved_folder_comes_back_and_samples_hard_and_soft(tmp_path, kind):
    made = small()
    loaded = biggan(str(save(tmp_path / "x", made, kind)))
    assert loaded.image_shape == (3, 16, 16)
    assert loaded.classes == 5
    labels, seeds = torch.arange(5), torch.arange(5) + 9
    images = loaded.sample(labels, seeds)
    assert torch.equal(images, made.sample(labels, seeds))
    assert torch.equal(loaded.sample(labels[3:], seeds[3:]), images[3:])
    assert torch.equal(loaded.sample(F.one_hot(labels, 5).float(), seeds), images)
    soft = loaded.sample(torch.full((1, 5), 0.2), seeds[:1])
    assert soft.shape == (1, 3, 16, 16) and not torch.equal(soft, images[:1])


def test_wrong_folders_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"biggan-deep-256.*or a folder"):
        biggan(str(tmp_path / "none"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"config\.json"):
        biggan(str(empty))
    folder = save(tmp_path / "y", small())
    (folder / "pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        biggan(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="found neither"):
        biggan(str(folder))
    with pytest.raises(UserError, match=r"of another shape: embeddings\.weight"):
        biggan(str(save(folder, small(), num_classes=6)))
    with pytest.raises(UserError, match="does not describe"):
        biggan(str(save(folder, small(), colour=True)))

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"Copy the files config\.json, pytorch_model\.bin into"):
        biggan(PUBLIC[0], cache=str(tmp_path / "cache"))
