"""The words of `tutelage scale`, read: cases, layers, sizes and settings, each placed where the configuration has it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.errors import UserError, choices

PRIMARY = "scale"
OWN = "described"
"""The case that words for layers fill in."""
LAYERS = {
    "dense": ("Dense", ("width",), 1),
    "convolution": ("Convolution", ("channels", "patch_dim", "patches"), 3),
    "attention": ("Attention", ("context", "heads"), 1),
}
"""word: (class of `tutelage.scaling.layers`, its arguments, how many of them are needed)"""
ROOTS = (
    "measure",
    "predict",
    "scale",
    "hardware",
    "hydra",
    "seed",
    "runs_dir",
    "rerun",
    "retry",
    "on_failure",
)


@dataclass
class Request:
    """A command's words, read.

    overrides: for Hydra, with `measure.` or `predict.` before a case's own settings; settings: the same words as they were given.
    """

    verb: str
    cases: list[str]
    overrides: list[str]
    options: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    layers: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What the folder of layers, or of a case's prediction, is called."""
        return "-".join(self.layers).replace(":", "_").replace(",", "_") if self.layers else self.cases[0]

    @property
    def digest(self) -> str:
        """What tells the words apart from others on the same layers or case: six digits after a dash, or nothing where there are none."""
        words = sorted(self.overrides) + [f"{k}={v}" for k, v in sorted(self.options.items())]
        return "-" + hashlib.sha256("\n".join(words).encode()).hexdigest()[:6] if words else ""

    def config(self, case: str) -> dict[str, Any]:
        """Return the resolved configuration of a case."""
        from tutelage.config.compose import compose

        return compose([f"scale={case}", *self.overrides], PRIMARY)


def read(
    verb: str, names: Sequence[str], flags: set[str], options: dict[str, str], settings: Sequence[str]
) -> Request:
    """Return what a command asks for.

    verb: predict, measure or report.
    names: cases or layers.
    flags, options: as the command takes them.
    settings: words `key=value`, each of which is placed where the configuration has it.

    Raises:
        UserError: a case or layer that does not exist.
    """
    request = Request(verb, [], [], {key: value for key, value in options.items() if value}, flags)
    for name in names:
        (request.layers if ":" in name else request.cases).append(name)
    _check_cases(request)
    nodes = [layer_node(word) for word in request.layers]
    sizes = _sizes(request, nodes)
    if nodes:
        request.cases = [OWN]
        listed = ",".join("{" + ",".join(f"{key}:{value}" for key, value in n.items()) + "}" for n in nodes)
        request.overrides.append(f"predict.layers=[{listed}]")
    request.settings = list(settings)
    request.overrides += [_placed(word, request, sizes) for word in settings]
    return request


def layer_node(word: str) -> dict[str, Any]:
    """Return the configuration of a layer from its word, `dense:N1` or `convolution:C,S,n`."""
    kind, _, rest = word.partition(":")
    known = {name: name for name in LAYERS} | {"conv": "convolution"}
    if kind not in known:
        raise UserError(f"there is no layer '{kind}'; {choices(kind, LAYERS)}")
    name, arguments, needed = LAYERS[known[kind]]
    values = [value for value in rest.split(",") if value]
    if not needed <= len(values) <= len(arguments):
        raise UserError(
            f"'{word}': a layer {known[kind]} is written {known[kind]}:{','.join(arguments[:needed])}, each a size's name or a number"
        )
    for value in values:
        if not value.isidentifier() and not (value.isdigit() and int(value) > 0):
            raise UserError(
                f"'{word}': a size is a name such as N1 or a whole number from 1 on, got '{value}'"
            )
    return {"_target_": f"tutelage.scaling.layers.{name}"} | dict(zip(arguments, values, strict=False))


def case_names() -> list[str]:
    """Return the names of the cases there are."""
    from tutelage.config.groups import group_options

    return [name for name in group_options(PRIMARY) if name != OWN]


def _check_cases(request: Request) -> None:
    if request.layers and request.cases:
        raise UserError(
            f"give cases or layers, not both: got {', '.join([*request.cases, *request.layers])}; a layer is written dense:N1"
        )
    if not request.layers and not request.cases:
        raise UserError(
            f"scale {request.verb} needs a case, or layers such as dense:N1; {choices('', case_names())}"
        )
    if request.verb == "report":
        return  # may name folders
    for case in request.cases:
        if case in LAYERS and case not in case_names():
            raise UserError(
                f"'{case}' is a layer without sizes: write {case}:{','.join(LAYERS[case][1][: LAYERS[case][2]])}"
            )
        if case not in case_names():
            raise UserError(
                f"there is no case '{case}'; {choices(case, case_names())}; or layers such as dense:N1"
            )
    if request.verb == "predict" and len(request.cases) > 1:
        raise UserError(f"scale predict takes one case, got {', '.join(request.cases)}")


def _sizes(request: Request, nodes: Sequence[dict[str, Any]]) -> set[str]:
    # Names that are exponents of sizes: those of the layers, or of the case's own prediction.
    if nodes:
        return {
            value for n in nodes for key, value in n.items() if key != "_target_" and value.isidentifier()
        }
    if request.verb == "predict":
        from tutelage.config.compose import compose

        return set(compose([f"scale={request.cases[0]}"], PRIMARY)["predict"]["scales"])
    return set()


def _placed(word: str, request: Request, sizes: set[str]) -> str:
    prefix = word[: len(word) - len(word.lstrip("+~"))]
    key = word[len(prefix) :].partition("=")[0]
    root = key.partition(".")[0].partition("@")[0].partition("/")[0]
    if root in ROOTS:
        return word
    if key in sizes | {"d"}:
        return f"{'+' if request.layers or key == 'd' else ''}predict.scales.{word}"
    about_target = request.layers and key in ("degree", "activation")
    node = "predict" if request.verb == "predict" or about_target else "measure"
    return f"{prefix}{node}.{word[len(prefix) :]}"
