"""What a step calls in another way than by a name in its code: it is followed, too, or the reference runs the step."""

from __future__ import annotations

import cProfile
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

import elman
from elman import Cell
from elman.backends.program.lookup import program_of
from elman.backends.program.stand_in import NotRecordedError

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBER = 0.25


def number() -> float:
    return NUMBER


class Inner(Cell):
    gates = ("f",)
    gain = 0.25

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        return s.h

    def scaled(self, value: Any) -> Any:
        return value * number()

    def doubled(self, value: Any) -> Any:
        return 2 * self.scaled(value)

    def gained(self, value: Any) -> Any:
        return value * self.gain

    def asking(self, value: Any) -> Any:
        return value * float(os.environ.get("GAIN", "1"))


@functools.singledispatch
def dispatched(value: Any) -> Any:
    return value * number()


class Equal:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return NUMBER < 0.5


class Plugin:
    pass


class Plugged(Plugin):
    def plugged(self, value: Any) -> Any:
        return value * number()


class Calling(Cell):
    gates = ("f",)
    gain = 0.25

    def __init__(self) -> None:
        self.inner, self.inners, self.name_of, self.equal = Inner(), [Inner()], "scaled", Equal()
        self.option = lambda cell, value: cell.hidden(value)

    def hidden(self, value: Any) -> Any:
        return value * number()

    @functools.singledispatchmethod
    def chosen(self, value: Any) -> Any:
        return self.hidden(value)


CALLS: dict[str, Callable[..., Any]] = {
    "a method of a cell in it": lambda self, x, r, s, p: self.inner.scaled(s.h),
    "a method that calls another": lambda self, x, r, s, p: self.inner.doubled(s.h),
    "a method that reads an attribute": lambda self, x, r, s, p: self.inner.gained(s.h),
    "a method of a cell in a list": lambda self, x, r, s, p: self.inners[0].scaled(s.h),
    "a method by a computed name": lambda self, x, r, s, p: getattr(self.inner, self.name_of)(s.h),
    "a method that an option calls": lambda self, x, r, s, p: self.option(self, s.h),
    "what is dispatched": lambda self, x, r, s, p: dispatched(s.h),
    "a method that is dispatched": lambda self, x, r, s, p: self.chosen(s.h),
    "a comparison": lambda self, x, r, s, p: s.h * (0.25 if self.equal == 1 else 0.75),
}


def text(cell: Cell) -> str:
    return str(program_of(cell, torch.float64).forward)


@pytest.mark.parametrize("name", CALLS)
def test_a_change_of_what_it_reads_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Calling", (Calling,), {"step": CALLS[name]})
    cell = kind()
    before = program_of(cell, torch.float64)
    assert program_of(cell, torch.float64) is before
    monkeypatch.setitem(globals(), "NUMBER", 0.75)
    monkeypatch.setattr(Inner, "gain", 0.75)
    assert str(before.forward) != text(cell)
    monkeypatch.undo()
    assert str(before.forward) == text(cell)


def test_a_function_that_is_registered_later_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.singledispatch
    def scaled(value: Any) -> Any:
        return value * 0.25

    cell = type("Calling", (Calling,), {"step": lambda self, x, r, s, p: scaled(s.h)})()
    assert "0.25" in text(cell)
    scaled.register(torch.Tensor, lambda value: value * 0.5)
    with pytest.raises(NotRecordedError, match="does something else when it is recorded"):  # stand-ins are no tensors
        text(cell)
    scaled.register(object, lambda value: value * 0.75)
    scaled.register(torch.Tensor, lambda value: value * 0.75)
    assert "0.75" in text(cell)


def test_what_may_change_unseen_in_it_is_refused() -> None:
    cell = type("Calling", (Calling,), {"step": lambda self, x, r, s, p: self.inner.asking(s.h)})()
    with pytest.raises(NotRecordedError, match=r"reads os, which may change unseen, at test_program_calls\.py:\d+"):
        text(cell)


def test_what_is_found_while_it_runs_is_refused() -> None:
    cell = type("Calling", (Calling,), {"step": lambda self, x, r, s, p: Plugin.__subclasses__()[0]().plugged(s.h)})()
    with pytest.raises(NotRecordedError, match=r"finds plugged while it runs, at test_program_calls\.py:\d+ \(call it by its name\)"):
        text(cell)
    assert elman.why(elman.Recurrent(cell, 3, 4), torch.zeros(2, 1, 3)).startswith("reference")


def test_what_comes_between_is_no_hindrance() -> None:
    class Dropped:
        def __del__(self) -> None:
            number()

    def step(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
        if left:
            left.pop()
        return s.h * 0.25

    left = [Dropped()]
    kind = type("Calling", (Calling,), {"step": functools.partialmethod(step)})
    assert "0.25" in text(kind())


def test_somebodys_profiler_stays() -> None:
    noted = []
    sys.setprofile(note := lambda frame, event, argument: noted.append(event))
    try:
        assert "0.25" in text(type("Calling", (Calling,), {"step": CALLS["a method of a cell in it"]})())
        assert sys.getprofile() is note
    finally:
        sys.setprofile(None)
    assert noted
    with cProfile.Profile():
        assert "0.25" in text(type("Calling", (Calling,), {"step": CALLS["what is dispatched"]})())
    assert sys.getprofile() is None


def test_a_method_that_may_not_be_followed_leaves_other_cells_alone() -> None:
    refused = type("Calling", (Calling,), {"step": CALLS["a method of a cell in it"]})
    Inner.scaled, before = Inner.asking, Inner.scaled  # type: ignore[method-assign]
    try:
        with pytest.raises(NotRecordedError, match="reads os, which"):
            text(refused())
        assert "native" in elman.why(elman.Recurrent(Inner(), 3, 4), torch.zeros(2, 1, 3))
    finally:
        Inner.scaled = before  # type: ignore[method-assign]
    assert "0.25" in text(refused())
