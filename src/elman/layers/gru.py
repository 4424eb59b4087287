"""The gated recurrent unit: the interfaces of torch.nn.GRU and torch.nn.GRUCell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from elman.cells import Gru
from elman.layers.layer import RecurrentLayer
from elman.layers.torch_cell import TorchCell

if TYPE_CHECKING:
    from elman.cells import Cell


class GRU(RecurrentLayer[Tensor], nn.GRU):
    """A network of gated recurrent units: a drop-in replacement for torch.nn.GRU.

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

    Source: K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation", EMNLP (2014). As
    in torch.nn, r multiplies W_hn h + b_hn, not h.

    The constructor's arguments are described at ``__init__``, those of a call at ``forward``. I is input_size, H hidden_size, L num_layers,
    and D the number of directions, 1 or 2.

    Attributes:
        weight_ih_l0: (3·H, I), the rows of r, z and n; in higher layers (3·H, D·H). The parameters of the reverse direction are called
            ``weight_ih_l0_reverse`` etc.
        weight_hh_l0: (3·H, H).
        bias_ih_l0, bias_hh_l0: (3·H,).
        h_0: (L·D, H), only with learn_initial_state.
    """

    mode = "GRU"

    def _cell(self) -> Cell:
        return Gru()


class GRUCell(TorchCell[Tensor], nn.GRUCell):
    """One step of a gated recurrent unit: a drop-in replacement for torch.nn.GRUCell.

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

    Source: K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation", EMNLP (2014). As
    in torch.nn, r multiplies W_hn h + b_hn, not h.

    The constructor's arguments are described at ``__init__``, those of a call at ``forward``. I is input_size, H hidden_size.

    Attributes:
        weight_ih: (3·H, I), the rows of r, z and n.
        weight_hh: (3·H, H).
        bias_ih, bias_hh: (3·H,); None without bias.
    """

    def _cell(self) -> Cell:
        return Gru()
