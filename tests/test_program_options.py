"""A cell's options: cells whose options differ have other programs, and so has a cell whose option changes inside."""

from __future__ import annotations

import copy
import enum
import functools
import os
import types
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import leaky_relu

import elman
from elman import Cell
from elman.backends.program.frozen import frozen_cell
from elman.backends.program.lookup import program_of
from elman.backends.program.stand_in import NotRecordedError
from program_reached import Mode, Nested, Settings, change_below, change_settings, text

if TYPE_CHECKING:
    from collections.abc import Callable


class Activated(Cell):
    gates = ("f",)

    def __init__(self, option: Any) -> None:
        self.option = option

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        return self.option(s.h) if callable(self.option) else s.h * self.option


class Number(float):
    pass


class Slotted(Cell):
    __slots__ = ("number",)
    gates = ("f",)

    def __init__(self, number: float) -> None:
        self.number = number

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        return s.h * self.number


@dataclass(slots=True)
class Described(Cell):
    number: float
    gates = ("f",)

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        return s.h * self.number


class Function:
    __slots__ = ("number",)

    def __init__(self, number: float) -> None:
        self.number = number

    def __call__(self, value: Any) -> Any:
        return value * self.number


MAKES: dict[str, Callable[[float], Cell]] = {
    "a partial function": lambda number: Activated(functools.partial(leaky_relu, negative_slope=number)),
    "a method of a tensor": lambda number: Activated(torch.tensor(number, dtype=torch.float64).mul),
    "an object with slots": lambda number: Activated(Function(number)),
    "a cell with slots": Slotted,
    "a dataclass with slots": Described,
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_cells_with_other_options_have_other_programs(make: Callable[[float], Cell]) -> None:
    def found(number: float) -> str:
        try:
            return text(make(number))
        except NotRecordedError as error:  # then nothing can be taken for something else
            return f"{error} {number}"

    assert found(0.25) != found(0.75)
    assert found(0.25) == found(0.25)


IN_OPTIONS: dict[str, tuple[object, Callable[[Any, Any], Any], Callable[[pytest.MonkeyPatch], object]]] = {
    "a class": (Settings, lambda option, value: value * option.number, change_settings),
    "a class in a list": (
        [Settings],
        lambda option, value: value * option[0].number,
        change_settings,
    ),
    "a method of a class": (Settings.asked, lambda option, value: value * option(), change_settings),
    "a member of an enumeration": (
        Mode.ONE,
        lambda option, value: value * option.gain,
        lambda patch: patch.setattr(Mode.ONE, "gain", 0.75),
    ),
    "an object whose class has a class": (Nested(), lambda option, value: value * option.options.settings.number, change_settings),
    "a private name in a class in a class": (
        Nested(),
        lambda option, value: value * option.options._number,
        lambda patch: patch.setattr(Nested.options, "_number", 0.75),
    ),
    "a function of a class in a class": (
        Nested(),
        lambda option, value: value * option.options.looked_up(),
        change_below,
    ),
    "a function of a class that is given one": (lambda kind: kind.number, lambda option, value: value * option(Settings), change_settings),
    "a member with a property": (Mode.ONE, lambda option, value: value * option.number, change_below),
}


@pytest.mark.parametrize("name", IN_OPTIONS)
def test_a_change_inside_an_option_that_is_a_class_or_a_member_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    option, use, change = IN_OPTIONS[name]
    kind = type("Asking", (Activated,), {"step": lambda self, x, r, s, p: use(self.option, s.h)})
    before = text(kind(option))
    assert "0.25" in before
    change(monkeypatch)
    assert text(kind(option)) == before.replace("0.25", "0.75")
    monkeypatch.undo()
    assert text(kind(option)) == before


class Data:
    def __getitem__(self, name: str) -> str:
        return os.environ[name]

    def load(self, path: str) -> str:
        return open(path).read()


HOLDER = types.SimpleNamespace(number=0.25, data=Data)


def test_a_class_that_something_merely_holds_is_no_hindrance() -> None:
    assert "0.25" in text(type("Asking", (Activated,), {"step": lambda self, x, r, s, p: s.h * HOLDER.number})(None))
    held = {"table": {"number": 0.25, "data": Data}, "step": lambda self, x, r, s, p: s.h * self.table["number"]}
    assert "0.25" in text(type("Asking", (Activated,), held)(None))


def test_an_option_whose_contents_do_not_show_is_refused() -> None:
    with pytest.raises(NotRecordedError, match="does not run a cell with an option of type Number"):
        text(Activated(Number(0.25)))


def test_a_cell_that_holds_itself_is_followed_once() -> None:
    class Child:
        def __init__(self, number: float, parent: Any) -> None:
            self.number, self.parent = number, parent

        def __call__(self, value: Any) -> Any:
            return value * self.parent.gain * self.number

    def holding(number: float, gain: float) -> Any:
        cell: Any = Activated(None)
        cell.option, cell.gain, cell.all = Child(number, cell), gain, {"cells": [cell]}
        return cell

    cell = holding(0.25, 0.5)
    assert text(cell) == text(holding(0.25, 0.5))
    assert program_of(cell, torch.float64) is program_of(holding(0.25, 0.5), torch.float64)
    assert len({text(cell), text(holding(0.75, 0.5)), text(holding(0.25, 0.75))}) == 3
    before = frozen_cell(cell)
    cell.option.parent = holding(0.25, 0.75)  # another one than that which holds it
    assert frozen_cell(cell) != before


def test_which_options_are_one_object_counts() -> None:
    class Pair:
        def __init__(self, one: Any, other: Any) -> None:
            self.one, self.other = one, other

        def __call__(self, value: Any) -> Any:
            return value * (0.25 if self.one is self.other else 0.75)

    both, apart = types.SimpleNamespace(), Slotted(0.5)
    assert "0.25" in text(Activated(Pair(apart, apart)))
    assert "0.75" in text(Activated(Pair(apart, Slotted(0.5))))
    assert "0.25" in text(Activated(Pair(both, both)))


def test_so_does_which_of_several_it_is() -> None:
    one, other = Slotted(0.25), Slotted(0.75)
    last = type("Asking", (Activated,), {"step": lambda self, x, r, s, p: s.h * self.option[2].number})
    assert "0.25" in text(last([one, other, one]))
    assert "0.75" in text(last([one, other, other]))


def test_objects_in_a_set_are_told_apart() -> None:
    """A set has no order by which they could be numbered."""

    class Held:
        def __init__(self, number: float) -> None:
            self.number = number

        def __call__(self, value: Any) -> Any:
            return value * self.number

    for turn in range(20):
        numbers = (0.25, 0.75) if turn % 2 else (0.75, 0.25)
        both = [Held(number) for number in numbers]
        for one in both:
            cell = Activated(one)
            vars(cell)["all"] = set(both)
            assert str(one.number) in text(cell)


class Preset(enum.Enum):
    SMALL = {"settings": types.SimpleNamespace(number=0.25), "held": Slotted(0.25), "table": torch.zeros(4)}  # noqa: RUF012


def test_an_object_in_a_member_that_cannot_be_compared_is_looked_into_where_it_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = type("Asking", (Activated,), {"step": lambda self, x, r, s, p: s.h * self.held.number})(Preset.SMALL)
    vars(cell)["held"] = Preset.SMALL.value["held"]
    assert "0.25" in text(cell)
    monkeypatch.setattr(cell.held, "number", 0.75)  # type: ignore[attr-defined]
    assert "0.75" in text(cell)


def test_options_that_all_hold_each_other_take_no_longer_than_they_are_many() -> None:
    class Node:
        def __call__(self, value: Any) -> Any:
            return value * 0.25

    nodes = [Node() for _ in range(40)]
    for node in nodes:
        node.all = nodes  # type: ignore[attr-defined]
    assert "0.25" in text(Activated(nodes[0]))


def test_a_list_that_holds_itself_is_refused() -> None:
    cell = Activated([0.25])
    cell.option.append(cell.option)
    with pytest.raises(NotRecordedError, match="does not run a cell with an option that holds itself"):
        text(cell)


def test_slots_are_options_to_a_cell() -> None:
    assert Slotted(0.25) != Slotted(0.75)
    assert Slotted(0.25) == Slotted(0.25)
    assert repr(Slotted(0.25)) == "Slotted(number=0.25)"


def test_a_tensor_that_is_to_be_trained_has_another_program() -> None:
    """The kernels give no gradient to what is no parameter, so that the reference has to run it."""
    scale = torch.tensor(0.25)
    net = elman.Recurrent(Activated(scale), 3, 4)
    x = torch.zeros(2, 1, 3)
    assert elman.why(net, x).startswith("native")
    key = frozen_cell(net.cell)
    scale.requires_grad_()
    assert frozen_cell(net.cell) != key
    assert elman.why(net, x).startswith("reference")
    net(x, torch.ones(1, 1, 4))[0].sum().backward()
    assert scale.grad is not None
    assert elman.why(elman.Recurrent(Activated(torch.tensor(0.25)), 3, 4), x).startswith("native")


@pytest.mark.parametrize(
    "make", [lambda each: each, lambda each: [each], lambda each: {"a": (each,)}], ids=["alone", "in a list", "deeper"]
)
def test_cells_are_equal_by_the_numbers_that_their_options_hold(make: Callable[[Any], Any]) -> None:
    def cell(number: float) -> Cell:
        return Activated(make(torch.full((3,), number)))

    assert cell(1.0) == cell(1.0) == copy.deepcopy(cell(1.0))
    assert cell(1.0) != cell(2.0)
    assert cell(1.0) != Activated(make(torch.ones(4)))


def test_options_of_other_lengths_kinds_and_names_are_others() -> None:
    ordered = OrderedDict(a=1.0, b=2.0), OrderedDict(b=2.0, a=1.0)
    for one, other in (ordered, ([1.0], (1.0,)), ([1.0], [1.0, 1.0]), ({"a": 1.0}, {"b": 1.0}), ({"a": 1.0}, {})):
        assert Activated(one) != Activated(other)
