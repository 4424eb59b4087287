"""What classes define, and which of it a step may call."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from elman.backends.program.reach import codes_of, is_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def said_by(kind: type) -> list[tuple[str, object]]:
    """What a class defines. Python itself writes names of its own into it: they say nothing."""
    items = [(name, value) for name, value in list(vars(kind).items()) if not name.startswith("__annot")]
    if issubclass(kind, enum.Enum):  # which keeps tables of its members
        items = [(name, value) for name, value in items if callable(value) or not (name.startswith("_") or isinstance(value, kind))]
    return [(name, value) for name, value in items if callable(value) or isinstance(value, classmethod) or is_plain(name)]


def plain_names_in(names: Mapping[str, object]) -> list[str]:
    return [name for name in list(names) if is_plain(name)]


def called_of(said: Sequence[tuple[str, object]], seen: Iterable[str] = (), asked: Iterable[str] = ()) -> set[str]:
    """The names of what a step may call: of a cell those that lead on from ``step`` and are ``asked``, of another class all but some; and
    those that it has been ``seen`` to call.
    """
    by_name: dict[str, list[object]] = {}
    for name, value in said:
        by_name.setdefault(name, []).append(value)
    names = {name for name in by_name if name not in _APART and ("step" not in by_name or name == "step" or name.startswith("__"))}
    asked = set(asked)
    names |= (by_name.keys() if "getattr" in asked else by_name.keys() & asked) - _APART
    names |= by_name.keys() & set(seen)
    found = list(names)
    while found:
        for value in by_name[found.pop()]:
            further = {name for code in codes_of(value) for name in code.co_names if name in by_name} - names
            names |= further
            found += further
    return names


def is_pythons(kind: type) -> bool:
    """Whether a class is written in Python, and so are the objects that it makes."""
    return bool(kind.__flags__ & _HEAP_TYPE) and isinstance(vars(kind).get("__new__", _NEW), staticmethod)


_HEAP_TYPE = 1 << 9  # in CPython's object.h
# Methods that steps do not call, as a rule.
_APART = frozenset(
    (
        *("__copy__", "__deepcopy__", "__del__", "__eq__", "__format__", "__getstate__", "__hash__", "__init__", "__init_subclass__"),
        *("__ne__", "__new__", "__post_init__", "__reduce__", "__reduce_ex__", "__repr__", "__setstate__"),
    )
)
_NEW = staticmethod(object.__new__)
