"""`tutelage serve`: the page of a report, live, for this machine's browser. Loads no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.reporting.report_model import Report
from tutelage.reporting.table_paths import table_path, table_path_unless_runs


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    from tutelage.reporting.console import say
    from tutelage.reporting.live import View, server
    from tutelage.runs.store import Store

    port, every = _whole("port", given, 0, 65535), _whole("every", given, 1, 3600)
    what = given.names[0] if given.names else ""
    with _reports(what, given) as make:
        view = View(Store(given.options["runs_dir"]), make, every_s=every)
        view.now()  # what is wrong is said before a page is
        with server(view, port) as serving:
            address = "http://{}:{}".format(*serving.server_address[:2])
            say(f"{address} shows {what or 'all runs'} in {given.options['runs_dir']}; Ctrl-C ends it")
            with contextlib.suppress(KeyboardInterrupt):
                serving.serve_forever(poll_interval=0.2)
    return 0


@contextlib.contextmanager
def _reports(what: str, given: Given) -> Iterator[Callable[[], Report]]:
    """Yield what makes the report anew: of the runs below a name as soon as there are some, until then of the table that it names."""
    from tutelage.reporting.index import Index
    from tutelage.reporting.runs_report import free_report
    from tutelage.runs.store import Store

    runs_dir = given.options["runs_dir"]
    store = Store(runs_dir)
    name, index = store.name_in(what), Index(store.root)
    tables: dict[Path, Callable[[], Report]] = {}
    with contextlib.ExitStack() as entered:

        def make() -> Report:
            path = table_path(what) if given.settings else table_path_unless_runs(what, runs_dir)
            if path is None and given.settings:
                raise UserError(f"a page of runs takes runs_dir=<folder>, got {given.settings[0]!r}")
            if path is None:
                return free_report(store, name, index)
            if path not in tables:
                tables[path] = _of_table(path, given, entered)
            return tables[path]()

        yield make


def _of_table(path: Path, given: Given, entered: contextlib.ExitStack) -> Callable[[], Report]:
    from tutelage.config.compose import hydra_ready
    from tutelage.config.planner import plan_of
    from tutelage.reporting.table_file import load
    from tutelage.reporting.table_report import build
    from tutelage.reporting.tables import finder
    from tutelage.runs.identity import is_excluded

    table, words = load(path), given.as_settings("runs_dir")
    find = finder(words, plan_of, table, recorded=True)
    counted = [word for word in words if not is_excluded(word.lstrip("+~").partition("=")[0])]
    entered.enter_context(hydra_ready())
    return lambda: build(table, find, counted)


def _whole(name: str, given: Given, least: int, most: int) -> int:
    text = given.options[name]
    if not text.isdigit() or not least <= int(text) <= most:
        raise UserError(f"serve: {name} must be a whole number from {least} to {most}, got {text!r}")
    return int(text)
