"""Colours that are told apart by readers who see no red or no green: simulated after Machado, Oliveira, Fernandes (2009)."""

import itertools
import re

import numpy as np
import pytest

from tutelage.reporting import page
from tutelage.reporting.palette import DIVERGING, LOOK, PALETTE, RAMP, logarithmic, style

# Severity 1.0, tables of https://www.inf.ufrgs.br/~oliveira/pubs_files/CVD_Simulation/CVD_Simulation.html, on linear RGB.
SEEN = {
    "all": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
WHITE = TO_XYZ.sum(1)


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIE L*a*b* of linear RGB."""
    ratio = TO_XYZ @ np.clip(light, 0, 1) / WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(first, second, kind):
    return float(np.linalg.norm(lab(SEEN[kind] @ linear(first)) - lab(SEEN[kind] @ linear(second))))


def contrast(first, second):
    levels = sorted((TO_XYZ[1] @ linear(colour) for colour in (first, second)), reverse=True)
    return (levels[0] + 0.05) / (levels[1] + 0.05)


def of_page(scheme):
    css = (page.WEB / "page.css").read_text()
    part = css[: css.index("@media")] if scheme == "light" else css[css.index("prefers-color-scheme: dark") :]
    found = dict(re.findall(r"--(c\d|paper|ink|quiet|link):\s*(#[0-9A-Fa-f]{6})", part)[:12])
    return [found[f"c{i}"] for i in range(8)], found


@pytest.mark.parametrize("kind", SEEN)
@pytest.mark.parametrize("scheme", ["figures", "light", "dark"])
def test_the_colours_are_told_apart(kind, scheme):
    colours = list(PALETTE) if scheme == "figures" else of_page(scheme)[0]
    found = {(a, b): distance(a, b, kind) for a, b in itertools.combinations(colours, 2)}
    closest = min(found, key=found.get)
    assert found[closest] > 10, (closest, found[closest])
    first_five = {pair: d for pair, d in found.items() if set(pair) <= set(colours[:5])}
    assert min(first_five.values()) > 14, first_five


def test_the_simulation_knows_what_is_hard_to_tell():
    assert distance("#2ca02c", "#d62728", "all") > 100  # matplotlib's green and red
    assert distance("#7f7f00", "#b05a00", "deuteranopia") < 20 < distance("#7f7f00", "#b05a00", "all")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_of_the_page_have_the_contrast_of_wcag_aa_and_lines_that_of_graphics(scheme):
    lines, named = of_page(scheme)
    assert all(contrast(named[name], named["paper"]) >= 4.5 for name in ("ink", "quiet", "link"))
    assert (
        sum(contrast(line, named["paper"]) < 3 for line in lines) <= 3
    )  # told by their dashes and labels, too


def test_more_lines_than_colours_differ_in_their_dashes():
    assert len({style(place) for place in range(4 * len(PALETTE))}) == 4 * len(PALETTE)


def test_ramps_are_those_that_survive_colour_blindness():
    import matplotlib
    from matplotlib.colors import to_hex

    ramp = [to_hex(colour) for colour in matplotlib.colormaps[RAMP](np.linspace(0, 1, 12))]
    ends = [to_hex(matplotlib.colormaps[DIVERGING](value)) for value in (0.1, 0.9)]
    for kind, seen in SEEN.items():
        lightness = [lab(seen @ linear(colour))[0] for colour in ramp]
        assert (np.diff(lightness) > 2).all()
        assert distance(*ends, kind) > 40


@pytest.mark.parametrize("ends", [(1696, 248320), (0.02, 3.0), (90, 400)])
def test_a_logarithmic_axis_has_numbers_in_full_and_no_formula(ends):
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**dict(matplotlib.rcParamsDefault), **LOOK}):
        figure = Figure(figsize=(5.2, 3.8))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(ends, ends, "o")
        for axis in (axes.xaxis, axes.yaxis):
            logarithmic(axis)
        figure.canvas.draw()
    low, high = axes.get_xlim()
    ticks = [*axes.xaxis.get_ticklabels(), *axes.xaxis.get_ticklabels(minor=True)]
    said = {t.get_text() for t in ticks if t.get_text() and low <= t.get_position()[0] <= high}
    assert len(said) >= 2 and all(float(text.replace(",", "")) > 0 for text in said)
