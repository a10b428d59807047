"""Figures of the scaling experiments: alignment curves and their collapse, P* against size, histograms, spectra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.scaling.claims import Case, cases_of, unit_of
from tutelage.scaling.verdicts import Result, critical, of, specialised

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scale = Callable[[Mapping[str, float]], float]


def _label(result: Result, names: Sequence[str]) -> str:
    return ", ".join(f"{name} = {result['sizes'][name]:g}" for name in names)


def draw_curves(axes: Axes, results: Sequence[Result], *, unit: Scale, names: Sequence[str]) -> None:
    """A_f against P over `unit`, one line per result with its standard error over data draws."""
    import matplotlib as mpl
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(2, len(results))))
    for result, colour in zip(results, colours, strict=False):
        values = np.asarray(result["alignment"])
        error = values.std(1, ddof=1) / np.sqrt(values.shape[1]) if values.shape[1] > 1 else None
        grid = np.asarray(result["samples"]) / unit(result["sizes"])
        axes.errorbar(
            grid, values.mean(1), error, marker="o", ms=3, lw=1, color=colour, label=_label(result, names)
        )
    axes.axhline(0.5, color="grey", lw=0.6, ls="--")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("alignment $A_f$")
    axes.legend(fontsize=6)


def draw_critical(
    axes: Axes, results: Sequence[Result], *, size: str, predicted: float | None, label: str = ""
) -> None:
    """P* against a size in log-log, with intervals, and the predicted slope through the middle."""
    found = critical(results)
    if not found:
        return
    sizes = np.array([r["sizes"][size] for r, _ in found], float)
    values = np.array([e.value for _, e in found])
    spread = np.abs(np.array([[e.value - e.low, e.high - e.value] for _, e in found]).T)
    dots = axes.errorbar(sizes, values, spread, marker="o", ms=4, ls="", label=label)
    if predicted is not None:
        middle = np.exp(np.log(values).mean() - predicted * np.log(sizes).mean())
        colour = dots.lines[0].get_color()
        axes.plot(sizes, middle * sizes**predicted, lw=0.8, color=colour, label=f"slope {predicted:g}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(size)
    axes.set_ylabel("P*")
    axes.legend(fontsize=7)


def draw_collapse_figure(
    results: Sequence[Result],
    case: Case,
    path: Path,
    *,
    sizes: Sequence[str] | None = None,
    label: str | None = None,
) -> None:
    """Curves against P, and against P over the predicted scale. sizes, label: see `claims.collapse`."""
    import matplotlib.pyplot as plt

    own, unit, names = of(results, case.experiment), unit_of(case, sizes), sizes or ("d",)
    if unit is None:
        return
    figure, both = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    draw_curves(both[0], own, unit=lambda _: 1.0, names=names)
    draw_curves(both[1], own, unit=unit, names=names)
    both[0].set_xlabel("P")
    both[1].set_xlabel(label or f"P / d^{case.along_d():g}")
    figure.suptitle(case.experiment.replace("_", " "))
    _save(figure, path)


def draw_histograms(results: Sequence[Result], experiment: str, width: str, path: Path) -> None:
    """Overlaps of first-layer neurons with the hidden direction at the largest P, with the threshold."""
    import matplotlib.pyplot as plt

    own = [r for r in of(results, experiment) if "weight" in r.get("overlaps", {})]
    figure, grid = plt.subplots(1, len(own), figsize=(2.6 * len(own), 2.6), squeeze=False)
    for axes, result in zip(grid[0], own, strict=True):
        axes.hist(np.abs(result["overlaps"]["weight"]), bins=60, color="#4c72b0")
        found = specialised(result)
        if found is not None:
            axes.axvline(found.threshold, color="#c44e52", lw=1)
            axes.set_title(f"{_label(result, ('d', width))}\n{found.count.value:.1f} a network", fontsize=8)
        else:
            axes.set_title(f"{_label(result, ('d', width))}\none mode", fontsize=8)
        axes.set_yscale("log")
        axes.set_xlabel("|w.w*|")
    _save(figure, path)


def draw_spectrum(result: Result, path: Path) -> None:
    """Leading eigenvalues of the last kernel before and after, and the target's share in each."""
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(8, 3.2))
    for name, part in result["spectrum"].items():
        ranks = np.arange(1, len(part["eigenvalues"]) + 1)
        both[0].plot(ranks, part["eigenvalues"], marker="o", ms=3, label=name)
        both[1].plot(ranks, part["target_share"], marker="o", ms=3, label=name)
    both[0].set_yscale("log")
    both[0].set_ylabel("eigenvalue")
    both[1].set_ylabel("share of the target")
    for axes in both:
        axes.set_xlabel("rank")
        axes.legend(fontsize=7)
    figure.suptitle(
        f"kernel of the hidden layer, {_label(result, list(result['sizes']))}, P = {result['samples'][-1]}"
    )
    _save(figure, path)


def draw_all(results: Sequence[Result], folder: Path) -> list[Path]:
    """Every figure the results allow, as SVG; the paths written."""
    import matplotlib.pyplot as plt

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
        figure, grid = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), squeeze=False)
        for axes, shown in zip(grid[0], panels.values(), strict=True):
            for case, claim in shown:
                draw_critical(
                    axes,
                    of(results, case.experiment),
                    size=claim["size"],
                    predicted=case.predicted(claim["size"], claim.get("predicted")),
                    label=claim.get("label", claim["panel"]),
                )
        _save(figure, path("critical_samples"))
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
    import matplotlib.pyplot as plt

    sizes = sorted({r["sizes"]["d"] for r in results})
    figure, grid = plt.subplots(1, len(sizes), figsize=(3.6 * len(sizes), 3.2), squeeze=False, sharey=True)
    for axes, d in zip(grid[0], sizes, strict=True):
        draw_curves(axes, [r for r in results if r["sizes"]["d"] == d], unit=lambda _: 1.0, names=(size,))
        axes.set_xlabel("P")
        axes.set_title(f"d = {d:g}", fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    figure.tight_layout()
    # Without a date and with a fixed salt the same results give the same file.
    with mpl.rc_context({"svg.hashsalt": "tutelage"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
