"""A page of runs that are being made, served on this machine alone. It reads files and writes none.

Only this machine's own names are answered, so that no page of another site can read what is served here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tutelage.errors import UserError
from tutelage.reporting import page, page_data, page_tables
from tutelage.reporting.report_model import Report
from tutelage.reporting.row import Row
from tutelage.reporting.run_details import Record, Share, details, record_of
from tutelage.runs.store import Store

HOST = "127.0.0.1"
EVERY_S = 5
_NAMES = ("127.0.0.1", "localhost", "[::1]")
_RUN = re.compile(r"/run/([0-9a-f]{12})\.json")
log = logging.getLogger("tutelage")


class View:
    """What is served: a report that is made anew when it is asked for and its files may have changed."""

    def __init__(self, store: Store, make: Callable[[], Report], *, every_s: int = EVERY_S) -> None:
        """store: where the runs are. make: reads the files and returns the report. every_s: how often a page asks, in seconds."""
        self.store, self.every_s = store, every_s
        self._make, self._lock, self._read_at = make, threading.Lock(), -float("inf")
        self._records: dict[str, tuple[Any, Record]] = {}
        self._report = Report("", ())
        self._data: dict[str, Any] = {}
        self.digest = ""

    def now(self) -> tuple[Report, dict[str, Any]]:
        """Return the report and the page's data, at most a second old."""
        with self._lock:
            if time.monotonic() - self._read_at > min(1.0, self.every_s):
                report = self._make()
                data, _ = page_data.overview(report, self.store, self.record, detailed=False)
                text = json.dumps(data, sort_keys=True)
                data |= {
                    "digest": hashlib.sha256(text.encode()).hexdigest()[:16],
                    "every_s": self.every_s,
                }
                self._report, self._data, self._read_at = report, data, time.monotonic()
            return self._report, self._data

    def record(self, row: Row) -> Record:
        """Return what a run recorded, read again only where its files changed."""
        run = self.store.at(row.key)
        signed = []
        for name in ("metrics.jsonl", "setup.json"):
            try:
                status = (run.path / name).stat()
                signed.append((status.st_size, status.st_mtime_ns, status.st_ino))
            except OSError:
                signed.append((0, 0, 0))
        known = self._records.get(row.key)
        if known is None or known[0] != signed:
            known = self._records[row.key] = (signed, record_of(run))
        return known[1]

    def html(self) -> str:
        """Return the whole page."""
        report, data = self.now()
        return page.html(report, self.store, None, data=data, live=self.every_s)

    def overview(self, known: str) -> dict[str, Any] | None:
        """Return what has changed since the state of a digest, None if nothing has."""
        report, data = self.now()
        if data["digest"] == known:
            return None
        shown = page_tables.facts(report, data, self.store, None)
        content = page.fragment(shown)
        return {"data": data, "content": content, "states": shown["states"], "parts": shown["parts"]}

    def run(self, identity: str) -> dict[str, Any] | None:
        """Return the details of a run of the report, None if it has no such."""
        report, _ = self.now()
        for cell in page_data.cells(report):
            if cell.id == identity:
                found = details(self.store.at(cell.row.key), self.record(cell.row), Share.of(1))
                return dict(page_data.clean(found))
        return None


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "Tutelage", ""
    protocol_version = "HTTP/1.1"

    def __init__(self, view: View, *arguments: Any) -> None:
        self.view = view
        super().__init__(*arguments)

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _NAMES:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "this server answers its own machine alone")
            return
        asked = urlsplit(self.path)
        try:
            self._serve(asked.path, parse_qs(asked.query))
        except UserError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", str(error))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_GET

    def _serve(self, path: str, query: dict[str, list[str]]) -> None:
        if path == "/":
            self._answer(HTTPStatus.OK, "text/html", self.view.html())
        elif path == "/overview.json":
            self._json(self.view.overview(query.get("known", [""])[0]), HTTPStatus.NO_CONTENT)
        elif found := _RUN.fullmatch(path):
            self._json(self.view.run(found[1]), HTTPStatus.NOT_FOUND)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is nothing here: / is the page")

    def _json(self, value: Any, nothing: HTTPStatus) -> None:
        if value is None:
            self._answer(nothing, "application/json", "")
        else:
            self._answer(HTTPStatus.OK, "application/json", json.dumps(value, allow_nan=False))

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        if self.command != "HEAD" and status is not HTTPStatus.NO_CONTENT:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)


def server(view: View, port: int) -> ThreadingHTTPServer:
    """Return a server of a view on this machine's own address; port 0: any that is free.

    Raises:
        UserError: the port is taken, or not allowed.
    """
    try:
        made = ThreadingHTTPServer((HOST, port), functools.partial(_Handler, view))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot serve on {HOST}:{port}: {error}; choose another with port=..., port=0 takes any"
        ) from error
    made.daemon_threads = True
    return made
