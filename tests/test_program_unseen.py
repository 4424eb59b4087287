"""What may change unseen, so that no program is made of a step that reads it: the reference backend runs the step."""

from __future__ import annotations

import abc
import contextlib
import contextvars
import enum
import importlib
import logging
import os
import re
import sys
import threading
import types
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import is_grad_enabled

import elman
from elman import Cell
from elman.backends.program.lookup import program_of
from elman.backends.program.stand_in import NotRecordedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUMBER = 0.25
MODULE = types.ModuleType("settings")
MODULE.number = 0.25  # type: ignore[attr-defined]
MODULES = [MODULE]
CONTEXT = contextvars.ContextVar("number", default=0.25)


class Asking:
    def number(self) -> float:
        return 0.25 if torch.is_grad_enabled() else 0.75


KINDS = [Asking]


class Scaled(Cell):
    gates = ("f",)
    module = MODULE


# What may change unseen, and what is said of it.
UNSEEN: dict[str, tuple[Callable[..., Any], str]] = {
    "a mode": (lambda self, x, r, s, p: s.h if torch.is_grad_enabled() else -s.h, r"reads torch\.is_grad_enabled, which"),
    "a mode by its name": (lambda self, x, r, s, p: s.h if is_grad_enabled() else -s.h, r"reads torch\.is_grad_enabled, which"),
    "a mode asked of getattr": (
        lambda self, x, r, s, p: s.h if getattr(torch, "is_grad_enabled")() else -s.h,  # noqa: B009
        r"reads torch\.is_grad_enabled, which",
    ),
    "the environment": (lambda self, x, r, s, p: s.h * float(os.environ.get("GAIN", "1")), "reads os, which"),
    "a function of os": (lambda self, x, r, s, p: s.h * float(os.getenv("GAIN", "1")), "reads os, which"),
    "globals()": (lambda self, x, r, s, p: s.h * globals()["NUMBER"], r"reads globals\(\), which"),
    "eval()": (lambda self, x, r, s, p: s.h * eval("NUMBER"), r"reads eval\(\), which"),
    "a module": (lambda self, x, r, s, p: s.h * getattr(MODULE, "number"), "reads settings, which"),  # noqa: B009
    "a module's names": (lambda self, x, r, s, p: s.h * MODULE.__dict__["number"], r"reads MODULE\.__dict__, which"),
    "a module as a whole": (lambda self, x, r, s, p: s.h * len(vars(MODULE)), "reads settings, which"),
    "a module that the class holds": (lambda self, x, r, s, p: s.h * self.module.number, "reads settings, which"),
    "a module in a list": (lambda self, x, r, s, p: s.h * MODULES[0].number, "a cell with an option of type module"),
    "a mode in a class in a list": (lambda self, x, r, s, p: s.h * KINDS[0]().number(), r"reads torch\.is_grad_enabled, which"),
    "the modules that are loaded": (lambda self, x, r, s, p: s.h * len(sys.modules), r"reads sys\.modules, which"),
    "a variable of a context": (lambda self, x, r, s, p: s.h * CONTEXT.get(), "a cell with an option of type ContextVar"),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_may_change_unseen_is_left_to_the_reference(name: str) -> None:
    step, words = UNSEEN[name]
    cell = type("Scaled", (Scaled,), {"step": step})()
    with pytest.raises(NotRecordedError, match=words):
        program_of(cell, torch.float64)
    assert re.search(words, elman.why(elman.Recurrent(cell, 3, 4), torch.zeros(2, 1, 3)))


def test_so_is_what_a_step_imports() -> None:
    def imports(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
        import own_cells

        return s.h * len(own_cells.__name__)

    def imports_torch(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
        import torch.nn.functional as F

        return F.silu(s.h)

    def imports_a_mode(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
        import torch as t

        return s.h if t.is_grad_enabled() else -s.h

    with pytest.raises(NotRecordedError, match=r"reads import own_cells, .* at test_program_unseen\.py:\d+"):
        program_of(type("Scaled", (Scaled,), {"step": imports})(), torch.float64)
    with pytest.raises(NotRecordedError, match=r"reads torch\.is_grad_enabled, which"):
        program_of(type("Scaled", (Scaled,), {"step": imports_a_mode})(), torch.float64)
    program_of(type("Scaled", (Scaled,), {"step": imports_torch})(), torch.float64)


def test_a_word_that_is_a_modes_name_is_no_mode() -> None:
    cell = type(
        "Scaled", (Scaled,), {"step": lambda self, x, r, s, p: s.h * len("get_num_threads") * {"is_compiling": 1.0}["is_compiling"]}
    )()
    assert "15" in str(program_of(cell, torch.float64).forward)


def test_what_no_step_calls_may_read_anything() -> None:
    class Made(Scaled):
        def __init__(self) -> None:
            self.gain = float(os.environ.get("GAIN", "0.25"))

        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            return s.h * self.gain

    assert "0.25" in str(program_of(Made(), torch.float64).forward)


def _records(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
    return torch.tanh(s.h)


@pytest.mark.parametrize(
    "value",
    [torch.ops.aten.tanh, torch.ops.aten.tanh.default, torch.Generator(), logging.Logger("apart"), threading.Lock(), slice(1), Decimal(1)],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_change_is_no_hindrance(value: object) -> None:
    cell = type("Scaled", (Scaled,), {"step": _records, "held": value})()
    assert program_of(cell, torch.float64) is program_of(cell, torch.float64)
    assert elman.why(elman.Recurrent(cell, 3, 4), torch.zeros(2, 1, 3)).startswith("native")


def test_cells_that_know_each_other_are_no_hindrance() -> None:
    class Known(Cell):
        gates = ("f",)
        known: dict[str, type[Cell]] = {}  # noqa: RUF012

        def __init_subclass__(cls) -> None:
            Known.known[cls.__name__] = cls

        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            return s.h * 0.75

    class Made(Known):
        def __init__(self) -> None:
            self.gain = float(os.environ.get("GAIN", "0.25"))

        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            return super().step(x, r, s, p) * self.gain

    class Further(Known):
        pass

    for cell in (Made(), Further(), Made()):
        assert program_of(cell, torch.float64) is program_of(cell, torch.float64)


def _mixed(input: Any, factors: tuple[float, ...]) -> Any:
    return sum([input * each for each in factors])  # a function of its own before Python 3.12, in which input is bound


class Shape(abc.ABC):
    lock = threading.RLock()
    many = torch.ones(3)
    number = 0.25

    @abc.abstractmethod
    def of(self, value: Any) -> Any: ...


class Round(Shape):
    path: os.PathLike[str] | None = None

    def of(self, value: Any) -> Any:
        return torch.tanh(value)


class Kind(enum.Enum):
    ONE = torch.ones(3)
    TWO = object()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]


def _links(count: int) -> type:
    kind = type("Link", (), {"number": 0.25})
    for _ in range(count):
        kind = type("Link", (), {"number": 0.25, "next": (lambda below: lambda self: below.number)(kind)})
    return kind


LINKS = _links(400)

NO_HINDRANCE: dict[str, Callable[..., Any]] = {
    "a local of the name of one of Python's functions": lambda self, x, r, s, p: _mixed(s.h, (0.5, 0.25)),
    "a subclass of an abstract one": lambda self, x, r, s, p: self.shape().of(s.h) * self.shape.number,
    "a member of an enumeration that has no hash": lambda self, x, r, s, p: s.h * (0.5 if self.kind is Kind.ONE else 0.25),
    "a class that leads to another, and so on": lambda self, x, r, s, p: s.h * LINKS().next(),
}


@pytest.mark.parametrize("name", NO_HINDRANCE)
def test_what_leads_nowhere_else_is_no_hindrance(name: str) -> None:
    held = {"step": NO_HINDRANCE[name], "shape": Round, "kind": Kind.ONE}
    cell = type("Scaled", (Scaled,), held)()
    assert program_of(cell, torch.float64) is program_of(cell, torch.float64)
    assert elman.why(elman.Recurrent(cell, 3, 4), torch.zeros(2, 1, 3)).startswith("native")


def test_an_option_that_is_a_member_without_a_hash_is_one() -> None:
    cell = type("Scaled", (Scaled,), {"step": lambda self, x, r, s, p: s.h * (0.5 if self.option is Kind.ONE else 0.25)})()
    found = []
    for cell.option in (Kind.ONE, Kind.TWO, Kind.ONE):
        found.append(str(program_of(cell, torch.float64).forward))
    assert found[0] == found[2] != found[1]


def test_what_a_class_makes_once_and_keeps_is_no_change() -> None:
    class Memo:
        kept: dict[Any, float] = {}  # noqa: RUF012

        @classmethod
        def of(cls, dtype: Any) -> float:
            return cls.kept.setdefault(dtype, 0.25)

    class Kept(Scaled):
        memo = Memo

        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            return s.h * self.memo.of(s.h.dtype)

    net = elman.Recurrent(Kept(), 3, 4)
    for _ in range(2):
        assert net(torch.zeros(2, 1, 3))[0].shape == (2, 1, 4)
    assert net.double()(torch.zeros(2, 1, 3).double())[0].shape == (2, 1, 4)


def test_what_the_step_does_not_call_is_no_hindrance_either() -> None:
    class Kept(Scaled):
        gain = 0.25

        @classmethod
        def load(cls, path: str) -> Kept:
            cls.gain = float(open(path).read())  # noqa: SIM115
            return cls()

        @property
        def folder(self) -> str:
            return os.environ["HOME"]

        def _scaled(self, value: Any) -> Any:
            return value * self.gain

        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            return self._scaled(s.h)

    class Asking(Kept):
        def _scaled(self, value: Any) -> Any:
            return value * len(self.folder)

    program_of(Kept(), torch.float64)
    with pytest.raises(NotRecordedError, match="reads os, which"):
        program_of(Asking(), torch.float64)


def test_a_modules_own_neighbour_is_none_of_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "neighbours"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "math.py").write_text("SCALE = 0.25\n")
    (package / "cells.py").write_text("def step(self, x, r, s, p):\n    from .math import SCALE\n    return s.h * SCALE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    cell = type("Scaled", (Scaled,), {"step": importlib.import_module("neighbours.cells").step})()
    with pytest.raises(NotRecordedError, match=r"reads import \.math, which may change unseen, at cells\.py:2"):
        program_of(cell, torch.float64)


def test_an_operator_that_draws_in_training_only_is_no_draw_in_evaluation() -> None:
    def step(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
        return torch.nn.functional.rrelu(s.h, training=False)

    def hides(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
        with contextlib.suppress(RuntimeError, Exception):
            return s.h * torch.rand(1)
        return s.h

    elman.Recurrent(type("Scaled", (Scaled,), {"step": step})(), 3, 4)
    with pytest.raises(RuntimeError, match="random numbers drawn in it"):
        elman.Recurrent(type("Scaled", (Scaled,), {"step": hides})(), 3, 4)
