"""Guided learning: the network's layers are aligned with those of a frozen guide."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor

from tutelage.alignment.alignment import check_mask
from tutelage.alignment.comparison import Comparison
from tutelage.alignment.guides import GUIDE_INPUTS, FeatureGuide
from tutelage.alignment.pairing import Pairing, table
from tutelage.alignment.similarity import CKA, Similarity
from tutelage.arguments import positive
from tutelage.errors import ONCE, UserError, choices
from tutelage.objectives.base import Objective, Setup, Start, Step
from tutelage.tasks import Batch

log = logging.getLogger("tutelage")


class Alignment(Objective):
    """The sum over layer pairs of 1 - similarity (arXiv 2410.20035); its weight is the paper's alpha.

    similarity: how a pair of layers is compared; default CKA. pairing: which layer guides which. compare: "samples", each flattened, or
    "tokens", of which a random `tokens_per_step` are drawn (None: all), or "patches": maps cut into `patches` x `patches`, each a row, for
    batches of few images (after the patch form of RCKA, arXiv 2401.11824; its code could not be found, so the form is ours).
    input: batch | gaussian | released_noise, what the guide sees. noise_to: "guide" alone, or "both" networks the same noise, which needs
    schedule.name=alone_first: its first phase then never sees the data.
    """

    reads_frozen = True
    consumes = True
    reaches_output = False

    def __init__(
        self,
        *,
        similarity: Similarity | None = None,
        pairing: Pairing | None = None,
        compare: Literal["samples", "tokens", "patches"] = "samples",
        tokens_per_step: int | None = 1024,
        patches: int = 2,
        input: str = "batch",
        noise_to: Literal["guide", "both"] = "guide",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        for name, value, known in (
            ("compare", compare, ("samples", "tokens", "patches")),
            ("input", input, GUIDE_INPUTS),
            ("noise_to", noise_to, ("guide", "both")),
        ):
            if value not in known:
                raise UserError(f"`{name}`={value!r} is not known; {choices(value, known)}")
        if noise_to == "both" and (self.schedule.name != "alone_first" or input == "batch"):
            raise UserError(
                "`noise_to`=both needs `schedule.name`=alone_first and noise as `input`: noise has no task to learn"
            )
        self.similarity, self.pairing = similarity or CKA(), pairing or Pairing()
        self.per_token, self.tokens_per_step = compare == "tokens", tokens_per_step
        positive("Alignment", patches=patches)
        self.patches = patches if compare == "patches" else None
        self.input, self.shares_input = input, noise_to == "both"
        self._similarities: list[Tensor] = []

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: find the pairs."""
        guide = self.frozen_in(setup).network
        if isinstance(guide, FeatureGuide) and self.input != "batch" and not guide.sees_inputs:
            raise UserError(
                f"`input`={self.input} is what a guide sees in place of the inputs, which {type(guide).__name__} does not look at: "
                "leave it at batch"
            )
        if isinstance(guide, FeatureGuide) and self.similarity.name in guide.unseen_by:
            raise UserError(
                f"{type(guide).__name__} says nothing to `similarity`={self.similarity.name}, whose score and gradient would be 0 "
                f"throughout; choose one that is not among {', '.join(guide.unseen_by)}"
            )
        if setup.batch_size is not None and not self.per_token:
            self.similarity.check_rows(setup.batch_size * (self.patches or 1) ** 2)
        check_mask(setup.example.mask)
        layers = setup.layers()
        pairs = self.pairing(setup.frozen_layers(str(self.network)), layers)
        rows: dict[str, Any] = {"per_token": self.per_token, "tokens_per_step": self.tokens_per_step}
        self.comparison = Comparison(pairs, layers, self.similarity, **rows, patches=self.patches)
        self.network_layers, self.frozen_layers = (
            self.comparison.network_layers,
            self.comparison.guide_layers,
        )
        self._batch_size = setup.batch_size

    def start(self, start: Start) -> None:
        """Note the pairs in the log, and say what accumulation does not do."""
        if start.rank:
            return
        pairs = self.comparison.pairs
        log.info("%d layer pairs, %s to network (--verbose shows them)", len(pairs), self.network, extra=ONCE)
        log.debug("%s", table(pairs))
        block = self.similarity.form.block if isinstance(self.similarity, CKA) else None
        rows = (self._batch_size or 0) * (self.patches or 1) ** 2
        if block is not None and 0 < rows < 2 * block:
            log.warning(
                "method.objectives.%s.similarity.block=%d has no effect: the %d rows of a batch are one block; of %d there are two",
                self.name,
                block,
                rows,
                rows // 2,
            )
        if start.accumulate > 1:
            log.warning(
                "fit.accumulate=%d enlarges the batch of the update, not that of the alignment: similarities are taken over each batch "
                "of %s samples. For a larger one raise data.batch_size, or use several ranks, which compare the global batch",
                start.accumulate,
                self._batch_size,
            )

    def begin(self, batch: Batch) -> None:
        """See `Objective.begin`."""
        self.comparison.start(batch.mask)

    def consume(self, name: str, activation: Tensor) -> None:
        """See `Objective.consume`: encode it, so that it need not be held."""
        self.comparison.encode(name, activation)

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        loss, similarities = self.comparison.loss(step.activations)
        self._similarities.append(similarities)
        return loss

    def shared_layer(self) -> str | None:
        """See `Objective.shared_layer`: the last paired weight layer but the output."""
        return self.comparison.shared_layer

    def record(self) -> dict[str, float]:
        """Return the mean similarity of each pair, numbered as in `describe`."""
        if not self._similarities:
            return {}
        means = torch.stack(self._similarities).mean(0).tolist()
        self._similarities.clear()
        where = "similarity" if self.name == "alignment" else f"similarity/{self.name}"
        return {f"{where}/{i:02d}": value for i, value in enumerate(means, start=1)}

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`: the layer pairs."""
        return {"pairs": self.comparison.describe()}
