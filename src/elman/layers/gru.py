"""The gated recurrent unit: the interfaces of torch.nn.GRU and torch.nn.GRUCell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elman.cells import Gru
from elman.layers import checks
from elman.layers.cell import OneStateCell
from elman.layers.layer import OneStateLayer

if TYPE_CHECKING:
    import torch

    from elman.cells import Cell


class GRU(OneStateLayer):
    """A gated recurrent network over whole sequences, in place of torch.nn.GRU.

    >>> import elman, torch
    >>> gru = elman.GRU(10, 20, num_layers=2)
    >>> output, h_n = gru(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))

    At each step t, in each layer and direction, with x_t the input or the output of the layer below::

        r_t = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
        z_t = sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
        n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_{t-1} + b_hn))
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    Source: K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation", EMNLP (2014); as
    in torch.nn, r gates what comes of W_hn h + b_hn, not h.

    Args:
        input_size: I, features of x at each step.
        hidden_size: H, units in each layer and direction.
        num_layers: L, layers, each reading the one below.
        bias: False leaves b_ih and b_hh out.
        batch_first: x and output are (B, T, ...) instead of (T, B, ...). It does not change the states' shape.
        dropout: in training, the probability with which an output of any layer but the last is zeroed.
        bidirectional: each layer also reads from the last step to the first; D is then 2, otherwise 1.
        device: where the parameters live.
        dtype: the parameters' dtype.
        proj_size: LSTM alone has it; anything given raises.
        recompute: keep for the gradient no more than the outputs, one number for each T·B·H instead of five, and run the steps again when
            it is asked for, which takes about as long as the first time. The gradient is the same to the bit. It is the native backend's;
            the reference ignores it.
        learn_initial_state: have the initial states as a parameter h_0, zeros at first, from which a call without hx starts, and each piece
            after a reset.

    Attributes:
        weight_ih_l0: (3·H, I), the rows of r, z and n; of a higher layer (3·H, D·H); the other direction's are called
            ``weight_ih_l0_reverse``.
        weight_hh_l0: (3·H, H).
        bias_ih_l0, bias_hh_l0: (3·H,).
        h_0: (L·D, H), with learn_initial_state only.

    The parameters are drawn from the uniform distribution over ±1/sqrt(H), and for the same seed are torch.nn.GRU's.

    Of the constructor's arguments batch_first, dropout and recompute may be set to other values as attributes; the rest belong to the
    parameters, and setting one to another value raises an AttributeError.

    Raises:
        TypeError: a flag is not a bool or a size not an int.
        ValueError: a size is not positive, dropout not a probability, or proj_size given.
    """

    mode = "GRU"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
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
        checks.check_no_projection("a GRU", proj_size)
        super().__init__(
            Gru(),
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

    def _cell(self) -> Cell:
        return Gru()


class GRUCell(OneStateCell):
    """One step of a gated recurrent network, in place of torch.nn.GRUCell.

    >>> import elman, torch
    >>> cell = elman.GRUCell(10, 20)
    >>> h = torch.zeros(3, 20)
    >>> for x in torch.randn(5, 3, 10):
    ...     h = cell(x, h)
    >>> h.shape
    torch.Size([3, 20])

    The equation::

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
        h' = (1 - z) * n + z * h

    Source: K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation", EMNLP (2014); as
    in torch.nn, r gates what comes of W_hn h + b_hn, not h.

    Args:
        input_size: I, features of x.
        hidden_size: H, units.
        bias: False leaves b_ih and b_hh out.
        device: where the parameters live.
        dtype: the parameters' dtype.

    Attributes:
        weight_ih: (3·H, I), the rows of r, z and n.
        weight_hh: (3·H, H).
        bias_ih, bias_hh: (3·H,); None without bias.

    The parameters are drawn from the uniform distribution over ±1/sqrt(H), and for the same seed are torch.nn.GRUCell's.

    The constructor's arguments belong to the parameters: setting such an attribute to another value raises an AttributeError.

    Raises:
        TypeError: a size is not an int.
        RuntimeError: a size is negative.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(Gru(), input_size, hidden_size, bias, device, dtype)

    def _cell(self) -> Cell:
        return Gru()
