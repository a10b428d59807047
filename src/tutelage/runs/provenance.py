"""Where a number comes from: code, versions, machine, command and times of one attempt at a run.

Privacy: no user name and no host name is recorded; the home folder is written `~` and the working folder `.`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tutelage._version import __version__

PACKAGE = Path(__file__).parents[1]
DIFF_LIMIT_BYTES = 200_000
OWN_CODE_LIMIT_BYTES = 1_000_000
_UNTRACKED_LIMIT = 100
_GIT_TIMEOUT_S = 5.0


def collect(*, command: Sequence[str] | None = None, gpus: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the provenance of an attempt that starts now.

    Everything but the time is gathered once per process: a sweep's jobs share one reading. `gpus` are the
    names of the devices if the caller knows them; otherwise nvidia-smi is asked, if it exists. Of the program its name alone is kept:
    where it lies says nothing of the run, and records travel.
    """
    import platform  # here, as below what else gathering alone needs: commands that look at runs do not wait for it

    words = list(sys.argv if command is None else command)
    program = [Path(word).name for word in words[:1]]
    return {
        "started": now(),
        "command": [*program, *map(scrub, words[1:])],
        "code": code(),
        "working_folder": repository(Path.cwd()),
        "packages": packages(),
        "python": platform.python_version(),
        "machine": {**machine(), "gpus": list(gpus) if gpus is not None else list(_gpus())},
    }


def now() -> str:
    """The time, in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def scrub(text: str) -> str:
    """Write the working folder as `.` and the home folder as `~`, so that no user name leaves the machine."""
    for folder, short in ((str(Path.cwd()), "."), (str(Path.home()), "~")):
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}(?=$|[/\\\s'\",:;=\]])", short, text)
    return text


@functools.cache
def code() -> dict[str, Any]:
    """The package's version, the digest of its files, and its commit where it runs from a checkout."""
    # An installed package may lie in a virtual environment inside the user's own repository, which is not its
    # origin.
    installed = {"site-packages", "dist-packages"} & set(PACKAGE.parts)
    return {
        "version": __version__,
        "digest": code_digest(),
        "packages": package_digests(),
        **({} if installed else repository(PACKAGE, below=True) or {}),
    }


@functools.cache
def repository(folder: Path, *, below: bool = False) -> dict[str, Any] | None:
    """Return commit, diff and names of untracked files of the repository around a folder, or None.

    With `below`, only changes below the folder count, not those elsewhere in the repository.
    """
    scope = ("--", ".") if below else ()
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=normal", "-z", *scope)
    if status is None:
        return None
    entries = status.split("\0")
    commit = next((e.removeprefix("# branch.oid ") for e in entries if e.startswith("# branch.oid ")), None)
    untracked = sorted(e[2:] for e in entries if e.startswith("? "))
    changed = any(e[:2] in ("1 ", "2 ", "u ") for e in entries)
    facts: dict[str, Any] = {"commit": None if commit == "(initial)" else commit, "changed": changed}
    if changed and facts["commit"]:
        diff = _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff", *scope) or ""
        facts["diff_sha256"] = hashlib.sha256(diff.encode()).hexdigest()
        facts["diff"] = diff if len(diff) <= DIFF_LIMIT_BYTES else diff[:DIFF_LIMIT_BYTES] + "\n[cut]\n"
    if untracked:
        facts["untracked"] = untracked[:_UNTRACKED_LIMIT]
    return facts


@functools.cache
def packages() -> dict[str, str]:
    """Versions of the installed packages that Tutelage asks for; nothing is imported."""
    from importlib import metadata

    try:
        wanted = metadata.requires("tutelage") or []
    except metadata.PackageNotFoundError:
        wanted = []
    found: dict[str, str] = {}
    for name in sorted({re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted}):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def machine() -> dict[str, Any]:
    """Platform, processor, cores (those this process may use, too) and memory in MB; no host name."""
    import platform

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cores_usable": usable,
        "memory_mb": _memory_mb(),
    }


@functools.cache
def package_digests() -> dict[str, str]:
    """Digest of the source files of each package; the files beside the packages count as the package "."."""
    packages: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        packages.setdefault(parts[0] if len(parts) > 1 else ".", []).append(path)
    return {package: _digest(paths) for package, paths in packages.items()}


@functools.cache
def code_digest() -> str:
    """Digest of the package's source: equal digests mean equal code, with or without git."""
    text = "\n".join(f"{package} {digest}" for package, digest in sorted(package_digests().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_packages(attempts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the packages whose code differs from that of a run's last attempt, given `Run.attempts`."""
    recorded = attempts[-1].get("code", {}).get("packages", {}) if attempts else {}
    current = package_digests()
    return sorted(r for r in {*recorded, *current} if recorded.get(r) != current.get(r)) if recorded else []


def commits(attempts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Short names of the code of a run's attempts, each once: a commit (+ digest if changed) or a digest; and the user's own files."""
    names: list[str] = []
    for attempt in attempts:
        facts = attempt.get("code", {})
        if facts.get("commit"):
            differs = facts.get("changed") or facts.get("untracked")
            name = facts["commit"][:9] + (f"+{facts.get('digest', '')[:6]}" if differs else "")
        else:
            name = f"code {facts['digest'][:9]}" if facts.get("digest") else "unknown"
        name += "".join(f" {file}:{digest[:6]}" for file, digest in (attempt.get("own_code") or {}).items())
        if name not in names:
            names.append(name)
    return names


def own_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the files in the working folder that a configuration's `_target_`s name: the user's own networks and methods.

    A module `mine.py` by its bytes, a package `mine/` by those of all its Python files. What is installed is a matter of `packages`.
    """
    found: dict[str, str] = {}
    for place, files in _own_files(config).items():
        digest = hashlib.sha256()
        for path in files:
            digest.update(f"{path.relative_to(place.parent).as_posix()}\0".encode() + path.read_bytes())
        found[place.name] = digest.hexdigest()[:16]
    return found


def keep_own_code(config: Mapping[str, Any], folder: Path) -> None:
    """Copy the files that `own_code` digests into a folder, in place of what is there.

    Nothing is copied where they are more than `OWN_CODE_LIMIT_BYTES`. A digest tells that code has changed; only the code itself makes
    a number again.
    """
    places = _own_files(config)
    if not places:  # none, or not in this folder: what an earlier attempt kept stays
        return
    shutil.rmtree(folder, ignore_errors=True)
    if sum(path.stat().st_size for files in places.values() for path in files) > OWN_CODE_LIMIT_BYTES:
        return
    for place, files in places.items():
        for path in files:
            copy = folder / path.relative_to(place.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


def _own_files(config: Mapping[str, Any]) -> dict[Path, list[Path]]:
    found = {}
    for name in sorted(set(_top_modules(config))):
        for place in (Path.cwd() / f"{name}.py", Path.cwd() / name):
            files = sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.is_file() else []
            if files:
                found[place] = files
                break
    return found


def changed_files(attempts: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[str]:
    """Return the user's own files that are not what they were in a run's last attempt; those that cannot be found here are passed over."""
    before = (attempts[-1].get("own_code") if attempts else None) or {}
    here = own_code(config)
    return [name for name, digest in before.items() if here.get(name, digest) != digest]


def _top_modules(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str) and (top := target.partition(".")[0]).isidentifier():
            yield top
        for value in node.values():
            yield from _top_modules(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _top_modules(value)


def _digest(paths: Iterable[Path]) -> str:
    result = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        result.update(f"{path.relative_to(PACKAGE).as_posix()} {len(content)}\n".encode())
        result.update(content)
    return result.hexdigest()[:16]


def _git(folder: Path, *arguments: str) -> str | None:
    # GIT_OPTIONAL_LOCKS: reading the state must not write the user's index.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    return _output("git", "-C", str(folder), *arguments, environment=environment)


def _output(*command: str, environment: Mapping[str, str] | None = None) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    import subprocess

    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            env=environment,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")


@functools.cache
def _gpus() -> tuple[str, ...]:
    text = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or ""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def cpu_model() -> str:
    """Return the processor's name, or what the platform calls its kind."""
    import platform

    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return (_output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()).strip()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()


def _memory_mb() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):
        return None
