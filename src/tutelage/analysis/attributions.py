"""What of its input a network's answer rests on: a number for each place of a sample, by several explainers.

A map has one number for each *place*: a pixel, a token, a time or a column. What an explainer hides is set to 0, the mean of normalised
inputs, or to the unknown token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.alignment.guides import FeatureGuide
from tutelage.alignment.taps import probe
from tutelage.analysis.attention_rollout import attention_of, attention_rollout
from tutelage.errors import UserError
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.outputs import Call
from tutelage.tasks import Batch, Binary, Classification

CELLS = 8
"""Images and series are hidden in cells, at most so many along a side; tokens and columns one by one."""
STEPS = 50
"""Points of the integral of integrated gradients."""
BLOCK = 64
"""Samples at once."""
POINTS = 2**23
"""Numbers of inputs at once beyond one of each sample."""
SAMPLED = 256
"""Coalitions that KernelSHAP and LIME draw beyond two for each cell."""


@dataclass(frozen=True)
class Question:
    """One network, asked for one class of each of n samples.

    network: at rest, on the batch's device. batch: inputs (n, ...) as the data module gives them. classes: (n,) those asked for.
    hidden: the token that stands for none, where inputs are tokens.
    """

    network: FrozenNetwork
    task: Any
    batch: Batch
    classes: Tensor
    hidden: int = 0

    @classmethod
    def of(cls, network: FrozenNetwork, data: Any, batch: Batch) -> Question:
        """Ask for the true classes. Raises UserError for a task without classes, and for a network that does not answer it."""
        task = data.task
        if not isinstance(task, Classification | Binary):
            raise UserError(
                f"explain is of networks that choose one class for each sample, got a task of {task.name}"
            )
        if isinstance(network.network, FeatureGuide):
            raise UserError(f"{type(network.network).__name__} is a rule: it has features and no answers")
        entries = getattr(data, "entries", None) or []
        hidden = entries.index("<unk>") if "<unk>" in entries else getattr(data, "padding", 0)
        found = cls(network, task, batch, batch.targets.long(), int(hidden or 0))
        found.probability(batch.inputs)
        return found

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images."""
        return self.batch.inputs.ndim == 4

    @property
    def tokens(self) -> bool:
        """Whether the inputs are tokens."""
        return not self.batch.inputs.is_floating_point()

    @property
    def places(self) -> tuple[int, ...]:
        """The shape of one map."""
        shape = tuple(self.batch.inputs.shape)
        return shape[2:] if self.is_image else shape[1:2]

    @cached_property
    def real(self) -> Tensor:
        """Which places are there, (n, *places) bool: not the padding of a text."""
        mask = self.batch.mask
        if mask is None or self.is_image:
            return torch.ones(
                len(self.classes), *self.places, dtype=torch.bool, device=self.batch.inputs.device
            )
        return mask

    @cached_property
    def cells(self) -> Tensor:
        """The cell (*places) of each place, numbered from 0."""
        device = self.batch.inputs.device
        if self.batch.inputs.ndim < 3:
            return torch.arange(self.places[0], device=device)
        cells = torch.zeros(self.places, dtype=torch.long, device=device)
        for axis, size in enumerate(self.places):
            side = -(-size // (CELLS if self.is_image else CELLS**2))
            along = torch.arange(size, device=device) // side
            shape = [-1 if axis == one else 1 for one in range(len(self.places))]
            cells = cells * (int(along.max()) + 1) + along.view(shape)
        return cells

    def kept(self, keep: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return the inputs with all but some places hidden. keep: (n, *places) bool."""
        inputs = self.batch.inputs if inputs is None else inputs
        if self.is_image:
            keep = keep.unsqueeze(1)
        elif inputs.ndim == 3:
            keep = keep.unsqueeze(2)
        return torch.where(keep, inputs, torch.full_like(inputs, self.hidden if self.tokens else 0))

    def logits(self, seen: Tensor, mask: Tensor | None) -> Tensor:
        """Return a logit for each class (n, classes), with gradients, of inputs as the network itself takes them (`converted`)."""
        output = Call.of(self.network.network)(self.network.network, seen, mask)
        if isinstance(self.task, Binary):
            output = torch.cat([-output, output], dim=1) / 2
        classes = 2 if isinstance(self.task, Binary) else self.task.output_size
        if output.ndim != 2 or output.shape[1] != classes:
            raise UserError(
                f"a network that answers {tuple(output.shape[1:])} has no logit for each of {classes} classes"
            )
        return output

    def score(self, seen: Tensor) -> Tensor:
        """Return the logit (n,) of the class asked for."""
        return _chosen(self.logits(seen, self._mask(len(seen))), self.classes)

    def _mask(self, count: int) -> Tensor | None:
        mask = self.batch.mask
        # integrated gradients see every sample at several points at once, in the order of the points
        return None if mask is None or count == len(mask) else mask.repeat(count // len(mask), 1)

    @torch.no_grad()
    def probability(self, inputs: Tensor) -> Tensor:
        """Return the probability (n,) of the class asked for, of inputs as the data module gives them."""
        found = []
        for rows in self.blocks():
            part = self.part(rows)
            logits = self.logits(self.network.converted(inputs[rows]), part.batch.mask)
            found.append(_chosen(logits.softmax(dim=1), part.classes))
        return torch.cat(found)

    def blocks(self) -> Iterator[slice]:
        """Yield the samples that are asked about at once."""
        for first in range(0, len(self.classes), BLOCK):
            yield slice(first, first + BLOCK)

    def part(self, rows: slice) -> Question:
        """Return the same question of some samples."""
        batch = Batch(*(None if one is None else one[rows] for one in self.batch))  # type: ignore[arg-type]
        return replace(self, batch=batch, classes=self.classes[rows])

    def fitted(self, found: Tensor) -> Tensor:
        """Return maps at the size of the data, where the network saw images at another."""
        if not self.is_image or found.shape[1:] == self.places:
            return found
        shown = F.interpolate(found.unsqueeze(1), size=self.places, mode="bilinear", antialias=True)
        return shown.squeeze(1)


def _chosen(values: Tensor, classes: Tensor) -> Tensor:
    return values.gather(1, classes.repeat(len(values) // len(classes)).unsqueeze(1)).squeeze(1)


def saliency(question: Question) -> Tensor:
    """The size of the score's gradient, the largest over channels (Simonyan et al. 2014, arXiv 1312.6034)."""
    from captum.attr import Saliency

    with _points(question) as (points, _, score):
        gradient = Saliency(score).attribute(points)
    return _over_channels(question, gradient, largest=True)


def integrated_gradients(question: Question) -> Tensor:
    """The gradient along the straight path from nothing to the input, times the way (Sundararajan et al. 2017, arXiv 1703.01365).

    The numbers of a sample sum to its score less that of nothing, as far as `STEPS` points of the integral tell.
    """
    from captum.attr import IntegratedGradients

    with _points(question) as (points, baseline, score):
        most = max(len(points), POINTS // points[0].numel())
        path = IntegratedGradients(score)
        found = path.attribute(points, baseline, n_steps=STEPS, internal_batch_size=most)
    return _over_channels(question, found)


def grad_cam(question: Question) -> Tensor:
    """The last convolution's channels, weighted by their mean gradients, what speaks for the class (Selvaraju et al., arXiv 1610.02391)."""
    from captum.attr import LayerGradCam

    layer = _last_convolution(question)
    with _points(question) as (points, _, score):
        found = LayerGradCam(score, layer).attribute(points, relu_attributions=True).detach()
    wide = F.interpolate(found, size=points.shape[2:], mode="bilinear", align_corners=False)
    return question.fitted(wide.squeeze(1))


def occlusion(question: Question) -> Tensor:
    """How much the score falls when a cell is hidden (Zeiler and Fergus 2014, arXiv 1311.2901)."""
    cells, network = question.cells, question.network
    found = torch.zeros(len(question.classes), *question.places, device=cells.device)
    with torch.no_grad():
        whole = question.score(network.converted(question.batch.inputs))
        for cell in range(int(cells.max()) + 1):
            inside = cells == cell
            left = question.kept((~inside).expand(len(found), *question.places))
            fall = whole - question.score(network.converted(left))
            found = torch.where(inside, fall.view(-1, *[1] * inside.ndim), found)
    return found


def kernel_shap(question: Question) -> Tensor:
    """Shapley values of the cells, by a weighted regression on random coalitions (Lundberg and Lee 2017, arXiv 1705.07874)."""
    from captum.attr import KernelShap

    return _by_coalitions(question, KernelShap)


def lime(question: Question) -> Tensor:
    """A ridge regression of the score on which cells are there, near the whole input (Ribeiro et al. 2016, arXiv 1602.04938)."""
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    return _by_coalitions(question, lambda score: Lime(score, interpretable_model=SkLearnRidge(alpha=0.01)))


def rollout(question: Question) -> Tensor:
    """Where attention of all layers leads from the output, whatever the class (Abnar and Zuidema 2020, arXiv 2005.00928)."""
    inputs = question.network.converted(question.batch.inputs)
    found = attention_rollout(question.network, inputs, question.batch.mask)
    if question.is_image:
        side = round(found.shape[1] ** 0.5)
        if side * side != found.shape[1]:
            raise UserError(
                f"attention over {found.shape[1]} patches makes no square: rollout cannot place them"
            )
        grid = found.view(-1, 1, side, side)
        found = F.interpolate(grid, size=inputs.shape[2:], mode="bilinear", align_corners=False).squeeze(1)
    return question.fitted(found)


EXPLAINERS: dict[str, Callable[[Question], Tensor]] = {
    "saliency": saliency,
    "integrated_gradients": integrated_gradients,
    "grad_cam": grad_cam,
    "occlusion": occlusion,
    "attention_rollout": rollout,
    "kernel_shap": kernel_shap,
    "lime": lime,
}
"""Each of a question: maps (n, *places), high where a place speaks for the class."""
USUAL = ("saliency", "integrated_gradients", "grad_cam", "occlusion", "attention_rollout")
SIGNED = ("integrated_gradients", "occlusion", "kernel_shap", "lime")


def cannot(name: str, question: Question) -> str:
    """Return why an explainer does not fit a network; empty where it does."""
    if name == "grad_cam":
        try:
            _last_convolution(question)
        except UserError as error:
            return str(error)
    if name == "attention_rollout" and not _attends(question):
        return "attention rollout is of Transformers: this network has no attention that it can read"
    return ""


def explained(name: str, question: Question, *, seed: int = 0) -> Tensor:
    """Return the maps (n, *places) of one explainer; what it draws comes from the seed, and the random state is as before."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = torch.cat([EXPLAINERS[name](question.part(rows)) for rows in question.blocks()])
    except ImportError as error:
        raise UserError(
            f"{name} needs the package {error.name or 'captum'}: pip install 'tutelage[explain]'"
        ) from error
    return torch.where(question.real, found.detach().float(), 0.0)


def _attends(question: Question) -> bool:
    mask = question.batch.mask
    inputs = question.network.converted(question.batch.inputs[:1])
    return bool(attention_of(question.network.network, inputs, None if mask is None else mask[:1])[0])


def _last_convolution(question: Question) -> nn.Module:
    if not question.is_image:
        raise UserError("Grad-CAM is of convolutions over images")
    if _attends(question):
        raise UserError("Grad-CAM is of convolutions: this network ends in attention")
    network, inputs = question.network.network, question.network.converted(question.batch.inputs[:1])
    layers = [
        layer
        for layer in probe(network, inputs)
        if layer.kind == "conv" and len(layer.shape) == 3 and min(layer.shape[1:]) > 1 and not layer.obstacle
    ]
    if not layers:
        raise UserError(
            "Grad-CAM needs a convolution whose output is more than a point: this network has none"
        )
    return network.get_submodule(layers[-1].name)


@contextmanager
def _points(question: Question) -> Iterator[tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]:
    """Yield where gradients are taken, the same of nothing, and the score of such points: of tokens, those of their embedding."""
    network = question.network
    seen = network.converted(question.batch.inputs)
    nothing = network.converted(question.kept(torch.zeros_like(question.real)))
    if not question.tokens:
        yield seen.detach().clone().requires_grad_(), nothing, question.score
        return
    embedding = _embedding(question, seen)
    given: list[Tensor] = []
    handle = embedding.register_forward_hook(lambda _module, _inputs, output: given[0] if given else output)

    def score(points: Tensor) -> Tensor:
        given[:] = [points]
        try:
            return question.score(seen.repeat(len(points) // len(seen), 1))
        finally:
            given.clear()

    try:
        with torch.no_grad():
            points, baseline = embedding(seen), embedding(nothing)
        yield points.clone().requires_grad_(), baseline, score
    finally:
        handle.remove()


def _embedding(question: Question, tokens: Tensor) -> nn.Module:
    """The layer that turns the tokens into vectors."""
    found: list[nn.Module] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and torch.equal(inputs[0], tokens):
            found.append(module)

    embeddings = [one for one in question.network.network.modules() if isinstance(one, nn.Embedding)]
    handles = [one.register_forward_hook(note) for one in embeddings]
    try:
        with torch.no_grad():
            question.score(tokens)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UserError(
            f"{type(question.network.network).__name__} has no torch.nn.Embedding of its tokens to take gradients at"
        )
    return found[0]


def _over_channels(question: Question, found: Tensor, *, largest: bool = False) -> Tensor:
    axis = 1 if question.is_image else 2
    if found.ndim > 2:
        found = found.amax(dim=axis) if largest else found.sum(dim=axis)
    return question.fitted(found)


def _by_coalitions(question: Question, make: Callable[[Callable[[Tensor], Tensor]], Any]) -> Tensor:
    """Explain each sample by which of its cells are there: a vector of ones for the whole input, zeros for nothing."""
    cells, maps = question.cells, []
    count = int(cells.max()) + 1
    for row in range(len(question.classes)):
        one = question.batch.inputs[row : row + 1]
        mask = None if question.batch.mask is None else question.batch.mask[row : row + 1]
        wanted = question.classes[row : row + 1]

        def score(there: Tensor, one: Tensor = one, mask: Any = mask, wanted: Tensor = wanted) -> Tensor:
            keep = there[:, cells] > 0.5
            inputs = question.kept(keep, one.expand(len(there), *one.shape[1:]))
            masks = None if mask is None else mask.expand(len(there), -1)
            with torch.no_grad():
                return _chosen(question.logits(question.network.converted(inputs), masks), wanted)

        whole = torch.ones(1, count, device=cells.device)
        found = make(score).attribute(whole, n_samples=2 * count + SAMPLED, perturbations_per_eval=64)
        maps.append(found[0][cells])
    return torch.stack(maps)
