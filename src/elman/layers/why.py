"""Which backend would run a call, and why not the native one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import PackedSequence

from elman.backends import explain
from elman.layers.errors import wrong_module
from elman.layers.initial_state import as_states
from elman.layers.module import RecurrentModule
from elman.layers.recurrent import Recurrent
from elman.layers.step_inputs import with_draws

if TYPE_CHECKING:
    from torch import Tensor

    from elman.layers.spans import Lengths, Reset


def why(
    rnn: RecurrentModule[Any],
    x: Tensor | PackedSequence,
    hx: Tensor | tuple[Tensor, ...] | None = None,
    *,
    lengths: Lengths | None = None,
    reset: Reset | None = None,
    **step_inputs: Tensor,
) -> str:
    """Say in one line which backend would run ``rnn(x, hx, lengths=lengths, reset=reset)``, and why no better one does.

    >>> import elman, torch
    >>> with torch.autograd.forward_ad.dual_level():
    ...     elman.why(elman.RNN(10, 20), torch.zeros(5, 3, 10))
    'reference: native does not run forward-mode differentiation'

    Args:
        rnn: one of Elman's layers or cells.
        x, hx: as the module takes them.
        lengths, reset: as a layer takes them. Not for a cell.
        step_inputs: as a network of a cell with step inputs takes them.

    Returns:
        The backend's name and what it runs, such as "native (avx512): float32 on the CPU"; or why another backend does not run the call,
        such as "reference: native does not run complex64 (float32, float64, bfloat16 and float16 only)".

    Raises:
        TypeError: ``rnn`` is not one of Elman's modules, or it is a cell and lengths or reset are given.
        Exception: whatever ``rnn`` raises for these arguments.
    """
    if not isinstance(rnn, RecurrentModule):
        raise wrong_module("rnn", "layers or cells", rnn)
    states = as_states(rnn._state_names, hx, rnn.stack.cell.step_inputs, step_inputs)
    if isinstance(rnn, Recurrent) and isinstance(x, PackedSequence) and not rnn.stack.cell.name:  # a call pads it, too
        x, lengths = rnn._unpacked(x, lengths)
    operands = rnn._prepare(x, states, lengths, reset, step_inputs)
    if rnn.training and rnn.stack.cell.draws:
        operands = with_draws(rnn.stack, operands, torch.empty)  # of any numbers
    return explain(rnn.stack, operands)
