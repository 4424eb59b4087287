"""Finds what a step changes that lasts: what the cell holds, or what the step names."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from elman.backends.program.frozen import named_by
from elman.backends.program.reach import is_settled
from elman.cells.cell import options_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from elman.cells import Cell

_CONTAINERS = (list, tuple, set, frozenset, dict, deque)


class Kept:
    """What there is beside a step's arguments, at one time."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._before = _contents(cell)

    def changed(self) -> str | None:
        """The name of something that holds something else now; None if there is none."""
        now = _contents(self._cell)
        names = dict.fromkeys((*self._before, *now))
        return next((name for name in names if not _same(self._before.get(name, []), now.get(name, []))), None)


def _contents(cell: Cell) -> dict[str, list[object]]:
    return {name: _inside(value) for name, value in (*named_by(type(cell)), *options_of(cell).items())}


def _inside(value: object) -> list[object]:
    """A value, and all that it holds, in an order that stays."""
    seen, found, left = set[int](), list[object](), [value]
    while left:
        each = left.pop()
        found.append(each)
        if id(each) not in seen:
            seen.add(id(each))
            left += _held(each)
    return found


def _held(value: Any) -> Iterable[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, _CONTAINERS):
        return list(value)
    if isinstance(value, type) or (is_settled(type(value)) and not isinstance(value, SimpleNamespace)):
        return []
    return list(getattr(value, "__dict__", {}).values())


def _same(before: list[object], now: list[object]) -> bool:
    return len(before) == len(now) and all(
        a is b or (type(a) is type(b) and isinstance(a, (int, float)) and a == b) for a, b in zip(before, now, strict=True)
    )
