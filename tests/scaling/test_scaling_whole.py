"""Everything that predictions and reports of scale analysis write, word for word: tables, files, figures."""

import csv
import json
from functools import partial

import numpy as np
import pytest

from drawn import drawn, figures
from expected import same_as
from tutelage.cli.main import main
from tutelage.scaling import summary, verdicts
from tutelage.scaling.critical_samples import critical_samples
from tutelage.scaling.energies import energies
from tutelage.scaling.layers import Dense
from tutelage.scaling.phase_diagram import phase_diagram, plot_phase_diagram, plot_transitions, transitions


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("published", ["three_layer", "N1=1.4", "N2=2", "patterns=[GP-GP,GP-Sp,Sp-Mag]", "x=N2"]),
        ("ties", ["dense:N1", "dense:N2", "N1=1", "N2=1"]),
        ("even", ["dense:N", "N=1/2", "degree=2", "activation=relu"]),
        ("patches", ["convolution:C,S,n", "C=1", "S=1/2", "n=1/2", "x=S", "y=n"]),
        ("heads", ["attention:L,2", "L=3/2"]),
        ("constant", ["dense:100"]),
    ],
)
def test_a_prediction_is_these_tables_and_files(tmp_path, monkeypatch, capsys, name, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "180")
    saved = figures(monkeypatch)
    assert main(["scale", "predict", *words, "out=here"]) == 0
    said = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    for file in sorted((tmp_path / "here").glob("*.csv")):
        said += ["", f"{file.name}:", *file.read_text().splitlines()]
    same_as(f"predict-{name}.txt", "\n".join(said))
    assert len(saved) == (name != "constant")
    for figure in saved:  # of the grid of 121 exponents what identifies it
        shown = [line for line in drawn(figure) if not line.strip()[:1].isdigit()]
        same_as(f"predict-{name}-figure.txt", "\n".join(line[:400] for line in shown))


def point(
    experiment, sizes, critical, *, draws=3, spread=0.06, seed=0, mean=(0.05, 0.2, 0.5, 0.8, 0.95), **more
):
    """A point whose mean curve crosses 0.5 at `critical`; its draws lie apart, most so there."""
    grid = [critical // 4, critical // 2, critical, 3 * critical, 9 * critical]
    apart = (np.arange(draws) - (draws - 1) / 2) * spread
    curve = np.array(mean)[:, None] + apart * np.array([1, 2, 3, 2, 1])[:, None]
    return {
        "experiment": experiment,
        "name": "-".join(map(str, sizes.values())),
        "sizes": sizes,
        "samples": grid,
        "alignment": curve.round(4).tolist(),
        "drift": [[0.01 * k - 0.03] * draws for k in range(5)],
        "settings": {"draws": draws, "steps": 70, "step_size": 0.02, "seed": seed},
        "seconds": 12.4,
        "device": "cpu",
        **more,
    }


def results():
    """Two layers whose P* bends from the predicted power and whose transition widens, attention on its power, three arms of guidance, one
    draw of a convolution, and widths with 2, 4 and 8 neurons apart from the others."""
    found = []
    for place, (d, critical) in enumerate(((8, 40), (16, 88), (32, 180), (64, 400), (128, 860))):
        side = 0.3 - 0.04 * place
        mean = (0.5 - 1.4 * side, 0.5 - side, 0.5, 0.5 + side, 0.5 + 1.4 * side)
        more = {"largest_curvature": 300.0 + d} if d > 8 else {}
        found.append(point("two_layer", {"d": d, "N": 2 * d}, critical, mean=mean, spread=0.02, **more))
    found.append(point("two_layer", {"d": 256, "N": 512}, 1800, mean=(0.1, 0.1, 0.2, 0.3, 0.4)))
    found += [
        point("attention", {"d": d, "L": context}, round(2 * (context * d**3) ** 0.5), spread=0.02)
        for d in (9, 16)
        for context in (2, 4, 8)
    ]
    found += [point("guided", {"d": 16, "N": 32, "strength": s}, round(400 / (1 + s))) for s in (0, 1, 3)]
    found += [point("convolution", {"d": d, "C": 3}, 8 * d, draws=1) for d in (16, 36, 64)]
    rng = np.random.default_rng(0)
    for width, count in ((64, 2), (256, 4), (1024, 8)):
        overlaps = rng.normal(0, 0.08, (12, width))
        overlaps[:, :count] = rng.normal(1.0, 0.05, (12, count))
        own = {"overlaps": {"weight": overlaps.ravel().round(3).tolist()}, "overlap_networks": 12}
        found.append(point("three_layer_width", {"d": 32, "N1": width, "N2": 32}, 300, **own))
    spectrum = {"eigenvalues": [2.0, 0.5, 0.25], "target_share": [0.1, 0.6, 0.05]}
    found[0]["spectrum"] = {"prior": spectrum, "posterior": {k: v[::-1] for k, v in spectrum.items()}}
    return found


def test_a_report_is_these_tables_and_figures(tmp_path, monkeypatch):
    saved = figures(monkeypatch)
    monkeypatch.setattr(verdicts, "critical_samples", partial(critical_samples, resamples=100))
    summary.analyse(results(), tmp_path / "report")
    files = sorted(path.name for path in (tmp_path / "report").iterdir())
    text = [*files, "", (tmp_path / "report" / "verdicts.md").read_text()]
    same_as("report.txt", "\n".join(text))
    for name, table in zip(("verdicts", "critical_samples"), text[-1].split("\n\n"), strict=True):
        with (tmp_path / "report" / f"{name}.csv").open(newline="") as file:
            rows = ["| " + " | ".join(row) + " |" for row in csv.reader(file)]
        assert [row for row in table.splitlines() if "---" not in row] == rows
    lines = [
        line[:300] for figure in saved for line in drawn(figure) if not line.endswith(" 0")
    ]  # no empty bars
    same_as("report-figures.txt", "\n".join(lines))


def test_the_pattern_that_wins_along_a_size_and_over_two():
    candidates = energies([Dense("N1"), Dense("N2")], degree=3)
    lines = [str(stretch) for stretch in transitions(candidates, "N1", fixed={"N2": 1.5})]
    diagram = phase_diagram(candidates, x=("N1", [0, 0.5, 1, 2.5]), y=("N2", [0, 1.5, 3]))
    lines += [json.dumps(row) for row in diagram.rows()]
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2)
    plot_transitions(candidates[:3], "N2", both[0], fixed={"N1": 1.5})
    plot_phase_diagram(diagram, both[1])
    plt.close(figure)
    same_as("phases.txt", "\n".join([*lines, *(line[:500] for line in drawn(figure))]))
