"""The program of a cell, found or made: recorded once for all cells of the same class with the same options."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch._C import _len_torch_function_stack
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.overrides import _pop_mode_temporarily
from torch.utils._python_dispatch import _disable_current_modes

from elman.backends.program.build import build
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


def program_of(cell: Cell, dtype: torch.dtype, draws: bool = False, traced: bool = False) -> Program:
    """The program of a cell. It is the same object at each call, as long as nothing changes that the step depends on.

    Args:
        dtype: of what it runs on. In bfloat16 and under autocast to it, bfloat16: that is computed in float32.
        draws: whether there are the cell's draws, as in training.
        traced: whether it also writes the gates' values, and reads their gradients.

    Raises:
        NotRecordedError: if there is none; it says why, as the rest of a sentence.
        UnlikeStepsError: if the step changes the cell, or is another one each time.
    """
    draws = draws and bool(cell.draws)
    key = frozen_cell(cell), dtype, draws, traced, torch.get_default_dtype()
    found = _found.get(key)
    if found is None:
        found = _made(cell, dtype, draws, traced)
        if frozen_cell(cell) != key[0]:
            raise UnlikeStepsError(
                f"expected the step of {type(cell).__name__} not to change the cell or what it reads, got a change"
                f"{place_of(cell)}: keep what lasts from step to step in a state"
            )
        remember(_found, key, found)
    if isinstance(found, str):
        raise NotRecordedError(found)
    return found


def _made(cell: Cell, dtype: torch.dtype, draws: bool, traced: bool) -> Program | str:
    with outside_modes():
        try:
            if dtype is torch.bfloat16:
                check_precision(cell, draws)
                return program_of(cell, torch.float32, draws, traced)
            return build(cell, record(cell, dtype, draws), traced)
        except NotRecordedError as error:
            return str(error)


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
        if torch._C._autograd._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]
            outside.enter_context(torch.autograd.graph.saved_tensors_hooks(_itself, _itself))  # the innermost ones alone are called
        yield


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
