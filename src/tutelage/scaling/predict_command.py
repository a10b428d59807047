"""`tutelage scale predict`: the winner, exponents and crossovers as tables, and a figure. Loads no torch."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import UserError, choices
from tutelage.runs.records import write_text
from tutelage.scaling.scale_request import Request


def run(request: Request) -> int:
    """Run the command; return its exit code."""
    config = request.config(request.cases[0])
    layers, arguments = built(config["predict"])
    from tutelage.scaling.energies import predict

    found = predict(layers, **arguments)
    scales = {name: power for name, power in found.scales.items() if name in _names(found) or name == "d"}
    drawn = axes_of(scales, request.options)
    meetings = crossovers(found, scales)
    tables = {"energies": found.table(), "exponents": exponents(found), "crossovers": meetings}
    folder = _folder(request, config)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():  # the files first: who reads the screen may leave early
        if rows:
            write_text(folder / f"{name}.csv", _csv(rows))
    figure = draw(found, scales, drawn, folder / "prediction.png")
    print(headline(found, scales, arguments["degree"]))
    print(beyond_the_paper(found, layers, arguments), end="")
    _print(tables["exponents"], "How P* and the pattern's quantities grow, at these sizes")
    _print(tables["energies"], "Energies of all patterns, cheapest first")
    if meetings:
        _print(meetings, "Which patterns win along one size, the others as given")
    print(
        f"written: {folder}: energies.csv, exponents.csv{', crossovers.csv' if meetings else ''}{', ' + figure if figure else ''}"
    )
    return 0


def _csv(rows: Sequence[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def built(node: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the layers and the other arguments of `tutelage.scaling.energies.predict` from a `predict` node."""
    from tutelage.engine.instantiate import construct

    layers = [construct(f"predict.layers[{i}]", layer) for i, layer in enumerate(node["layers"] or [])]
    rest = {key: value for key, value in node.items() if key not in ("_target_", "layers")}
    try:
        return layers, {
            **rest,
            "scales": {name: _fraction(name, power) for name, power in rest["scales"].items()},
        }
    except KeyError as missing:
        raise UserError(f"a case's predict node needs {missing}: see conf/scale/two_layer.yaml") from None


def headline(found: Any, scales: dict[str, Any], degree: int) -> str:
    """Return the prediction in two lines."""
    winners = " or ".join(winner.label for winner in found.winners)
    at = ", ".join(f"{name} ~ {power_of_d(power)}" for name, power in scales.items() if name != "d")
    tie = " (a tie: constants decide)" if len(found.winners) > 1 else ""
    return f"target He_{degree}{', ' + at if at else ''}\nP* ~ {power_of_d(found.exponent)}, learned by {winners}{tie}"


def beyond_the_paper(found: Any, layers: Sequence[Any], arguments: Mapping[str, Any]) -> str:
    """Return a paragraph where the winner is none of the patterns that the paper compares, with what those predict; else nothing."""
    from tutelage.scaling.energies import predict, published_patterns

    published = published_patterns(layers, arguments["degree"])
    others = [winner.label for winner in found.winners if winner.label not in published]
    if not published or not others:
        return ""
    theirs = predict(layers, **{**arguments, "patterns": published})
    winners = " or ".join(winner.label for winner in theirs.winners)
    are, follow = ("is", "follows") if len(others) == 1 else ("are", "follow")
    return (
        f"{', '.join(others)} {are} not in the paper's table for this network (arXiv 2512.04165: {', '.join(published)}) "
        f"but {follow} from its rules.\nOf the patterns in the table: P* ~ {power_of_d(theirs.exponent)}, learned by "
        f"{winners} (patterns=[{','.join(published)}])\n"
    )


def power_of_d(power: Any) -> str:
    """Return d to a power in words: constant, d, d^(3/2)."""
    return {0: "constant", 1: "d"}.get(power, f"d^({power})" if "/" in str(power) else f"d^{power}")


def exponents(found: Any) -> list[dict[str, str]]:
    """Rows: each winner's P* as a monomial, its exponent in each size, and its free quantities."""
    rows = []
    for winner in found.winners:
        scaling = winner.scaling(found.scales)
        free = {
            name: power_of_d(low) if low == high else f"{power_of_d(low)} to {power_of_d(high)}"
            for name, (low, high) in scaling["free"].items()
        }
        rows.append(
            {
                "pattern": winner.label,
                "P* ~": str(scaling["monomial"]),
                **{f"in {name}": str(power) for name, power in scaling["exponents"].items()},
                "quantities": ", ".join(f"{name} ~ {power}" for name, power in free.items()),
                "note": "boundary: another regime has the same exponent" if scaling["boundary"] else "",
            }
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [n for n in names if n not in ("quantities", "note")] + ["quantities", "note"]
    return [{name: row.get(name, "0") for name in names} for row in rows]


def crossovers(found: Any, scales: dict[str, Any]) -> list[dict[str, str]]:
    """Rows: stretches of each size with their winners, and the formula at which a stretch's winner meets the next one's."""
    from tutelage.scaling import tropical
    from tutelage.scaling.energies import crossover
    from tutelage.scaling.phase_diagram import transitions

    by_label = {energy.label: energy for energy in found.candidates}
    rows = []
    for size in [name for name in scales if name != "d"]:
        stretches = transitions(found.candidates, size, fixed=scales)
        for here, after in zip(stretches, [*stretches[1:], None], strict=True):
            formula = ""
            leaving = [w for w in here.winners if after is None or w not in after.winners]
            arriving = [w for w in after.winners if w not in here.winners] if after else []
            for pair in itertools.product(leaving or here.winners, arriving):
                try:
                    meeting = crossover(by_label[pair[0]], by_label[pair[1]], size)
                except UserError:  # no interior minimum
                    continue
                if (
                    tropical.value(tropical.exponents(meeting), scales) == here.high
                ):  # else a bound decides, no formula
                    formula = f"{pair[0]} meets {pair[1]} at {size} = {meeting}"
                    break
            rows.append(
                {
                    "size": size,
                    "from": power_of_d(here.low),
                    "to": power_of_d(here.high) if after else "(larger)",
                    "cheapest": ", ".join(here.winners),
                    "P*": f"{power_of_d(here.ends[0])} to {power_of_d(here.ends[1])}",
                    "then": formula,
                }
            )
    return rows


def axes_of(scales: dict[str, Any], options: dict[str, str]) -> list[str]:
    """Return the sizes to draw along, two at most: those asked for, else the first. Raises UserError for one that is none."""
    names = [name for name in scales if name != "d"]
    chosen = [options[axis] for axis in ("x", "y") if axis in options]
    for name in chosen:
        if name not in names:
            raise UserError(f"there is no size '{name}' to draw along; {choices(name, names)}")
    return chosen if len(chosen) == 1 and "x" in options else list(dict.fromkeys([*chosen, *names]))[:2]


def draw(found: Any, scales: dict[str, Any], drawn: Sequence[str], path: Path) -> str:
    """Draw the phase diagram over two sizes, or the energies over one; return the file's name, "" for none."""
    import numpy as np

    from tutelage.reporting.palette import canvas, save
    from tutelage.scaling.phase_diagram import phase_diagram, plot_phase_diagram, plot_transitions

    if not drawn:
        return ""
    figure = canvas(7.5, 4.5)
    axes = figure.subplots()
    if len(drawn) == 1:
        plot_transitions(found.candidates, drawn[0], axes, fixed=scales)
        axes.axvline(float(scales[drawn[0]]), color="grey", lw=0.8, ls=":")
    else:
        grid = np.linspace(0, 6, 121).tolist()
        fixed = {name: float(power) for name, power in scales.items() if name not in drawn}
        diagram = phase_diagram(found.candidates, x=(drawn[0], grid), y=(drawn[1], grid), fixed=fixed)
        plot_phase_diagram(diagram, axes)
        axes.plot(*(float(scales[name]) for name in drawn), marker="x", color="black")
    save(figure, path)
    return path.name


def _print(rows: Sequence[dict[str, str]], title: str) -> None:
    from tutelage.reporting.console import console, plain_table

    shown = [{name: text.replace("**", "^") for name, text in row.items()} for row in rows]
    console().print(plain_table(shown, title), markup=False)


def _names(found: Any) -> set[str]:
    return {name for energy in found.candidates for name in energy.sizes}


def _fraction(name: str, power: Any) -> Any:
    from fractions import Fraction

    try:
        exponent = Fraction(str(power)).limit_denominator(1000)
    except (ValueError, ZeroDivisionError):
        raise UserError(
            f"{name}={power}: expected the exponent of a power of d such as 1, 1.5 or 3/2"
        ) from None
    if exponent < 0:
        raise UserError(f"{name}={power}: an exponent is 0 (constant) or above, no width shrinks with d")
    return exponent


def _folder(request: Request, config: dict[str, Any]) -> Path:
    if request.options.get("out"):
        return Path(request.options["out"]).expanduser()
    return Path(config["runs_dir"]) / "scale" / "predict" / f"{request.label}{request.digest}"
