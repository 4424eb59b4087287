"""Long short-term memory: the interfaces of torch.nn.LSTM and torch.nn.LSTMCell."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import torch

from elman.cells import Lstm
from elman.layers.cell import RecurrentCell
from elman.layers.layer import RecurrentLayer

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn.utils.rnn import PackedSequence

    from elman.cells import Cell
    from elman.layers.checks import Lengths, Reset

# Whether torch has oneDNN, and oneDNN runs bfloat16 on this processor: on x86 with AVX-512.
_ONEDNN_RUNS_BFLOAT16: bool = torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class LSTM(RecurrentLayer):
    """A long short-term memory over whole sequences, in place of torch.nn.LSTM.

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

    and with proj_size P above 0, h_t = W_hr (o_t * tanh(c_t)) instead.

    Source: S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997); with the forget gate of F. A. Gers,
    J. Schmidhuber, F. Cummins, "Learning to Forget", Neural Computation 12 (2000), and the projection of H. Sak, A. Senior, F. Beaufays,
    "Long Short-Term Memory Recurrent Neural Network Architectures for Large Scale Acoustic Modeling", Interspeech (2014).

    Args:
        input_size: I, features of x at each step.
        hidden_size: H, units in each layer and direction.
        num_layers: L, layers, each reading the one below.
        bias: False leaves b_ih and b_hh out.
        batch_first: x and output are (B, T, ...) instead of (T, B, ...). It does not change the states' shape.
        dropout: in training, the probability with which an output of any layer but the last is zeroed.
        bidirectional: each layer also reads from the last step to the first; D is then 2, otherwise 1.
        proj_size: P, the width to which h is projected; it is then P instead of H wide wherever it goes. 0 for no projection.
        device: where the parameters live.
        dtype: the parameters' dtype.
        recompute: keep for the gradient no more than the outputs and c now and then, little more than one number for each T·B·H instead of
            six, and run the steps again when it is asked for, which takes about as long as the first time. The gradient is the same to the
            bit. It is the native backend's; the reference ignores it.
        learn_initial_state: have the initial states as parameters h_0 and c_0, zeros at first, from which a call without hx starts, and
            each piece after a reset.

    Attributes:
        weight_ih_l0: (4·H, I), the rows of i, f, g and o; of a higher layer (4·H, D·H); the other direction's are called
            ``weight_ih_l0_reverse``. With a projection P stands for H in the second axis.
        weight_hh_l0: (4·H, H); with a projection (4·H, P).
        bias_ih_l0, bias_hh_l0: (4·H,).
        weight_hr_l0: (P, H), with a projection only.
        h_0: (L·D, H), with learn_initial_state only; with a projection (L·D, P).
        c_0: (L·D, H), with learn_initial_state only.

    The parameters are drawn from the uniform distribution over ±1/sqrt(H), and for the same seed are torch.nn.LSTM's.

    Of the constructor's arguments batch_first, dropout and recompute may be set to other values as attributes; the rest belong to the
    parameters, and setting one to another value raises an AttributeError.

    Raises:
        TypeError: a flag is not a bool or a size not an int.
        ValueError: a size is not positive, dropout not a probability, or proj_size negative or not below hidden_size.
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
        super().__init__(
            Lstm(),
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
            recompute,
            learn_initial_state,
        )

    def _cell(self) -> Cell:
        return Lstm()

    @overload
    def forward(
        self,
        input: Tensor,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]: ...

    @overload
    def forward(
        self, input: PackedSequence, hx: tuple[Tensor, Tensor] | None = None, *, lengths: None = None, reset: Reset | None = None
    ) -> tuple[PackedSequence, tuple[Tensor, Tensor]]: ...

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """Run the network.

        >>> import elman, torch
        >>> output, (h_n, c_n) = elman.LSTM(10, 20)(torch.randn(5, 3, 10), lengths=[5, 0, 2])
        >>> (output != 0).any(2).sum(0)  # steps of each row
        tensor([5, 0, 2])

        Args:
            input: x, (T, B, I), or (B, T, I) with batch_first; unbatched, (T, I); or a PackedSequence.
            hx: the initial states (h_0, c_0), each (L·D, B, H); unbatched, (L·D, H). With a projection h_0 is P wide. The learned ones by
                default, or zeros.
            lengths: how many of its steps each row has: B integers from 0 to T, in any order, in a list, a tuple, a NumPy array or a tensor
                on any device; of one row also the number itself. The result is that of packing x, running and unpacking: outputs past a
                row's length are 0, the reverse direction begins at its last step, and a row without steps ends in its initial states. What
                x holds past it, NaN too, reaches neither results nor gradients. All steps by default. Not with a PackedSequence, which has
                its own.
            reset: where a sequence ends and a fresh one begins: a bool tensor on x's device or a bool NumPy array, (T, B), or (B, T) with
                batch_first; unbatched, (T,). True at t: what is before step t and what is from t on are run as if one by one, and so in
                both directions. A reset starts from the learned initial states, or zeros, never from hx. So where reset[0] is True, the
                forward direction does not begin from hx but fresh; the reverse direction still begins from hx, at the row's last step. With
                a PackedSequence, T is the longest row's, and the rows are in the order in which they were packed from. Nowhere by default.

        Returns:
            The outputs, laid out as x: the last layer's h after each step, both directions beside each other, (T, B, D·H), or (T, B, D·P);
            and (h_n, c_n), the states after each direction's last step, shaped like hx. The reverse direction's last step is the first in
            time.

        Raises:
            TypeError: input is no tensor and no PackedSequence, hx is no tuple of tensors, lengths are no integers, or reset is no bool
                tensor.
            ValueError: input has the wrong number of dimensions or, if it is a tensor, the wrong dtype; there are lengths with a
                PackedSequence.
            RuntimeError: input has the wrong number of features, no step, or is on another device; hx has not two states, or one of the
                wrong shape, dtype or device; a PackedSequence has the wrong dtype; lengths are not B from 0 to T; reset has the wrong
                shape or device.
        """
        output, (h_n, c_n) = self._run(input, None if hx is None else self._states(hx), lengths, reset)
        return output, (h_n, c_n)

    def _autocast_dtype(self, x: Tensor | PackedSequence) -> torch.dtype | None:
        """The dtype of all results of x under autocast, where it is not the one that the backends give them; None where it is.

        The backends give what torch's own operators do, c_0's dtype. But torch.nn runs padded input in oneDNN where it can, and there
        autocast makes everything bfloat16. Three cases are left as if torch's own operators ran them: an x in float16, which torch gives to
        oneDNN where that runs float16 and no gradient is recorded; an x in float32 where oneDNN does not run bfloat16, for which torch
        raises an error; and export, since torch.export turns oneDNN off while it traces.
        """
        fused = (
            torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") is torch.bfloat16
            and _ONEDNN_RUNS_BFLOAT16
            and bool(torch.backends.mkldnn.enabled)
            and not self.proj_size
            and isinstance(x, torch.Tensor)
            and x.is_cpu
            and x.dtype in (torch.float32, torch.bfloat16)
            and x.numel() != 0
        )
        return torch.bfloat16 if fused else None


class LSTMCell(RecurrentCell):
    """One step of a long short-term memory, in place of torch.nn.LSTMCell.

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

    Args:
        input_size: I, features of x.
        hidden_size: H, units.
        bias: False leaves b_ih and b_hh out.
        device: where the parameters live.
        dtype: the parameters' dtype.

    Attributes:
        weight_ih: (4·H, I), the rows of i, f, g and o.
        weight_hh: (4·H, H).
        bias_ih, bias_hh: (4·H,); None without bias.

    The parameters are drawn from the uniform distribution over ±1/sqrt(H), and for the same seed are torch.nn.LSTMCell's.

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
        super().__init__(Lstm(), input_size, hidden_size, bias, device, dtype)

    def _cell(self) -> Cell:
        return Lstm()

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Compute one step.

        Args:
            input: x, (B, I); unbatched, (I,).
            hx: the states before the step (h, c), each (B, H); unbatched, (H,). Zeros by default.

        Returns:
            The states after the step (h', c'), shaped like hx.

        Raises:
            TypeError: input is no tensor, or hx is no tuple of tensors.
            ValueError: input or a state has the wrong number of dimensions.
            RuntimeError: a size, dtype or device does not fit, or hx has not two states.
        """
        h, c = self._run(input, None if hx is None else self._states(hx))
        return h, c
