"""A report as one HTML file that needs no network: tables, curves, layer pairs, and a page of its own for every run.

What comes from files (names, logs, settings) is escaped where it is written into the page and set as text where a script shows it; a
policy in the page allows no script but its own and no address to load from.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage._version import __version__
from tutelage.errors import visible
from tutelage.reporting import page_data, page_tables
from tutelage.reporting.page_tables import markup
from tutelage.reporting.report_model import Report
from tutelage.runs.store import Store

WEB = Path(__file__).parent / "web"


def html(
    report: Report, store: Store, folder: Path | None, *, data: Mapping[str, Any] | None = None, live: int = 0
) -> str:
    """Return the page that will lie in `folder` (None: nowhere, it is served).

    data: what its scripts draw, where that is known already. live: seconds after which a served page asks again; 0: it lies in a folder.
    """
    details: Mapping[str, Any] = {}
    if data is None:
        data, details = page_data.overview(report, store)
    return str(
        _environment().get_template("page.html").render(
            **page_tables.facts(report, data, store, folder),
            fragment=False,
            live=live,
            version=__version__,
            left_out=data["left_out"],
            policy=_policy(bool(live)),
            style=markup(_web("uPlot.min.css") + _web("page.css")),
            library=markup(_web("uPlot.iife.min.js")),
            script=markup(_web("page.js")),
            data=markup(_json(data)),
            details=markup(_json(details)),
        )
    )  # fmt: skip


def fragment(shown: Mapping[str, Any]) -> str:
    """Return what a served page puts in the place of its content; shown: its `facts`."""
    return str(_environment().get_template("page.html").render(**shown, fragment=True))


def _json(value: Any) -> str:
    """Return JSON that ends no script element and begins no comment, whatever its texts hold."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, sort_keys=True)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@functools.cache
def _web(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _policy(live: bool) -> str:
    """Return the content policy: the page's own two scripts, its styles, and of a served page its server."""
    hashes = [
        base64.b64encode(hashlib.sha256(_web(name).encode()).digest()).decode()
        for name in ("uPlot.iife.min.js", "page.js")
    ]
    scripts = " ".join(f"'sha256-{digest}'" for digest in hashes)
    connect = "'self'" if live else "'none'"
    rest = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {scripts}; connect-src {connect}; {rest}"


def _shown(value: Any) -> Any:
    return visible(value) if type(value) is str else value


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader

    return Environment(loader=FileSystemLoader(WEB), autoescape=True, trim_blocks=True, finalize=_shown)
