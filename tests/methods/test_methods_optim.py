"""What an optimiser's settings may be."""

import logging

import pytest
import torch

from tutelage.errors import UserError
from tutelage.methods.optim import OptimizerSpec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": [0.9]}, "two numbers"),
        ({"betas": [0.9, 0.99, 0.999]}, "two numbers"),
        ({"betas": [0.9, 1.0]}, "two numbers"),
        ({"betas": "ab"}, "two numbers"),
        ({"schedule": "step"}, "needs optimizer.milestones"),
        ({"milestones": [2]}, "fractions"),
        ({"amsgrad": None}, "amsgrad must be true or false, got None"),
        ({"fused": 1}, "fused must be true or false, got 1"),
        ({"momentum": 1.0}, "momentum must be a number from 0 to below 1, got 1.0"),
    ],
)
def test_settings_without_a_meaning_are_told(options, message):
    with pytest.raises(UserError, match=message):
        OptimizerSpec(name="adam", lr=0.1, **options)


@pytest.mark.parametrize(
    ("more", "idle"),
    [
        ({"final_factor": 0.5}, "final_factor=0.5 has no effect under optimizer.schedule=constant: it is for cosine, linear,"),
        ({"gamma": 0.5, "schedule": "cosine"}, "gamma=0.5 has no effect under optimizer.schedule=cosine: it is for step, plateau"),
        ({"milestones": [0.5]}, "milestones=[0.5] has no effect under optimizer.schedule=constant: it is for step"),
        ({"milestones": [0.5], "name": "sgd"}, None),
        ({"final_factor": 0.5, "schedule": "linear"}, None),
        ({"power": 2, "schedule": "polynomial", "decay_share": 0.2}, None),
        ({"gamma": 0.5, "patience": 2, "schedule": "plateau"}, None),
    ],
)  # fmt: skip
def test_what_the_schedule_does_not_read_is_said(caplog, more, idle):
    OptimizerSpec(**{"name": "adam", "lr": 0.1, **more})
    assert (
        [f"optimizer.{idle}" in caplog.text, len(caplog.messages)] == [True, 1]
        if idle
        else not caplog.messages
    )


def test_torch_may_choose_between_its_own_kernels():
    assert OptimizerSpec(name="adam", lr=0.1, fused=None, foreach=None).options["fused"] is None


@pytest.mark.parametrize(("more", "said"), [
    ({"decay_norms_and_biases": False}, True), ({"decay_norms_and_biases": False, "weight_decay": 0.1}, False), ({}, False),
])  # fmt: skip
def test_norms_without_a_decay_that_nothing_has_are_said(caplog, more, said):
    spec = OptimizerSpec(name="adam", lr=0.1, **more)
    spec.build([("w", torch.nn.Parameter(torch.zeros(1, 2)))], max_steps=3)
    assert (
        caplog.messages
        == ["optimizer.decay_norms_and_biases=false has no effect: optimizer.weight_decay is 0"] * said
    )


@pytest.mark.parametrize(("steps", "said"), [(10, True), (11, False)])
def test_a_rate_that_never_leaves_its_warm_up_is_said(caplog, steps, said):
    spec = OptimizerSpec(name="adam", lr=0.1, schedule="cosine", warmup_steps=10, betas=[0.9, 0.99])
    with caplog.at_level(logging.WARNING, logger="tutelage"):
        spec.build([torch.nn.Parameter(torch.zeros(1))], max_steps=steps)
    assert ("never reaches optimizer.lr" in caplog.text) is said
