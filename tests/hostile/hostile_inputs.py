"""What somebody else's files may hold, one a name: how to make it, which commands open it, and what these must say.

Every input is made from one complete run and lies in a folder of its own, the current one. `{run}` is the run's folder, `{weights}` its
file of weights. A payload that were executed would make a file named `executed` there, which no command may.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

EVALUATE = ("evaluate", "{run}")
GAP = ("analyse", "gap", "{run}")
SIMILARITY = ("analyse", "similarity", "{run}", "{run}:guide")
CURVES = ("analyse", "alignment", "{run}")
LIST = ("list", "runs")
REPORT = ("report", "plain")
REMOVE = ("remove", "plain", "--dry")
TRAIN_FROM = ("train", "model.weights={weights}", "model.depth=2", "model.width=16", "logger=none", "name=mine", "fit.max_steps=1",
              "fit.validate_every_steps=1", "data=digits", "hardware.threads=1")  # fmt: skip
QUICK = ("logger=none", "hardware.threads=1", "model.depth=2", "model.width=16", "fit.max_steps=2", "fit.validate_every_steps=2",
         "name=plain", "data=digits")  # fmt: skip
TRAIN_AGAIN = ("train", *QUICK)
TABLE = ("report", "table.yaml")
READERS = (LIST, REPORT, EVALUATE, GAP)
PAYLOAD = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\nfrom torch import nn\nclass Net(nn.Linear): pass\n"


@dataclass(frozen=True)
class Hostile:
    """One input.

    make: changes the copy of a run in the current folder; it is given the run's folder. commands: what opens it. says: what one of their
    outputs or messages must have. code: what they must end with, of those that open more than a listing (list and report always end well).
    """

    make: Callable[[Path], None]
    says: str = ""
    commands: tuple[tuple[str, ...], ...] = (EVALUATE,)
    code: int = 2
    never: tuple[str, ...] = field(default=())


def config(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


def edit(**changes: Any) -> Callable[[Path], None]:
    """Change sections of the configuration: a mapping is merged, anything else replaces."""

    def make(run: Path) -> None:
        found = config(run)
        for section, value in changes.items():
            merged = isinstance(value, dict) and isinstance(found.get(section), dict)
            found[section] = found[section] | value if merged else value
        (run / "config.yaml").write_text(yaml.safe_dump(found))

    return make


def names(
    target: Any, *, section: str = "model", at: str = "", source: str = PAYLOAD
) -> Callable[[Path], None]:
    """Have the configuration name a target, and put a file of code where it would be found; at: its place, `{run}` the run's folder."""

    def make(run: Path) -> None:
        edit(**{section: {"_target_": target}})(run)
        if at:
            place = Path(at.format(run=run))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(source)

    return make


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (run / name).unlink(missing_ok=True)
        (run / name).write_bytes(data)

    return make


def pipe(name: str) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return make


def sparse(name: str, size: int = 50 * 2**30) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        with (run / name).open("wb") as file:
            file.truncate(size)

    return make


def link(name: str, target: str) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target.format(here=Path.cwd()))

    return make


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(Path.cwd() / "executed"),)


def result(**changes: Any) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        found = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(found | changes))

    return make


def aliases(levels: int, key: str = "data") -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join([*lines, f"{key}: *a{levels - 1}"])


def nan_weights(run: Path) -> None:
    state = load_file(run / "network.safetensors")
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
            break
    save_file(state, run / "network.safetensors")


def zipped(name: str, inner: str, size: int) -> Callable[[Path], None]:
    """A zip file of zeros that unpack to `size` bytes."""

    def make(run: Path) -> None:
        with (
            zipfile.ZipFile(run / name, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(inner, "w", force_zip64=True) as part,
        ):
            for _ in range(size // 2**24):
                part.write(bytes(2**24))

    return make


def both(*makers: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        for one in makers:
            one(run)

    return make


def pickled_splits(run: Path) -> None:
    np.savez(run / "splits.npz", train=np.array([Payload()], dtype=object))


def pickled_weights(run: Path) -> None:
    torch.save({"state_dict": {}, "x": Payload()}, run / "network.pt")


def lying_header(run: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (run / "network.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def circular_needs(run: Path) -> None:
    edit(needs={"guide": {"command": ["name=plain"], "run": f"plain/{run.name}"}})(run)


def doubling_needs(run: Path) -> None:
    """Each of thirty runs needs the next one twice: spelled out, a thousand million settings."""
    base = config(run)
    keys = [f"plain/{number:012x}" for number in range(1, 31)]
    for here, after in zip(keys, [*keys[1:], None], strict=True):
        folder = run.parent / here.rpartition("/")[2]
        folder.mkdir()
        needs = {f"n{i}": {"command": ["name=plain"], "run": after} for i in range(2)} if after else {}
        (folder / "config.yaml").write_text(yaml.safe_dump(base | {"needs": needs}))
    edit(needs={"guide": {"command": ["name=plain"], "run": keys[0]}})(run)


def endless_links(run: Path) -> None:
    for name in ("a", "b", "c"):
        (run.parent / name).symlink_to("..")


def named(name: str) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        folder = run.parents[1] / name
        folder.mkdir()
        run.rename(folder / run.name)

    return make


def failed(message: str) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        (run / "result.json").unlink()
        (run / "failed.json").write_text(json.dumps({"error": "UserError", "message": message}))

    return make


def table(content: str) -> Callable[[Path], None]:
    def make(_run: Path) -> None:
        Path("table.yaml").write_text(content)

    return make


def arms(label: str, *words: str, title: str = "t") -> Callable[[Path], None]:
    shape = {
        "title": title,
        "metric": "accuracy",
        "seeds": 1,
        "base": ["data=digits"],
        "arms": {label: list(words)},
    }
    return table(yaml.safe_dump(shape))


def conf(name: str, content: str | bytes | None) -> Callable[[Path], None]:
    def make(_run: Path) -> None:
        path = Path("conf") / name
        path.parent.mkdir(parents=True)
        if content is None:
            os.mkfifo(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def pseudo(shards: list[dict[str, Any]], count: int = 4, size: int = 2) -> Callable[[Path], None]:
    """A pseudo data set beside the run whose manifest says what it likes; the run reads it."""

    def make(run: Path) -> None:
        folder = Path("set")
        folder.mkdir()
        claim = {"format": 1, "count": count, "shard_size": size, "classes": 10, "image_shape": [1, 8, 8], "labelling": "uniform",
                 "generator": {}, "seed": 0, "origin": {}}  # fmt: skip
        (folder / "recipe.json").write_text(json.dumps(claim))
        (folder / "manifest.json").write_text(json.dumps(claim | {"shards": shards, "content_sha256": "0"}))
        data = {
            "_target_": "tutelage.data.pseudo.PseudoImages",
            "_reads_": "pseudo",
            "root": "set",
            "batch_size": 2,
        }
        found = config(run)
        (run / "config.yaml").write_text(yaml.safe_dump(found | {"data": data}))

    return make


def unfinished(run: Path) -> None:
    (run / "result.json").unlink()


def linked_lock(run: Path) -> None:
    (run / "result.json").unlink()
    lock = run.parent.parent / ".locks" / f"{run.name}.lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(Path.cwd() / "precious.txt")


def linked_pages(run: Path) -> None:
    for name in ("table.md", "table.csv", "cells.csv", "curves.png", "report.html"):
        (run.parent / name).symlink_to(Path.cwd() / "precious.txt")


REFUSED = "no command of yours has named it from there before, so it is refused"
ESCAPES = "\x1b]0;pwned\x07\x1b[2J"

INPUTS: dict[str, Hostile] = {
    # Modules that a configuration names.
    "a module inside the run's folder": Hostile(
        names("evil.Net", at="{run}/evil.py"), "not found here", READERS
    ),
    "a module in the current folder": Hostile(names("evil.Net", at="evil.py"), REFUSED, READERS),
    "a module in the runs folder": Hostile(names("evil.Net", at="runs/evil.py"), "not found here", READERS),
    "a package": Hostile(names("evil.Net", at="evil/__init__.py"), REFUSED, READERS),
    "a namespace package": Hostile(names("evil.deep.net.Net", at="evil/deep/net.py"), REFUSED, READERS),
    "a module by way of the run's folders": Hostile(
        names("runs.plain.evil.Net", at="runs/plain/evil.py"), REFUSED, READERS
    ),
    "a data module": Hostile(names("evil.Net", section="data", at="evil.py"), REFUSED, READERS),
    "a method": Hostile(names("evil.Net", section="method", at="evil.py"), REFUSED, READERS),
    "a guide": Hostile(names("evil.Net", section="guide", at="evil.py"), REFUSED, (*READERS, SIMILARITY)),
    "a target deep inside": Hostile(
        edit(data={"augment": [{"steps": [{"_target_": "evil.Net"}]}]}), "not found here"
    ),
    "a file in a library's name": Hostile(names("diffusers.models.Net", at="diffusers.py"), REFUSED, READERS),
    "a system call": Hostile(
        edit(model={"_target_": "os.system", "command": "touch executed"}), "is refused", READERS
    ),
    "a builtin": Hostile(edit(model={"_target_": "builtins.exec"}), "is refused", READERS),
    "a program of an installed package": Hostile(
        edit(model={"_target_": "numpy.f2py.__main__.main"}), "is refused", READERS
    ),
    "an installed function that unpickles": Hostile(
        edit(model={"_target_": "pandas.read_pickle"}), "is refused", READERS
    ),
    "a function of a library of networks": Hostile(
        edit(model={"_target_": "torch.nn.init.normal_"}), "is refused"
    ),
    "a command of Tutelage's": Hostile(
        edit(model={"_target_": "tutelage.cli.main.main"}), "is refused", READERS
    ),
    "a path for a target": Hostile(names("../evil.Net", at="evil.py"), "must be a dotted path", READERS),
    "a target that is no text": Hostile(
        edit(model={"_target_": {"os": ["system"]}}), "must be a dotted path", READERS
    ),
    "weights in a library's arguments": Hostile(
        edit(
            model={
                "_target_": "tutelage.models.pretrained.timm_model",
                "name": "resnet18",
                "options": {"checkpoint_path": "x.pth"},
            }
        ),
        "takes no",
    ),
    # YAML.
    "aliases of aliases": Hostile(text("config.yaml", aliases(10)), "aliases spelled out", READERS),
    "aliases in a merge": Hostile(text("config.yaml", aliases(9, "<<")), "aliases spelled out", READERS),
    "an alias of itself": Hostile(text("config.yaml", "data: &a {model: *a}"), "contains itself", READERS),
    "brackets without end": Hostile(
        text("config.yaml", "model: " + "[" * 200_000), "nested more than", READERS
    ),
    "dashes without end": Hostile(
        text("config.yaml", "model:\n  " + "- " * 100_000), "nested more than", READERS
    ),
    "a configuration of 50 GB": Hostile(sparse("config.yaml"), "is refused", READERS),
    "a pipe for a configuration": Hostile(pipe("config.yaml"), "", READERS),
    "a link to a device": Hostile(link("config.yaml", "/dev/zero"), "", READERS),
    "a tag of Python's": Hostile(
        text("config.yaml", "model: !!python/object/apply:os.mkdir [executed]"), "is damaged", READERS
    ),
    "a configuration that is no text": Hostile(text("config.yaml", b"\xff\xfe\x00"), "is damaged", READERS),
    "a seed of 5,000 digits": Hostile(text("config.yaml", "seed: " + "9" * 5000), "is damaged", READERS),
    "a seed of 3,000 digits": Hostile(edit(seed=int("9" * 3000)), "expected a seed", READERS),
    "sections that are no sections": Hostile(
        edit(data=[1, 2], hardware=7, fit="x"), "expected a section 'data'", READERS
    ),
    "an interpolation of the environment": Hostile(
        edit(data={"root": "${oc.env:HOSTILE_SECRET}"}), "", READERS, never=("the secret",)
    ),
    # JSON.
    "a result of brackets": Hostile(text("result.json", "[" * 200_000), "", READERS),
    "a result of 50 GB": Hostile(sparse("result.json"), "", READERS),
    "a result of other things": Hostile(
        result(best=[1], selection="x", cost=[], metrics=3), "", (LIST, REPORT)
    ),
    "a number of 5,000 digits": Hostile(
        text("result.json", '{"state": "complete", "best": {"step": ' + "9" * 5000 + "}}"), "", READERS
    ),
    "a pipe for the provenance": Hostile(pipe("provenance.json"), "", READERS, 0),
    "a provenance of brackets": Hostile(
        text("provenance.json", '{"attempts": ' + "[" * 99_999), "", READERS, 0
    ),
    "a provenance of other things": Hostile(
        text("provenance.json", '{"attempts": [{"code": [], "machine": 7}]}'), "", (LIST, REPORT)
    ),
    "a pipe for the metrics": Hostile(pipe("metrics.jsonl"), "", (LIST, REPORT, CURVES)),
    "metrics of 50 GB": Hostile(sparse("metrics.jsonl"), "", (LIST, REPORT, CURVES)),
    "a row of brackets": Hostile(
        text("metrics.jsonl", '{"step": ' + "[" * 99_999), "", (LIST, REPORT, CURVES)
    ),
    "a setup of brackets": Hostile(text("setup.json", "[" * 99_999), "is damaged", (CURVES, TRAIN_FROM)),
    # Runs that need runs.
    "a run that needs itself": Hostile(circular_needs, "", (LIST, REPORT, REMOVE), 0),
    "thirty runs that need each other twice": Hostile(doubling_needs, "", (LIST, REPORT), 0),
    "a need that is a path": Hostile(
        edit(
            needs={"guide": {"command": [], "run": "../../../etc/0123456789ab"}},
            guide={"_target_": "tutelage.models.fcn.FCN", "weights": "need:guide"},
        ),
        "",
        (LIST, REPORT, SIMILARITY),
    ),
    "links upwards": Hostile(endless_links, "", (LIST, REPORT), 0),
    # Weights and arrays.
    "weights that are no numbers": Hostile(nan_weights, "not finite numbers", code=0),
    "a pickle in the name of safetensors": Hostile(
        text("network.safetensors", pickle.dumps(Payload())),
        "damaged or not safetensors",
        (EVALUATE, GAP, TRAIN_FROM),
    ),
    "a header that promises terabytes": Hostile(
        lying_header, "damaged or not safetensors", (EVALUATE, TRAIN_FROM)
    ),
    "a pipe for the weights": Hostile(pipe("network.safetensors"), "", (EVALUATE, TRAIN_FROM)),
    "a network wider than memory": Hostile(edit(model={"width": 20_000}), "could fill"),
    "a network of a thousand million layers": Hostile(edit(model={"depth": 10**9, "width": 1}), "could fill"),
    "a pickle that executes": Hostile(
        pickled_weights, "it is refused", (("train", "model.weights={run}/network.pt", *TRAIN_FROM[2:]),)
    ),
    "a checkpoint that unpacks to gigabytes": Hostile(
        zipped("network.pt", "network/data.pkl", 2**26),
        "would unpack to",
        (("train", "model.weights={run}/network.pt", *TRAIN_FROM[2:]),),
    ),
    "indices that unpack to gigabytes": Hostile(
        zipped("splits.npz", "train.npy", 2**27), "would unpack to", (TRAIN_FROM,)
    ),
    "indices that are a pickle": Hostile(pickled_splits, "is damaged", (TRAIN_FROM,)),
    "a shard elsewhere": Hostile(
        pseudo([{"file": "../../secret", "sha256": "0"}] * 2), "one of them is damaged", (EVALUATE,)
    ),
    "a shard of a thousand million images": Hostile(
        pseudo([{"file": "x", "sha256": "0"}], count=10**12, size=10**12), "", (EVALUATE,)
    ),
    # Places to write to and to read from.
    "a runs folder elsewhere": Hostile(edit(runs_dir="elsewhere/runs"), "", (EVALUATE, GAP, LIST, REPORT), 0),
    "evaluations that are a link": Hostile(link("evaluations.jsonl", "{here}/precious.txt"), "found a link"),
    "a lock that is a link": Hostile(linked_lock, "", (LIST, REPORT)),
    "a log that is a link": Hostile(
        both(unfinished, link("log.txt", "{here}/precious.txt")), "not through a link", (TRAIN_AGAIN,)
    ),
    "checkpoints that are a link": Hostile(
        both(unfinished, link("checkpoints", "{here}")), "not through a link", (TRAIN_AGAIN,)
    ),
    "a page that is a link": Hostile(linked_pages, "", (REPORT,), 0),
    "a device for data": Hostile(edit(data={"root": "/dev/zero"}), "is a pipe, socket or device"),
    "a download into a folder of yours": Hostile(
        edit(
            data={
                "_target_": "tutelage.data.images.TorchvisionImages",
                "dataset": "mnist",
                "root": ".",
                "download": True,
            }
        ),
        "",
    ),
    # Names and texts.
    "a name that commands the terminal": Hostile(named(ESCAPES), "left out", (LIST,), never=("\x1b", "\x07")),
    "a class that commands the terminal": Hostile(
        edit(method={"_target_": f"a.{ESCAPES}"}), "\\x1b]0;pwned", READERS, never=("\x1b", "\x07")
    ),
    "a failure that commands the terminal": Hostile(
        failed(f"so{ESCAPES}"), "\\x1b]0;pwned", (LIST, REPORT), never=("\x1b", "\x07")
    ),
    "markup": Hostile(failed("[/red][bold]{0.__class__}%s%n"), "{0.__class__}%s%n", (LIST, REPORT)),
    "a formula of a table processor": Hostile(
        arms('=HYPERLINK("http://x","y")'), "", (TABLE,), 0, never=("\n=HYPER", '\n"=HYPER')
    ),
    "a script in a label": Hostile(arms("<script>alert(1)</script>"), "", (TABLE,), 0, never=("<script",)),
    "an image from the network": Hostile(arms("![x](http://evil/x.png)"), "", (TABLE,), 0, never=("](http",)),
    "a template": Hostile(arms("{{ 7 * 191 }}{% for %}"), "", (TABLE,), 0, never=("1337",)),
    "a formula of TeX": Hostile(arms(r"$\frac{$"), "", (TABLE,), 0),
    # Tables and folders of configuration.
    "a table that names a package of configurations": Hostile(
        arms("a", "hydra.searchpath=[pkg://evil]"), "is refused", (TABLE,)
    ),
    "a table that chooses a launcher": Hostile(arms("a", "hydra/launcher=evil"), "is refused", (TABLE,)),
    "a table that reads the environment": Hostile(
        arms("a", "name=${oc.env:HOSTILE_SECRET}"), "is refused", (TABLE,), never=("the secret",)
    ),
    "a table of aliases": Hostile(table(aliases(10, "arms")), "aliases spelled out", (TABLE,)),
    "a table of brackets": Hostile(table("arms: " + "[" * 200_000), "nested more than", (TABLE,)),
    "configurations of aliases": Hostile(
        conf("model/x.yaml", aliases(10)), "aliases spelled out", (("doctor", "model=x"), TRAIN_FROM)
    ),
    "configurations of brackets": Hostile(
        conf("model/x.yaml", "a: " + "{" * 200_000), "nested more than", (("doctor", "model=x"),)
    ),
    "a pipe for a configuration of yours": Hostile(
        conf("model/x.yaml", None), "", (("doctor", "model=x"), ("list", "models"))
    ),
}
