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
    ],
)
def test_settings_without_a_meaning_are_told(options, message):
    with pytest.raises(UserError, match=message):
        OptimizerSpec(name="adam", lr=0.1, **options)


def test_torch_may_choose_between_its_own_kernels():
    assert OptimizerSpec(name="adam", lr=0.1, fused=None, foreach=None).options["fused"] is None


@pytest.mark.parametrize(("steps", "said"), [(10, True), (11, False)])
def test_a_rate_that_never_leaves_its_warm_up_is_said(caplog, steps, said):
    spec = OptimizerSpec(name="adam", lr=0.1, schedule="cosine", warmup_steps=10, betas=[0.9, 0.99])
    with caplog.at_level(logging.WARNING, logger="tutelage"):
        spec.build([torch.nn.Parameter(torch.zeros(1))], max_steps=steps)
    assert ("never reaches optimizer.lr" in caplog.text) is said
