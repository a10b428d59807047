"""The settings of a run as a report compares them, kept by section: ten thousand runs share the sections in which they do not differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

Section = Mapping[str, str]
"""Dotted keys of one section of a configuration (`model.depth`, `model.width`) with their JSON texts."""


class Inputs(Mapping[str, str]):
    """Dotted keys of what enters a run's identity, mapped to JSON text; sections are shared, never changed."""

    __slots__ = ("sections",)

    def __init__(self, sections: Mapping[str, Section]) -> None:
        self.sections = sections

    @classmethod
    def of(cls, flat: Mapping[str, str]) -> Inputs:
        """Return dotted keys sorted into sections."""
        if isinstance(flat, Inputs):
            return flat
        sections: dict[str, dict[str, str]] = {}
        for key, text in flat.items():
            sections.setdefault(section_of(key), {})[key] = text
        return cls(sections)

    def __getitem__(self, key: str) -> str:
        return self.sections[section_of(key)][key]

    def __iter__(self) -> Iterator[str]:
        for section in self.sections.values():
            yield from section

    def __len__(self) -> int:
        return sum(map(len, self.sections.values()))

    def __repr__(self) -> str:
        return f"Inputs({dict(self)!r})"


def section_of(key: str) -> str:
    """Return the section of a dotted key: what stands before its first dot."""
    return key.partition(".")[0]


class Kinds:
    """Numbers of contents, so that runs are compared section by section without looking into sections they share."""

    def __init__(self, *, counts: Callable[[str], bool]) -> None:
        """counts: which keys make a difference."""
        self._counts = counts
        self._numbers: dict[tuple[tuple[str, str], ...], int] = {}
        self._met: dict[int, tuple[Section, int | None, tuple[str, ...]]] = {}

    def kind(self, inputs: Inputs) -> tuple[int, ...]:
        """Return what is equal for inputs that are equal in all keys that count."""
        numbers = (self._look(section)[1] for section in inputs.sections.values())
        return tuple(sorted(number for number in numbers if number is not None))

    def others(self, inputs: Inputs) -> list[str]:
        """Return the keys that do not count."""
        return [key for section in inputs.sections.values() for key in self._look(section)[2]]

    def _look(self, section: Section) -> tuple[Section, int | None, tuple[str, ...]]:
        found = self._met.get(id(section))  # the section is kept beside, so that its id stays its own
        if found is None:
            content = tuple(sorted((key, text) for key, text in section.items() if self._counts(key)))
            number = self._numbers.setdefault(content, len(self._numbers)) if content else None
            others = tuple(key for key in section if not self._counts(key))
            found = self._met[id(section)] = (section, number, others)
        return found
