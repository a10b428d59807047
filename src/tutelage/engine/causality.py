"""Whether a network that is to foretell tokens looks at the tokens it is to foretell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.models.forward_calls import Call
from tutelage.tasks import Batch


@torch.no_grad()
def check_causal(network: nn.Module, example: Batch, *, vocabulary: int) -> None:
    """Raise UserError for a network whose outputs move with later tokens; for tasks whose later tokens are the answers.

    The second half of the example's tokens is changed; what the network gives for the first half must stay. A network that cannot be
    run at all is left to the method, which says so.
    """
    tokens = example.inputs
    known = tokens.shape[1] // 2
    changed = tokens.clone()
    changed[:, known:] = (tokens[:, known:] + 1) % vocabulary
    call = Call.of(network)

    def outputs(inputs: Tensor) -> Tensor:
        return call(network, inputs, example.mask)[:, :known]

    was_training = network.training
    network.eval()
    try:
        before, after = outputs(tokens), outputs(changed)
        same = torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max()))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return
    finally:
        network.train(was_training)
    if not same:
        raise UserError(
            f"{type(network).__name__} sees the tokens that it is to foretell: with the second half of a text changed it gives "
            "another answer for the first. Choose a causal network, such as model=transformer_decoder, or model.causal=true"
        )
