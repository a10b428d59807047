"""What of its input a network's answer rests on: a number for each place of a sample, by several explainers.

A map has one number for each *place*: a pixel, a token, a time or a column. What an explainer hides is set to 0, the mean of normalised
inputs, or to the unknown token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.alignment.taps import probe
from tutelage.analysis.attention_rollout import attention_of, attention_rollout
from tutelage.analysis.question import Question, chosen
from tutelage.errors import UserError

STEPS = 50
"""Points of the integral of integrated gradients."""
POINTS = 2**23
"""Numbers of inputs at once beyond one of each sample."""
SAMPLED = 256
"""Coalitions that KernelSHAP and LIME draw beyond two for each cell."""


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
        path: Any = IntegratedGradients(score)
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
    hook = embedding.register_forward_hook(lambda _module, _inputs, output: given[0] if given else output)

    def score(points: Tensor) -> Tensor:
        given[:] = [points]
        try:
            return question.score(seen.repeat(len(points) // len(seen), 1))
        finally:
            given.clear()

    with hook:
        with torch.no_grad():
            points, baseline = embedding(seen), embedding(nothing)
        yield points.clone().requires_grad_(), baseline, score


def _embedding(question: Question, tokens: Tensor) -> nn.Module:
    """The layer that turns the tokens into vectors."""
    found: list[nn.Module] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and torch.equal(inputs[0], tokens):
            found.append(module)

    with ExitStack() as hooks, torch.no_grad():
        for one in question.network.network.modules():
            if isinstance(one, nn.Embedding):
                hooks.enter_context(one.register_forward_hook(note))
        question.score(tokens)
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
            keep = there[:, cells].bool()
            inputs = question.kept(keep, one.expand(len(there), *one.shape[1:]))
            masks = None if mask is None else mask.expand(len(there), -1)
            with torch.no_grad():
                return chosen(question.logits(question.network.converted(inputs), masks), wanted)

        whole = torch.ones(1, count, device=cells.device)
        found = make(score).attribute(whole, n_samples=2 * count + SAMPLED, perturbations_per_eval=64)
        maps.append(found[0][cells])
    return torch.stack(maps)
