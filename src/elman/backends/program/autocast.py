"""Cells of one's own under autocast: which dtypes the results have.

torch's autocast rounds what a product takes and gives to bfloat16, on a GPU to float16 if it is asked to. What comes of it follows from the
step: its operators promote, so that a state which is a sum of itself keeps its dtype, and a gate does not. The kernels compute in float32,
which on the CPU is as fast for them, and more exact, and their results get the dtypes that the step has under autocast. It is taken there
with zeros, on the device, to see them.
"""

from __future__ import annotations

from ctypes import cast, py_object
from typing import TYPE_CHECKING

import torch

from elman.backends.operands import Operands
from elman.backends.program.frozen import frozen_cell
from elman.backends.program.lookup import outside_modes
from elman.backends.program.remembered import remember
from elman.backends.reference import REFERENCE
from elman.backends.spans import Spans
from elman.backends.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from torch import Tensor

    from elman.cells import Cell

Dtypes = tuple[torch.dtype, ...]
_found: dict[Hashable, tuple[Dtypes, ...]] = {}

_UNKNOWN = "does not know the dtypes that this step gives under autocast"


def refusal(stack: Stack, operands: Operands) -> str | None:
    """Why the dtypes of a call's results are not known; None if they are."""
    return None if _first_steps(stack, operands) else _UNKNOWN


def result_dtypes(stack: Stack, operands: Operands) -> tuple[Dtypes, Dtypes]:
    """The dtypes of what all steps give, in one tensor each, and of what the last one gives: of the states, then of the gates.

    The call is one that is not refused.
    """
    found = _first_steps(stack, operands)
    count = 1
    while (
        count < len(found) and operands.x.shape[stack.lead] > count
    ):  # a compiler that knows no number of steps need not ask for it if one will do
        count += 1
    together = found[0]
    for each in found[1:count]:
        together = tuple([torch.promote_types(a, b) for a, b in zip(together, each, strict=True)])
    return together, found[count - 1]


def in_dtypes(dtypes: Sequence[torch.dtype], states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """States, or gates, in the first of these dtypes."""
    return tuple([state.to(dtype) for state, dtype in zip(states, dtypes[: len(states)], strict=True)])


def _first_steps(stack: Stack, operands: Operands) -> tuple[Dtypes, ...]:
    """What each step gives, until the steps give the same; nothing if that is not known."""
    x, states, params, spans = operands
    cell, each = stack.cell, stack.tensors_per_direction
    own = [param.dtype for param in params[each - len(cell.parameters) : each]]
    for last in range(2 * each, len(params) + 1, each):
        if [param.dtype for param in params[last - len(cell.parameters) : last]] != own:
            return ()  # one layer's results may differ from another's
    given = [x.dtype] * len(cell.states) if states is None else [state.dtype for state in states]
    beside = [value.dtype for value in spans.step_inputs or ()]
    dtypes = x.dtype, *given, *beside, *own
    kind = x.device.type
    return _seen(id(cell), stack.hidden_size, spans.draws is not None, kind, torch.get_autocast_dtype(kind), *dtypes)


def _seen(address: int, units: int, draws: bool, kind: str, narrow: torch.dtype, *dtypes: torch.dtype) -> tuple[Dtypes, ...]:
    """``_first_steps`` of the cell whose ``id`` is given (``operator._described`` says why), by the dtypes of x, the states, the step
    inputs and the cell's own parameters.
    """
    cell: Cell = cast(address, py_object).value  # of which there is a program: so it is one, and can be compared
    key = frozen_cell(cell), units, draws, kind, narrow, dtypes, torch.get_default_dtype()
    found = _found.get(key)
    if found is None:
        found = _tried(Stack(cell, 1, units), draws, kind, narrow, dtypes)
        remember(_found, key, found)
    return found


_seen._dynamo_marked_constant = True  # type: ignore[attr-defined]  # called by Dynamo, not traced


def _tried(stack: Stack, draws: bool, kind: str, narrow: torch.dtype, dtypes: Dtypes) -> tuple[Dtypes, ...]:
    cell = stack.cell
    rest = iter(dtypes)
    x, *states = (next(rest) for _ in range(1 + len(cell.states)))
    found: list[Dtypes] = []
    with outside_modes(), torch.inference_mode(False), torch.no_grad(), torch.autocast(kind, narrow, cache_enabled=False):

        def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros((), dtype=dtype, device=kind).expand(shape)

        step_inputs = tuple([zeros(next(rest), 1, 1, *[stack.hidden_size] * bool(size)) for size in cell.step_inputs.values()])
        drawn = tuple([zeros(x, 1, 1, 1, stack.hidden_size) for _ in cell.draws]) if draws else None
        spans = Spans(step_inputs=step_inputs or None, draws=drawn)
        own = dict(zip(cell.parameters, rest, strict=True))
        params = [zeros(own.get(kind, x), *shape) for kind, shape in zip(stack.kinds, stack.shapes, strict=True)]
        before: list[torch.dtype] = []
        while states != before:
            if len(found) > 2 * len(states):  # they take turns
                return ()
            start = tuple([zeros(dtype, 1, 1, stack.hidden_size) for dtype in states])
            try:
                after = REFERENCE.trace(stack, Operands(zeros(x, 1, 1, 1), start, params, spans))
            except Exception:  # the reference backend will raise it
                return ()
            before, states = states, [final.dtype for final in after.finals]
            found.append((*states, *[gate.dtype for gate in after.gates.values()]))
    while len(found) > 1 and found[-1] == found[-2]:
        del found[-1]
    return tuple(found)
