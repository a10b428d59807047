"""Guided learning: the network learns its task and aligns its layers with those of a frozen guide."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.alignment.guides import GUIDE_INPUTS, FeatureGuide, guide_input_like
from tutelage.alignment.objective import Alignment
from tutelage.alignment.pairing import Pairing, table
from tutelage.alignment.schedule import Schedule
from tutelage.alignment.similarity import similarity as similarity_named
from tutelage.errors import UserError, choices
from tutelage.methods.base import Method
from tutelage.methods.memory import TrainingSamples, of_guide
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch

log = logging.getLogger("tutelage")


class Guidance(Method):
    """The task's loss, and the sum over layer pairs of 1 - similarity (arXiv 2410.20035); `weights.alignment` is the paper's alpha.

    guide: a frozen network, trained or not, or a FeatureGuide. example: a few samples, to find the layers. batch_size: global, if known.
    similarity: cka | unbiased_cka | rsa | ridge (with ridge_penalty, projection_size). compare: "samples", each flattened, or "tokens", of
    which a random `tokens_per_step` are drawn (null: all).
    pairing, k, layer_type, pairs, positions, many_to_one, exclude_output: see `Pairing`.
    schedule, schedule_steps: see `schedule.factors`; "uncertainty" and "gradient_norm" learn the weights' balance.
    cache_guide: run the guide once for each training sample and keep its features, see `memory.Memory`; `training_samples` are what it
    sees, None where they are augmented.
    guide_input: batch | gaussian | released_noise, what the guide sees. noise_to: "guide" alone, or "both" networks the same noise, which
    needs alignment_first: its first phase then never sees the data.
    """

    terms = ("task", "alignment")

    def __init__(
        self,
        *,
        guide: FrozenNetwork,
        example: Batch,
        batch_size: int | None = None,
        similarity: str = "cka",
        ridge_penalty: float = 10.0,
        projection_size: int = 1024,
        compare: str = "samples",
        tokens_per_step: int | None = 1024,
        pairing: str = "even",
        k: int | None = None,
        layer_type: str | None = None,
        pairs: Sequence[Sequence[str]] | None = None,
        positions: str = "keep",
        many_to_one: str = "sum",
        exclude_output: bool = False,
        schedule: str = "always",
        schedule_steps: int | None = None,
        guide_input: str = "batch",
        noise_to: str = "guide",
        cache_guide: bool = False,
        training_samples: TrainingSamples | None = None,
        **common: Any,
    ) -> None:
        super().__init__(frozen={"guide": guide}, **common)
        for name, value, known in (
            ("compare", compare, ("samples", "tokens")),
            ("guide_input", guide_input, GUIDE_INPUTS),
            ("noise_to", noise_to, ("guide", "both")),
        ):
            if value not in known:
                raise UserError(f"method.{name}={value!r} is not known; {choices(value, known)}")
        if noise_to == "both" and (schedule != "alignment_first" or guide_input == "batch"):
            raise UserError(
                "method.noise_to=both needs schedule=alignment_first and noise as guide_input: noise has no task to learn"
            )
        if (
            isinstance(guide.network, FeatureGuide)
            and guide_input != "batch"
            and not guide.network.sees_inputs
        ):
            raise UserError(
                f"method.guide_input={guide_input} is what a guide sees in place of the inputs, which {type(guide.network).__name__} "
                "does not look at: leave it at batch"
            )
        self.schedule = Schedule(schedule, schedule_steps)
        if self.schedule.learned is not None and not all(self.weights.values()):
            raise UserError(
                f"method.schedule={schedule} learns the balance of task and alignment: both weights must be above 0, got {self.weights}"
            )
        # the alignment alone reaches no further than the last paired layer
        self.all_parameters_get_gradients = schedule != "alignment_first" and self.weights["task"] != 0
        self.guide_input, self.noise_to = guide_input, noise_to
        rule = Pairing(
            strategy=pairing, k=k, layer_type=layer_type, pairs=pairs, positions=positions,
            many_to_one=many_to_one, exclude_output=exclude_output,
        )  # fmt: skip
        ridge = {"penalty": ridge_penalty, "projection_size": projection_size}
        tokens = compare == "tokens"
        ridged = similarity_named(
            "ridge", per_token=tokens, **ridge
        )  # so that its settings are checked, used or not
        measure = ridged if similarity == "ridge" else similarity_named(similarity, per_token=tokens)
        if batch_size is not None and not tokens:
            measure.check_rows(batch_size)
        self.alignment = Alignment(
            self.network, (example.inputs, example.mask), guide.network, example, pairing=rule, similarity=measure,
            per_token=tokens, tokens_per_step=tokens_per_step if tokens else None, run=self, run_guide=guide,
        )  # fmt: skip
        if cache_guide:
            self.memory = of_guide(self.alignment, guide, training_samples, guide_input)
        self._shared()  # raises where there is none
        self.compared = batch_size
        self._similarities: list[Tensor] = []

    def _shared(self) -> nn.Parameter | None:
        """The parameter on which gradient norms are balanced, where they are."""
        return (
            self.alignment.shared_parameter(self.network) if self.schedule.name == "gradient_norm" else None
        )

    def on_fit_start(self) -> None:
        """Print the pairs, and say what accumulation does not do. Raises UserError for a task that never begins."""
        super().on_fit_start()
        if self.schedule.name == "alignment_first" and (self.schedule.steps or 0) >= self.max_steps:
            raise UserError(
                f"method.schedule_steps={self.schedule.steps} of alignment alone leave none of fit.max_steps={self.max_steps} for the task"
            )
        if self.global_rank == 0:
            log.info(
                "%d layer pairs, guide to network:\n%s",
                len(self.alignment.pairs),
                table(self.alignment.pairs),
            )
        if self.accumulate > 1 and self.global_rank == 0:
            log.warning(
                "fit.accumulate=%d enlarges the batch of the update, not that of the alignment: similarities are taken over each batch "
                "of %s samples. For a larger one raise data.batch_size, or use several ranks, which compare the global batch",
                self.accumulate,
                self.compared,
            )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.losses`: a term that the schedule has switched off is not computed."""
        task_factor, alignment_factor = self.schedule.factors(self.step, self.max_steps)
        if not alignment_factor * self.weights["alignment"]:
            return super().losses(batch)
        seen = batch._replace(inputs=guide_input_like(batch.inputs, self.guide_input))
        if self.memory is None:
            self.alignment.guide(self.frozen["guide"], seen)
        else:
            self.alignment.guide_by(self.memory(batch), batch)
        with self.alignment.recording():
            output = self.predict(seen if self.noise_to == "both" else batch)
        if self.noise_to == "both":
            self._last_output = None  # what the network says of noise is no answer to the batch's targets
        alignment, similarities = self.alignment.loss()
        self._similarities.append(similarities)
        if not task_factor * self.weights["task"]:
            return {"alignment": alignment}
        task = self.task.loss(output, batch)
        if self.schedule.learned is not None:
            task, alignment = self.schedule.balance(torch.stack([task, alignment]), self._shared()).unbind()
        return {"task": task, "alignment": alignment}

    def term_weights(self) -> Mapping[str, float | Tensor]:
        """See `Method.term_weights`."""
        factors = self.schedule.weights(self.step, self.max_steps)
        return {name: factor * self.weights[name] for name, factor in zip(self.terms, factors, strict=True)}

    def flush(self, batch: Batch | None = None) -> dict[str, float]:
        """See `Method.flush`; also the mean similarity of each pair, numbered as in `describe`, and the weights where they are learned."""
        row = super().flush(batch)
        if self._similarities:
            means = torch.stack(self._similarities).mean(0).tolist()
            row |= {f"train/similarity/{i:02d}": value for i, value in enumerate(means, start=1)}
            self._similarities.clear()
        if self.schedule.learned is not None:
            learned = self.schedule.learned.weights().tolist()
            row |= {f"train/weight/{name}": value for name, value in zip(self.terms, learned, strict=True)}
        return row

    def describe(self) -> dict[str, Any]:
        """See `Method.describe`: with the layer pairs."""
        return super().describe() | {"pairs": self.alignment.describe()}
