"""Where a command's results are printed: text as it is, whatever a file put into it.

Tables are as wide as the terminal, and wide enough for every column where there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from tutelage.errors import visible


def console(**options: Any) -> Any:
    """Return rich's console for standard output, on which control characters of what is printed are spelled out."""
    from rich.console import Console, RenderHook
    from rich.segment import Segment

    class Spelled:
        def __init__(self, what: Any) -> None:
            self.what = what

        def __rich_console__(self, console: Any, settings: Any) -> Iterator[Any]:
            for segment in console.render(self.what, settings):
                yield segment if segment.control else Segment(visible(segment.text), segment.style)

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[Any]) -> list[Any]:
            return [Spelled(one) for one in renderables]

    made = Console(width=None if sys.stdout.isatty() else 160, **options)
    made.push_render_hook(Hook())
    return made


def say(text: str) -> None:
    """Print lines of results."""
    print(visible(text))
