"""What typer's help page needs for a language without spaces, and to say its own words in that language."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.table import Table
from rich.text import Text
from typer import rich_utils

from elman.language import translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TITLES = ("ARGUMENTS_PANEL_TITLE", "OPTIONS_PANEL_TITLE", "COMMANDS_PANEL_TITLE", "DEFAULT_STRING", "REQUIRED_LONG_STRING")


class FoldingTable(Table):
    """A table that breaks text without spaces, as Chinese is, where a line ends, rather than cutting it off."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*cells, **options)
        for column in self.columns:
            column.overflow = "fold"


class FoldingColumns(Columns):
    """Columns that break text likewise."""

    def __init__(self, renderables: Iterable[Any], **options: Any) -> None:
        parts = list(renderables)
        for part in parts:
            if isinstance(part, Text):
                part.overflow = "fold"
        super().__init__(parts, **options)


@contextmanager
def help_in_the_readers_language() -> Iterator[None]:
    """In here typer prints help with these tables, and its titles translated."""
    ours: dict[str, object] = {name: translated(getattr(rich_utils, name)) for name in TITLES}
    ours |= {"Table": FoldingTable, "Columns": FoldingColumns}
    theirs = {name: getattr(rich_utils, name) for name in ours}
    try:
        for name, value in ours.items():
            setattr(rich_utils, name, value)
        yield
    finally:
        for name, value in theirs.items():
            setattr(rich_utils, name, value)
