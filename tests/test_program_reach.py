"""A program is made anew as soon as anything changes that a step can reach, and stays while only other things do."""

from __future__ import annotations

import array
import functools
import types
from typing import TYPE_CHECKING, Any

import pytest
import torch

from elman import Cell
from elman.backends.program import lookup
from elman.backends.program.frozen import frozen_cell
from elman.backends.program.lookup import program_of
from elman.backends.program.stand_in import NotRecordedError
from program_reached import BELOW, Below, Indexed, Mode, Nested, Settings, change_below, change_settings, text

if TYPE_CHECKING:
    from collections.abc import Callable

# What the steps below reach: each of these is 0.25 in some place.
NUMBER = 0.25
NESTED = [[0.25]]
TENSOR = torch.tensor(0.25)
OBJECT = types.SimpleNamespace(number=0.25)
MODULE = types.ModuleType("settings")
MODULE.number = 0.25  # type: ignore[attr-defined]
h = 0.25  # called as a state is


class Listed(list[float]):
    number = 0.0


class Descriptor:
    def __get__(self, instance: object, owner: type) -> float:
        return NUMBER


ARRAY = array.array("d", [0.25])
SHOWN = types.MappingProxyType(BELOW)
LISTED = Listed()
LISTED.number = 0.25
CLASSES = {"one": [Settings]}
KEYS = {Settings: "a word"}
HOLDER = types.SimpleNamespace(held=Settings)
ASKED = Settings.asked
LOOKED_UP = BELOW.get
HELD = types.SimpleNamespace(mode=Mode.ONE)
METHOD = types.MethodType(lambda holder, value: value * holder.number, OBJECT)
PARTIAL = functools.partial(lambda value, kind: value * kind.number, kind=Settings)


def _scaled(value: Any) -> Any:
    return value * NUMBER


def _scaled_by_another(value: Any) -> Any:
    return _scaled(value)


def _scaled_by_default(value: Any, number: float = 0.25) -> Any:
    return value * number


def _scaled_by_keyword(value: Any, *, number: float = 0.25) -> Any:
    return value * number


def _scaled_by_attribute(value: Any) -> Any:
    return value * _scaled_by_attribute.number  # type: ignore[attr-defined]


_scaled_by_attribute.number = 0.25  # type: ignore[attr-defined]


RULES = {"number": lambda kind: kind.number}


def _number_of(kind: Any) -> Any:
    return kind.number


def _kind_of(cell: Any) -> Any:
    return cell.kind


def _wrapping(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def wrapped(*given: Any) -> Any:
        return step(*given)

    return wrapped


@_wrapping
def _wrapped_step(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
    return s.h * self.kind.number


class Scaled(Cell):
    """A step that is its state, scaled by what a function of it says."""

    gates = ("f",)
    table = [[0.25]]  # noqa: RUF012
    tensor = torch.tensor(0.25)
    settings = types.SimpleNamespace(number=0.25)
    described = Descriptor()
    kind = Settings
    looked_up = BELOW.get

    class Options:
        number = 0.25

    @property
    def number(self) -> float:
        return NUMBER

    def number_of_kind(self) -> float:
        return self.kind.number


def _bound() -> tuple[Callable[..., Any], Callable[[float], None]]:
    number = 0.25

    def change(other: float) -> None:
        nonlocal number
        number = other

    return lambda self, x, r, s, p: s.h * number, change


_by_closure, _change_closure = _bound()


def _bound_things() -> tuple[Callable[..., Any], ...]:
    kind, module, found = Settings, MODULE, BELOW.__getitem__
    return (
        lambda self, x, r, s, p: s.h * kind.number,
        lambda self, x, r, s, p: s.h * module.number,
        lambda self, x, r, s, p: s.h * found("number"),
    )


_by_bound_class, _by_bound_module, _by_bound_function = _bound_things()


def _by_its_own_code(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
    return s.h * 0.25


def _reload(patch: pytest.MonkeyPatch) -> None:
    """As IPython's autoreload puts an edited function's code in its place."""
    patch.setattr(_by_its_own_code, "__code__", (lambda self, x, r, s, p: s.h * 0.75).__code__)


def _name(patch: pytest.MonkeyPatch, name: str, value: object) -> None:
    patch.setattr(f"{__name__}.{name}", value)


REACHED: dict[str, tuple[Callable[..., Any], Callable[[pytest.MonkeyPatch], object]]] = {
    "a global in a property": (lambda self, x, r, s, p: s.h * self.number, lambda patch: _name(patch, "NUMBER", 0.75)),
    "a global in a helper": (lambda self, x, r, s, p: _scaled(s.h), lambda patch: _name(patch, "NUMBER", 0.75)),
    "a global in a helper's helper": (lambda self, x, r, s, p: _scaled_by_another(s.h), lambda patch: _name(patch, "NUMBER", 0.75)),
    "a helper's helper": (lambda self, x, r, s, p: _scaled_by_another(s.h), lambda patch: _name(patch, "_scaled", lambda v: v * 0.75)),
    "an attribute of an object": (lambda self, x, r, s, p: s.h * OBJECT.number, lambda patch: patch.setattr(OBJECT, "number", 0.75)),
    "an attribute of a module": (lambda self, x, r, s, p: s.h * MODULE.number, lambda patch: patch.setattr(MODULE, "number", 0.75)),
    "an attribute of a class": (lambda self, x, r, s, p: s.h * Settings.number, change_settings),
    "a list in a list": (lambda self, x, r, s, p: s.h * NESTED[0][0], lambda patch: NESTED[0].__setitem__(0, 0.75)),
    "a tensor": (lambda self, x, r, s, p: s.h * TENSOR, lambda patch: TENSOR.fill_(0.75)),
    "a list in a list of the class": (lambda self, x, r, s, p: s.h * self.table[0][0], lambda patch: Scaled.table[0].__setitem__(0, 0.75)),
    "a tensor of the class": (lambda self, x, r, s, p: s.h * self.tensor, lambda patch: Scaled.tensor.fill_(0.75)),
    "an object of the class": (
        lambda self, x, r, s, p: s.h * self.settings.number,
        lambda patch: patch.setattr(Scaled.settings, "number", 0.75),
    ),
    "what is bound in the step": (_by_closure, lambda patch: _change_closure(0.75)),
    "a default": (
        lambda self, x, r, s, p: _scaled_by_default(s.h),
        lambda patch: patch.setattr(_scaled_by_default, "__defaults__", (0.75,)),
    ),
    "a default of a keyword": (
        lambda self, x, r, s, p: _scaled_by_keyword(s.h),
        lambda patch: patch.setitem(_scaled_by_keyword.__kwdefaults__, "number", 0.75),
    ),
    "an attribute of a function": (
        lambda self, x, r, s, p: _scaled_by_attribute(s.h),
        lambda patch: patch.setattr(_scaled_by_attribute, "number", 0.75),
    ),
    "the code itself": (_by_its_own_code, _reload),
    "an attribute of a class by its own method": (
        lambda self, x, r, s, p: s.h * Settings.asked(),
        change_settings,
    ),
    "a number of an array": (lambda self, x, r, s, p: s.h * ARRAY[0], lambda patch: ARRAY.__setitem__(0, 0.75)),
    "what a mapping shows": (lambda self, x, r, s, p: s.h * SHOWN["number"], change_below),
    "an attribute of a list of its own class": (
        lambda self, x, r, s, p: s.h * LISTED.number,
        lambda patch: patch.setattr(LISTED, "number", 0.75),
    ),
    "an attribute of a class in a class": (
        lambda self, x, r, s, p: s.h * self.Options.number,
        lambda patch: patch.setattr(Scaled.Options, "number", 0.75),
    ),
    "an attribute of a class by its type": (
        lambda self, x, r, s, p: s.h * type(self).Options.number,
        lambda patch: patch.setattr(Scaled.Options, "number", 0.75),
    ),
    "an attribute of a class of the class": (
        lambda self, x, r, s, p: s.h * self.kind.number,
        change_settings,
    ),
    "an attribute that a class did not have": (
        lambda self, x, r, s, p: s.h * getattr(Settings, "other", 0.25),
        lambda patch: patch.setattr(Settings, "other", 0.75, raising=False),
    ),
    "an attribute of a class in a list in a dict": (
        lambda self, x, r, s, p: s.h * CLASSES["one"][0].number,
        change_settings,
    ),
    "an attribute of a class that is a key": (
        lambda self, x, r, s, p: s.h * next(iter(KEYS)).number,
        change_settings,
    ),
    "an attribute of a class that an object holds": (
        lambda self, x, r, s, p: s.h * HOLDER.held.number,
        change_settings,
    ),
    "an attribute of a class that a partial function holds": (
        lambda self, x, r, s, p: PARTIAL(s.h),
        change_settings,
    ),
    "an attribute of a class by a method that is bound to it": (
        lambda self, x, r, s, p: s.h * ASKED(),
        change_settings,
    ),
    "an attribute of a bound class": (_by_bound_class, change_settings),
    "an attribute of a bound module": (_by_bound_module, lambda patch: patch.setattr(MODULE, "number", 0.75)),
    "what a bound function of C's looks up": (_by_bound_function, change_below),
    "what a global function of C's looks up": (
        lambda self, x, r, s, p: s.h * LOOKED_UP("number"),
        change_below,
    ),
    "what the class's function of C's looks up": (
        lambda self, x, r, s, p: s.h * self.looked_up("number"),
        change_below,
    ),
    "an attribute of the object that a method is bound to": (
        lambda self, x, r, s, p: METHOD(s.h),
        lambda patch: patch.setattr(OBJECT, "number", 0.75),
    ),
    "an attribute of an enumeration's member": (
        lambda self, x, r, s, p: s.h * Mode.ONE.gain,
        lambda patch: patch.setattr(Mode.ONE, "gain", 0.75),
    ),
    "what a member's property looks up": (
        lambda self, x, r, s, p: s.h * HELD.mode.number,
        change_below,
    ),
    "an attribute of a class that a helper is given": (
        lambda self, x, r, s, p: s.h * _number_of(Settings),
        change_settings,
    ),
    "an attribute of a class that a function in a dict is given": (
        lambda self, x, r, s, p: s.h * RULES["number"](Settings),
        change_settings,
    ),
    "an attribute of the cell's class that a helper reads of the cell": (
        lambda self, x, r, s, p: s.h * _kind_of(self).number,
        change_settings,
    ),
    "an attribute of a class in a step that is wrapped": (_wrapped_step, change_settings),
    "an attribute of a class by the name of a method": (
        lambda self, x, r, s, p: s.h * getattr(self, f"number_{'of_kind'}")(),
        change_settings,
    ),
    "an attribute that a class did not have itself": (
        lambda self, x, r, s, p: s.h * Below.number,
        lambda patch: patch.setattr(Below, "number", 0.75),
    ),
    "a private attribute of a class in a class": (
        lambda self, x, r, s, p: s.h * Nested.options._number,
        lambda patch: patch.setattr(Nested.options, "_number", 0.75),
    ),
    "what a class looks up for its index": (
        lambda self, x, r, s, p: s.h * Indexed["number"],
        change_below,
    ),
    "what a descriptor reads": (lambda self, x, r, s, p: s.h * self.described, lambda patch: _name(patch, "NUMBER", 0.75)),
}


@pytest.mark.parametrize("name", REACHED)
def test_what_a_step_reaches_is_seen_to_change(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, change = REACHED[name]
    cell = type("Scaled", (Scaled,), {"step": step})()
    before = text(cell)
    assert "0.25" in before
    change(monkeypatch)
    try:
        after = text(cell)
    finally:
        monkeypatch.undo()
        _change_closure(0.25)
        NESTED[0][0] = Scaled.table[0][0] = ARRAY[0] = 0.25
        for tensor in (TENSOR, Scaled.tensor):
            tensor.fill_(0.25)
    assert after == before.replace("0.25", "0.75")
    assert text(cell) == before


CHANGED: dict[str, tuple[Any, Any]] = {  # what equals, or cannot be compared with, what was there
    "a sign": (0.0, -0.0),
    "a truth": (1, True),
    "another type": (2, 2.0),
    "a tensor": (1.0, torch.tensor(1.0)),
    "a string's place": ("1.0", torch.tensor(1.0)),
}


@pytest.mark.parametrize("make", [lambda value: [value], lambda value: {0: value}, lambda value: {value}], ids=["list", "dict", "set"])
@pytest.mark.parametrize("name", CHANGED)
def test_what_equals_what_was_there_is_another(name: str, make: Callable[[Any], Any]) -> None:
    before, after = CHANGED[name]
    held = make(before)

    cell = type("Scaled", (Scaled,), {"step": lambda self, x, r, s, p: s.h * len(held)})()
    key = frozen_cell(cell)
    assert frozen_cell(cell) == key
    held.clear()
    held.update(make(after)) if not isinstance(held, list) else held.append(after)
    assert frozen_cell(cell) != key


def test_what_cannot_be_compared_has_changed() -> None:
    """Many numbers have come where there was one: it is refused, not an error of the comparison's."""
    held: dict[str, Any] = {"scale": 1.0}
    cell = type("Scaled", (Scaled,), {"step": lambda self, x, r, s, p: s.h * held["scale"]})()
    program_of(cell, torch.float64)
    held["scale"] = torch.ones(4)
    with pytest.raises(NotRecordedError, match="a tensor of more than one number"):
        program_of(cell, torch.float64)
    held["scale"] = "H"
    frozen_cell(cell)
    held["scale"] = torch.ones(4)
    with pytest.raises(NotRecordedError, match="a tensor of more than one number"):
        frozen_cell(cell)


def test_a_global_that_is_called_as_an_attribute_in_the_step_is_none_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """``output, h = net(x, h)`` in a script must not make a program for each h."""
    cell = type("Scaled", (Scaled,), {"step": lambda self, x, r, s, p: s.h * 0.25})()
    before = program_of(cell, torch.float64)
    monkeypatch.setattr(lookup, "record", None)
    _name(monkeypatch, "h", torch.ones(3, 3))
    assert program_of(cell, torch.float64) is before
