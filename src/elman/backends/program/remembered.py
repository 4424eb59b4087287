"""Tables that forget what has been in them longest, so that cells made in a loop do not pile up."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")

_MOST = 1024


def remember(table: dict[K, V], key: K, value: V) -> None:
    """Put a value into a table, which then holds at most 1024."""
    while len(table) >= _MOST:
        table.pop(next(iter(table)), None)  # another thread may have been here
    table[key] = value
