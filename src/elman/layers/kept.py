"""Finds what a step changes that lasts: what the cell holds, or what the step names."""

from __future__ import annotations

import functools
import types
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from elman.backends.program.frozen import named_by
from elman.backends.program.reach import content_of, is_settled
from elman.cells.cell import options_of, slots_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from elman.cells import Cell

_MOST = 10_000  # things that are looked at: more are no record of a step or two
_CONTAINERS: tuple[type[Any], ...] = (list, tuple, set, frozenset, deque)
_IMMUTABLE = (tuple, frozenset)
_COMPARED = (bool, int, float, complex, str, bytes, type(None), torch.device, torch.dtype)


class Kept:
    """What there is beside a step's arguments, at one time."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._before = _contents(cell)

    def changed(self) -> str | None:
        """The name of something that holds something else now; None if there is none."""
        now = _contents(self._cell)
        different = (name for (name, before), (_, after) in zip(self._before, now, strict=False) if not _are_same(before, after))
        return next(different, None)


def _contents(cell: Cell) -> list[tuple[str, list[object]]]:
    """What the step can reach by each name, in an order that stays."""
    found, left = [], _MOST
    named = [item for item in named_by(type(cell)) if not isinstance(item[1], types.FunctionType)]  # what those hold is there, too
    for name, value in (*named, *options_of(cell).items()):
        found.append((name, _inside(value, left)))
        left -= len(found[-1][1])
    return found


def _inside(value: object, most: int) -> list[object]:
    """A value, and all that it holds."""
    seen, found, left = set[int](), list[object](), deque([value])
    while left and len(found) < most:
        each = left.popleft()
        found.append(type(each) if isinstance(each, _IMMUTABLE) else each)  # what is made anew may hold the same
        if id(each) not in seen:
            seen.add(id(each))
            left.extend(_held(each, most))
    return found


def _held(value: Any, most: int) -> Iterable[object]:
    """What a value holds, by no method that somebody may have written."""
    if isinstance(value, dict):
        return [] if dict.__len__(value) > most else [*dict.keys(value), *dict.values(value)]
    for kind in _CONTAINERS:
        if isinstance(value, kind):
            return [] if kind.__len__(value) > most else list(kind.__iter__(value))
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, (types.MethodType, types.BuiltinMethodType)):
        return () if isinstance(value.__self__, types.ModuleType) else (value.__self__,)
    if isinstance(value, types.FunctionType):
        return [content_of(cell) for cell in value.__closure__ or ()]
    kind = type(value)
    if isinstance(value, type) or (is_settled(kind) and kind is not types.SimpleNamespace):
        return ()
    return [_attribute(value, name) for name in ("__dict__", *slots_of(kind))]


def _attribute(value: object, name: str) -> object:
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return None


def _are_same(before: list[object], now: list[object]) -> bool:
    return len(before) == len(now) and all(map(_is_same, before, now))


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and type(one) in _COMPARED and (one == other or (one != one and other != other)))
