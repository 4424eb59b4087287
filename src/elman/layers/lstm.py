"""Long short-term memory: the interfaces of torch.nn.LSTM and torch.nn.LSTMCell."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from elman.backends.program.lookup import outside_modes
from elman.cells import Lstm
from elman.layers.layer import RecurrentLayer
from elman.layers.options import as_size
from elman.layers.torch_cell import TorchCell

if TYPE_CHECKING:
    from torch.nn.utils.rnn import PackedSequence

    from elman.cells import Cell

# The dtypes that oneDNN runs on this processor, if torch has it: bfloat16 on x86 with AVX-512, float16 with AVX-512 FP16.
_OF_ONEDNN: dict[torch.dtype, bool] = {
    torch.float32: torch._C._has_mkldnn,
    torch.bfloat16: torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    torch.float16: torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}


def _onednn_runs(dtype: torch.dtype) -> bool:
    """Whether torch gives an LSTM in this dtype to oneDNN: in float16 only where no gradient is recorded."""
    return _OF_ONEDNN.get(dtype, False) and not (dtype is torch.float16 and torch.is_grad_enabled())


@cache
def _onednn_runs_packed() -> bool:
    """Whether torch runs packed sequences of one length in oneDNN, as newer versions do: torch is asked for a step."""
    with outside_modes(), torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        one = torch.zeros(1, 1, dtype=torch.float32, device="cpu")
        weights = [torch.zeros(4, 1, dtype=torch.float32, device="cpu")] * 2
        sizes = torch.ones(1, dtype=torch.int64, device="cpu")
        output, *_ = torch._VF.lstm(one, sizes, (one[None], one[None]), weights, False, 1, 0.0, False, False)
    return output.dtype is torch.bfloat16


class LSTM(RecurrentLayer[tuple[Tensor, Tensor]], nn.LSTM):
    """A long short-term memory: a drop-in replacement for torch.nn.LSTM.

    >>> import elman, torch
    >>> lstm = elman.LSTM(10, 20, num_layers=2)
    >>> output, (h_n, c_n) = lstm(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape, c_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]), torch.Size([2, 3, 20]))

    At each step t, in each layer and direction, with x_t the input or the output of the layer below::

        i_t = sigmoid(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)
        f_t = sigmoid(W_if x_t + b_if + W_hf h_{t-1} + b_hf)
        g_t = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
        o_t = sigmoid(W_io x_t + b_io + W_ho h_{t-1} + b_ho)
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)

    With a projection (proj_size), the last line is h_t = W_hr (o_t * tanh(c_t)).

    Source: S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997); with the forget gate of F. A. Gers,
    J. Schmidhuber, F. Cummins, "Learning to Forget", Neural Computation 12 (2000), and the projection of H. Sak, A. Senior, F. Beaufays,
    "Long Short-Term Memory Recurrent Neural Network Architectures for Large Scale Acoustic Modeling", Interspeech (2014).

    The constructor's arguments are described at ``__init__``, those of a call at ``forward``. I is input_size, H hidden_size, L num_layers,
    P proj_size, and D the number of directions, 1 or 2.

    Attributes:
        weight_ih_l0: (4·H, I), the rows of i, f, g and o; in higher layers (4·H, D·H), with a projection (4·H, D·P). The parameters of the
            reverse direction are called ``weight_ih_l0_reverse`` etc.
        weight_hh_l0: (4·H, H); with a projection (4·H, P).
        bias_ih_l0, bias_hh_l0: (4·H,).
        weight_hr_l0: (P, H), only with a projection.
        h_0: (L·D, H), only with learn_initial_state; with a projection (L·D, P).
        c_0: (L·D, H), only with learn_initial_state.
    """

    mode = "LSTM"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        recompute: bool = False,
        learn_initial_state: bool = False,
    ) -> None:
        self.proj_size = as_size("proj_size", proj_size, 0)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
            recompute=recompute,
            learn_initial_state=learn_initial_state,
        )

    def _cell(self) -> Cell:
        return Lstm()

    def _autocast_dtype(self, x: Tensor | PackedSequence) -> torch.dtype | None:
        """The dtype of all results of x under autocast, where it is not the one that the backends give them; None where it is.

        The backends give what torch's own operators do, c_0's dtype. But torch.nn runs input in oneDNN where it can, padded or packed of
        one length, and there all has autocast's dtype. Two cases are left as if torch's own operators ran them: where oneDNN does
        not run autocast's dtype, for which torch raises an error; and export, since torch.export turns oneDNN off while it traces.
        """
        fused = (
            torch.is_autocast_enabled("cpu")
            and _onednn_runs(narrow := torch.get_autocast_dtype("cpu"))
            and bool(torch.backends.mkldnn.enabled)
            and not self.proj_size
            and (isinstance(x, torch.Tensor) or (x.batch_sizes[-1] == x.batch_sizes[0] and _onednn_runs_packed()))
            and (data := x if isinstance(x, torch.Tensor) else x.data).is_cpu
            and _onednn_runs(data.dtype)
            and data.numel() != 0
        )
        return narrow if fused else None


class LSTMCell(TorchCell[tuple[Tensor, Tensor]], nn.LSTMCell):
    """One step of a long short-term memory: a drop-in replacement for torch.nn.LSTMCell.

    >>> import elman, torch
    >>> cell = elman.LSTMCell(10, 20)
    >>> h, c = torch.zeros(3, 20), torch.zeros(3, 20)
    >>> for x in torch.randn(5, 3, 10):
    ...     h, c = cell(x, (h, c))
    >>> h.shape, c.shape
    (torch.Size([3, 20]), torch.Size([3, 20]))

    The equation::

        i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)
        f = sigmoid(W_if x + b_if + W_hf h + b_hf)
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)
        o = sigmoid(W_io x + b_io + W_ho h + b_ho)
        c' = f * c + i * g
        h' = o * tanh(c')

    Source: S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997); with the forget gate of F. A. Gers,
    J. Schmidhuber, F. Cummins, "Learning to Forget", Neural Computation 12 (2000).

    The constructor's arguments are described at ``__init__``, those of a call at ``forward``. I is input_size, H hidden_size.

    Attributes:
        weight_ih: (4·H, I), the rows of i, f, g and o.
        weight_hh: (4·H, H).
        bias_ih, bias_hh: (4·H,); None without bias.
    """

    def _cell(self) -> Cell:
        return Lstm()
