"""A layer over whole sequences with the interface of torch.nn's: what RNN, GRU and LSTM share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from torch import Tensor, nn

from elman.layers import dynamo
from elman.layers.asking import run_asking
from elman.layers.initial_state import as_states
from elman.layers.module import State
from elman.layers.options import check_no_projection
from elman.layers.recurrent import Recurrent
from elman.layers.symbolic import MODULE_CALL, recorded
from elman.layers.torch_layer import TorchLayer

if TYPE_CHECKING:
    import torch
    from torch.nn.utils.rnn import PackedSequence

    from elman.cells import Cell
    from elman.layers.spans import Lengths, Reset


class RecurrentLayer(Recurrent[State], TorchLayer):
    """A ``Recurrent`` of a built-in cell, with torch.nn's arguments. Abstract: a subclass picks the cell.

    A subclass whose constructor takes more than this one's sets that as attributes before it calls this one, which asks ``_cell()``.
    """

    _fixed = Recurrent._fixed | {"mode"}

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
        """Build the network, with the arguments of torch.nn's class of the same name and two more.

        The parameters are drawn from the uniform distribution over ±1/sqrt(H). With the same seed they are the same as torch.nn's.

        Args:
            input_size: I, the number of features of x at each step.
            hidden_size: H, the number of units of each layer and direction.
            num_layers: L, the number of layers. Each reads the output of the layer below.
            nonlinearity: RNN only, the fourth argument: "tanh" (the default) or "relu".
            bias: whether there are biases b_ih and b_hh.
            batch_first: whether x and output are (B, T, ...) instead of (T, B, ...). States are laid out alike in both cases.
            dropout: the probability with which, in training, each output of every layer but the last is set to zero.
            bidirectional: whether each layer also reads from the last step to the first. D is then 2, otherwise 1.
            proj_size: LSTM only, the argument after bidirectional: P, the width to which h is projected. h is then P wide instead of H,
                in output, h_n, h_0 and the recurrent weights. 0, the default, for no projection. RNN and GRU raise if it is given.
            device: where the parameters are created.
            dtype: the dtype of the parameters.
            recompute: whether to trade time for memory in training: keep little more than the outputs for backward, one number for each
                T·B·H instead of five (GRU) or six (LSTM), and run the steps again in backward, which takes about as long as forward. The
                gradients are the same to the bit. An RNN keeps nothing else anyway. The reference backend ignores it.
            learn_initial_state: whether the initial state is a parameter, h_0 (LSTM: h_0 and c_0), zeros at first. Calls without hx start
                from it, and so do sequences after a reset.

        You can change batch_first, dropout and recompute later by setting these attributes. The parameters depend on the other arguments:
        setting one of those to another value raises an AttributeError.

        Raises:
            TypeError: a flag is not a bool, a size is not an int, or dtype is not a torch.dtype.
            ValueError: a size is not positive; dropout is not a probability; nonlinearity is unknown; proj_size is not from 0 to below
                hidden_size (LSTM) or is given (RNN, GRU).

        Warns:
            UserWarning: dropout is above 0 with one layer, where it has no effect.
        """
        check_no_projection(proj_size)
        TorchLayer.__init__(self)
        self._build(
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
            constructors=1 if type(self).__init__ is RecurrentLayer.__init__ else 2,
        )
        self._init_flat_weights()

    def _derive(self, cell: Cell) -> None:
        super()._derive(cell)
        self._ask_if_set()

    def extra_repr(self) -> str:
        return self._sizes_and_options()

    @overload  # type: ignore[override]  # a built-in cell has no step inputs
    def forward(
        self, input: Tensor, hx: State | None = None, *, lengths: Lengths | None = None, reset: Reset | None = None
    ) -> tuple[Tensor, State]: ...

    @overload
    def forward(
        self, input: PackedSequence, hx: State | None = None, *, lengths: None = None, reset: Reset | None = None
    ) -> tuple[PackedSequence, State]: ...

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Run the network over whole sequences.

        >>> import elman, torch
        >>> output, h_n = elman.GRU(10, 20)(torch.randn(5, 3, 10))
        >>> output, (h_n, c_n) = elman.LSTM(10, 20)(torch.randn(5, 3, 10), lengths=[5, 0, 2])
        >>> (output != 0).any(2).sum(0)  # the steps of each sequence
        tensor([5, 0, 2])

        Args:
            input: x, of shape (T, B, I), or (B, T, I) with batch_first; unbatched, (T, I); or a PackedSequence.
            hx: the initial state. RNN and GRU: h_0, of shape (L·D, B, H). LSTM: a tuple (h_0, c_0) of two such tensors; with a projection,
                h_0 is P wide. Unbatched, (L·D, H). Default: the learned initial state if there is one, otherwise zeros.
            lengths: the number of steps of each sequence: B integers from 0 to T, in any order, as a list, a tuple, a NumPy array or a
                tensor on any device; for a batch of one also a single number. The result is the same as packing x, running the network and
                unpacking: outputs past a sequence's length are 0, the reverse direction starts at its last step, and a sequence of length
                0 ends in its initial state. Values in the padding, even NaN, affect neither results nor gradients. Default: T for all.
                Not allowed with a PackedSequence, which has lengths of its own.
            reset: where a fresh sequence begins: a bool tensor on x's device or a bool NumPy array, of shape (T, B), or (B, T) with
                batch_first; unbatched, (T,). If it is True at step t, the steps before t and the steps from t on are run separately, in
                both directions. A fresh sequence starts from the learned initial state or zeros, never from hx. So where reset[0] is True,
                the forward direction ignores hx; the reverse direction still starts from hx, at the last step. With a PackedSequence, T
                is its longest length, and the sequences are in the order before packing. Default: nowhere.

        Returns:
            ``output, h_n``, or for an LSTM ``output, (h_n, c_n)``. ``output`` is the last layer's h after each step, both directions
            concatenated, of shape (T, B, D·H), with a projection (T, B, D·P), laid out as x. ``h_n`` and ``c_n`` are the states of every
            layer and direction after its last step, shaped like hx. The last step of the reverse direction is the first in time.

        Raises:
            TypeError: input is not a tensor or a PackedSequence; hx is not a tensor (LSTM: a tuple of tensors); lengths are not integers;
                or reset is not an array of bools.
            ValueError: input has the wrong number of dimensions or the wrong dtype; or there are lengths and a PackedSequence.
            RuntimeError: input has the wrong number of features, no step, or is on another device; an LSTM's PackedSequence has the wrong
                dtype; hx has the wrong number of states, or a state the wrong shape, dtype or device; lengths are not B numbers from 0 to
                T; or reset has the wrong shape or device.
        """
        if not isinstance(input, Tensor) or nn.Module.__call__ is not MODULE_CALL:
            node = recorded(self, input, hx, lengths=lengths, reset=reset)
            if node is not None:
                return node  # type: ignore[no-any-return]
        output, finals = self._run(input, None if hx is None else as_states(self._state_names, hx), lengths, reset)
        return output, finals[0] if len(finals) == 1 else finals  # type: ignore[return-value]  # what State says of the cell

    def _run_asking(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None,
        reset: Reset | None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
        """The counterpart of ``_run`` for a subclass that overrides methods that torch.nn's forward calls."""
        return run_asking(self, Recurrent._run, x, states, lengths, reset)

    def _is_plain(self) -> bool:
        """Whether a call runs this class's methods: neither a subclass nor an attribute of the object overrides them."""
        kind: Any = type(self)
        is_own = kind.__call__ is nn.Module.__call__ and kind.forward is RecurrentLayer.forward and "forward" not in vars(self)
        return is_own and getattr(self._run, "__func__", None) is Recurrent._run


dynamo.allow(RecurrentLayer)
