"""AdaMatch: a threshold relative to the confidence on labelled images."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutelage.losses.consistency import weighted
from tutelage.objectives.consistency import Consistency


class AdaMatch(Consistency):
    """FixMatch with aligned predictions and a relative threshold (Berthelot et al. 2021, arXiv 2106.04732).

    threshold: times the mean confidence on the labelled batch; 0.9 is the paper's and the authors' code's. Deviations: no random
    interpolation of logits, which is for domains that differ; averages of the predictions over many batches in place of one batch's, as in
    the authors' code; the weight does not rise over the first half of the training; the labelled images are seen under the data's own
    augmentation alone, not under a strong one too.
    """

    strong_view = True
    remembers = True

    def __init__(self, *, threshold: float = 0.9, **common: Any) -> None:
        super().__init__(**common)
        self.threshold = threshold

    def compare(self, target: Tensor, output: Tensor) -> Tensor:
        """See `Consistency.compare`."""
        assert self.labelled is not None
        asked = self.labelled.float().softmax(dim=1).amax(dim=1).mean() * self.threshold
        confidence = target.detach().float().softmax(dim=1).amax(dim=1)
        return weighted(target, output, self.note((confidence >= asked).float()))
