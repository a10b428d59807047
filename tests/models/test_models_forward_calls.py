"""How networks of any class are run: the arguments of their forward, and the one tensor that they return."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.models.forward_calls import Call, as_tensor
from tutelage.models.frozen import FrozenNetwork

LOGITS, OTHER = torch.randn(3, 4), torch.randn(3, 9)
INPUTS, MASK = torch.randn(3, 4), torch.tensor([[True, False]] * 3)


@dataclass
class Fields:
    logits: Tensor
    loss: None = None


Pair = namedtuple("Pair", "features logits")


class Keeps(OrderedDict):
    """As Hugging Face's outputs: a dictionary whose entries are attributes too."""


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"logits": LOGITS, "features": OTHER},
        {"out": LOGITS, "loss": None},
        (LOGITS,),
        [LOGITS, {"features": OTHER}],
        (LOGITS, 3),
        Pair(OTHER, LOGITS),
        Fields(LOGITS),
        Keeps(hidden_states=OTHER, logits=LOGITS),
    ],
)
def test_the_one_tensor_is_taken(output):
    assert as_tensor(output, nn.Identity()) is LOGITS


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ((LOGITS, OTHER), r"got tuple with \[0\] \(3, 4\), \[1\] \(3, 9\)"),
        ({"a": LOGITS, "b": OTHER}, r"got dict with a \(3, 4\), b \(3, 9\)"),
        (None, "got NoneType with no tensor"),
        ((), "got tuple with no tensor"),
        (3.0, "got float with no tensor"),
    ],
)
def test_what_could_be_several_is_refused(output, said):
    with pytest.raises(UserError, match=rf"Identity must return one tensor.*{said}"):
        as_tensor(output, nn.Identity())


class Plain(nn.Module):
    def forward(self, x):
        return x


class Masked(nn.Module):
    def forward(self, x, lengths=None, mask=None):
        assert lengths is None
        return x if mask is None else x * mask[:, :1]


class Attention(nn.Module):
    def forward(self, input_ids=None, attention_mask=None, **more):
        assert attention_mask is None or attention_mask.dtype == torch.long
        return (input_ids,)


class Keywords(nn.Module):
    def forward(self, *, scale=2.0, pixels, mask=None):
        return pixels * scale


class Lengths(nn.Module):
    def forward(self, x, lengths, *, device):
        return x


class Half(nn.Module):
    def forward(self, x):
        return x.bfloat16()


@pytest.mark.parametrize(
    ("network", "mask", "expected"),
    [
        (Plain(), MASK, INPUTS),
        (Masked(), None, INPUTS),
        (Masked(), ~MASK, INPUTS * 0),
        (Attention(), MASK, INPUTS),
        (Keywords(), MASK, INPUTS * 2),
        (Half(), None, INPUTS.bfloat16().float()),
        (nn.Sequential(nn.Flatten()), MASK, INPUTS),
    ],
)
def test_arguments_go_where_the_forward_takes_them(network, mask, expected):
    for run in (lambda *x: Call.of(network)(network, *x), FrozenNetwork(network)):
        assert torch.equal(run(INPUTS, mask), expected)


def test_arguments_that_nobody_gives_are_named():
    with pytest.raises(UserError, match=r"the forward of .*Lengths needs lengths, device beside the inputs"):
        Call.of(Lengths())(Lengths(), INPUTS)


def test_half_precision_becomes_single_and_double_stays():
    class Answers(nn.Module):
        def forward(self, x):
            return x.to(self.kind)

    network = Answers()
    for kind, found in (
        (torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64),
    ):  # fmt: skip
        network.kind = kind
        assert Call.of(network)(network, INPUTS).dtype == found


def test_half_precision_stays_where_the_inputs_have_it_and_under_autocast():
    assert Call.of(Plain())(Plain(), INPUTS.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        linear = nn.Linear(4, 4)
        assert Call.of(linear)(linear, INPUTS).dtype == torch.bfloat16
