"""One step of one layer with the interface of torch.nn's cells: what RNNCell, GRUCell and LSTMCell share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from elman.layers.initial_state import as_states
from elman.layers.module import State
from elman.layers.options import as_size
from elman.layers.single_step import RecurrentCell
from elman.layers.symbolic import MODULE_CALL, recorded

if TYPE_CHECKING:
    import torch


class TorchCell(RecurrentCell[State], nn.RNNCellBase):
    """A ``RecurrentCell`` of a built-in cell, with torch.nn's arguments. Abstract: a subclass picks the cell.

    A subclass whose constructor takes more than this one's sets that as attributes before it calls this one, which asks ``_cell()``.
    """

    _may_lack = ("bias_ih", "bias_hh")

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

        The parameters depend on these arguments: setting such an attribute to another value raises an AttributeError. An RNNCell's
        nonlinearity may be set.

        Raises:
            TypeError: a size is not an int.
            RuntimeError: a size is negative, or the nonlinearity is unknown.
        """
        super(nn.RNNCellBase, self).__init__()  # past torch.nn's constructor, which makes parameters
        self.input_size = as_size("input_size", input_size, 0, RuntimeError)
        self.hidden_size = as_size("hidden_size", hidden_size, 0, RuntimeError)
        self.bias = bias
        self._build(device, dtype)

    def extra_repr(self) -> str:
        return self._sizes_and_bias()

    def forward(self, input: Tensor, hx: State | None = None) -> State:  # type: ignore[override]  # a built-in cell has no step inputs
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
        if not isinstance(input, Tensor) or nn.Module.__call__ is not MODULE_CALL:  # type: ignore[redundant-expr]
            node = recorded(self, input, hx)
            if node is not None:
                return node  # type: ignore[no-any-return]
        states = self._run(input, None if hx is None else as_states(self._state_names, hx))
        return states[0] if len(states) == 1 else states  # type: ignore[return-value]  # what State says of the cell
