"""`tutelage remove`: remove runs that no table needs, archived attempts, or the checkpoints of complete runs. Asks first."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tutelage.cli.listing import filters
from tutelage.cli.reader import Given
from tutelage.errors import UserError, counted
from tutelage.reporting.row import Row
from tutelage.reporting.table_paths import PROGRAMMES, TABLES, name_of
from tutelage.runs.folders import delete, left_aside, make_folder, set_aside
from tutelage.runs.identity import identity_of
from tutelage.runs.run import Run, RunBusy, State
from tutelage.runs.store import Store

log = logging.getLogger("tutelage")
_NAMED = re.compile(r"\bname=([\w./+-]+)")


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    chosen, name = filters(given), given.names[0] if given.names else ""
    archive, checkpoints = "--archive" in given.flags, "--checkpoints" in given.flags
    if not name and "--all" not in given.flags and not any(chosen.values()):
        raise UserError(
            "remove what? Give a name such as demo, a filter such as state=failed or model.width=64, or --all"
        )
    if archive and checkpoints:
        raise UserError("give one of --archive and --checkpoints")
    if archive and (said := [key for key, value in chosen.items() if value]):
        raise UserError(
            f"--archive takes a name or --all, and no filter ({said[0]}): archived attempts have no state of their own"
        )
    store = Store(given.options["runs_dir"])
    from tutelage.reporting.collect import collect
    from tutelage.reporting.runs_table import filtered_rows

    dry = "--dry" in given.flags
    if not dry:
        finish(store)
    met: dict[str, Row] = {}
    rows = filtered_rows(store, under=name, met=met, **chosen)
    if archive:
        folders = archived(store, name)
    elif checkpoints:
        folders = [store.at(row.key).path / "checkpoints" for row in rows if row.state is State.COMPLETE]
    else:
        every = collect(store, met=met) if name else [*met.values()]
        folders = [store.root / row.key for row in removable(store, rows, name, every)]
    sizes = {folder: size for folder in folders if (size := size_of(folder)) is not None}
    print("".join(f"{folder}  {size / 1e6:.1f} MB\n" for folder, size in sizes.items()), end="")
    what = f"{counted(len(sizes), 'folder')}, {sum(sizes.values()) / 1e6:.1f} MB"
    if dry or not sizes:
        print(f"nothing removed; {what} could be" if sizes else "nothing to remove")
        return 0
    if "--yes" not in given.flags and not agreed(f"Remove {what}?"):
        print("nothing removed")
        return 0
    return remove(store, list(sizes), runs=not (archive or checkpoints))


def removable(store: Store, rows: Sequence[Row], under: str, everything: Sequence[Row]) -> list[Row]:
    """Return the rows that neither a table nor a remaining run needs and that nobody works on; say what is kept and why.

    everything: all rows of the store.
    A run that has a name beside the one that is removed stays; of such a run's links, which are rows of their own, the name goes.
    """
    candidates = [row for row in rows if row.state is not State.RUNNING]
    owners = owners_of(TABLES, store) if candidates else {}
    others, inside = store.other_names(), store.name_in(under)
    owner_of = functools.cache(lambda name: _owner(name, owners))
    links = {f"{name}/{identity}" for identity, names in others.items() for name in names}
    if not any(row.key.startswith(f"{inside}/") for row in rows):  # one run was meant, by its identity
        inside = inside.rpartition("/")[0]
    kept: dict[str, str] = {}
    for row in candidates:
        names = [row.name, *([] if row.key in links else others.get(identity_of(row.key), []))]
        outside = [name for name in names if not f"{name}/".startswith(f"{inside}/" if inside else "")]
        if owned := next(filter(None, map(owner_of, names)), None):
            kept[row.key] = owned
        elif outside:
            kept[row.key] = f"also called {outside[0]}"
    gone = {identity_of(row.key): row.key for row in candidates if row.key not in (*kept, *links)}
    # What a remaining run needs remains, and what that needs, until nothing changes.
    while found := {
        identity_of(key): row.key
        for row in everything
        if identity_of(row.key) not in gone
        for key in row.needs
        if identity_of(key) in gone
    }:
        for identity, by in found.items():
            kept[gone.pop(identity)] = f"needed by {by}"
    reasons: dict[str, list[str]] = {}  # a table of a thousand runs is one of them
    for key, why in [
        *sorted(kept.items()),
        *((row.key, "running") for row in rows if row.state is State.RUNNING),
    ]:
        reasons.setdefault(why, []).append(key)
    for why, keys in reasons.items():
        more = f" and {counted(len(keys) - 3, 'other')}" if len(keys) > 3 else ""
        log.info("kept: %s%s (%s)", ", ".join(keys[:3]), more, why)
    going = set(gone.values())
    return [row for row in candidates if row.key in going or (row.key in links and row.key not in kept)]


def owners_of(tables: Path, store: Store | None = None) -> dict[str, str]:
    """Return {name of a run: the table that needs runs of this name}: the arms of every table, and what they need.

    Names, not identities: a table's runs may have been made with further words (hardware, places of data). A name that ends with "/" means
    all below it: so are the runs called of a table that cannot be read, which is said; those of other names that its text gives count, too.
    To read a table composes dozens of commands: the store keeps its names while the table, the configuration and the code are the same.
    Where the environment is read (`oc.env`), nothing is kept. store: None: nothing is.
    """
    from tutelage.runs.records import read_json, write_json

    if not tables.is_dir():
        log.warning("there is no folder %s here, so no table is known that needs a run", tables)
        return {}
    paths = [path for path in sorted(tables.rglob("*.yaml")) if path.parent.name != PROGRAMMES]
    digests = _digests(paths) if store else {}
    memory = store.root / ".index" / "owners.json" if store else Path()
    kept: dict[str, list[str]] = {}
    with contextlib.suppress(OSError, UserError, AttributeError):
        known = read_json(memory) if digests else {}
        kept = {of: known[of] for of in digests.values() if isinstance(known.get(of), list)}
    names, damaged = _names_in([path for path in paths if digests.get(path) not in kept])
    if new := {digests[path]: own for path, own in names.items() if path in digests and path not in damaged}:
        with contextlib.suppress(OSError, UserError):
            make_folder(memory.parent)
            write_json(memory, kept | new)
    found: dict[str, str] = {}
    for path in paths:
        why = f"a table {'cannot be read' if path in damaged else 'has runs of this name'}: {path}"
        for name in names[path] if path in names else kept[digests[path]]:
            found.setdefault(str(name), why)
    return found


def _digests(paths: Sequence[Path]) -> dict[Path, str]:
    """Return for each table the digest of all that its names follow from; of one that reads the environment none."""
    from tutelage.config.groups import folders
    from tutelage.runs import provenance
    from tutelage.runs.bounded import YAML_BYTES, read_bytes

    common = hashlib.sha256(provenance.code_digest().encode())
    for path in (path for folder in folders() for path in sorted(folder.rglob("*.yaml"))):
        content = read_bytes(path, YAML_BYTES)
        if b"oc.env" in content:
            return {}
        common.update(b"\n%s %d\n%s" % (os.fsencode(path), len(content), content))
    found = {}
    for path in paths:
        content, own = read_bytes(path, YAML_BYTES), common.copy()
        own.update(b"\n%s\n%s" % (os.fsencode(path), content))
        if b"oc.env" not in content:
            found[path] = own.hexdigest()
    return found


def _names_in(paths: Sequence[Path]) -> tuple[dict[Path, list[str]], set[Path]]:
    """Read tables; return the names of the runs that each needs, and those which cannot be read."""
    from tutelage.config.names import NameFinder, files_remembered
    from tutelage.reporting.table_file import load

    found: dict[Path, list[str]] = {}
    damaged: set[Path] = set()
    if not paths:
        return found, damaged
    names_of = NameFinder()
    log.info("reading the needs of %s", counted(len(paths), "table"))
    with files_remembered():
        for path in paths:
            try:
                found[path] = sorted({name for arm in load(path).arms for name in names_of(arm.command)})
            except UserError as error:
                log.warning("a table cannot be read, so all its runs stay: %s", error)
                text = path.read_text(encoding="utf-8", errors="replace")
                found[path] = [f"{name_of(path)}/", *_NAMED.findall(text)]
                damaged.add(path)
    return found, damaged


def _owner(name: str, owners: Mapping[str, str]) -> str | None:
    """Return the table that needs runs of a name."""
    return next(
        (why for of, why in owners.items() if name == of or (of[-1:] == "/" and name.startswith(of))), None
    )


def archived(store: Store, under: str) -> list[Path]:
    """Return the folders of archived attempts at or below a name."""
    folder = store.root / under.strip("/")
    if not folder.resolve().is_relative_to(store.root.resolve()):
        raise UserError(f"'{under}' is not below {store.root}")
    return [
        path
        for archive in sorted(folder.rglob(".archive"))
        for path in sorted(archive.iterdir())
        if path.is_dir()
    ]


def size_of(folder: Path | str) -> int | None:
    """Return the bytes of a folder's files; None: there is no folder."""
    size = 0
    try:
        with os.scandir(folder) as entries:
            for one in entries:
                is_folder = one.is_dir(follow_symlinks=False)
                size += (size_of(one.path) or 0) if is_folder else one.stat(follow_symlinks=False).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    return size


def agreed(question: str) -> bool:
    """Ask on the terminal. Raises UserError where there is none to ask on."""
    if not sys.stdin.isatty():
        raise UserError(f"{question} There is nobody to ask: give --yes, or --dry to look only")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def remove(store: Store, folders: Sequence[Path], *, runs: bool) -> int:
    """Remove the folders, each run's under its lock, and delete them when all are out of the way; return the exit code."""
    gone: list[str] = []
    aside: list[Path] = []
    kept = 0
    try:
        for folder in folders:
            try:
                if not runs and folder.name != "checkpoints":  # an archived attempt: nobody works on it
                    aside.append(set_aside(folder, store.root))
                    continue
                run = Run(folder if runs else folder.parent, root=store.root)
                with run.lock_now():
                    if not os.path.lexists(folder):  # meanwhile another process did it
                        continue
                    if runs:
                        aside += run.set_aside()
                        gone.append(run.identity)
                    elif run.is_complete:
                        aside.append(set_aside(folder, store.root))
            except (RunBusy, OSError) as error:
                log.error("kept: %s", error)
                kept += 1
    finally:
        finish(store, aside)
    store.forget_links(gone)
    print(f"removed {counted(len(folders) - kept, 'folder')}")
    return 1 if kept else 0


def finish(store: Store, aside: Sequence[Path] = ()) -> None:
    """Delete what was set aside, by this command or by one that was killed; say what cannot be deleted."""
    if left := delete(dict.fromkeys([*aside, *left_aside(store.root)])):
        log.warning(
            "%s cannot be deleted after its removal, such as %s", counted(len(left), "folder"), left[0]
        )
