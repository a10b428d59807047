"""Makes the reference of the site from what it is about: the table of commands, the files of conf/, and the docstrings of the code."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

GROUPS = {
    "method": "Methods",
    "objective": "Objectives",
    "similarity": "Similarities",
    "model": "Models",
    "data": "Data",
    "optimizer": "Optimisers",
    "hardware": "Hardware",
    "logger": "Loggers",
    "chain": "Chains",
    "scale": "Scale analysis",
    "sweep": "Sweeps",
    "experiment": "Experiments",
}
FIGURES = {
    "figures/demo-curves.png": "experiments/demo/curves.png",
    "figures/guidance.webp": "experiments/demo/guidance.webp",
    "figures/phases.png": "experiments/guidance/results/phase_diagram.png",
    "figures/digits.png": "experiments/guidance/results/digits.png",
    "figures/kappa.png": "experiments/guidance/results/error_consistency-kappa.png",
    "figures/explain.png": "experiments/demo/explain.png",
    "figures/calibration.png": "experiments/robustness/results/digits-calibration.png",
    "figures/robustness.png": "experiments/robustness/results/digits-robustness.png",
    "figures/int8.png": "experiments/compress/results/int8.png",
    "figures/collapse.svg": "experiments/scaling/collapse_two_layer.svg",
}
"""Pictures that results have, by their place on the site."""
SHOWN = (".md", ".csv", ".json", ".yaml", ".png", ".svg", ".webp")
"""Of experiments/, what is on the site."""
PACKAGES = (
    "tasks",
    "methods",
    "objectives",
    "losses",
    "alignment",
    "data",
    "models",
    "generators",
    "robustness",
    "analysis",
    "scaling",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference."""
    pages = {"reference/commands.md": commands(), "reference/settings.md": settings()}
    pages |= {f"reference/conf-{group}.md": configuration(group, title) for group, title in GROUPS.items()}
    pages |= {f"reference/code-{package}.md": code(package) for package in PACKAGES}
    pages |= {f"{name.lower()}.md": document(name) for name in ("CONTRIBUTING", "CHANGELOG")}
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    for place, path in FIGURES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    for path in sorted((ROOT / "experiments").rglob("*")):  # what was measured: pages, tables, figures
        if path.is_file() and path.suffix in SHOWN:
            place = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead the links of the repository's pages to where they lie on the site, which has what is in docs/ at its top."""
    if page.file.src_uri.startswith("experiments/"):
        return re.sub(r"\]\(((?:\.\./)+)docs/", r"](\1", markdown)
    return re.sub(r"\]\(\.\./((?:\.\./)*experiments/)", r"](\1", markdown)


def commands() -> str:
    """Return the page of commands: what `tutelage <command> --help` says of each."""
    from tutelage.cli.commands import COMMANDS
    from tutelage.cli.reader import help_of

    parts = ["# Commands\n\nAs `tutelage <command> --help` says it.\n"]
    for name, command in COMMANDS.items():
        parts.append(f"## {name}\n\n{_sentence(command.summary)}\n\n```text\n{help_of(name, command)}\n```\n")
    return "\n".join(parts)


def settings() -> str:
    """Return the page of the root configuration, where every setting of a run begins."""
    parts = [
        "# Settings\n\n`tutelage doctor <words>` shows what they are after any words, and which file sets each.\n"
    ]
    for path in [
        ROOT / "conf/train.yaml",
        ROOT / "conf/scale.yaml",
        *sorted((ROOT / "conf/shared").rglob("*.yaml")),
    ]:
        parts += [f"## {path.relative_to(ROOT / 'conf')}\n\n{_yaml(path)}"]
    return "\n".join(parts)


def configuration(group: str, title: str) -> str:
    """Return the page of a group: each choice with what its file says of it, and its settings."""
    parts = [
        f"# {title}\n\nChosen by `{group}=<name>`. A file of yours in `conf/{group}/` is a choice, too.\n"
    ]
    from tutelage.config.groups import variant_entries
    from tutelage.config.variants import variant

    folder = ROOT / "conf" / group
    for path in sorted(folder.rglob("*.yaml")):
        name = str(path.relative_to(folder).with_suffix(""))
        about = " ".join(_comment(path))
        parts.append(f'## {name}\n\n{about}\n\n??? note "conf/{group}/{name}.yaml"\n{_indented(_yaml(path))}')
    for path in variant_entries():
        of, _, name = path.partition("/")
        if of == group and (one := variant(path)):
            changed = json.dumps({**one.override, **one.set})
            parts.append(f"## {name}\n\n{one.about}\n\n`{one.of}` with `{changed}`.")
    return "\n".join(parts)


def code(package: str) -> str:
    """Return the page of a package: its modules with their public classes and functions, read from the source without an import."""
    home = ROOT / "src/tutelage" / package
    modules = [home.with_suffix(".py")] if home.with_suffix(".py").exists() else sorted(home.glob("*.py"))
    parts = [f"# tutelage.{package}\n"]
    for path in modules:
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        if any(not node.name.startswith("_") for node in _definitions(path)):
            parts.append(f"## {module}\n\n::: {module}\n")
    return "\n".join(parts)


def document(name: str) -> str:
    """Return a document that stands at the root of the repository, whose links to docs/ lead into the site."""
    return (ROOT / f"{name}.md").read_text(encoding="utf-8").replace("](docs/", "](")


def _definitions(path: Path) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node


def _comment(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            return
        yield line.lstrip("# ")


def _yaml(path: Path) -> str:
    return f"```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
