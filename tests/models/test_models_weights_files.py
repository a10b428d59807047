"""Weights files: round trips, strictness, damaged and hostile files, new heads."""

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tutelage.errors import UserError
from tutelage.models.fcn import FCN
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.heads import find_head
from tutelage.models.weights_files import WeightsMismatch, digest, load_weights, not_finite, read_states


def fcn(output_size=5, seed=0, **options):
    torch.manual_seed(seed)
    return FCN((4,), output_size, depth=2, width=8, **options)


def head_of(network, width=4):
    return find_head(network, torch.zeros(2, width))


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def save_weights(network, path):
    save_file(network.state_dict(), path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt"])
def test_round_trip(tmp_path, suffix):
    network, path = fcn(), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_weights(network, path)
    elif suffix == ".ckpt":
        state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        torch.save({"state_dict": state | {"projector.weight": torch.zeros(2)}, "epoch": 3}, path)
    else:
        torch.save(network.state_dict() if suffix == ".pt" else {"model": network.state_dict()}, path)
    other = fcn(seed=1)
    assert digest(other) != digest(network)
    assert load_weights(other, path) == []
    assert digest(other) == digest(network)


def test_a_network_with_a_part_called_network_keeps_its_names(tmp_path):
    wrapped = nn.ModuleDict({"network": nn.Linear(2, 2)})
    save_weights(wrapped, tmp_path / "w.safetensors")
    assert set(read_states(tmp_path / "w.safetensors")[""]) == {"network.weight", "network.bias"}


def test_a_frozen_network_is_no_part_of_what_is_saved(tmp_path):
    network = nn.ModuleDict({"a": nn.Linear(2, 2), "guide": FrozenNetwork(fcn())})
    save_weights(network, tmp_path / "w.safetensors")
    assert set(read_states(tmp_path / "w.safetensors")[""]) == {"a.weight", "a.bias"}


def test_a_mismatch_lists_both_sides_and_changes_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(FCN((4,), 5, depth=3, width=9), path)
    network = fcn(activation="tanh", dropout=0.1)
    before = digest(network)
    with pytest.raises(UserError) as error:
        load_weights(network, path)
    text = str(error.value)
    assert "not of this FCN" in text and str(path) in text
    assert "unexpected: layers.2." in text
    assert "layers.0.linear.weight is (9, 4) there, (8, 4) here" in text and "in all)" in text
    assert digest(network) == before
    small = fcn(batch_norm=False)
    with pytest.raises(
        UserError, match=r"missing: layers\.0\.norm\.weight, layers\.0\.norm\.bias, .*running_mean"
    ):
        load_weights(fcn(), small.state_dict())


@pytest.mark.parametrize("prefix", ["model.", "module.", "net.trunk."])
def test_a_whole_network_under_one_prefix_loads(tmp_path, prefix):
    theirs, ours = fcn(seed=1), fcn(seed=2)
    state = {prefix + name: value for name, value in theirs.state_dict().items()}
    torch.save(
        {"state_dict": state | {"criterion.weight": torch.ones(3)}, "epoch": 3}, tmp_path / "other.ckpt"
    )
    load_weights(ours, tmp_path / "other.ckpt")
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    assert load_weights(fcn(output_size=7), state, head=head_of(fcn()))
    with pytest.raises(WeightsMismatch, match=r"of another shape: .* is \(5, ") as error:
        load_weights(fcn(output_size=7), state)
    assert (error.value.layer, error.value.classes) == ("head", 5)


def test_what_lies_there_twice_or_in_part_is_refused(tmp_path):
    state = fcn(seed=1).state_dict()
    twice = {prefix + name: value for prefix in ("model.", "ema.model.") for name, value in state.items()}
    with pytest.raises(UserError, match=r"2 times, under model\., ema\.model\."):
        load_weights(fcn(), twice)
    part = {f"model.{name}": value for name, value in list(state.items())[:-1]}
    with pytest.raises(UserError, match=r"missing: .*unexpected: model\."):
        load_weights(fcn(), part)


def test_a_new_head_is_always_fresh():
    source = fcn(output_size=7, seed=1)
    for classes in (5, 7):
        network = fcn(output_size=classes)
        head = network.head.weight.clone()
        fresh = load_weights(network, source.state_dict(), head=head_of(network))
        assert fresh == ["head.bias", "head.weight"]
        assert torch.equal(network.head.weight, head)
        assert torch.equal(network.layers[1].linear.weight, source.layers[1].linear.weight)
    with pytest.raises(WeightsMismatch) as error:
        load_weights(fcn(), source.state_dict())
    assert (error.value.layer, error.value.classes) == ("head", 7)
    with pytest.raises(UserError, match=r"of another shape: layers\.0\.linear\.weight"):
        network = FCN((9,), 5, depth=2, width=8)
        load_weights(network, source.state_dict(), head=head_of(network, width=9))
    headless = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head")}
    assert load_weights(fcn(), headless, head=head_of(fcn())) == ["head.bias", "head.weight"]


def test_files_from_before_the_batch_counter_load():
    state = {n: t for n, t in fcn(seed=1).state_dict().items() if not n.endswith("num_batches_tracked")}
    network = fcn()
    load_weights(network, state)
    assert torch.equal(network.head.weight, state["head.weight"])


@pytest.mark.parametrize("protocol", ["torch", "pickle", "legacy"])
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path, protocol):
    path, target = tmp_path / "w.pt", tmp_path / "executed"
    payload = {"state_dict": fcn().state_dict(), "extra": Hostile(target)}
    if protocol == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=protocol == "torch")
    with pytest.raises(UserError, match="it is refused"):
        read_states(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Hostile(target)))
    assert target.exists()  # the payload would have worked


def test_a_pickle_dressed_as_safetensors_is_refused(tmp_path):
    path, target = tmp_path / "w.safetensors", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Hostile(target)))
    with pytest.raises(UserError, match="damaged or not safetensors"):
        read_states(path)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_file_is_named(tmp_path, suffix, damage):
    path = tmp_path / f"w{suffix}"
    save_weights(fcn(), path) if suffix == ".safetensors" else torch.save(fcn().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "text": b"epoch,loss\n1,2\n"}[damage]
    )
    with pytest.raises(UserError, match=r"w\.(safetensors|pt) is damaged or not"):
        read_states(path)


def test_other_wrong_sources(tmp_path):
    with pytest.raises(UserError, match=r"expected a weights file at .*, found nothing"):
        load_weights(fcn(), tmp_path / "absent.pt")
    with pytest.raises(UserError, match="found a folder"):
        read_states(tmp_path)
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="unknown kind of weights file"):
        read_states(tmp_path / "w.onnx")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no state_dict"):
        read_states(tmp_path / "list.pt")
    torch.save({"lr": 0.1}, tmp_path / "values.pt")
    with pytest.raises(UserError, match="holds no state_dict"):
        read_states(tmp_path / "values.pt")


def files(tmp_path, **states):
    """Weights as people keep them, by name of the file: (what is saved, where the state stands in it)."""
    state, ema = states["state"], states["ema"]
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    beside = {"optimizer": {"state": {0: {"step": torch.ones(())}}, "param_groups": [{"lr": 0.1}]}}
    return {
        "tutorial.pt": ({"model_state_dict": state, "epoch": 3, "loss": torch.ones(())}, "model_state_dict"),
        "net.pth": ({"net": state, "acc": 91.0}, "net"),
        "student_best": ({"state_dict": state}, "state_dict"),
        "deit.pth.tar": ({"model": prefixed, "args": argparse.Namespace(lr=0.1), **beside}, "model"),
        "pytorch_model.bin": (state, ""),
        "mixed.ckpt": ({**state, "epoch": 3, "best": 0.5}, ""),
        "deep.pt": ({"trainer": {"weights": state}, "scaler": {"scale": 2.0}}, "trainer.weights"),
        "two.pth": ({"state_dict": state, "state_dict_ema": ema}, "state_dict_ema"),
        "ema_first.pt": ({"model_ema": ema, "model": state, **beside}, "model_ema"),
        "gan.pt": ({"G": state, "D": {"conv.weight": torch.ones(2, 2)}}, "G"),
        "compiled.pt": ({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, ""),
        "scores.pt": (
            {"state_dict": state, "top1": np.float64(70.0), "curve": [np.float32(1.0)]},
            "state_dict",
        ),
    }


NAMES = tuple(files(None, state={}, ema={}))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_known_by_what_is_in_it_and_what_was_taken_is_said(tmp_path, caplog, name):
    plain, average = fcn(seed=1), fcn(seed=2)
    content, place = files(tmp_path, state=plain.state_dict(), ema=average.state_dict())[name]
    torch.save(content, tmp_path / name)
    network = fcn(seed=3)
    with caplog.at_level("INFO", logger="tutelage"):
        load_weights(network, tmp_path / name, where="teacher")
    assert digest(network) == digest(average if "ema" in place else plain)
    assert (f"taken are those under '{place}'" in caplog.text) == bool(place)
    assert ("not state_dict (teacher.entry=... takes another)" in caplog.text) == (name == "two.pth")


def test_safetensors_without_an_ending_is_known_too(tmp_path):
    network, other = fcn(seed=1), fcn(seed=2)
    save_weights(network, tmp_path / "best")
    load_weights(other, tmp_path / "best")
    assert digest(network) == digest(other)


def test_of_several_states_or_networks_one_can_be_named(tmp_path):
    one, two = fcn(seed=1), fcn(seed=2)
    torch.save({"student": one.state_dict(), "teacher": two.state_dict()}, tmp_path / "dino.pth")
    with pytest.raises(UserError, match=r"holds 2 states, student, teacher: say which: guide\.entry=student"):
        load_weights(fcn(), tmp_path / "dino.pth", where="guide")
    with pytest.raises(UserError, match=r"guide\.entry=teachr: .*did you mean 'teacher'"):
        load_weights(fcn(), tmp_path / "dino.pth", where="guide", entry="teachr")
    network = fcn()
    load_weights(network, tmp_path / "dino.pth", where="guide", entry="teacher")
    assert digest(network) == digest(two)
    pair = {
        f"{name}.{key}": t for name, net in (("a", one), ("b", two)) for key, t in net.state_dict().items()
    }
    torch.save(pair, tmp_path / "pair.pt")
    with pytest.raises(UserError, match=r"2 times, under a\., b\.: say which: guide\.entry=a"):
        load_weights(fcn(), tmp_path / "pair.pt", where="guide")
    load_weights(network, tmp_path / "pair.pt", where="guide", entry="a")
    assert digest(network) == digest(one)


def test_an_unknown_network_s_state_names_what_the_usual_place_holds(tmp_path):
    torch.save({"state_dict": fcn().state_dict(), "statistics": {"mean": torch.ones(2)}}, tmp_path / "w.pt")
    with pytest.raises(WeightsMismatch, match=r"missing: 0\.weight, 0\.bias; unexpected: layers\.0"):
        load_weights(nn.Sequential(nn.Linear(4, 5)), tmp_path / "w.pt", where="teacher")


def test_tied_weights_may_stand_once_in_a_file():
    class Tied(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.out, self.embed, self.body = nn.Linear(6, 9, bias=False), nn.Embedding(9, 6), nn.Linear(6, 6)
            self.out.weight = self.embed.weight

    theirs = Tied(1)
    for left_out in ("out.weight", "embed.weight"):
        state = {name: tensor for name, tensor in theirs.state_dict().items() if name != left_out}
        for prefix in ("", "model."):
            ours = Tied(2)
            load_weights(ours, {prefix + name: tensor for name, tensor in state.items()})
            assert digest(ours) == digest(theirs) and ours.out.weight is ours.embed.weight
    with pytest.raises(WeightsMismatch, match=r"missing: out\.weight, embed\.weight\."):
        load_weights(Tied(2), {n: t for n, t in theirs.state_dict().items() if n.startswith("body")})


def test_values_that_are_no_numbers_are_found():
    network = fcn()
    assert not_finite(network.state_dict()) == []
    network.head.bias.data[0] = float("inf")
    assert not_finite(network.state_dict()) == ["head.bias"]


def test_what_hides_in_values_that_are_plain_is_refused_too(tmp_path):
    target = tmp_path / "executed"
    arguments = argparse.Namespace(lr=0.1, callback=Hostile(target))
    for beside in (arguments, {"a": [Hostile(target)]}, np.array([Hostile(target)], dtype=object)):
        torch.save({"model": fcn().state_dict(), "args": beside}, tmp_path / "w.pth.tar")
        with pytest.raises(UserError, match="it is refused"):
            read_states(tmp_path / "w.pth.tar")
    assert not target.exists()
