"""What every method shares: a network trained on a sum of objectives, their record, metrics, optimisers, and the step's seed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tutelage.alignment.gather import world_size
from tutelage.errors import UserError
from tutelage.methods.history import History
from tutelage.methods.optim import OptimizerSpec
from tutelage.methods.rates import Plateau
from tutelage.models.average import Average, loaded, stored
from tutelage.models.forward_calls import Call
from tutelage.models.frozen import FrozenNetwork
from tutelage.objectives.base import Objective, Start, Step
from tutelage.objectives.total import Objectives, weighted_sum
from tutelage.tasks import Batch, Classification, Task

_MASK64 = 2**64 - 1
_OF_A_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Mix (seed, step, rank) into one 63-bit seed by splitmix64's finaliser (Steele et al. 2014): neighbours are unrelated."""
    state = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7 + 1) & _MASK64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
    return (state ^ (state >> 31)) >> 1


def own_name(name: str) -> str:
    """Return the name of a method's parameter as users know it: the network's own, or `objectives.<objective>...`."""
    return name.removeprefix("network.").replace("objectives.terms.", "objectives.")


class Method(pl.LightningModule):
    """Base of all methods: a network trained on the sum of named objectives; a subclass is what a method does beyond adding them.

    network: the one being trained. task: loss and metrics. optimizer: what to build for every trainable parameter.
    objectives: the terms, prepared on the same network; their frozen networks are no part of the module's parameters or state, so they
    stay outside DDP, optimisers and checkpoints.
    frozen: networks that the method itself reads, by name.
    ema_decay: above 0, validation, test, selection and the kept network are those of a moving average of the trained one (never of a
    frozen one, or of an objective's own parts). Before the first update it is the network itself; the number of updates is the number of
    steps, and a checkpoint has both networks, so that a resumed run continues both exactly.
    seed: every training step draws (dropout and the like) from torch's generators seeded by (seed, step, rank), so that a
    resumed run continues exactly without any stored generator state.
    """

    reads_targets: ClassVar[bool] = True
    """Whether it learns what the task asks."""

    fewest = 1
    """How many samples a batch needs so that there is something to learn from, or to judge by."""

    def __init__(
        self,
        *,
        network: nn.Module,
        task: Task,
        optimizer: OptimizerSpec,
        objectives: Objectives,
        frozen: Mapping[str, FrozenNetwork] | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= (ema_decay or 0) < 1:
            raise UserError(f"method.ema_decay must be at least 0 (no average) and below 1, got {ema_decay}")
        self.network = network
        self.task = task
        self.optimizer_spec = optimizer
        self.objectives = objectives
        self.average = Average(network, ema_decay) if ema_decay else None
        self._averaged_step = 0
        objectives.use_average(self.average.network if self.average else None)
        # A plain dict on purpose: nn.Module must not register these.
        self.frozen = {**objectives.frozen, **(frozen or {})}
        self.seed = seed
        self.all_parameters_get_gradients = objectives.reaches_all
        """Whether every step gives every trained parameter a gradient, if only of zeros; if not, DDP has to look which it does."""
        self.max_steps = 0  # set by the engine before fit: schedules end there
        self.accumulate = 1  # likewise: batches per update
        self.gradient_clip: float | None = (
            None  # likewise: heeded by methods that update by hand, by Lightning for all others
        )
        self.metrics_of = {
            "validation": task.metrics(),
            "test": task.metrics(),
            "train": task.metrics(asked=False),  # of one batch: most others would say nothing
        }
        self.resting: tuple[nn.Module, ...] = ()
        """Parts of the network that are not trained, and stay in eval mode."""
        self.values: dict[str, dict[str, float]] = {}  # split -> metrics of the last complete evaluation
        self.history = History(len(objectives.names))
        self._call = Call.of(network)
        self._last_output: Tensor | None = None
        self._place = 0  # of the batch within its update
        for hook in _OF_A_STEP:
            if getattr(type(self), hook) is getattr(pl.LightningModule, hook):
                setattr(self, hook, None)  # Lightning calls what is callable

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what is no tensor or module, and is there, at once: Lightning notes the name of each of its fifty hooks a step."""
        if (value is None or type(value) is str) and name in self.__dict__:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # --- what a subclass may write

    @classmethod
    def check_objectives(cls, objectives: Mapping[str, Objective]) -> None:
        """Raise UserError for an objective that the method cannot take; called before any is prepared on the network."""

    def take(self, batch: Batch) -> Step:
        """Run every network that this step needs, once, and return what the objectives read."""
        return self.objectives.take(
            batch, self.predict, step=self.step, max_steps=self.max_steps, draw=self._draw
        )

    @property
    def _draw(self) -> int:
        """The number of the batch among all of the run."""
        return self.step * self.accumulate + self._place

    def describe(self) -> dict[str, Any]:
        """Return what the record should say of this method beyond its configuration: digests, layer pairs."""
        digests = {f"{name}_digest": network.digest() for name, network in self.frozen.items()}
        return digests | {"objectives": self.objectives.describe()}

    def release(self) -> None:
        """Give back what only training needs; called when fit ends, however it ends. (The module itself lives until Python collects it.)"""
        self.objectives.release()

    @property
    def step(self) -> int:
        """Updates of the trained network so far; a method with several optimisers counts its own."""
        return self.global_step

    # --- shared by all

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the unweighted terms of a batch by name."""
        step = self.take(batch)
        # What the network says of noise in place of the inputs is no answer to the batch's targets.
        # Of an image mixed of two classes nothing is the right answer.
        mixed = batch.targets.ndim == 2 and isinstance(self.task, Classification)
        on_batch = step.batch.inputs is batch.inputs and isinstance(step.output, Tensor) and not mixed
        self._last_output = step.output.detach() if on_batch else None
        return self.objectives.losses(step, step=self.step, max_steps=self.max_steps)

    def term_weights(self) -> Mapping[str, float | Tensor]:
        """Return what multiplies each term at this step."""
        return self.objectives.weights(self.step, self.max_steps)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the trained network in training, the evaluated one otherwise, see `run`."""
        return self.run(self.network if self.training else self.evaluated, inputs, mask)

    @property
    def evaluated(self) -> nn.Module:
        """The network that validation and test see."""
        return self.network if self.average is None else self.average.network

    def run(self, network: nn.Module, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Run a network of the trained one's class, with the mask where it takes one, and return its one tensor.

        Raises UserError where it cannot take the data at all, or returns no such tensor.
        """
        try:
            return self._call(network, inputs, mask)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if self.step or isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
                raise
            kind = type(network)
            raise UserError(
                f"{kind.__module__}.{kind.__qualname__} cannot be run on these data, inputs of shape {tuple(inputs.shape)} "
                f"and {str(inputs.dtype).removeprefix('torch.')}: {error}"
            ) from error

    def predict(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the trained network on a training batch: the one forward of the step."""
        return self(inputs, mask)

    def on_fit_start(self) -> None:
        """Bring the frozen networks to the device of the trained one, and to its type where all of it is in half or double precision."""
        dtype = self.dtype if isinstance(self.dtype, torch.dtype) else None
        for frozen in self.frozen.values():
            frozen.to(device=self.device, dtype=dtype)
        self.objectives.start(
            Start(
                max_steps=self.max_steps,
                accumulate=self.accumulate,
                rank=self.global_rank,
                world_size=world_size(),
                device=self.device,
                seed=step_seed(self.seed, 0, 2),
            )
        )

    def on_train_start(self) -> None:
        """Remember the step that a resumed run starts from."""
        self._averaged_step = self.step

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Let averages follow once per update of the network, however many batches that took."""
        step = self.step
        if step != self._averaged_step:
            self._averaged_step = step
            if self.average is not None:
                self.average.update(self.network, step)
            self.objectives.updated(step)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the state, the evaluated network under `network.`."""
        state = super().state_dict(*args, **kwargs)
        return stored(state) if self.average else state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what `state_dict` returned."""
        state_dict = loaded(state_dict) if self.average else state_dict
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch that is not there: ours are read where they are to be."""
        if type(batch) is Batch and all(part is None or part.device == device for part in batch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Seed the step, weight and sum the terms, and remember them for the next record without waiting for the device."""
        step, self._place = self.step, batch_idx % self.accumulate
        seed = step_seed(self.seed, step * self.accumulate + self._place, self.global_rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)
        terms = self.losses(batch)
        weights = self.term_weights()
        if any(value.ndim for value in terms.values()):
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in terms.items() if value.ndim)
            raise UserError(f"an objective's loss must be one number, got {shapes}")
        total = weighted_sum(terms, weights)
        self.history.add(step, total, terms)
        return total

    # Lightning reads it at each step; what it finds noted, it need not find out.
    training_step.__signature__ = inspect.signature(training_step)  # type: ignore[attr-defined]

    def flush(self, batch: Batch | None = None) -> dict[str, float]:
        """Return the mean of each term since the last flush, over all ranks, and forget them.

        batch: the latest training batch, to add its metrics. One device synchronisation.
        Raises NonFiniteLoss naming the first step and term that is not finite.
        """
        if not self.history:
            return {}
        row = {f"train/{name}": value for name, value in self.history.means().items()}
        if batch is not None and self._last_output is not None:
            self._start("train")
            metrics = self.metrics_of["train"]
            metrics.update(self._last_output, batch)
            row |= {f"train/{k}": v for k, v in metrics.compute().items() if k != "loss"}
        return row | {f"train/{k}": v for k, v in self.objectives.record().items()}

    def on_validation_epoch_start(self) -> None:
        """Start the validation metrics afresh."""
        self._start("validation")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one validation batch."""
        self.metrics_of["validation"].update(self(batch.inputs, batch.mask), batch)

    def on_validation_epoch_end(self) -> None:
        """Compute the validation metrics; they are also offered to Lightning's own callbacks."""
        self._finish("validation")
        for name, value in self.values["validation"].items():
            self.log(f"validation/{name}", value, logger=False, rank_zero_only=False, sync_dist=False)

    def on_test_epoch_start(self) -> None:
        """Start the test metrics afresh."""
        self._start("test")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one test batch."""
        self.metrics_of["test"].update(self(batch.inputs, batch.mask), batch)

    def on_test_epoch_end(self) -> None:
        """Compute the test metrics."""
        self._finish("test")

    def train(self, mode: bool = True) -> Self:
        """Go to train or eval mode; what rests stays in eval mode."""
        super().train(mode)
        for module in self.resting:
            module.eval()
        return self

    def measured(self, split: str) -> dict[str, float]:
        """Return what the method measures of a split beside the task's metrics, once all of it was seen."""
        return {}

    def _start(self, split: str) -> None:
        self.metrics_of[split].to(self.device).reset()

    def _finish(self, split: str) -> None:
        self.values[split] = self.metrics_of[split].compute() | self.measured(split)
        # while it validates within a fit, the trainer's stage is no longer training
        if split == "validation" and self._trainer is not None and self.trainer.state.fn == "fit":
            schedulers = self.lr_schedulers() or []
            for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
                for factor in set(getattr(scheduler, "lr_lambdas", ())):
                    if isinstance(factor, Plateau):
                        factor.see(self.values[split][self.task.monitor])

    def configure_optimizers(self) -> Any:
        """Put every trainable parameter into the one optimiser; the network's go by their own names."""
        named = [(own_name(name), p) for name, p in self.named_parameters() if p.requires_grad]
        optimizer, scheduler = self.optimizer_spec.build(
            named, self.max_steps, network=self.network, maximise=self.task.mode == "max"
        )
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
