"""The Elman network: the interfaces of torch.nn.RNN and torch.nn.RNNCell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elman.cells import NONLINEARITIES
from elman.layers import checks
from elman.layers.cell import OneStateCell
from elman.layers.layer import OneStateLayer

if TYPE_CHECKING:
    import torch

    from elman.cells import Cell


class RNN(OneStateLayer):
    """An Elman network over whole sequences, in place of torch.nn.RNN.

    >>> import elman, torch
    >>> rnn = elman.RNN(10, 20, num_layers=2)
    >>> output, h_n = rnn(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))

    At each step t, in each layer and direction, with x_t the input or the output of the layer below::

        h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)

    Source: J. L. Elman, "Finding Structure in Time", Cognitive Science 14 (1990).

    Args:
        input_size: I, features of x at each step.
        hidden_size: H, units in each layer and direction.
        num_layers: L, layers, each reading the one below.
        nonlinearity: "tanh" or "relu".
        bias: False leaves b_ih and b_hh out.
        batch_first: x and output are (B, T, ...) instead of (T, B, ...). It does not change the states' shape.
        dropout: in training, the probability with which an output of any layer but the last is zeroed.
        bidirectional: each layer also reads from the last step to the first; D is then 2, otherwise 1.
        device: where the parameters live.
        dtype: the parameters' dtype.
        proj_size: LSTM alone has it; anything given raises.
        recompute: keep less for the gradient, as GRU and LSTM do. An RNN keeps its outputs only in any case, so that it changes nothing.
        learn_initial_state: have the initial states as a parameter h_0, zeros at first, from which a call without hx starts, and each piece
            after a reset.

    Attributes:
        weight_ih_l0: (H, I), of a higher layer (H, D·H); the other direction's are called ``weight_ih_l0_reverse``.
        weight_hh_l0: (H, H).
        bias_ih_l0, bias_hh_l0: (H,).
        h_0: (L·D, H), with learn_initial_state only.

    The parameters are drawn from the uniform distribution over ±1/sqrt(H), and for the same seed are torch.nn.RNN's.

    Of the constructor's arguments batch_first, dropout and recompute may be set to other values as attributes; the rest belong to the
    parameters, and setting one to another value raises an AttributeError.

    Raises:
        TypeError: a flag is not a bool or a size not an int.
        ValueError: a size is not positive, dropout not a probability, the nonlinearity unknown, or proj_size given.
    """

    _fixed = OneStateLayer._fixed | {"nonlinearity"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        proj_size: None = None,
        recompute: bool = False,
        learn_initial_state: bool = False,
    ) -> None:
        checks.check_no_projection("an RNN", proj_size)
        nonlinearity = checks.as_nonlinearity(nonlinearity, ValueError)
        super().__init__(
            NONLINEARITIES[nonlinearity](),
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
            recompute,
            learn_initial_state,
        )
        self.nonlinearity = nonlinearity

    def _cell(self) -> Cell:
        return NONLINEARITIES[self.nonlinearity]()

    @property
    def mode(self) -> str:
        """What torch.nn calls the kind of network: "RNN_TANH" or "RNN_RELU"."""
        return f"RNN_{self.nonlinearity.upper()}"


class RNNCell(OneStateCell):
    """One step of an Elman network, in place of torch.nn.RNNCell.

    >>> import elman, torch
    >>> cell = elman.RNNCell(10, 20)
    >>> h = torch.zeros(3, 20)
    >>> for x in torch.randn(5, 3, 10):
    ...     h = cell(x, h)
    >>> h.shape
    torch.Size([3, 20])

    The equation::

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)

    Source: J. L. Elman, "Finding Structure in Time", Cognitive Science 14 (1990).

    Args:
        input_size: I, features of x.
        hidden_size: H, units.
        bias: False leaves b_ih and b_hh out.
        nonlinearity: "tanh" or "relu".
        device: where the parameters live.
        dtype: the parameters' dtype.

    Attributes:
        weight_ih: (H, I).
        weight_hh: (H, H).
        bias_ih, bias_hh: (H,); None without bias.

    The parameters are drawn from the uniform distribution over ±1/sqrt(H), and for the same seed are torch.nn.RNNCell's.

    The constructor's arguments belong to the parameters: setting such an attribute to another value raises an AttributeError.

    Raises:
        TypeError: a size is not an int.
        RuntimeError: the nonlinearity is unknown or a size negative.
    """

    _fixed = OneStateCell._fixed | {"nonlinearity"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # torch.nn.RNNCell notices in its first call, with this type of error; a layer's constructor raises a ValueError.
        nonlinearity = checks.as_nonlinearity(nonlinearity, RuntimeError)
        super().__init__(NONLINEARITIES[nonlinearity](), input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def _cell(self) -> Cell:
        return NONLINEARITIES[self.nonlinearity]()

    def extra_repr(self) -> str:
        nonlinearity = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + nonlinearity
