"""The Elman network, layer after layer: torch.nn.RNN's interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from elman.cells import NONLINEARITIES
from elman.layers.layer import RecurrentLayer

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn.utils.rnn import PackedSequence


class RNN(RecurrentLayer):
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

    Attributes:
        weight_ih_l0: (H, I), of a higher layer (H, D·H); the other direction's are called ``weight_ih_l0_reverse``.
        weight_hh_l0: (H, H).
        bias_ih_l0, bias_hh_l0: (H,).

    The parameters are drawn from the uniform distribution over ±1/sqrt(H), and for the same seed are torch.nn.RNN's.

    Raises:
        TypeError: a flag is not a bool or a size not an int.
        ValueError: a size is not positive, dropout not a probability, the nonlinearity unknown, or proj_size given.
    """

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
    ) -> None:
        if proj_size is not None:
            raise ValueError(f"expected no proj_size, got {proj_size!r}: an LSTM can project its output, an RNN cannot")
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(f"expected nonlinearity to be one of {', '.join(map(repr, NONLINEARITIES))}, got {nonlinearity!r}")
        cell = NONLINEARITIES[nonlinearity]()
        super().__init__(cell, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype)
        self.nonlinearity = nonlinearity

    @property
    def mode(self) -> str:
        """What torch.nn calls the kind of network: "RNN_TANH" or "RNN_RELU"."""
        return f"RNN_{self.nonlinearity.upper()}"

    @overload
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(self, input: PackedSequence, hx: Tensor | None = None) -> tuple[PackedSequence, Tensor]: ...

    def forward(self, input: Tensor | PackedSequence, hx: Tensor | None = None) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the network.

        Args:
            input: x, (T, B, I), or (B, T, I) with batch_first; unbatched, (T, I); or a PackedSequence.
            hx: the initial states, (L·D, B, H); unbatched, (L·D, H). Zeros by default.

        Returns:
            The outputs, laid out as x: the last layer's state after each step, both directions beside each other, (T, B, D·H);
            and h_n, the states after each direction's last step, shaped like hx. The reverse direction's last step is the first in time.

        Raises:
            TypeError: input is no tensor and no PackedSequence, or hx is no tensor.
            ValueError: input has the wrong number of dimensions or the wrong dtype.
            RuntimeError: input has the wrong number of features, no step, or is on another device; hx has the wrong shape, dtype or device.
        """
        output, (h_n,) = self._run(input, None if hx is None else (hx,))
        return output, h_n
