"""One step of one layer as a module: what RNNCell, GRUCell and LSTMCell share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elman import scan
from elman.backends import WHOLE, Stack
from elman.layers import checks
from elman.layers.module import Call, RecurrentModule

if TYPE_CHECKING:
    from torch.nn.utils.rnn import PackedSequence

    from elman.cells import Cell
    from elman.layers.checks import Lengths, Reset


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class RecurrentCell(RecurrentModule):
    """One step of one layer as a module. Abstract: a subclass picks the cell and says what ``hx`` looks like."""

    bias: bool

    def __init__(
        self, cell: Cell, input_size: int, hidden_size: int, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.input_size = checks.as_size("input_size", input_size, 0, RuntimeError)
        self.hidden_size = checks.as_size("hidden_size", hidden_size, 0, RuntimeError)
        self.bias = bias
        self._derive(cell)
        self._own_parameters(device, dtype)
        for name in _NAMES[self.stack.tensors_per_direction :]:
            self.register_parameter(name, None)

    def _derive(self, cell: Cell) -> None:
        stack = Stack(cell, self.input_size, self.hidden_size, bias=checks.as_truth("bias", self.bias))
        self._set_stack(stack, _NAMES[: stack.tensors_per_direction])

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is True else f", bias={self.bias}")

    def _run(self, x: Tensor, states: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """What forward does, whatever the cell's states: a sequence of one step."""
        given = (x, *(states or ()))
        if not torch.compiler.is_compiling() and all(isinstance(t, Tensor) for t in given) and (params := self._own_params()) is not None:
            try:
                step, *before = [t.unsqueeze(0) for t in given]
            except RuntimeError:  # a tensor of another layout
                self._prepare(x, states)
                raise
            done = scan.run(self.stack, step, tuple(before) or None, params, checked=False)
            if done is not None:
                return tuple([state.squeeze(0) for state in done[1]])
        step, states, params, _ = self._prepare(x, states)
        _, finals = scan.run(self.stack, step, states, params)
        finals = tuple([state.squeeze(0) for state in finals])
        return finals if x.dim() == 2 else tuple([state.squeeze(0) for state in finals])

    def _prepare(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
    ) -> Call:
        if lengths is not None or reset is not None:
            raise TypeError(f"expected neither lengths nor reset, got {'reset' if lengths is None else 'lengths'}: a cell runs one step")
        params = self._params()
        if not isinstance(x, Tensor):
            raise checks.wrong_kind("x", "a tensor", x)
        checks.check_layout("x", x)
        weight = params[0]
        shape = x.shape
        rank = len(shape)
        if (
            (rank != 2 and rank != 1)
            or shape[-1] != self.input_size
            or x.dtype is not weight.dtype
            or not ((x.is_cpu and weight.is_cpu) or x.device == weight.device)
        ):
            checks.check_input(x, weight, self.input_size, checks.CELL_AXES, RuntimeError)
        if states is not None:
            self._check_states(states, x, "(B, H)" if rank == 2 else "(H,)", shape[:-1], ranks=(1, 2))
            states = tuple([state.unsqueeze(0) for state in states])
        x = x.unsqueeze(0)
        if rank == 1:
            x = x.unsqueeze(0)
            states = None if states is None else tuple([state.unsqueeze(0) for state in states])
        return x, states, params, WHOLE


class OneStateCell(RecurrentCell):
    """A cell with the one state h, so that hx and what forward returns are tensors. Abstract: a subclass picks the cell."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Compute one step.

        Args:
            input: x, (B, I); unbatched, (I,).
            hx: the state before the step, (B, H); unbatched, (H,). Zeros by default.

        Returns:
            The state after the step, shaped like hx.

        Raises:
            TypeError: input or hx is no tensor.
            ValueError: input or hx has the wrong number of dimensions.
            RuntimeError: a size, dtype or device does not fit.
        """
        (h,) = self._run(input, None if hx is None else (hx,))
        return h
