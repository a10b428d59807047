"""Figures of the scaling experiments: alignment curves and their collapse, P* against size, histograms, spectra."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.reporting.palette import PALETTE, RAMP, canvas, logarithmic, look
from tutelage.scaling.claims import Case, cases_of, unit_of
from tutelage.scaling.verdicts import Result, critical, of, specialised

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scale = Callable[[Mapping[str, float]], float]
_MARKERS = "osD^v<>*"


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure to draw in, written as SVG: without a date and with a fixed salt, the same results give the same file."""
    with look(**{"svg.hashsalt": "tutelage", "xtick.labelsize": 8}):
        figure = canvas(width, height)
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None})


def _label(result: Result, names: Sequence[str]) -> str:
    return ", ".join(f"{name} = {result['sizes'][name]:g}" for name in names)


def _case(name: str) -> str:
    return name.replace("_", " ").capitalize()


def draw_curves(axes: Axes, results: Sequence[Result], *, unit: Scale, names: Sequence[str]) -> None:
    """A_f against P over `unit`, one line per result with its standard error over data draws."""
    import matplotlib as mpl

    colours = mpl.colormaps[RAMP](np.linspace(0, 0.9, max(2, len(results))))
    for place, (result, colour) in enumerate(zip(results, colours, strict=False)):
        values = np.asarray(result["alignment"])
        error = values.std(1, ddof=1) / np.sqrt(values.shape[1]) if values.shape[1] > 1 else None
        grid = np.asarray(result["samples"]) / unit(result["sizes"])
        marker = _MARKERS[place % len(_MARKERS)]
        axes.errorbar(
            grid, values.mean(1), error, marker=marker, ms=4, lw=1, color=colour, label=_label(result, names)
        )
    axes.axhline(0.5, color="0.35", lw=0.8, ls="--")
    logarithmic(axes.xaxis)


def draw_critical(
    axes: Axes,
    results: Sequence[Result],
    *,
    size: str,
    predicted: float | None,
    label: str = "",
    place: int = 0,
) -> None:
    """P* against a size in log-log, with intervals, and the predicted slope through the middle. place: of its colour and marker."""
    found = critical(results)
    if not found:
        return
    sizes = np.array([r["sizes"][size] for r, _ in found], float)
    values = np.array([e.value for _, e in found])
    spread = np.abs(np.array([[e.value - e.low, e.high - e.value] for _, e in found]).T)
    colour = PALETTE[place % len(PALETTE)]
    look: Any = {"color": colour, "marker": _MARKERS[place % len(_MARKERS)], "ms": 4.5}
    axes.errorbar(sizes * 1.02**place, values, spread, ls="", label=label, **look)  # beside each other
    if predicted is not None:
        middle = np.exp(np.log(values).mean() - predicted * np.log(sizes).mean())
        axes.plot(
            sizes,
            middle * sizes**predicted,
            lw=0.9,
            color=colour,
            label=f"predicted: {size}^{predicted:g}",
        )
    logarithmic(axes.xaxis)
    logarithmic(axes.yaxis)
    axes.set_xlabel(f"size {size}")


def draw_collapse_figure(
    results: Sequence[Result],
    case: Case,
    path: Path,
    *,
    sizes: Sequence[str] | None = None,
    label: str | None = None,
) -> None:
    """Curves against P, and against P over the predicted scale. sizes, label: see `claims.collapse`."""
    own, unit, names = of(results, case.experiment), unit_of(case, sizes), sizes or ("d",)
    if unit is None:
        return
    with _figure(path, 9, 3.6) as figure:
        both = figure.subplots(1, 2, sharey=True)
        draw_curves(both[0], own, unit=lambda _: 1.0, names=names)
        draw_curves(both[1], own, unit=unit, names=names)
        both[0].set(xlabel="samples P", ylabel="alignment A_f with the target")
        both[1].set_xlabel(f"{label or f'P / d^{case.along_d():g}'}, as predicted")
        _finish(figure, both[0], f"{_case(case.experiment)}: {_ERRORS}")


_ERRORS = "mean ± standard error over data draws"


def _finish(figure: Figure, axes: Axes, title: str) -> None:
    """The legend of one panel outside, for all, and the title."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(title, fontsize=10)


def draw_histograms(results: Sequence[Result], experiment: str, width: str, path: Path) -> None:
    """Overlaps of first-layer neurons with the hidden direction at the largest P, with the threshold."""
    own = [r for r in of(results, experiment) if "weight" in r.get("overlaps", {})]
    with _figure(path, 2.6 * len(own), 2.9) as figure:
        grid = figure.subplots(1, len(own), squeeze=False)[0]
        for axes, result in zip(grid, own, strict=True):
            axes.hist(np.abs(result["overlaps"]["weight"]), bins=60, color=PALETTE[0])
            found = specialised(result)
            said = "one mode"
            if found is not None:
                axes.axvline(found.threshold, color=PALETTE[1], lw=1.4, ls="--")
                said = f"{found.count.value:.1f} specialised a network"
            axes.set_title(f"{_label(result, ('d', width))}\n{said}", fontsize=8)
            logarithmic(axes.yaxis)
            axes.set_xlabel("overlap |w.w*|")
        grid[0].set_ylabel("neurons")
        figure.suptitle(
            f"{_case(experiment)}: first-layer neurons; dashed: from where one counts as specialised",
            fontsize=10,
        )


def draw_spectrum(result: Result, path: Path) -> None:
    """Leading eigenvalues of the last kernel before and after, and the target's share in each."""
    with _figure(path, 8, 3.2) as figure:
        both = figure.subplots(1, 2)
        for place, (name, part) in enumerate(result["spectrum"].items()):
            ranks = np.arange(1, len(part["eigenvalues"]) + 1)
            look: Any = {"color": PALETTE[place], "marker": _MARKERS[place], "ms": 4, "label": name}
            both[0].plot(ranks, part["eigenvalues"], **look)
            both[1].plot(ranks, part["target_share"], **look)
        logarithmic(both[0].yaxis)
        for axes, said in zip(both, ("eigenvalue", "share of the target"), strict=True):
            axes.set(xlabel="rank of the eigenvalue", ylabel=said)
            axes.xaxis.get_major_locator().set_params(integer=True)
        sizes = _label(result, list(result["sizes"]))
        _finish(figure, both[0], f"Kernel of the hidden layer, {sizes}, P = {result['samples'][-1]}")


def draw_all(results: Sequence[Result], folder: Path) -> list[Path]:
    """Every figure the results allow, as SVG; the paths written."""
    written: list[Path] = []

    def path(name: str) -> Path:
        written.append(folder / f"{name}.svg")
        return written[-1]

    cases = cases_of(results)
    for case in cases:
        for claim in case.claimed("collapse") if case.layers else ():
            draw_collapse_figure(results, case, path(f"collapse_{case.experiment}"), **claim)
    panels: dict[str, list[tuple[Case, dict[str, Any]]]] = {}
    for case in cases:
        for claim in case.claimed("exponent"):
            if claim.get("panel"):
                panels.setdefault(claim["panel"], []).append((case, claim))
    if panels:
        with _figure(path("critical_samples"), 3.6 * len(panels), 4.0) as figure:
            grid = figure.subplots(1, len(panels), squeeze=False)[0]
            for axes, (panel, shown) in zip(grid, panels.items(), strict=True):
                for place, (case, claim) in enumerate(shown):
                    draw_critical(
                        axes,
                        of(results, case.experiment),
                        size=claim["size"],
                        predicted=case.predicted(claim["size"], claim.get("predicted")),
                        label=claim.get("label", "measured, 95 % interval"),
                        place=place,
                    )
                axes.set_title(panel, fontsize=9)
                axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17))
            grid[0].set_ylabel("samples P* that learning needs")
            figure.suptitle("Samples that learning needs, by size; lower is better", fontsize=10)
    for case in cases:
        own = of(results, case.experiment)
        for claim in case.claimed("specialised_neurons"):
            if any("overlaps" in result for result in own):
                draw_histograms(results, case.experiment, claim["width"], path(f"overlaps_{case.experiment}"))
        for claim in case.claimed("arms"):
            _draw_arms(own, claim["size"], path(case.experiment))
    spectra = [result for result in results if "spectrum" in result]
    if spectra:
        draw_spectrum(spectra[len(spectra) // 2], path("spectrum"))
    return written


def _draw_arms(results: Sequence[Result], size: str, path: Path) -> None:
    sizes = sorted({r["sizes"]["d"] for r in results})
    with _figure(path, 3.1 * len(sizes) + 1.2, 3.2) as figure:
        grid = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
        for axes, d in zip(grid, sizes, strict=True):
            draw_curves(axes, [r for r in results if r["sizes"]["d"] == d], unit=lambda _: 1.0, names=(size,))
            axes.set_xlabel("samples P")
            axes.set_title(f"d = {d:g}", fontsize=9)
        grid[0].set_ylabel("alignment A_f with the target")
        _finish(figure, grid[0], f"{_case(results[0]['experiment'])}: {_ERRORS}")
