"""What a step calls in another way than by a name in its code: it is followed, too, or the reference runs the step."""

from __future__ import annotations

import contextlib
import cProfile
import functools
import importlib
import logging
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

import elman
from elman import Cell
from elman.backends.program import reach
from elman.backends.program.lookup import program_of
from elman.backends.program.stand_in import NotRecordedError
from program_reached import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NUMBER = 0.25


def number() -> float:
    return NUMBER


class Inner(Cell):
    gates = ("f",)
    gain = 0.25

    class Config:
        gain = 0.25

        @staticmethod
        def number() -> float:
            return number()

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        return s.h

    @contextlib.contextmanager
    def context(self) -> Iterator[float]:
        yield number()

    @functools.cache  # noqa: B019  # which a network keeps
    def cached(self, of: float) -> float:
        return number()

    def scaled(self, value: Any) -> Any:
        return value * number()

    def doubled(self, value: Any) -> Any:
        return 2 * self.scaled(value)

    def gained(self, value: Any) -> Any:
        return value * self.gain

    def log(self) -> None:  # which no step calls
        open(os.environ["LOG"], "a").close()

    def asking(self, value: Any) -> Any:
        return value * float(os.environ.get("GAIN", "1"))


def entered(context: Any) -> Any:
    with context as value:
        return value


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
    def chosen(self, scale: Any, value: Any) -> Any:
        return value

    @chosen.register
    def _(self, scale: float, value: Any) -> Any:
        return scale * self.hidden(value)


CALLS: dict[str, Callable[..., Any]] = {
    "a method of a cell in it": lambda self, x, r, s, p: self.inner.scaled(s.h),
    "a method that calls another": lambda self, x, r, s, p: self.inner.doubled(s.h),
    "a method that reads an attribute": lambda self, x, r, s, p: self.inner.gained(s.h),
    "a method of a cell in a list": lambda self, x, r, s, p: self.inners[0].scaled(s.h),
    "a method by a computed name": lambda self, x, r, s, p: getattr(self.inner, self.name_of)(s.h),
    "a method that an option calls": lambda self, x, r, s, p: self.option(self, s.h),
    "what is dispatched": lambda self, x, r, s, p: dispatched(s.h),
    "a method that is dispatched": lambda self, x, r, s, p: self.chosen(1.0, s.h),
    "a class in a cell in it": lambda self, x, r, s, p: s.h * self.inner.Config.gain,
    "a method of that class": lambda self, x, r, s, p: s.h * self.inner.Config.number(),
    "a context of a cell in it": lambda self, x, r, s, p: s.h * entered(self.inner.context()),
    "a method that is cached": lambda self, x, r, s, p: s.h * self.inner.cached(NUMBER),
    "a comparison": lambda self, x, r, s, p: s.h * (0.25 if self.equal == 1 else 0.75),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_change_of_what_it_reads_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Calling", (Calling,), {"step": CALLS[name]})
    cell = kind()
    before = program_of(cell, torch.float64)
    assert program_of(cell, torch.float64) is before
    monkeypatch.setitem(globals(), "NUMBER", 0.75)
    monkeypatch.setattr(Inner, "gain", 0.75)
    monkeypatch.setattr(Inner.Config, "gain", 0.75)
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


def test_what_may_change_unseen_in_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = type("Calling", (Calling,), {"step": lambda self, x, r, s, p: self.inner.asking(s.h)})()
    with pytest.raises(NotRecordedError, match=r"reads os, which may change unseen, at test_program_calls\.py:\d+"):
        text(cell)
    monkeypatch.setattr(Inner, "gain", 0.5)  # so that all of it is made out anew
    assert "0.25" in text(type("Calling", (Calling,), {"step": CALLS["a method of a cell in it"]})())


def test_what_is_found_while_it_runs_is_refused() -> None:
    cell = type("Calling", (Calling,), {"step": lambda self, x, r, s, p: Plugin.__subclasses__()[0]().plugged(s.h)})()
    with pytest.raises(NotRecordedError, match=r"finds plugged while it runs, at test_program_calls\.py:\d+ \(call it by its name\)"):
        text(cell)
    assert elman.why(elman.Recurrent(cell, 3, 4), torch.zeros(2, 1, 3)).startswith("reference")


class Dropped:
    def __del__(self) -> None:
        number()


def test_what_an_object_does_that_is_let_go_of_is_no_hindrance() -> None:
    cell = type("Calling", (Calling,), {"step": lambda self, x, r, s, p: s.h * (0.25 if Dropped() else 0.75)})()
    assert "0.25" in text(cell)


@dataclass
class Shown:
    number: float

    def __post_init__(self) -> None:
        self.number *= number()


SHOWN = {"shown": Shown}


class Tee:
    """What some programs put in the place of standard output."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, text: str) -> None:
        self.file.write(text)

    def flush(self) -> None:
        self.file.flush()


class Emitting(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(record)


LOGGER = logging.getLogger(__name__)
USUAL: dict[str, Callable[..., Any]] = {
    "a class in a table": lambda self, x, r, s, p: s.h * SHOWN["shown"](2.0).number,
    "equal objects": lambda self, x, r, s, p: s.h * (0.25 if SHOWN["shown"](2.0) == Shown(2.0) else 0.75),
    "what is printed": lambda self, x, r, s, p: [print("step"), s.h * 0.25][1],
    "what is logged": lambda self, x, r, s, p: [LOGGER.warning("step"), s.h * 0.25][1],
    "a name that another class has for something else": lambda self, x, r, s, p: torch.log(self.inner.scaled(s.h)),
}


@pytest.mark.parametrize("name", USUAL)
def test_what_steps_do_besides_is_no_hindrance(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Tee(sys.stdout))
    monkeypatch.setattr(LOGGER, "handlers", [Emitting()])
    cell = type("Calling", (Calling,), {"step": USUAL[name]})()
    assert program_of(cell, torch.float64) is program_of(cell, torch.float64)


def test_threads_that_need_a_cell_at_once_have_it() -> None:
    """What one of them follows changes the key while another records."""
    failed: list[Exception] = []

    def work(kind: type[Cell], others: threading.Barrier) -> None:
        others.wait()
        try:
            elman.Recurrent(kind(), 3, 4)(torch.zeros(2, 1, 3))
        except Exception as error:
            failed.append(error)

    for _ in range(10):
        inner = type("Inner", (Inner,), dict(vars(Inner)))
        step = CALLS["a method that calls another"], CALLS["a method that reads an attribute"]
        kinds = [type("Calling", (Calling,), {"step": each, "inner": inner(), "__init__": lambda self: None}) for each in step]
        others = threading.Barrier(4)
        working = [threading.Thread(target=work, args=(kind, others)) for kind in kinds * 2]
        for each in working:
            each.start()
        for each in working:
            each.join()
    assert failed == []


def test_a_users_module_of_a_name_of_pythons_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code.py").write_text(
        "import elman\nSCALE = 0.25\nclass Scaled(elman.Cell):\n    gates = ('f',)\n"
        "    def step(self, x, r, s, p):\n        return scaled(s.h)\ndef scaled(v):\n    return v * SCALE\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "code", raising=False)
    reach._is_pythons.cache_clear()
    try:
        code = importlib.import_module("code")
        cell = code.Scaled()
        assert "0.25" in text(cell)
        code.SCALE = 0.75
        assert "0.75" in text(cell)
    finally:
        reach._is_pythons.cache_clear()


def test_somebodys_profiler_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = []
    sys.setprofile(note := lambda frame, event, argument: noted.append(event))
    try:
        assert "0.25" in text(type("Calling", (Calling,), {"step": CALLS["a method of a cell in it"]})())
        assert sys.getprofile() is note
    finally:
        sys.setprofile(None)
    assert noted
    with cProfile.Profile():
        cell = type("Calling", (Calling,), {"step": CALLS["a method by a computed name"]})()
        assert "0.25" in text(cell)
    assert sys.getprofile() is None
    monkeypatch.setitem(globals(), "NUMBER", 0.75)
    assert "0.75" in text(cell)


def test_where_somebody_watches_all_the_reference_runs_it_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = type("Calling", (Calling,), {"step": CALLS["a method of a cell in it"]})()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "getprofile", lambda: print), patch.setattr(sys, "gettrace", lambda: print)
        with pytest.raises(NotRecordedError, match="is first run under a profiler and a debugger at once"):
            text(cell)
    assert "0.25" in text(cell)


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
