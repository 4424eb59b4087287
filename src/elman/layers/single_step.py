"""One step of one layer of any cell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from elman import scan
from elman.backends import Operands, Stack, reference
from elman.layers import arguments
from elman.layers.check_cell import as_cell
from elman.layers.initial_state import as_states
from elman.layers.module import Derived, RecurrentModule, State
from elman.layers.options import as_flag, as_size, as_truth
from elman.layers.step_inputs import with_draws
from elman.layers.symbolic import MODULE_CALL, recorded

if TYPE_CHECKING:
    from torch.nn.utils.rnn import PackedSequence

    from elman.cells import Cell
    from elman.layers.spans import Lengths, Reset


class RecurrentCell(RecurrentModule[State]):
    """One step of one layer of a cell.

    >>> import elman, torch
    >>> class Leaky(elman.Cell):
    ...     gates = ("h",)
    ...     def step(self, x, r, s, p):
    ...         return 0.9 * s.h + 0.1 * torch.tanh(x.h + r.h)
    >>> cell = elman.RecurrentCell(Leaky(), 10, 20)
    >>> h = torch.zeros(3, 20)
    >>> for x in torch.randn(5, 3, 10):
    ...     h = cell(x, h)
    >>> h.shape
    torch.Size([3, 20])

    The constructor's arguments are described at ``__init__``, those of a call at ``forward``. I is input_size, H hidden_size.

    Attributes:
        weight_ih: a block of H rows for each of the cell's input gates, (G·H, I).
        weight_hh: a block of H rows for each of its recurrent gates, (G·H, H).
        bias_ih, bias_hh: as many rows, (G·H,); None without bias. The cell's own parameters have the names that it declares.
    """

    _fixed = RecurrentModule._fixed | {"cell"}
    cell: Cell
    bias: bool
    _single_steps = Derived[dict[int, Stack]]()  # the stack of a step, by how many axes x has

    def __init__(
        self: RecurrentCell[Any],
        cell: Cell,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build the module. To find mistakes in the cell's step, it is tried on a small batch of arbitrary numbers.

        Args:
            cell: the equation of a step.
            input_size: I, the number of features of x.
            hidden_size: H, the number of units.
            bias: whether there are biases b_ih and b_hh.
            device: where the parameters are created.
            dtype: the dtype of the parameters.

        The parameters depend on these arguments: setting such an attribute to another value raises an AttributeError.

        Raises:
            Exception: as ``elman.Recurrent`` does for these arguments.
        """
        super().__init__()
        self.cell = as_cell(cell, hidden_size, device, dtype)
        self.input_size = as_size("input_size", input_size, 1)
        self.hidden_size = as_size("hidden_size", hidden_size, 1)
        self.bias = as_flag("bias", bias)
        for name in self.cell.parameters:
            if hasattr(self, name):
                kind = type(self.cell).__name__
                raise ValueError(f"expected other names in {kind}.parameters, got {name!r}, which is already in use")
        self._build(device, dtype)

    def _cell(self) -> Cell:
        return self.cell

    def _build(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the parameters for the attributes that the module has."""
        self._derive(self._cell())
        self._own_parameters(device, dtype)
        for name in ("bias_ih", "bias_hh"):
            if name not in self._names:
                self.register_parameter(name, None)

    def _derive(self, cell: Cell) -> None:
        stack = Stack(cell, self.input_size, self.hidden_size, bias=as_truth("bias", self.bias))
        self._set_stack(stack, stack.kinds)
        vars(self)["_single_steps"] = {2: replace(stack, left_out=1), 1: replace(stack, left_out=2)}

    def extra_repr(self) -> str:
        return f"{self.cell!r}, {self._sizes_and_bias()}"

    def _sizes_and_bias(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is True else f", bias={self.bias}")

    def forward(self, input: Tensor, hx: State | None = None, **step_inputs: Tensor) -> State:
        """Compute one step.

        Args:
            input: x, of shape (B, I); unbatched, (I,).
            hx: the state before the step, (B, H), of a cell of several states a tuple of such tensors. Unbatched, (H,). Default: zeros.
            step_inputs: what the cell declares as step_inputs, by name: (B,), or with "H" (B, H); unbatched without the axis B.

        Returns:
            The state after the step, shaped like hx. In training, each call draws random numbers of its own for the cell's ``draws``.

        Raises:
            TypeError: input is not a tensor; hx is not a tensor, or for several states a tuple of tensors; or a step input is missing, not
                declared, or no tensor.
            ValueError: input or a state has the wrong number of dimensions.
            RuntimeError: a size, dtype or device is wrong, or hx has the wrong number of states.
        """
        if not isinstance(input, Tensor) or nn.Module.__call__ is not MODULE_CALL:  # type: ignore[redundant-expr]
            node = recorded(self, input, hx, **step_inputs)
            if node is not None:
                return node  # type: ignore[no-any-return]
        cell = self.stack.cell
        beside = step_inputs if step_inputs or cell.step_inputs or (cell.draws and self.training) else None
        states = self._run(input, None if hx is None else as_states(self._state_names, hx, cell.step_inputs, step_inputs), beside)
        return states[0] if len(states) == 1 else states  # type: ignore[return-value]  # what State says of the cell

    def _run(self, x: Tensor, states: tuple[Tensor, ...] | None, beside: dict[str, Tensor] | None = None) -> tuple[Tensor, ...]:
        """What forward does, whatever the cell's states: a sequence of one step."""
        params = None if torch.compiler.is_compiling() or beside is not None else self._own_params()
        stack = self._single_steps.get(x.dim()) if params is not None and isinstance(x, Tensor) else None
        if params is not None and stack is not None:
            done = scan.run_step_unchecked(stack, x, states, params)  # whatever it is: a backend checks it, or leaves it to us
            if done is not None:
                return done
        operands = arguments.of_cell(self, x, states, beside)
        sequence = _as_sequence(operands)
        if self.training:
            sequence = with_draws(self.stack, sequence)
        if torch.compiler.is_compiling():  # one step is little more than two products, which a compiler fuses with what is around
            finals = reference.step(self.stack, operands.replaced(spans=sequence.spans))
        else:
            _, finals = scan.run(self.stack, sequence)
            finals = tuple([state.squeeze_(0) for state in finals])
        return finals if x.dim() == 2 else tuple([state.squeeze(0) for state in finals])

    def _prepare(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None,
        reset: Reset | None,
        beside: dict[str, Tensor] | None = None,
    ) -> Operands:
        if lengths is not None or reset is not None:
            raise TypeError(f"expected neither lengths nor reset, got {'reset' if lengths is None else 'lengths'}: a cell runs one step")
        return _as_sequence(arguments.of_cell(self, x, states, beside))  # type: ignore[arg-type]  # refuses all but tensors


def _as_sequence(operands: Operands) -> Operands:
    """A step's x, (B, I), and states, (B, H), as the scan takes them: with an axis of time, and of layers and directions."""
    states = None if operands.states is None else tuple([state.unsqueeze(0) for state in operands.states])
    return operands.replaced(x=operands.x.unsqueeze(0), states=states)
