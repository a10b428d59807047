"""The contracts of the design that hold for every method."""

from __future__ import annotations

import copy

import pytest
import torch

from small_runs import METHODS, SMALL
from tutelage.config.compose import compose
from tutelage.config.groups import group_options
from tutelage.engine.build import build
from tutelage.models.weights_files import digest


def built(tmp_path, method, *words):
    config = compose([*SMALL, f"runs_dir={tmp_path}", f"method={method}", *METHODS[method], *words])
    return config, build(config)


def test_every_shipped_method_is_listed_here():
    assert set(group_options("method")) == set(METHODS) | {"synthesis"}  # which trains nothing


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_the_declared_terms_and_one_forward(tmp_path, method):
    _, made = built(tmp_path, method)
    module = made.method
    module.on_fit_start()
    module.train()
    calls = []
    module.network.register_forward_hook(lambda *_: calls.append(1))
    stream = made.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    (batch,) = stream
    terms = module.losses(batch)
    assert set(terms) <= set(module.objectives.names)
    assert len(calls) == 1
    assert all(value.ndim == 0 and value.isfinite() for value in terms.values())


@pytest.mark.parametrize("method", METHODS)
def test_every_trainable_parameter_is_optimised_once_and_moves(tmp_path, method, monkeypatch):
    _, made = built(tmp_path, method)
    module = made.method
    module.max_steps = 10
    module.on_fit_start()
    module.train()
    made_optimizers = module.configure_optimizers()  # one, or of a GAN (optimisers, schedulers)
    optimizers = made_optimizers[0] if isinstance(made_optimizers, tuple) else [made_optimizers]
    listed = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    trainable = [p for p in module.parameters() if p.requires_grad]
    assert {id(p) for p in listed} == {id(p) for p in trainable}
    assert len(listed) == len(trainable)
    before = [p.detach().clone() for p in trainable]
    stream = made.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    (batch,) = stream
    for step in (0, 10_000):  # stages
        monkeypatch.setattr(type(module), "step", step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(module.losses(batch).values()).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, trainable, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_frozen_networks_are_outside_the_module_and_bit_identical_after_a_run(tmp_path, method):
    _, made = built(tmp_path, method)
    module = made.method
    for role, frozen in module.frozen.items():
        assert not any(role in name for name in module.state_dict())
        state = copy.deepcopy(frozen.network.state_dict())
        module.train()
        module.on_fit_start()
        stream = made.data.train_stream(seed=0, device="cpu")
        stream.seek(0, 2)
        for batch in stream:
            sum(module.losses(batch).values()).backward()
        assert all(
            torch.equal(a, b)
            for a, b in zip(state.values(), frozen.network.state_dict().values(), strict=True)
        )
        assert all(p.grad is None for p in frozen.network.parameters())
        assert module.describe()[f"{role}_digest"] == digest(frozen.network)


def test_all_arms_of_a_seed_start_from_the_same_network(tmp_path):
    classifying = [m for m, words in METHODS.items() if not any(w.startswith("model=") for w in words)]
    states = [digest(built(tmp_path, method, "model.dropout=0")[1].method.network) for method in classifying]
    assert len(set(states)) == 1
