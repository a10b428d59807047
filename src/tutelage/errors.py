"""The one exception a user is meant to read, and the sentence that lists the choices."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

ONCE = {"once": True}
"""As `extra` of a line that is logged: the runs of one command all say it, and the screen has it once."""


class UserError(Exception):
    """A mistake in a command, a configuration or a file: shown as one message, exit code 2, no traceback.

    The message says what was expected, what came and what the choices are.
    """


class RunFailed(UserError):
    """A run failed of itself, not of its command: one message as for a mistake, exit code 1. Trying it again gives the same."""


class NoValue(UserError):
    """A setting that a command needs has no value. key: which."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class UnknownArgument(UserError):
    """What a configuration builds does not take some of the settings it is given. settings: which."""

    def __init__(self, message: str, settings: Sequence[str]) -> None:
        super().__init__(message)
        self.settings = list(settings)


class StoppedBelow(RunFailed):
    """A run was below what `fit.stop_below` asks for at a step: no failure of the run, and no result.

    facts: for the record: `step`, `value` and `asked`.
    """

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that ends in an error: 2 for a mistake in the command, 1 for a run that failed."""
    is_mistake = isinstance(error, UserError) and not isinstance(error, RunFailed)
    return 2 if is_mistake and getattr(error, "mistake", True) else 1


@contextlib.contextmanager
def extra(name: str, needs: str) -> Iterator[None]:
    """Import within it what an extra installs; where it is missing, a UserError says what needs it, and how it is had."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{needs}: pip install 'tutelage[{name}]'") from error


class TestSetClosed(RuntimeError):
    """The test split was asked for before a checkpoint had been selected on validation."""

    __test__ = False  # pytest would otherwise collect the class by its name


_REFUSED = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
}


def refused(error: BaseException) -> UserError | None:
    """Return the message for what the file system refuses this user (no permission, read-only, something in the way), else None."""
    if not isinstance(error, OSError) or error.errno not in _REFUSED:
        return None
    if error.errno == errno.ENAMETOOLONG:
        return UserError(
            "a name in this command is longer than the file system allows: 255 characters are common"
        )
    return UserError(
        f"cannot use {error.filename or 'a file'}: {error.strerror}. Give this user the right to it, or name another folder: runs_dir=..."
    )


def reason_of(error: BaseException) -> str:
    """Return an error of another library in a line: its kind and how its message begins."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]


_NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "bad_alloc",
    "failed to map segment",
    "can't start new thread",
)


def out_of_memory(error: BaseException) -> UserError | None:
    """Return the message for memory that is not there, on the device, the machine or within the shell's limit, else None."""
    text = str(error).strip()
    told = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError | ImportError) and any(words in text for words in _NO_MEMORY)
    )
    if not told or isinstance(error, UserError):
        return None
    limit = _memory_limit()
    return UserError(
        f"there is not enough memory{limit}: {text.splitlines()[0] if text else 'none is left'}. "
        f"{'Raise that limit, lower' if limit else 'Lower'} data.batch_size "
        "(fit.accumulate makes up for it in the update) or the model's size, or use hardware.precision=bf16-mixed"
    )


def _memory_limit() -> str:
    """Return what a shell's limit on memory is, in words; nothing where there is none."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return (
        ""
        if limit == resource.RLIM_INFINITY
        else f" within the {limit / 2**30:.1f} GB that `ulimit -v` leaves a process"
    )


_NOT_SHOWN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200b-\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


def visible(text: str) -> str:
    """Return a text with control characters spelled out, but for tabs and line ends.

    What a file says is shown to a person: it must not clear their screen, recolour it, set its title or reverse the order of letters.
    """
    if text.isascii() and text.isprintable():  # nearly all: a tenth of the time
        return text
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def choices(name: str, known: Iterable[str], *, limit: int = 12) -> str:
    """Say which names exist, the nearest to `name` first: "did you mean 'a'? Known: a, b, c", or "known: a, b, c".

    It goes on behind a semicolon.
    """
    names = sorted(set(map(str, known)))
    near = nearest(str(name), names)
    listed = ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    found = listed or "none"
    return f"did you mean '{near}'? Known: {found}" if near else f"known: {found}"


def named(key: str, words: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the names that an option lists with commas, each once. Raises UserError for one that there is not."""
    names = tuple(dict.fromkeys(filter(None, words.split(","))))
    for name in names:
        if name not in known:
            raise UserError(f"{key}={words}: there is no '{name}'; {choices(name, known)}")
    return names


def counted(number: float, noun: str) -> str:
    """Return "1 run", "12 runs" or "0.5 GPUs"."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def gist(message: str) -> str:
    """Return a message without the list of what there is, which differs from command to command of one sweep."""
    return re.sub(r"[ ;?]*\b(Known|known): .*", "", message, flags=re.DOTALL)


_ELSEWHERE = {"cuda": "gpu"} | {
    word: name
    for name, words in {
        "16-mixed": ("fp16", "float16", "half"),
        "bf16-mixed": ("bf16", "bfloat16"),
        "32-true": ("fp32", "float32", "single"),
        "64-true": ("fp64", "float64", "double"),
        "stable_decay": ("wsd", "warmup_stable_decay"),
        "plateau": ("reduce_on_plateau", "reducelronplateau"),
        "step": ("multistep", "multi_step", "multisteplr"),
    }.items()
    for word in words
}
"""What other frameworks call it."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name that was probably meant, or None. Of names that all lie in one section, the section counts for nothing."""
    names = list(known)
    if _ELSEWHERE.get(name.lower()) in names:
        return _ELSEWHERE[name.lower()]
    same = [one for one in names if _spelled(one) == _spelled(name)]
    same = same or [one for one in names if _is_short_for(one, name) or _is_short_for(name, one)]
    same = same or [one for one in names if sorted(one) == sorted(name)]  # letters that changed places
    if same:
        return same[0]
    import difflib  # here, for every command waits for this file

    sections = {one.rpartition(".")[0] for one in (name, *names)}
    within = {one.rpartition(".")[2] if len(sections) == 1 else one: one for one in names}
    sought = name.rpartition(".")[2] if len(sections) == 1 else name
    close = difflib.get_close_matches(sought, within, n=1, cutoff=0.5)
    if close:
        return within[close[0]]
    words = {
        word: one for one in reversed(names) for word in re.split(r"[._/-]", one)
    }  # flp for horizontal_flip
    return next((words[word] for word in difflib.get_close_matches(sought, words, n=1, cutoff=0.8)), None)


def _spelled(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _is_short_for(short: str, long: str) -> bool:
    """Say whether one name has the initials of the other's words, below the same section: optimizer.lr and optimizer.learning_rate."""
    (above, _, last), (section, _, words) = short.rpartition("."), long.rpartition(".")
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", words).lower().split("_")
    return above == section and len(parts) > 1 and last.lower() == "".join(part[:1] for part in parts)
