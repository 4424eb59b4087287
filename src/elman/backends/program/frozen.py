"""What a step can depend on beside its arguments, as a key that tells when it has changed: the cell's options, and what its classes define.

Options are compared by what they are: two cells ``LeakyRNN(alpha=0.1)`` share a program. Classes are compared by the very objects they
define, and so are the globals that their functions name.
"""

from __future__ import annotations

import enum
import itertools
import operator
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from elman.backends.program.stand_in import NotRecordedError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping


def frozen_cell(cell: object) -> Hashable:
    """A key that is equal for two cells, or a cell at two times, only if their steps do the same.

    Raises:
        NotRecordedError: if an option of the cell is something that cannot be compared.
    """
    return _class_key(type(cell)), _frozen_items(vars(cell))


# --- Options ----------------------------------------------------------------------------------------------------------


def _frozen_items(options: Mapping[Any, object]) -> Hashable:
    return tuple(options), tuple([_frozen(value) for value in options.values()])


def _frozen(value: object) -> Hashable:
    """A value that can be compared for good: 1 is neither 1.0 nor True there, and 0.0 is not -0.0."""
    kind = type(value)
    freeze = _FREEZE.get(kind)
    if freeze is not None:
        return kind, freeze(value)
    if isinstance(value, type | enum.Enum | np.dtype):
        return value
    if isinstance(value, torch.Tensor | np.generic | np.ndarray):
        return kind, _frozen_number(value)
    if isinstance(value, tuple | list):
        return kind, tuple([_frozen(each) for each in value])
    if isinstance(value, dict):
        return kind, _frozen_items(value)
    if hasattr(value, "__dict__") and not hasattr(kind, "__slots__"):
        return frozen_cell(value)  # another cell, a module: an object with options of its own
    raise NotRecordedError(f"does not run a cell with an option of type {kind.__name__}")


def _itself(value: Any) -> Hashable:
    return value  # type: ignore[no-any-return]


class _Same:
    """Equal to what has the very same object."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _frozen_function(function: types.FunctionType) -> Hashable:
    inside = [_frozen(cell.cell_contents) for cell in function.__closure__ or ()]
    named = [_Same(names[name]) for names, name in _global_names(function)]
    return function, tuple(inside), _frozen(function.__defaults__), tuple(named)


def _frozen_number(value: Any) -> Hashable:
    if (value.numel() if isinstance(value, torch.Tensor) else value.size) != 1:
        raise NotRecordedError("does not run a cell with an option that is a tensor of more than one number")
    return str(value.dtype), _frozen(value.item())


_FREEZE: dict[type, Callable[[Any], Hashable]] = {
    **dict.fromkeys((int, str, bytes, bool, type(None), complex, torch.dtype, torch.device, types.BuiltinFunctionType), _itself),
    float: float.hex,
    tuple: lambda value: tuple([_frozen(each) for each in value]),
    list: lambda value: tuple([_frozen(each) for each in value]),
    dict: _frozen_items,
    set: frozenset,
    frozenset: frozenset,
    types.FunctionType: _frozen_function,
    types.MethodType: lambda value: (_frozen(value.__self__), _frozen(value.__func__)),
}


# --- Classes ----------------------------------------------------------------------------------------------------------


class _Definition:
    """What a class and those above it define, and the globals that their functions name, at one time."""

    def __init__(self, kind: type) -> None:
        self.classes = [vars(each) for each in kind.__mro__[:-1]]
        functions = [getattr(each, "__func__", each) for names in self.classes for each in names.values()]
        self.named = [pair for each in functions if isinstance(each, types.FunctionType) for pair in _global_names(each)]
        self.values = self._values()
        # Python itself writes names of its own into a class: they say nothing.
        items = [item for names in self.classes for item in names.items()]
        self.said = [(name, value) for name, value in items if callable(value) or not name.startswith(("__", "_abc_"))]
        self.said += [(name, names.get(name)) for names, name in self.named]
        self.mutable = [(value, value.copy()) for _, value in self.said if type(value) in (list, dict, set)]

    def holds(self) -> bool:
        """Whether all of it is still so."""
        now = self._values()
        same = len(now) == len(self.values) and all(map(operator.is_, now, self.values))
        return same and all(value == before for value, before in self.mutable)

    def means(self, other: _Definition) -> bool:
        """Whether another one says the same."""
        same = [(name, id(value)) for name, value in self.said] == [(name, id(value)) for name, value in other.said]
        return same and [before for _, before in self.mutable] == [before for _, before in other.mutable]

    def _values(self) -> list[Any]:
        return [*itertools.chain.from_iterable([each.values() for each in self.classes]), *[names.get(name) for names, name in self.named]]


class _Key:
    """Stays while nothing of a class changes."""

    def __init__(self, definition: _Definition) -> None:
        self.definition = definition


_MOST = 1024  # classes that are known: so those made in a loop do not pile up
_keys: dict[type, _Key] = {}


def _class_key(kind: type) -> Hashable:
    key = _keys.get(kind)
    if key is None or not key.definition.holds():
        now = _Definition(kind)
        if key is not None and key.definition.means(now):
            key.definition = now
        else:
            while len(_keys) >= _MOST:
                del _keys[next(iter(_keys))]
            key = _keys[kind] = _Key(now)
    return key


def _global_names(function: types.FunctionType) -> list[tuple[dict[str, Any], str]]:
    names, codes = set[str](), [function.__code__]
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return [(function.__globals__, name) for name in sorted(names) if name in function.__globals__]
