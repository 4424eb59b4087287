"""What may change unseen, so that no program is made of a step that reads it: the reference backend runs the step."""

from __future__ import annotations

import contextvars
import os
import re
import types
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

NUMBER = 0.25
MODULE = types.ModuleType("settings")
MODULE.number = 0.25  # type: ignore[attr-defined]
CONTEXT = contextvars.ContextVar("number", default=0.25)


class Scaled(Cell):
    gates = ("f",)


# What may change unseen, and what is said of it.
UNSEEN: dict[str, tuple[Callable[..., Any], str]] = {
    "a mode": (lambda self, x, r, s, p: s.h if torch.is_grad_enabled() else -s.h, r"reads torch\.is_grad_enabled, which"),
    "a mode by its name": (lambda self, x, r, s, p: s.h if is_grad_enabled() else -s.h, r"reads torch\.is_grad_enabled, which"),
    "the environment": (lambda self, x, r, s, p: s.h * float(os.environ.get("GAIN", "1")), "reads os, which"),
    "a function of os": (lambda self, x, r, s, p: s.h * float(os.getenv("GAIN", "1")), "reads os, which"),
    "globals()": (lambda self, x, r, s, p: s.h * globals()["NUMBER"], r"reads globals\(\), which"),
    "eval()": (lambda self, x, r, s, p: s.h * eval("NUMBER"), r"reads eval\(\), which"),
    "a module": (lambda self, x, r, s, p: s.h * getattr(MODULE, "number"), "reads settings, which"),  # noqa: B009
    "a module's names": (lambda self, x, r, s, p: s.h * MODULE.__dict__["number"], r"reads MODULE\.__dict__, which"),
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


def test_what_no_step_calls_may_read_anything() -> None:
    class Made(Scaled):
        def __init__(self) -> None:
            self.gain = float(os.environ.get("GAIN", "0.25"))

        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            return s.h * self.gain

    assert "0.25" in str(program_of(Made(), torch.float64).forward)
