"""The analyses of `tutelage analyse`: each is a module with an `outcome(request)`, and one entry here, from which its help comes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tutelage.analysis.analysis_request import Outcome, Request


class Analysis(NamedTuple):
    """One analysis.

    module: the module of `tutelage.analysis` that has its `outcome`.
    runs: what it is given, as its usage says it.
    help: what it shows, in a line.
    shares: whether ranks share its work; else it reads records, or measures this machine, in one process.
    of_answers: whether it reads a network's answers, which one that was trained without labels has none of.
    """

    module: str
    runs: str
    help: str
    shares: bool = True
    of_answers: bool = False


ANALYSES = {
    "errors": Analysis(
        "errors_consistency",
        "<runs> <runs> ...",
        "do they err on the same test samples? (kappa with intervals)",
        of_answers=True,
    ),
    "similarity": Analysis("similarity_map", "<run> <run>", "layer by layer, by a measure"),
    "gap": Analysis(
        "overfitting",
        "<runs> ...",
        "training against validation and test: the overfitting gap",
        of_answers=True,
    ),
    "probe": Analysis(
        "probe",
        "<runs> ...",
        "what features are worth: a linear classifier and nearest neighbours on them",
    ),
    "alignment": Analysis(
        "alignment_curves", "<runs> ...", "similarity to the guide over training", shares=False
    ),
    "layers": Analysis(
        "layer_curves",
        "<runs> ...",
        "gradients, effective rank and agreement by layer over training, of runs with fit.watch_layers=true",
        shares=False,
    ),
    "guidance": Analysis(
        "guidance_picture",
        "<runs> ...",
        "layer pairs by step, one arm beside another: a figure, and an animation (guidance.webp)",
        shares=False,
    ),
    "cost": Analysis(
        "network_cost",
        "<runs> ...",
        "parameters, operations, size, latency and memory, beside the metric",
        shares=False,
    ),
    "calibration": Analysis(
        "calibration",
        "<runs> ...",
        "are probabilities right? ECE with intervals, reliability diagram, temperature, selective prediction",
        of_answers=True,
    ),
    "explain": Analysis(
        "explain",
        "<runs> ...",
        "what answers rest on: attributions in pictures, and what these are worth, in numbers",
        of_answers=True,
    ),
    "robustness": Analysis(
        "robustness",
        "<runs> ...",
        "do answers hold? common corruptions at five severities, FGSM, PGD and a strong attack, with checks of the attacks",
        of_answers=True,
    ),
    "int8": Analysis(
        "compression",
        "<runs> ...",
        "networks in floats and quantised: the metric, size and latency in onnxruntime",
        shares=False,
        of_answers=True,
    ),
    "phases": Analysis(
        "phases",
        "<runs> ... x=model.width y=model.depth",
        "the metric over two settings, the others chosen on validation, beside gradients and ranks before training",
    ),
    "ranking": Analysis(
        "ranking",
        "<cheap runs> <runs>",
        "do cheap runs rank networks as whole ones do? Kendall's tau",
        shares=False,
    ),
    "quality": Analysis(
        "sample_quality",
        "<run> <runs> ...",
        "pseudo data sets against real images, in a classifier's features",
    ),
}


def outcome(name: str, request: Request) -> Outcome:
    """Return what an analysis makes of a request: lines to print, its record, a table's rows, and the function that draws.

    Raises:
        UserError: among others, answers are asked of a network that was trained without labels.
    """
    if ANALYSES[name].of_answers:
        from tutelage.engine.inherited import check_answers

        for subject in request.subjects:
            if not subject.role:
                check_answers(subject.run.key, subject.run.config)
    found: Outcome = importlib.import_module(f"tutelage.analysis.{ANALYSES[name].module}").outcome(request)
    return found
