"""One reader of command words: names, flags and `key=value`, by the table in `commands`, which is also where help comes from.

An option of a command is written `key=value`, `--key value` or `--key=value`. What else has an `=` is a setting, for Hydra.
Every command waits for this file, so it imports next to nothing: the standard library's dataclasses alone take as long to load as the
interpreter.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tutelage.errors import UserError, choices, counted, nearest
from tutelage.wrapping import wrapped

ANY = ("",)
"""For `Command.settings`: every setting there is."""
_HELP = ("-h", "--help")
_WIDEST = 120
EXAMPLES = (
    "train -m sweep=demo",
    "train method=guidance model=fcn model@guide=residual_convnet data=digits",
    "doctor experiment=demo/guided-untrained",
)


class Flag(NamedTuple):
    """A word that is there or not.

    name: as written, such as `--dry`.
    help: what it does.
    also: other spellings of it.
    verbs: what it belongs to, for commands that have several verbs; empty: all.
    """

    name: str
    help: str
    also: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()


class Option(NamedTuple):
    """A word `name=value` of the command's own.

    default: what counts where it is not given; empty: nothing.
    help: what it does.
    choices: the values there are; empty: any.
    value: how help writes a value where there is no default.
    verbs: what it belongs to, for commands that have several verbs; empty: all.
    """

    name: str
    default: str
    help: str
    choices: tuple[str, ...] = ()
    value: str = "..."
    verbs: tuple[str, ...] = ()


class Example(NamedTuple):
    """Words of the configuration that help shows; the reader passes them on like any setting."""

    words: str
    help: str


class Command(NamedTuple):
    """One command.

    module: the file of `tutelage.cli` that has its `run`; of a command that a package adds, the module.
    summary: what it does, in a line.
    usage: the lines of its usage, behind its name.
    about: paragraphs of help.
    entries: its flags and options, and examples of settings.
    names: how many names it takes at least and at most; None: any number.
    needs: what the first name is, for the message where it lacks.
    settings: beginnings of the settings that it passes on; `ANY`; none.
    verbs: what its first name may be, where that is a verb.
    examples: whole commands.
    """

    module: str
    summary: str
    usage: tuple[str, ...]
    about: tuple[str, ...] = ()
    entries: tuple[Flag | Option | Example, ...] = ()
    names: tuple[int, int | None] = (0, 0)
    needs: str = ""
    settings: tuple[str, ...] = ()
    verbs: Mapping[str, str] = {}
    examples: tuple[str, ...] = ()


class Given:
    """The words of a command, read.

    verb: the first name, where that is a verb.
    names: in their order, without the verb.
    options: of every option its value, or its default.
    flags: those that were given.
    spoken: the options that were given.
    settings: all other words, as they are.
    """

    def __init__(
        self,
        verb: str = "",
        names: Iterable[str] = (),
        flags: Iterable[str] = (),
        options: Mapping[str, str] | None = None,
        spoken: Iterable[str] = (),
        settings: Iterable[str] = (),
    ) -> None:
        self.verb, self.names, self.settings = verb, list(names), list(settings)
        self.flags, self.spoken, self.options = set(flags), set(spoken), dict(options or {})

    def as_settings(self, *names: str) -> list[str]:
        """Return the settings, behind them the options among `names` that were given."""
        return [*self.settings, *(f"{name}={self.options[name]}" for name in names if name in self.spoken)]


def wants_help(command: Command, words: Sequence[str]) -> bool:
    """Whether the words ask for help, or say nothing to a command that needs something."""
    return any(word in _HELP for word in words) or (not words and command.names[0] > 0)


def read(name: str, command: Command, words: Sequence[str]) -> Given:
    """Return the words of a command, read.

    Raises:
        UserError: a flag, option, value or name that the command does not take, or a name that lacks.
    """
    flags = {
        word: entry
        for entry in command.entries
        if isinstance(entry, Flag)
        for word in (entry.name, *entry.also)
    }
    options = {entry.name: entry for entry in command.entries if isinstance(entry, Option)}
    given = Given(options={entry.name: entry.default for entry in options.values()})
    rest = list(words)
    if command.verbs:
        given.verb = rest.pop(0) if rest else ""
        if given.verb not in command.verbs:
            raise UserError(f"there is no '{name} {given.verb}'; {choices(given.verb, command.verbs)}")
        name = f"{name} {given.verb}"
        options = {
            key: entry for key, entry in options.items() if not entry.verbs or given.verb in entry.verbs
        }
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=")
        if word in flags and (not flags[word].verbs or given.verb in flags[word].verbs):
            given.flags.add(flags[word].name)
        elif word.startswith("-"):
            key = key.lstrip("-").replace("-", "_")
            if key not in options:
                raise UserError(_no_option(name, command, given.verb, word, options))
            if not equals and not rest:
                raise UserError(f"{name}: {word} needs a value")
            _set(given, options[key], value if equals else rest.pop(0))
        elif equals and key in options:
            _set(given, options[key], value)
        elif equals or word.startswith("~"):
            if not word.lstrip("+~").startswith(command.settings or ("\0",)):
                raise UserError(_no_setting(name, command, word, options))
            given.settings.append(word)
        elif command.names[1] is None or len(given.names) < command.names[1]:
            given.names.append(word)
        elif command.settings == ANY:
            given.settings.append(word)  # the reader of settings says what is wrong with it
        else:
            raise UserError(f"{name} takes {counted(command.names[1], 'name')}, got '{word}' too")
    if len(given.names) + bool(command.verbs) < command.names[0]:
        raise UserError(f"{name} needs {command.needs} first" + (f"; got {words[0]!r}" if words else ""))
    return given


def _set(given: Given, option: Option, value: str) -> None:
    if option.choices and value not in option.choices:
        raise UserError(f"there is no {option.name} '{value}'; {choices(value, option.choices)}")
    given.options[option.name] = value
    given.spoken.add(option.name)


def _no_option(name: str, command: Command, verb: str, word: str, options: Iterable[str]) -> str:
    flags = [e for e in command.entries if isinstance(e, Flag) and (not e.verbs or verb in e.verbs)]
    known = [*(e.name for e in flags), *(f"{option}=" for option in options)]
    near = nearest(word, [*known, *(spelling for e in flags for spelling in e.also)])
    hint = f"did you mean '{near}'? Known" if near else "known"
    also = "; settings are given as key=value" if command.settings else ""
    return f"{name} has no option '{word}'; {hint}: {', '.join(known) or 'none'}{also}"


def _no_setting(name: str, command: Command, word: str, options: dict[str, Option]) -> str:
    key = word.lstrip("+~").partition("=")[0]
    takes = [
        *(f"{option}=" for option in options),
        *(f"{one}<key>=" if one.endswith(".") else one for one in command.settings),
    ]
    near = nearest(key, [*options, *(one.rstrip(".=") for one in command.settings)])
    hint = f"; did you mean '{near}'?" if near else ""
    return f"{name} takes {', '.join(takes) or 'no settings'}, got {word!r}{hint}"


def help_of(name: str, command: Command) -> str:
    """Return the help of a command, as wide as the terminal."""
    width = _width()
    lines = [
        line
        for number, usage in enumerate(command.usage)
        for line in wrapped(f"{'      ' if number else 'usage:'} tutelage {name} {usage}", width, " " * 16)
    ]
    entries = [*(Example(verb, help) for verb, help in command.verbs.items()), *command.entries]
    for text in (command.summary[0].upper() + command.summary[1:] + ".", *command.about):
        lines += ["", *wrapped(text, width, "")]
    if entries:
        lines += ["", *_two_columns([(_shown(entry), entry.help) for entry in entries], width)]
    if command.examples:
        lines += ["", *(line for one in command.examples for line in _example(one, width))]
    return "\n".join(lines)


def overview(commands: Mapping[str, Command], added: Sequence[str] = ()) -> str:
    """Return the help of `tutelage` itself. added: the names of commands of installed packages."""
    width = _width()
    return "\n".join(
        [
            "usage: tutelage <command> [...]",
            "",
            *_two_columns([(name, command.summary) for name, command in commands.items()], width),
            *(["", f"Of installed packages: {', '.join(added)}"] if added else []),
            "",
            "`tutelage <command> --help` says more. Examples:",
            *(line for one in EXAMPLES for line in _example(one, width)),
        ]
    )


def _width() -> int:
    """Return the letters of a line: as COLUMNS says, or the terminal, or 100 where there is none."""
    if (said := os.environ.get("COLUMNS", "")).isdigit() and int(said):
        return min(int(said), _WIDEST)
    try:
        return min(os.get_terminal_size(sys.__stdout__.fileno()).columns or 100, _WIDEST)  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        return min(100, _WIDEST)


def _example(words: str, width: int) -> list[str]:
    """Return a command that can be copied, also where it takes several lines."""
    *lines, last = wrapped(f"  tutelage {words}", width - 2, "    ")
    return [*(f"{line} \\" for line in lines), last]


def _shown(entry: Flag | Option | Example) -> str:
    if isinstance(entry, Flag):
        return ", ".join((entry.name, *entry.also))
    return entry.words if isinstance(entry, Example) else f"{entry.name}={entry.default or entry.value}"


def _two_columns(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield rows as two columns; where the first is wide, the second begins on the next line."""
    first = min(max(len(left) for left, _ in rows), 26)
    for left, right in rows:
        if len(left) > first:
            yield f"  {left}"
        for number, line in enumerate(wrapped(right, max(width - first - 4, 30), "")):
            yield f"  {left if number == 0 and len(left) <= first else '':<{first}}  {line}"
