"""What Hydra and OmegaConf raise, in the user's words: what was expected, what came, what the choices are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hydra.errors import OverrideParseException

from tutelage.config.elsewhere import here
from tutelage.config.group_lists import files_with_lists
from tutelage.config.groups import abouts, group_options, groups
from tutelage.errors import NoValue, UserError, choices

HYDRAS = {"hydra/launcher": ("basic", "local", "slurm", "ray"), "hydra/sweeper": ("basic", "optuna")}
"""What the groups of Hydra's own offer that a command may choose from."""


def in_words(error: Exception, overrides: Sequence[str], known_keys: Callable[[str], list[str]]) -> UserError:
    """Return one message for what Hydra or OmegaConf raised.

    known_keys: given the key that was refused, those that the command would have without it.
    """
    text = str(error).strip()
    cause: BaseException | None = error
    while cause is not None:  # what one of our resolvers said, however deep it was wrapped
        if isinstance(cause, UserError):
            return cause
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OverrideParseException):
        evaluated = re.search(r"\w+ while evaluating '(.*?)': (.*)", text)
        why = f" ({evaluated[1]}: {evaluated[2]})" if evaluated else ""
        return UserError(
            f"cannot read '{error.override}' as a setting{why}: expected key=value, lists as [a,b], of a sweep a,b or range(0,10), and "
            "text with special characters in quotes of its own, such as 'data.root=\"my folder, Köln\"'"
        )
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match.group(1)
        if re.search(r"@(experiment|sweep)\.", key):
            return UserError(
                f"{' '.join(w for w in overrides if w.startswith(('experiment=', 'sweep=')))}: its file must begin with the line "
                "'# @package _global_', before any other"
            )
        known = known_keys(key)
        if key in known:
            return UserError(
                f"'{key}' holds named entries: give each by its name, +{key}.<name>=<value>, or several as '+{key}={{<name>: <value>}}'"
            )
        if (name := key.removeprefix("model@").removeprefix("frozen.")) != key and "@" in key:
            return UserError(
                f"there is no network '{name}' in this command: known are model@guide, model@teacher and model@source; "
                f"another frozen one is added, +model@frozen.{name}=<model>"
            )
        if key == "arms":
            return UserError(
                "arms= chooses among the arms of a table: train -m sweep=<table> arms=<label>,<label>"
            )
        group, at, place = key.partition("@")
        if at and group in groups():
            chosen = next(
                (w.partition("=")[2] for w in overrides if w.lstrip("+~").startswith(f"{key}=")), ""
            )
            if chosen not in (offered := group_options(group)):
                return UserError(f"there is no {group} '{chosen}'; {choices(chosen, offered)}")
            return UserError(
                f"there is nothing at '{place}' that {key}={chosen} could replace: a further one is added, +{key}={chosen}"
            )
        section, _, last = key.rpartition(".")
        if deeper := _deeper(section, last, known):
            return UserError(f"there is no setting '{key}' in this command; did you mean '{deeper}'?")
        if word := here(key):
            return UserError(f"there is no setting '{key}' in this command; here it is {word}")
        if section == "optimizer" and "optimizer=any" in overrides:
            return UserError(
                f"there is no setting '{key}' in this command; an argument of the optimiser's own is added with a plus: +{key}=<value>"
            )
        beside = [name for name in known if name.startswith(f"{section}.")] if section else []
        return UserError(f"there is no setting '{key}' in this command; {choices(key, beside or known)}")
    if match := re.search(r"Could not delete from config\. '([^']+)' does not exist", text):
        known = known_keys(match[1])
        return UserError(f"there is no setting '{match[1]}' to take away; {choices(match[1], known)}")
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return UserError(
            f"the setting '{match[1]}' is there already: give {match[1]}=<value>, without the plus"
        )
    if match := re.search(r"Error merging override \+([^=]+)=", text):
        return UserError(
            f"the setting '{match[1]}' is there already, and is no mapping: give {match[1]}=<value>, without the plus"
        )
    if match := re.search(r"Error merging override ([^+=][^=]*)=(.*)", text, re.DOTALL):
        return UserError(
            f"{match[1]}={match[2].strip()} is not of the setting's kind: one is a value, a list [a,b] or a mapping {{a: b}}. "
            "`tutelage doctor` with the same words, but for this one, shows what it holds"
            + (
                "; here pairs of a pattern and a factor, [[head.*,10]]"
                if match[1].endswith("lr_factors")
                else ""
            )
        )
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, name = match.group(1).partition("/") if "/" in match.group(1) else ("", "", match.group(1))
        if group == "hydra":  # hydra/launcher=..., hydra/sweeper=...: registered, not files
            group, _, name = match.group(1).rpartition("/")
        offered = list(HYDRAS.get(group) or group_options(group))
        others = (
            f"; one of PyTorch or timm is optimizer=any optimizer.name={name} optimizer.lr=<rate>"
            if group == "optimizer"
            else ""
        )
        return UserError(f"there is no {group or 'configuration'} '{name}'; {choices(name, offered)}{others}")
    if "Unsupported type in defaults" in text and (lists := files_with_lists()):
        return UserError(next(iter(lists.values())))
    if "Config group override must be a string" in text:
        for word in overrides:
            role, dot, setting = word.partition("@")[2].partition(".")
            if dot:  # model@guide.depth=3
                return UserError(
                    f"{word}: the @ is for the choice of a model; a setting of it is {role}.{setting}"
                )
        emptied = [
            word
            for word in overrides
            if word.partition("=")[2] in ("null", "None", "~")
            and ("@" in word or word.lstrip("+").partition("=")[0] in groups())
        ]
        if not emptied:
            return UserError(f"a group needs a choice; {choices('', groups())}")
        key = emptied[0].lstrip("+").partition("=")[0]
        offered = group_options(key.partition("@")[0])
        return UserError(
            f"{' '.join(emptied)}: this group needs a choice, or '~{key}' leaves it out; {choices('', offered)}"
        )
    if "Ambiguous value for argument" in text:
        return UserError(
            f"{text.splitlines()[0]}\nSeveral values make a sweep: add -m. A value with a comma in it has quotes of its own: "
            "\"data.root='a,b'\""
        )
    if "requires --multirun" in text:
        swept = next((word for word in overrides if re.search(r"\b(interval|range|choice|glob)\(", word)), "")
        if "interval(" in swept:
            return UserError(f"{swept}: an interval is for a search; add -m hydra/sweeper=optuna")
        return UserError(f"{swept or text.splitlines()[0]}: several values make a sweep: add -m")
    if "Missing mandatory value" in text:
        key = getattr(error, "full_key", None) or text.rpartition(" ")[2]
        if key.startswith(("needs.", "chain.")):  # the words of a needed run point at this command's settings
            key = str(error).splitlines()[0].rpartition(" ")[2]
        said = f"the setting '{key}' has no value: give {key}=<value>{_about(key, overrides)}"
        return NoValue(said, key)
    return UserError(" ".join(text.split()))


def _deeper(section: str, last: str, known: Sequence[str]) -> str:
    """Return the first known key below a section that has a part of this name, up to it; a choice of a group with its `@`."""
    for name in known:
        if (not section or name.startswith(f"{section}.")) and last in (parts := name.split(".")):
            place = ".".join(parts[: parts.index(last) + 1])
            return name if place == name else f"{last}@{place}" if last in groups() else place
    return ""


def _about(key: str, overrides: Sequence[str]) -> str:
    """Return what the chosen file of the key's group says of itself, as a hint at what is missing."""
    group = key.partition(".")[0]
    for word in reversed(overrides):
        name, _, choice = word.lstrip("+").partition("=")
        if name in (group, "experiment") and (about := abouts(name).get(choice)):
            return f" ({word}: {about})"
    return ""
