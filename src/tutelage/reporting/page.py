"""A report as one HTML file that needs no network: tables, figure, notes, and a link from every cell to its run."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from tutelage.errors import visible
from tutelage.reporting import render
from tutelage.reporting.report_model import Report

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ report.title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
code, pre { font-size: 13px; background: #f5f5f5; }
.quiet { color: #666; }
</style>
</head>
<body>
<h1>{{ report.title }}</h1>
{% macro table(header, rows) %}
<table>
<tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endmacro %}
{{ table(*arms) }}
<p class="quiet">{{ explanation }}</p>
{% if figure %}<p><img alt="learning curves and test values" src="data:image/png;base64,{{ figure }}"></p>{% endif %}
{% if report.comparisons %}<h2>Comparisons</h2>
{{ table(*comparisons) }}
<p class="quiet">{{ comparisons_explained }}</p>{% endif %}
{% if report.notes %}<h2>Notes</h2>
<ul>{% for note in report.notes %}<li>{{ note }}</li>
{% endfor %}</ul>{% endif %}
{% if commands %}<h2>Commands</h2>
<pre>{{ commands | join("\n") }}</pre>{% endif %}
<h2>Runs</h2>
<table>
<tr><th>arm</th><th>seed</th><th>state</th><th>value</th><th>code</th><th>run</th></tr>
{% for arm, row, value in cells %}<tr><td>{{ arm }}</td><td>{{ row.seed }}</td><td>{{ row.reason or row.state }}</td>
<td>{{ value }}</td><td>{{ row.commits | join(" then ") }}</td><td><a href="{{ link(row) }}">{{ row.key }}</a></td></tr>
{% endfor %}</table>
{% if needed %}<p class="quiet">Made because others need them:</p>
<ul>{% for line in needed %}<li>{{ line }}</li>
{% endfor %}</ul>{% endif %}
</body>
</html>
"""


def html(report: Report, folder: Path, root: Path, figure: str | None = None) -> str:
    """Return the page that will lie in `folder`, with its figure there; `root` is the folder of the runs."""
    from jinja2 import Environment

    cells = [
        (line.label, row, render.number(line.values[row.seed], 4) if row.seed in line.values else render.GAP)
        for line in report.lines
        for row in line.rows
    ]

    def shown(value: Any) -> Any:
        return visible(value) if type(value) is str else value

    return Environment(autoescape=True, trim_blocks=True, finalize=shown).from_string(_PAGE).render(
        report=report,
        arms=render.arms_table(report),
        comparisons=render.comparisons_table(report),
        explanation=render.explanation(report),
        comparisons_explained=render.COMPARISONS_EXPLAINED,
        commands=render.command_lines(report),
        needed=render.needed_lines(report),
        figure=base64.b64encode((folder / figure).read_bytes()).decode() if figure else "",
        cells=cells,
        link=lambda row: Path(os.path.relpath(root / row.key, folder)).as_posix() + "/",
    )  # fmt: skip
