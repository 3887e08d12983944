"""The terminal as every table and line is printed to: what comes from outside is only text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from steersweep.core.printing import printable


class PlainConsole(Console):
    """A rich console that takes no markup from text, and escapes what would command a terminal.

    Tables and live pictures go through `render` cell by cell, so nothing else needs to escape.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, of escaped text, so that columns are as wide as what they show."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich's, with the text of every segment escaped; rich's own commands stay."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)
