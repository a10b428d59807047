"""Generalised knowledge distillation: a language model learns from its teacher on texts that it wrote itself."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from tutelage.data.splits import derive_seed
from tutelage.errors import UserError
from tutelage.losses.distillation import jensen_shannon
from tutelage.models.forward_calls import undisturbed
from tutelage.objectives.base import OWN_INPUT, Setup, Start, Step
from tutelage.objectives.compared_outputs import ComparedOutputs
from tutelage.robustness.draws import Draws
from tutelage.tasks import Batch, Tokens, mean_of_counted


class GKD(ComparedOutputs):
    """The divergence of teacher and network at each next token, of given texts and of texts that the network wrote (arXiv 2306.13649).

    beta: of the generalised Jensen-Shannon divergence, see `jensen_shannon`. on_policy: share of the steps (lambda in algorithm 1) in which
    the network writes: its first `prompt` tokens, and all that is no answer, are the batch's, every other token is drawn from the network
    at temperature 1, in evaluation. No gradient flows through the drawing. The loss is a mean over the positions that count, from the
    prompt's last on. Which steps and tokens are drawn is a function of sample, step and seed, so that a resumed run draws the same.
    Cost of a step that writes: a forward for each token written, on what precedes it. Where no other objective counts (the paper's form)
    nothing but the written texts is learnt from; otherwise the network sees them beside the batch.
    """

    spaces = ("same",)

    def __init__(self, *, beta: float = 0.5, on_policy: float = 0.5, prompt: int = 1, **common: Any) -> None:
        super().__init__(**common)
        for name, value in (("beta", beta), ("on_policy", on_policy)):
            if not 0 <= value <= 1:
                raise UserError(f"`{name}` must be from 0 to 1, got {value}")
        if isinstance(prompt, bool) or not isinstance(prompt, int) or prompt < 1:
            raise UserError(f"`prompt` must be a whole number of at least 1, got {prompt!r}")
        self.beta, self.on_policy, self.prompt = float(beta), float(on_policy), prompt
        self.input = OWN_INPUT
        self._seed = 0

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`."""
        if not (isinstance(setup.task, Tokens) and setup.task.next_token):
            raise UserError(
                "a language model asks for the next token, which these data do not: choose soft_targets"
            )
        super().prepare(setup)
        length = setup.example.inputs.shape[1]
        if self.prompt >= length:
            raise UserError(f"`prompt`={self.prompt} leaves nothing of texts of {length} tokens to write")
        self._network, self._call = (setup.network,), setup.call  # in a tuple: no part of this one

    def start(self, start: Start) -> None:
        """See `Objective.start`."""
        self._seed = start.seed

    def samples_at(self, draw: int) -> bool:
        """Whether the network writes at this batch, on every rank alike."""
        return random.Random(derive_seed("gkd step", self._seed, draw)).random() < self.on_policy

    def numbers(self, batch: Batch, draw: int) -> Tensor:
        """Return what chooses each token, (n, length) in (0, 1)."""
        return Draws(batch.index, "gkd", self._seed, draw).uniform(batch.inputs.shape[1])

    @torch.no_grad()
    def shows(self, batch: Batch, draw: int) -> Batch:
        """See `Objective.shows`: the texts of the batch, or their beginnings with what the network goes on with."""
        self.own_passes = 0
        if not self.samples_at(draw):
            return batch
        (network,), numbers, tokens = self._network, self.numbers(batch, draw), batch.inputs.clone()
        counted = self._counted(batch)
        written = torch.zeros_like(counted)
        written[:, self.prompt :] = counted[:, self.prompt - 1 : -1]
        with undisturbed(network):
            places = written.any(dim=0).nonzero()[:, 0].tolist()
            self.own_passes = len(places)
            for place in places:
                mask = None if batch.mask is None else batch.mask[:, :place]
                chances = (
                    self._call(network, tokens[:, :place], mask)[:, -1].float().softmax(dim=1).cumsum(dim=1)
                )
                drawn = torch.searchsorted(chances, numbers[:, place, None].contiguous(), right=True)[:, 0]
                drawn.clamp_(max=chances.shape[1] - 1)  # the sum of all may end below 1 by rounding
                tokens[:, place] = torch.where(written[:, place], drawn, tokens[:, place])
        ahead = torch.cat([tokens[:, 1:], batch.targets[:, -1:]], dim=1)
        return batch._replace(inputs=tokens, targets=torch.where(counted, ahead, batch.targets))

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        counts = self._counted(step.batch)
        counts[:, : self.prompt - 1] = False
        at = step.batch._replace(target_mask=counts)
        written = step.extra.get(self.name)
        assert self.task is not None
        mine, _ = self.task.select(written[0] if written else step.output, at)
        theirs, _ = self.task.select(self.taught(step), at)
        return mean_of_counted(jensen_shannon(*self.seen(mine, theirs), beta=self.beta), at)

    @staticmethod
    def _counted(batch: Batch) -> Tensor:
        """Return where the next token counts, (n, length) bool."""
        keep = batch.mask if batch.target_mask is None else batch.target_mask
        return torch.ones_like(batch.inputs, dtype=torch.bool) if keep is None else keep.clone()
