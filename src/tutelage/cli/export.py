"""`tutelage export`: a finished run's network as a folder to hand on, with a model card."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli.reader import Given
from tutelage.errors import UserError, extra
from tutelage.reporting.console import say

if TYPE_CHECKING:
    from tutelage.runs.run import Run
    from tutelage.runs.store import Store

CARD, FACTS = "README.md", "export.json"
_LICENCE = "none was named: the weights are not licensed to anybody"


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    options = given.options
    if options["normalise"] not in ("true", "false"):
        raise UserError(f"normalise must be true or false, got {options['normalise']!r}")
    if options["hub"] and not re.fullmatch(r"[\w.-]+/[\w.-]+", options["hub"]):
        raise UserError(f"hub must be a repository such as my_name/my_network, got {options['hub']!r}")
    say(export(given.names[0], **options))
    return 0


def export(
    name: str,
    *,
    format: str,
    out: str,
    normalise: str,
    licence: str,
    hub: str,
    quantise: str,
    runs_dir: str,
    code: str,
) -> str:
    """Write the folder and return the lines to print. Nothing of the run is changed."""
    from tutelage.runs.store import Store, short

    store = Store(runs_dir)
    source = store.find(name)
    folder = Path(out).expanduser() if out else _folder(Path(runs_dir), short(source.key), format, quantise)
    if folder.exists() and not (folder / FACTS).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds other things than an export: name another folder, out=...")
    from tutelage.engine import export as engine
    from tutelage.engine import trust
    from tutelage.engine.inherited import check_answers
    from tutelage.engine.load import load_run
    from tutelage.engine.quantise import table

    check_answers(short(source.key), source.config)
    loaded = load_run(source.path, runs_dir=runs_dir, code=trust.modules(code))
    made = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(made, ignore_errors=True)
    facts = engine.export(
        loaded, made, format, key=source.key, normalise=normalise == "true", quantised=quantise
    )
    (made / CARD).write_text(card(source, store, loaded.data.summary(), facts, licence), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    made.rename(folder)
    inside = (
        "inputs as they are, normalised inside"
        if facts["normalise"]
        else "inputs as the data module gives them"
    )
    measured = []
    if "quantised" in facts:
        measured = table(facts["quantised"], loaded.data.task.monitor)
    lines = [
        f"{source.key} as {format}: {inside}; on {facts['compared']} validation samples its outputs are the network's up to "
        f"{facts['largest_difference']:.2g}",
        *measured,
        f"written: {folder}",
    ]
    if hub:
        lines.append(_push(folder, hub))
    return "\n".join(lines)


def _folder(runs_dir: Path, key: str, kind: str, quantise: str) -> Path:
    form = kind if quantise == "none" else f"{kind}-{quantise}"
    return runs_dir / "exports" / f"{re.sub(r'[^A-Za-z0-9_.+=-]+', '-', key)}-{form}"


def _push(folder: Path, hub: str) -> str:
    """Send a folder to a repository of the Hugging Face hub; where that cannot be, say so: the folder stands."""
    with extra("huggingface", f"the folder {folder} is complete; hub= needs the package huggingface_hub"):
        from huggingface_hub import HfApi
    try:
        api = HfApi()
        api.create_repo(hub, exist_ok=True)
        api.upload_folder(repo_id=hub, folder_path=folder)
    except Exception as error:  # network, token and rights each raise their own kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"not sent to {hub} ({reason:.200}): the folder is complete, `hf upload {hub} {folder}` sends it later"
    return f"sent to {hub}"


def card(source: Run, store: Store, data: dict[str, Any], facts: dict[str, Any], licence: str) -> str:
    """Return the model card of an export, as Markdown."""
    from tutelage.engine.quantise import table

    result, config = source.result or {}, source.config
    command = next((one.get("command") for one in reversed(source.attempts) if one.get("command")), None)
    method = str(config["method"].get("_target_", "")).rpartition(".")[2]
    frozen = [role for role in ("guide", "teacher", "source") if config.get(role)]
    answer, normalization = facts["answer"], facts["normalization"]
    sizes = ", ".join(f"{count:,} {split}" for split, count in data["sizes"].items())
    shape = ", ".join(map(str, facts["input_shape"]))
    unit = (
        "as they are before normalisation (images: 0 to 1)"
        if facts["normalise"]
        else f"normalised by mean and deviation {normalization}"
        if normalization
        else "as the data module gives them"
    )
    names = answer["names"] or []
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    load = ', code=["torch_export"]' if facts["format"] == "torch_export" else ""
    lines = [
        "---", "library_name: tutelage", f"license: {licence.lower() if licence else 'other'}", "---", "",
        f"# {source.name}", "",
        f"{str(config['model'].get('_target_', 'network')).rpartition('.')[2]} for {answer['task']}, written by `tutelage export` as "
        f"{facts['format']} from the run `{source.key}`.", "",
        "## Use", "", "```python", "import tutelage", "",
        f'network = tutelage.load_exported("<this folder>"{load})', "outputs = network(inputs)  # logits or values", "```", "",
        f"`inputs`: (n, {shape}) {facts['inputs']}, any n, {unit}."
        + (" `mask`: (n, length), true where real." if facts["masked"] else ""),
        f"`tutelage predict <this folder> <files>` writes a CSV. Outputs: {shown or answer['task']}.", "",
        "## Data", "", f"{data['name']}: {sizes} samples.", "", "## Metrics", "", *_metrics(source, store, result), "",
        "## Training", "", f"Method: {method}{' under a ' + ' and a '.join(frozen) if frozen else ''}; seed {config['seed']}.",
        *(["", "```", shlex.join(map(str, command)), "```"] if isinstance(command, list) else []), "",
        "## Licence", "", licence or _LICENCE.capitalize() + ".", "",
        "## Limits", "",
        f"On {facts['compared']} validation samples the outputs of this folder lie within {facts['largest_difference']:.2g} of the trained "
        "network's. It was judged on the test split of the data above alone: other data, rare classes and attacks were not tried here.",
    ]  # fmt: skip
    if "quantised" in facts:
        lines[-1] += f" Then it was quantised to int8 ({facts['quantised']['kind']}):"
        monitor = str(result["selection"]["monitor"])
        lines += ["", "```", *table(facts["quantised"], monitor), "```"]
    if answer["kind"] in ("classes", "binary"):
        lines.append(
            "Its probabilities were not calibrated: `tutelage analyse calibration` measures by how much they are off."
        )
    return "\n".join(lines) + "\n"


def _metrics(source: Run, store: Store, result: dict[str, Any]) -> list[str]:
    """The values on the test split, with mean and interval over the seeds of the run's arm where there are several."""
    from tutelage.reporting.collect import group, row_of
    from tutelage.reporting.statistics import bounds_of, summarize

    own = (result.get("best") or {}).get("test") or {}
    arms = group([row_of(one, store) for one in store.named(source.name) if one.is_complete])
    arm = next((one for one in arms if any(row.key == source.key for row in one.rows)), None)
    lines = ["| test | this network | over the seeds of its arm |", "|---|---|---|"]
    for name, value in own.items():
        if not isinstance(value, int | float):
            continue
        values = list(arm.values(f"test/{name}").values()) if arm else []
        found = summarize(values, bounds=bounds_of(name))
        over = (
            f"{found.mean:.4g} ({found.low:.4g} to {found.high:.4g}, 95 %, n = {found.n})"
            if found.n > 1
            else "one seed"
        )
        lines.append(f"| {name} | {value:.4g} | {over} |")
    return lines
