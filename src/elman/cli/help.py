"""What typer's help page needs for a language without spaces, and to say its own words in that language."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.columns import Columns
from rich.containers import Lines
from rich.table import Table
from rich.text import Text
from typer import rich_utils

from elman.language import translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TITLES = ("ARGUMENTS_PANEL_TITLE", "OPTIONS_PANEL_TITLE", "COMMANDS_PANEL_TITLE", "DEFAULT_STRING", "REQUIRED_LONG_STRING")


# What a line is not broken in: a word, one of the values "a|b|c" or a Chinese character, with the marks before and after it.
_UNIT = re.compile(r"[（“]*(?:[^\s|“”\u2e80-\uffef]+\|?|\||[\u2e80-\uffef])[，。；：、！？）”]*\s*")


class WrappedText(Text):
    """A text that is broken at spaces and beside Chinese characters, as one writes them: not in a word, nor before a closing mark."""

    def wrap(self, console: Any, width: int, **options: Any) -> Lines:
        lines = Lines()
        for line in self.split(allow_blank=True):
            lines.extend(line.divide(breaks(line.plain, width)))
        for line in lines:
            line.rstrip()
        return lines


def breaks(line: str, width: int) -> list[int]:
    """Where a line is broken so that its parts fit the width. Only what is longer than that by itself is broken anywhere."""
    found, column = [], 0
    for unit in _UNIT.finditer(line):
        fits = cell_len(unit[0].rstrip()) <= width
        for offset, part in ((0, unit[0]),) if fits else enumerate(unit[0]):
            if column and column + cell_len(part.rstrip()) > width:
                found.append(unit.start() + offset)
                column = 0
            column += cell_len(part)
    return found


class FoldingTable(Table):
    """A table that breaks text without spaces, as Chinese is, where a line ends, rather than cutting it off."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_wrapped, cells), **options)
        for column in self.columns:
            column.overflow = "fold"


class FoldingColumns(Columns):
    """Columns whose texts are wrapped as ``WrappedText`` is."""

    def __init__(self, renderables: Iterable[Any], **options: Any) -> None:
        super().__init__(map(_wrapped, renderables), **options)


def _wrapped(part: Any) -> Any:
    return WrappedText.assemble(part) if isinstance(part, Text) else part


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
