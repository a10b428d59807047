"""A term that a method makes itself, such as a critic's loss: its weight and schedule are those of any other."""

from __future__ import annotations

from torch import Tensor

from tutelage.errors import UserError
from tutelage.objectives.base import Objective, Step


class Made(Objective):
    """The value that the method has made under this objective's name, in `Step.made`. Raises UserError where it has not."""

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        if self.name not in step.made:
            made = ", ".join(step.made) or "none"
            raise UserError(f"the method makes no term '{self.name}' (it makes {made}): drop this objective")
        return step.made[self.name]
