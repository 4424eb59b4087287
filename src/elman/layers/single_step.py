"""One step of one layer as a module: what RNNCell, GRUCell and LSTMCell share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from elman import scan
from elman.backends import Stack, reference
from elman.layers import arguments
from elman.layers.initial_state import as_states
from elman.layers.module import RecurrentModule, State
from elman.layers.options import as_size, as_truth
from elman.layers.symbolic import recorded

if TYPE_CHECKING:
    from torch.nn.utils.rnn import PackedSequence

    from elman.cells import Cell
    from elman.layers.arguments import Call
    from elman.layers.spans import Lengths, Reset


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class RecurrentCell(RecurrentModule[State], nn.RNNCellBase):
    """One step of one layer as a module. Abstract: a subclass picks the cell.

    A subclass whose constructor takes more than this one's sets that as attributes before it calls this one, which asks ``_cell()``.
    """

    bias: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build the cell, with the arguments of torch.nn's class of the same name.

        The parameters are drawn from the uniform distribution over ±1/sqrt(H). With the same seed they are the same as torch.nn's.

        Args:
            input_size: I, the number of features of x.
            hidden_size: H, the number of units.
            bias: whether there are biases b_ih and b_hh.
            nonlinearity: RNNCell only, the fourth argument: "tanh" (the default) or "relu".
            device: where the parameters are created.
            dtype: the dtype of the parameters.

        The parameters depend on these arguments: setting such an attribute to another value raises an AttributeError.

        Raises:
            TypeError: a size is not an int.
            RuntimeError: a size is negative, or the nonlinearity is unknown.
        """
        super(nn.RNNCellBase, self).__init__()  # past torch.nn's constructor, which makes parameters
        self.input_size = as_size("input_size", input_size, 0, RuntimeError)
        self.hidden_size = as_size("hidden_size", hidden_size, 0, RuntimeError)
        self.bias = bias
        self._derive(self._cell())
        self._own_parameters(device, dtype)
        for name in _NAMES[self.stack.tensors_per_direction :]:
            self.register_parameter(name, None)

    def _derive(self, cell: Cell) -> None:
        stack = Stack(cell, self.input_size, self.hidden_size, bias=as_truth("bias", self.bias))
        self._set_stack(stack, _NAMES[: stack.tensors_per_direction])

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is True else f", bias={self.bias}")

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        """Compute one step.

        Args:
            input: x, of shape (B, I); unbatched, (I,).
            hx: the state before the step. RNNCell and GRUCell: h, of shape (B, H). LSTMCell: a tuple (h, c) of two such tensors. Unbatched,
                (H,). Default: zeros.

        Returns:
            The state after the step, shaped like hx.

        Raises:
            TypeError: input is not a tensor, or hx is not a tensor (LSTMCell: a tuple of tensors).
            ValueError: input or a state has the wrong number of dimensions.
            RuntimeError: a size, dtype or device is wrong, or hx has the wrong number of states.
        """
        if not isinstance(input, Tensor) and (node := recorded(self, input, hx)) is not None:
            return node
        states = self._run(input, None if hx is None else as_states(self._state_names, hx))
        return states[0] if len(states) == 1 else states  # type: ignore[return-value]  # what State says of the cell

    def _run(self, x: Tensor, states: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """What forward does, whatever the cell's states: a sequence of one step."""
        given = (x, *(states or ()))
        if not torch.compiler.is_compiling() and all(isinstance(t, Tensor) for t in given) and (params := self._own_params()) is not None:
            try:
                step, *before = [t.unsqueeze(0) for t in given]
            except RuntimeError:  # a tensor of another layout
                arguments.of_cell(self, x, states)
                raise
            done = scan.run_unchecked(self.stack, step, tuple(before) or None, params, 0.0, False)
            if done is not None:
                return tuple([state.squeeze(0) for state in done[1]])
        step, states, params, _ = arguments.of_cell(self, x, states)
        if torch.compiler.is_compiling():  # one step is little more than two products, which a compiler fuses with what is around
            states = None if states is None else tuple([state.squeeze(0) for state in states])
            finals = reference.step(self.stack, step.squeeze(0), states, params)
        else:
            _, finals = scan.run(self.stack, step, states, params)
            finals = tuple([state.squeeze(0) for state in finals])
        return finals if x.dim() == 2 else tuple([state.squeeze(0) for state in finals])

    def _prepare(self, x: Tensor | PackedSequence, states: tuple[Tensor, ...] | None, lengths: Lengths | None, reset: Reset | None) -> Call:
        if lengths is not None or reset is not None:
            raise TypeError(f"expected neither lengths nor reset, got {'reset' if lengths is None else 'lengths'}: a cell runs one step")
        return arguments.of_cell(self, x, states)  # type: ignore[arg-type]  # refuses all but tensors
