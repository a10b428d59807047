"""`tutelage serve`: the page of a report, live, for this machine's browser. Loads no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.reporting.report_model import Report
from tutelage.reporting.table_paths import table_path_unless_runs


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    from tutelage.reporting.console import say
    from tutelage.reporting.live import View, server
    from tutelage.runs.store import Store

    port, every = _whole("port", given, 0, 65535), _whole("every", given, 1, 3600)
    what = given.names[0] if given.names else ""
    path = table_path_unless_runs(what, given.options["runs_dir"]) if what else None
    if path is None and given.settings:
        raise UserError(f"a page of runs takes runs_dir=<folder>, got {given.settings[0]!r}")
    with _reports(what, path, given) as make:
        view = View(Store(given.options["runs_dir"]), make, every_s=every)
        view.now()  # what is wrong is said before a page is
        with server(view, port) as serving:
            address = "http://{}:{}".format(*serving.server_address[:2])
            say(f"{address} shows {what or 'all runs'} in {given.options['runs_dir']}; Ctrl-C ends it")
            with contextlib.suppress(KeyboardInterrupt):
                serving.serve_forever(poll_interval=0.2)
    return 0


@contextlib.contextmanager
def _reports(what: str, path: Path | None, given: Given) -> Iterator[Callable[[], Report]]:
    """Yield what makes the report anew."""
    from tutelage.runs.store import Store

    if path is None:
        from tutelage.reporting.index import Index
        from tutelage.reporting.runs_report import free_report

        store = Store(given.options["runs_dir"])
        name, index = store.name_in(what), Index(store.root)
        yield lambda: free_report(store, name, index)
        return
    from tutelage.config.compose import hydra_ready, plan_of
    from tutelage.reporting.table_file import load
    from tutelage.reporting.tables import build, finder
    from tutelage.runs.identity import is_excluded

    table, words = load(path), given.as_settings("runs_dir")
    find = finder(words, plan_of, table)
    counted = [word for word in words if not is_excluded(word.lstrip("+~").partition("=")[0])]
    with hydra_ready():
        yield lambda: build(table, find, counted)


def _whole(name: str, given: Given, least: int, most: int) -> int:
    text = given.options[name]
    if not text.isdigit() or not least <= int(text) <= most:
        raise UserError(f"serve: {name} must be a whole number from {least} to {most}, got {text!r}")
    return int(text)
