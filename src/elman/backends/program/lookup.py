"""The program of a cell, found or made: recorded once for all cells of the same class with the same options."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch._C import _len_torch_function_stack
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.overrides import _pop_mode_temporarily
from torch.utils._python_dispatch import _disable_current_modes

from elman.backends.program.build import build
from elman.backends.program.followed import follow_called, made_for_key
from elman.backends.program.frozen import frozen_cell
from elman.backends.program.record import check_precision, record
from elman.backends.program.remembered import remember
from elman.backends.program.stand_in import NotRecordedError, UnlikeStepsError
from elman.cells.cell import place_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from elman.backends.program.program import Program
    from elman.cells import Cell

_found: dict[Hashable, Program | str] = {}


class _OfUnits(str):
    """Why there is no program for all H; for one H there may be."""

    __slots__ = ()


class _ForNow(str):
    """Why there is no program this time."""

    __slots__ = ()


def program_of(cell: Cell, dtype: torch.dtype, draws: bool = False, traced: bool = False, units: int | None = None) -> Program:
    """The program of a cell. It is the same object at each call, as long as nothing changes that the step depends on.

    Args:
        dtype: of what it runs on. bfloat16 stands for all that has 16 bits anywhere, as under autocast: that is computed in float32.
        draws: whether there are the cell's draws, as in training.
        traced: whether it also writes the gates' values, and reads their gradients.
        units: H, which the step may compute with; None: any, with which it may not.

    Raises:
        NotRecordedError: if there is none; it says why, as the rest of a sentence.
        UnlikeStepsError: if the step changes the cell, or is another one each time.
    """
    draws = draws and bool(cell.draws)
    frozen = frozen_cell(cell)
    options = dtype, draws, traced, torch.get_default_dtype()
    found = _found.get((frozen, *options)) or _remembered(cell, (frozen, *options), None)
    if units is not None and type(found) is _OfUnits:
        found = _found.get((frozen, *options, units)) or _remembered(cell, (frozen, *options, units), units)
    if isinstance(found, str):
        error = NotRecordedError(found)
        error.asks_units = type(found) is _OfUnits
        raise error
    return found


def _remembered(cell: Cell, key: tuple[Any, ...], units: int | None) -> Program | str:
    """The program that is made, or why there is none, for the next time."""
    _, dtype, draws, traced, *rest = key
    made = made_for_key(cell, lambda frozen: _made(cell, frozen, dtype, draws, traced, units))
    if made is None:
        raise UnlikeStepsError(
            f"expected the step of {type(cell).__name__} not to change the cell or what it reads, got a change"
            f"{place_of(cell)}: keep what lasts from step to step in a state"
        )
    frozen, found = made
    if type(found) is not _ForNow:
        remember(_found, (frozen, dtype, draws, traced, *rest), found)
    return found


def _made(cell: Cell, frozen: Hashable, dtype: torch.dtype, draws: bool, traced: bool, units: int | None) -> Program | str:
    with outside_modes():
        try:
            if dtype is torch.bfloat16:
                check_precision(cell, draws, units)
                return program_of(cell, torch.float32, draws, traced, units)
            recorded = record(cell, dtype, draws, units)
            if recorded.called is None:
                return _ForNow("does not run a step that is first run under a profiler and a debugger at once")
            follow_called(frozen, cell, recorded.called, recorded.always)
            return build(cell, recorded, traced)
        except NotRecordedError as error:
            return _OfUnits(error) if error.asks_units else str(error)


@contextmanager
def outside_modes() -> Iterator[None]:
    """Leave all modes and transforms of torch, autocast and what watches saved tensors (as checkpoints do) for a while: they would record
    how a step is recorded, or change it.
    """
    with ExitStack() as outside:
        while _len_torch_function_stack() > 0:
            outside.enter_context(_pop_mode_temporarily())
        outside.enter_context(_disable_current_modes())
        outside.enter_context(temporarily_clear_interpreter_stack())
        outside.enter_context(torch.autocast("cpu", enabled=False))
        are_enabled = torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]
        if are_enabled and torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            # The innermost ones alone are called. They give a tensor without its node: an operation that saves its own result would keep
            # itself in memory for good.
            outside.enter_context(torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, torch.Tensor.detach))
        yield
