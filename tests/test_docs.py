"""The site builds without a warning: every page, link and reference, from a checkout alone."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=None)
    assert done.returncode == 0, done.stderr
    return folder


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.ids += [given[key] for key in ("id", "name") if key in given]
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "link") and given.get("rel", "") != "canonical":
            self.loads += [given[key] for key in ("src", "href") if key in given]


def _pages(site: Path) -> dict[Path, _Page]:
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = _Page()
        pages[path].feed(path.read_text(encoding="utf-8"))
    return pages


def test_every_command_and_choice_has_its_entry(site: Path) -> None:
    from tutelage.cli.commands import COMMANDS

    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in commands for name in COMMANDS)
    objectives = (site / "reference/conf-objective.html").read_text(encoding="utf-8")
    assert all(f'id="{path.stem}"' in objectives for path in (ROOT / "conf/objective").glob("*.yaml"))
    losses = (site / "reference/code-losses.html").read_text(encoding="utf-8")
    assert "tutelage.losses.feature.hint" in losses and "FitNets" in losses


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = _pages(site)
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        assert not [place for place in page.loads if urlsplit(place).netloc], path
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (path.parent / parts.path).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), (path, link)
            if parts.fragment and target.suffix == ".html":
                assert parts.fragment in pages[target].ids, (path, link)


def test_the_readme_leads_to_every_page_and_the_site_to_every_report_of_what_was_measured() -> None:
    readme, nav = (ROOT / "README.md").read_text("utf-8"), (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*/*.md")}
    assert not {page for page in pages if f"]({page})" not in readme}
    measured = {path.relative_to(ROOT).as_posix() for path in (ROOT / "experiments").glob("*/README.md")}
    assert not {page for page in measured if f": {page}\n" not in nav}


def test_no_page_names_an_address_of_the_repository() -> None:
    """Where readers find it is told to the site that is built, by TUTELAGE_REPOSITORY: a name that is nobody's misleads."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "mkdocs.yml"]
    pages += [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docs").glob("*.py"),
        *(ROOT / "experiments").rglob("*.md"),
    ]
    assert not [
        page
        for page in pages
        if re.search(r"github\.com/tutelage|tutelage\.(?:dev|io|org)", page.read_text("utf-8"))
    ]


def test_the_citation_is_one_and_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited) and cited["cff-version"] == "1.2.0"
    assert cited["version"] == project["version"] and cited["license"] == project["license"]
    for one in (cited, *cited["references"]):
        assert one["title"] and one["type"] in ("software", "article")
        assert all("name" in author or "family-names" in author for author in one["authors"])


def test_lists_and_tables_stand_behind_an_empty_line() -> None:
    """Without it the site shows them as one paragraph."""
    wrong = []
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "experiments").rglob("*.md")]
    for page in (page for page in pages if page.parent.name != "results"):
        text = re.sub(r"^```.*?^```$", "```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        wrong += [
            (page.name, found) for found in re.findall(r"^[^\s\-|#<>`\d].*\n(?:- |\| ).*", text, re.MULTILINE)
        ]
    assert not wrong
