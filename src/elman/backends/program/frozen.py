"""What a step can depend on beside its arguments, as a key that tells when it has changed: the cell's options, and what its classes define.

Options are compared by what they are: two cells ``LeakyRNN(alpha=0.1)`` share a program. Classes and functions are compared by the very
objects that they define and name, those that can change inside by their contents, too.
"""

from __future__ import annotations

import array
import collections
import copy
import enum
import functools
import logging
import operator
import os
import threading
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from elman.backends.program.defined import called_of, is_pythons, plain_names_in, said_by
from elman.backends.program.reach import Reach, is_settled, own_names_of, package_of, seen_called
from elman.backends.program.remembered import remember
from elman.backends.program.stand_in import NotRecordedError
from elman.backends.program.unchanging import CONSTANT, UNCHANGING
from elman.cells.cell import slots_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence


def frozen_cell(cell: object) -> Hashable:
    """A key that is equal for two cells, or a cell at two times, only if their steps do the same.

    Raises:
        NotRecordedError: if an option of the cell, or what its step names, is something that cannot be compared.
    """
    try:
        _inside.numbers = {}
        return _frozen_object(cell)
    except RecursionError:
        raise NotRecordedError("does not run a cell with an option that holds itself") from None


def named_by(kind: type) -> list[tuple[str, object]]:
    """What a cell's step names of its classes and of globals and closures, each with its name; of what cannot be followed the former."""
    said = [item for each in kind.__mro__[:-1] if not is_settled(each) for item in said_by(each)]
    names = called_of(said)
    called = [(name, value) for name, value in said if name in names]
    try:
        return [*called, *Reach([value for _, value in called], package_of(kind)).named()]
    except NotRecordedError:
        return called


def follow_further(thing: type | types.FunctionType, kind: type, name: str) -> None:
    """Follow from now on, in what a class or a function reads, a method of a class that cells' steps call.

    Raises:
        NotRecordedError: if it reads what may change unseen. It is not followed then.
    """
    with following:
        before = seen_called.get(kind, frozenset())
        remember(seen_called, kind, before | {name})
        try:
            remember(_keys, thing, Key(Definition(thing)))
        except NotRecordedError:
            seen_called[kind] = before
            raise
        _times[0] += 1  # once the key is another one


def followed_further() -> int:
    """How often ``follow_further`` has changed a key."""
    return _times[0]


# --- Options ----------------------------------------------------------------------------------------------------------


def _frozen_object(thing: object) -> Hashable:
    key = _key_of(type(thing))
    numbers = _inside.numbers
    if (number := numbers.get(id(thing))) is not None:
        return key, number  # an object that has been met: that it is the same one counts, too
    numbers[id(thing)] = len(numbers)
    if not (slots := key.definition.slots):
        return key, _frozen_items(vars(thing))
    return key, _frozen_items(getattr(thing, "__dict__", {})), _frozen_all(getattr(thing, name, None) for name in slots)


def _frozen_items(options: Mapping[Any, object]) -> Hashable:
    names = tuple([name if type(name) is str else (name, _frozen(name)) for name in options])
    return names, tuple([_frozen(value) for value in options.values()])


def _frozen(value: object) -> Hashable:
    """A value that can be compared for good: 1 is neither 1.0 nor True there, and 0.0 is not -0.0."""
    kind = type(value)
    freeze = _FREEZE.get(kind)
    if freeze is not None:
        return kind, freeze(value)
    if isinstance(value, type):
        return _frozen_class(value)
    if isinstance(value, enum.Enum):
        return _frozen_member(value)
    if isinstance(value, np.dtype | logging.Logger):
        return value
    if isinstance(value, torch.Tensor | np.generic | np.ndarray):
        return kind, _frozen_number(value)
    if isinstance(value, tuple | list | dict):  # of a class of its own, which may say more than what it holds
        key = kind if is_settled(kind) else _key_of(kind)
        return key, _frozen_items(value) if isinstance(value, dict) else _frozen_all(value), _frozen_items(getattr(value, "__dict__", {}))
    if (hasattr(value, "__dict__") or slots_of(kind)) and not _key_of(kind).definition.hides:
        return _frozen_object(value)  # another cell, a module: an object with options of its own
    raise NotRecordedError(f"does not run a cell with an option of type {kind.__name__}")


def _frozen_all(values: Iterable[object]) -> Hashable:
    return tuple([_frozen(each) for each in values])


def _frozen_apart(value: object) -> Hashable:
    """Of what others are frozen with in any order, or in vain: the objects in it are not met by what comes after."""
    before = _inside.numbers
    _inside.numbers = dict(before)
    try:
        return _frozen(value)
    finally:
        _inside.numbers = before


def _itself(value: Any) -> Hashable:
    return value  # type: ignore[no-any-return]


def _frozen_class(kind: type) -> Hashable:
    """A class as a value is what it defines. Where a definition holds it, which follows it itself, it is the class."""
    return kind if is_settled(kind) or _inside.a_definition else (kind, _key_of(kind))


def _frozen_member(member: enum.Enum) -> Hashable:
    """A member of an enumeration: its class, and what it has of its own."""
    value: Hashable = None
    with suppress(NotRecordedError):  # what cannot be looked into stays as it is made
        value = _frozen_apart(member._value_)
    return _frozen_class(type(member)), member._name_, value, _frozen_items({name: vars(member)[name] for name in own_names_of(member)})


def _frozen_partial(value: functools.partial[Any]) -> Hashable:
    return _frozen(value.func), _frozen_all(value.args), _frozen_items(value.keywords)


def _frozen_builtin(value: Any) -> Hashable:
    """A function of C's. Bound to an object it is that object's."""
    bound = value.__self__
    if bound is None or isinstance(bound, types.ModuleType) or (isinstance(bound, type) and is_settled(bound)):
        return value  # type: ignore[no-any-return]
    return value.__name__, _frozen(bound)


def _frozen_number(value: Any) -> Hashable:
    if isinstance(value, torch.Tensor) and not value.is_cpu:  # to read it waits for its device, at each call
        raise NotRecordedError("does not run a cell that reads a tensor on another device than the CPU")
    if (value.numel() if isinstance(value, torch.Tensor) else value.size) != 1:
        raise NotRecordedError(
            "does not run a cell that reads a tensor of more than one number, in an option or a global "
            "(a parameter that init fills may hold a vector, a gate's recurrent rows a matrix)"
        )
    needs_grad = isinstance(value, torch.Tensor) and value.requires_grad
    return str(value.dtype), value.ndim, needs_grad, _frozen(value.item())  # of one axis or more, its dtype counts where it meets others


_FREEZE: dict[type, Callable[[Any], Hashable]] = {
    **dict.fromkeys((int, str, bytes, bool, type(None), complex, torch.dtype, torch.device), _itself),
    float: float.hex,
    tuple: _frozen_all,
    list: _frozen_all,
    dict: _frozen_items,
    **dict.fromkeys((set, frozenset), lambda values: frozenset([_frozen_apart(each) for each in values])),
    types.BuiltinFunctionType: _frozen_builtin,
    types.FunctionType: lambda function: _key_of(function),
    types.MethodType: lambda value: (_frozen(value.__self__), _frozen(value.__func__)),
    functools.partial: _frozen_partial,
    collections.deque: _frozen_all,
    types.SimpleNamespace: lambda value: _frozen_items(vars(value)),
    types.MappingProxyType: _frozen_items,
    array.array: lambda value: (value.typecode, value.tobytes()),
    bytearray: bytes,
}


# --- Classes and functions --------------------------------------------------------------------------------------------


class Definition:
    """What a class and those above it define, or a function, and all that they name, at one time.

    Attributes:
        thing: the class or function.
        said: what it defines, each with its name; and what it reaches, with numbers.
        names: those of what its step may call.
        reaches: what these can read; and what the rest of it can.
        slots: the names of the class's slots.
        hides: whether its objects may hold what no attribute shows, as those of C's classes do.
    """

    def __init__(self, thing: type | types.FunctionType) -> None:
        self.thing = thing
        seen = seen_called.get(thing, frozenset()) if isinstance(thing, type) else frozenset()
        kinds = thing.__mro__[:-1] if isinstance(thing, type) else ()
        self.classes = [vars(each) for each in kinds]
        said = [item for each in kinds for item in said_by(each)]
        names = called_of(said, seen)
        while True:
            reach = _reach(thing, [value for name, value in said if name in names], bool(seen))
            more = called_of(said, seen, reach.asked) - names  # functions outside of the class may ask a cell for more
            if not more:
                break
            names |= more
        self.names = names
        beside = Reach([value for name, value in said if name not in names], package_of(thing), apart=True)
        self.reaches = reach, beside
        self.slots = slots_of(thing) if isinstance(thing, type) else ()
        self.hides = any(not is_pythons(each) for each in kinds)
        held = [item for each in kinds if not is_settled(each) for item in said_by(each)]  # what is installed holds what it did
        with _inside:
            self.contents = _contents(reach, [value for name, value in held if name in names], reach.follow_held)
            self.contents += _contents(beside, [value for name, value in held if name not in names])
        self.said = [*said, *enumerate((*reach.values(), *reach.unasked(), *beside.values()))]
        self.before = self._values()

    def holds(self) -> bool:
        """Whether all of it is still so."""
        now = self._values()
        same = len(now) == len(self.before) and all(map(operator.is_, now, self.before))
        if not same or not self.contents:
            return same
        try:
            with _inside:
                return all(look(value) == before for look, value, before in self.contents)
        except (NotRecordedError, RuntimeError, TypeError, ValueError):  # what cannot be compared has come into it
            return False

    def means(self, other: Definition) -> bool:
        """Whether another one says the same."""
        same = [(name, id(value)) for name, value in self.said] == [(name, id(value)) for name, value in other.said]
        return same and [before for _, _, before in self.contents] == [before for _, _, before in other.contents]

    def _values(self) -> list[Any]:
        found: list[Any] = []
        for names in self.classes:
            found += names.values()
        for reach in self.reaches:
            if reach:
                found += reach.values()
                found += reach.unasked()
        return found


class _Inside(threading.local):
    """What this thread is inside of: whether of a definition, and the objects that it has met there, numbered."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self._outside: list[dict[int, int]] = []

    @property
    def a_definition(self) -> bool:
        return bool(self._outside)

    def __enter__(self) -> None:
        self._outside.append(self.numbers)

    def __exit__(self, *raised: object) -> None:
        self.numbers = self._outside.pop()


_inside = _Inside()


_Contents: TypeAlias = "list[tuple[Callable[[Any], object], Any, object]]"


def _contents(reach: Reach, held: list[object], follow: Callable[[list[type]], bool] | None = None) -> _Contents:
    """How to look into what is held and reached and can change inside, and what is seen there. ``follow``: takes the classes in there."""
    while True:
        found = _looked_into((*held, *reach.values(), *reach.dicts()))
        if follow is None or not follow(_classes_in([seen for _, _, seen in found])):
            break
    for value in reach.unasked():
        if type(value) in _FREEZE:
            with suppress(NotRecordedError, RecursionError):  # no function that is known asks for it
                found += _looked_into([value])
    return [*found, *[(plain_names_in, names, plain_names_in(names)) for _, names in reach.classes]]


def _looked_into(values: Iterable[object]) -> _Contents:
    looks = [(_look_into(value), value) for value in values if not _is_followed(value)]
    return [(look, value, copy.copy(value) if look is _itself else look(value)) for look, value in looks if look is not None]


def _is_followed(value: object) -> bool:
    """Whether a value is a function, or holds one, and nothing else that can change."""
    kind = type(value)
    holds_more = isinstance(value, types.MethodType | functools.partial | functools.partialmethod)
    return hasattr(kind, "__get__") and is_settled(kind) and not holds_more


def _classes_in(keys: Sequence[object]) -> list[type]:
    """The classes that are values in what ``_frozen`` has made, without those of torch's, NumPy's, Python's or ours."""
    found, left = [], [*keys]
    while left:
        each = left.pop()
        if isinstance(each, tuple | frozenset):
            left += each
        elif isinstance(each, type) and not is_settled(each):
            found.append(each)
    return found


def _reach(thing: type | types.FunctionType, called: Sequence[object], is_others: bool) -> Reach:
    """What a function, or what a step may call of a class, can read. ``is_others``: the steps of other cells use it, too."""
    if isinstance(thing, types.FunctionType):
        return Reach([thing], package_of(thing))
    things, home, is_cells = [*called, type(thing)], package_of(thing), hasattr(thing, "step")
    if is_cells and is_others:
        with suppress(NotRecordedError):  # then as far as it can be
            return Reach(things, home, asks_any=True)
    return Reach(things, home, asks_any=not is_cells)  # of an object that a step uses nothing tells what it asks


def _look_into(value: object) -> Callable[[Any], object] | None:
    """What tells whether a value has changed inside; None where it cannot."""
    kind = type(value)
    if kind in CONSTANT or kind in UNCHANGING or isinstance(value, type):  # classes are followed
        return None
    if kind is types.BuiltinFunctionType and _frozen_builtin(value) is value:
        return None
    if kind in (list, dict, set, tuple):
        each = (*value, *value.values()) if isinstance(value, dict) else value
        if all(type(inside) is str for inside in each):  # type: ignore[attr-defined]  # it has been looked at
            return None if kind is tuple else _itself  # as most of what cells declare: equal strings are the same
    return _frozen_alone


def _frozen_alone(value: object) -> Hashable:
    _inside.numbers = {}
    return _frozen(value)


class Key:
    """Stays while nothing of a class or function changes."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition


following = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=following._at_fork_reinit)  # type: ignore[attr-defined]  # a thread that is not there may hold it
_times = [0]
_keys: dict[type | types.FunctionType, Key] = {}


def _key_of(thing: type | types.FunctionType) -> Key:
    key = _keys.get(thing)
    if key is not None and key.definition.holds():
        return key
    with following:  # so that threads that need it at once have the same
        key = _keys.get(thing)
        if key is not None and key.definition.holds():
            return key
        now = Definition(thing)
        if key is not None and key.definition.means(now):
            key.definition = now
        else:
            key = Key(now)
            remember(_keys, thing, key)
    return key
