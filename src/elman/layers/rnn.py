"""The Elman network: the interfaces of torch.nn.RNN and torch.nn.RNNCell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from elman.cells import NONLINEARITIES
from elman.layers.layer import RecurrentLayer
from elman.layers.options import as_nonlinearity
from elman.layers.torch_cell import TorchCell

if TYPE_CHECKING:
    import torch

    from elman.cells import Cell

# What torch.nn calls a network with each nonlinearity.
_MODES = {f"RNN_{nonlinearity.upper()}": nonlinearity for nonlinearity in NONLINEARITIES}


class RNN(RecurrentLayer[Tensor], nn.RNN):
    """An Elman network: a drop-in replacement for torch.nn.RNN.

    >>> import elman, torch
    >>> rnn = elman.RNN(10, 20, num_layers=2)
    >>> output, h_n = rnn(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))

    At each step t, in each layer and direction, with x_t the input or the output of the layer below::

        h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)

    Source: J. L. Elman, "Finding Structure in Time", Cognitive Science 14 (1990).

    The constructor's arguments are described at ``__init__``, those of a call at ``forward``. I is input_size, H hidden_size, L num_layers,
    and D the number of directions, 1 or 2.

    Attributes:
        weight_ih_l0: (H, I); in higher layers (H, D·H). The parameters of the reverse direction are called ``weight_ih_l0_reverse`` etc.
        weight_hh_l0: (H, H).
        bias_ih_l0, bias_hh_l0: (H,).
        h_0: (L·D, H), only with learn_initial_state.
    """

    _fixed = RecurrentLayer._fixed | {"nonlinearity"}

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
        self.nonlinearity = as_nonlinearity(nonlinearity, ValueError)
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
            proj_size=proj_size,
            recompute=recompute,
            learn_initial_state=learn_initial_state,
        )

    def _cell(self) -> Cell:
        mode = vars(self).pop("mode", "")  # an attribute of a module that was torch.nn's, where it decides
        if mode in _MODES:
            vars(self)["nonlinearity"] = _MODES[mode]
        return NONLINEARITIES[as_nonlinearity(self.nonlinearity, ValueError)]()

    @property
    def mode(self) -> str:  # type: ignore[override]  # set by __setattr__
        """The kind of network, as torch.nn names it: "RNN_TANH" or "RNN_RELU". You can set it: that changes the nonlinearity."""
        return f"RNN_{self.nonlinearity.upper()}"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "mode" and isinstance(value, str) and value in _MODES:  # the parameters serve for either
            vars(self)["nonlinearity"] = _MODES[value]
            self._derive(self._cell())
        else:
            super().__setattr__(name, value)


class RNNCell(TorchCell[Tensor], nn.RNNCell):
    """One step of an Elman network: a drop-in replacement for torch.nn.RNNCell.

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

    The constructor's arguments are described at ``__init__``, those of a call at ``forward``. I is input_size, H hidden_size.

    Attributes:
        weight_ih: (H, I).
        weight_hh: (H, H).
        bias_ih, bias_hh: (H,); None without bias.
    """

    _fixed = TorchCell._fixed | {"nonlinearity"}

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
        self.nonlinearity = as_nonlinearity(nonlinearity, RuntimeError)
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def _cell(self) -> Cell:
        return NONLINEARITIES[as_nonlinearity(self.nonlinearity, RuntimeError)]()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "nonlinearity" and "stack" in vars(self):  # the parameters serve for either
            vars(self)[name] = as_nonlinearity(value, RuntimeError)
            self._derive(self._cell())
        else:
            super().__setattr__(name, value)

    def extra_repr(self) -> str:
        nonlinearity = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + nonlinearity
