"""A layer over whole sequences: what RNN, GRU and LSTM share."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from elman import scan
from elman.backends import Stack
from elman.layers import arguments, dynamo
from elman.layers.asking import run_asking
from elman.layers.initial_state import as_states
from elman.layers.module import RecurrentModule, State
from elman.layers.options import as_flag, as_probability, as_projection, as_size, as_truth, check_no_projection
from elman.layers.parameters import as_parameters
from elman.layers.spans import wrong_lengths
from elman.layers.symbolic import recorded
from elman.layers.torch_layer import TorchLayer
from elman.layers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.cells import Cell
    from elman.layers.arguments import Call
    from elman.layers.spans import Lengths, Reset


# The attributes of a built layer that may be set to other values.
_CHECKED: dict[str, Callable[[str, Any], object]] = {"batch_first": as_flag, "dropout": as_probability, "recompute": as_flag}


class RecurrentLayer(RecurrentModule[State], TorchLayer):
    """A stack of recurrent layers as a module. Abstract: a subclass picks the cell.

    A subclass whose constructor takes more than this one's sets that as attributes before it calls this one, which asks ``_cell()``.
    """

    _fixed = RecurrentModule._fixed | {"num_layers", "bidirectional", "proj_size", "learn_initial_state", "mode"}
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size = 0
    recompute = False
    learn_initial_state = False

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
            TypeError: a flag is not a bool, or a size is not an int.
            ValueError: a size is not positive; dropout is not a probability; nonlinearity is unknown; proj_size is not from 0 to below
                hidden_size (LSTM) or is given (RNN, GRU).
        """
        check_no_projection(proj_size)
        super().__init__()
        self.input_size = as_size("input_size", input_size, 1)
        self.hidden_size = as_size("hidden_size", hidden_size, 1)
        self.num_layers = as_size("num_layers", num_layers, 1)
        self.bias = as_flag("bias", bias)
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.proj_size = as_projection(self.proj_size, self.hidden_size)
        self.recompute = recompute
        self.learn_initial_state = as_flag("learn_initial_state", learn_initial_state)
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout={dropout} does nothing with num_layers=1: it acts between layers, on the output of each but the last",
                stacklevel=2 if type(self).__init__ is RecurrentLayer.__init__ else 3,
            )
        self._derive(self._cell())
        self._own_parameters(device, dtype)
        for name, width in zip(self._learned, self.stack.state_sizes, strict=False):
            shape = (self.num_layers * self.stack.num_directions, width)
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, device=device, dtype=dtype)))
        self._init_flat_weights()

    def _derive(self, cell: Cell) -> None:
        sizes = self.input_size, self.hidden_size, self.num_layers
        stack = Stack(cell, *sizes, as_truth("bidirectional", self.bidirectional), self.bias, self.proj_size, self.recompute)
        suffixes = ("", "_reverse")[: stack.num_directions]
        names = [f"{kind}_l{layer}{suffix}" for layer in range(self.num_layers) for suffix in suffixes for kind in stack.kinds]
        self._ask_if_set()
        self._set_stack(stack, names, tuple([f"{state}_0" for state in cell.states]) if self.learn_initial_state else ())

    def __setattr__(self, name: str, value: Any) -> None:
        check = _CHECKED.get(name)
        super().__setattr__(name, value if check is None else check(name, value))
        if name == "recompute" and "stack" in vars(self):
            vars(self)["stack"] = replace(self.stack, recompute=value)

    def extra_repr(self) -> str:
        words = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        defaults |= {"recompute": False, "learn_initial_state": False}  # after torch's
        for name, default in defaults.items():
            if getattr(self, name) != default:
                words.append(f"{name}={getattr(self, name)}")
        return ", ".join(words)

    @overload
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
        if not isinstance(input, Tensor) and (node := recorded(self, input, hx, lengths=lengths, reset=reset)) is not None:
            return node  # type: ignore[no-any-return]
        output, finals = self._run(input, None if hx is None else as_states(self._state_names, hx), lengths, reset)
        return output, finals[0] if len(finals) == 1 else finals  # type: ignore[return-value]  # what State says of the cell

    def trace(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        *,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
    ) -> Trace:
        """Run the network as a call does, and return everything that it computes: the states and gates of every layer at every step.

        >>> import elman, torch
        >>> lstm = elman.LSTM(10, 20, num_layers=2, bidirectional=True)
        >>> traced = lstm.trace(torch.randn(5, 3, 10), lengths=[5, 2, 4])
        >>> traced.output.shape, traced.h.shape, traced.gates["f"].shape, traced.last.shape
        (torch.Size([5, 3, 40]), torch.Size([2, 2, 5, 3, 20]), torch.Size([2, 2, 5, 3, 20]), torch.Size([3, 40]))
        >>> torch.equal(traced.last[:, :20], traced.output[[4, 1, 3], [0, 1, 2], :20])  # each sequence's own last step
        True

        Args:
            x: the input, as a call takes it. A PackedSequence is unpacked: the result has its sequences in the order before packing.
            state: the initial state, as a call takes hx.
            lengths: the number of steps of each sequence, as a call takes them.
            reset: where a fresh sequence begins, as a call takes it.

        Returns:
            A named tuple ``Trace`` of ``output``, ``final``, ``h``, ``c``, ``gates`` and ``last``, all of them differentiable.

        Raises:
            Exception: whatever a call raises for these arguments.
        """
        states, given = as_states(self._state_names, state), x
        if isinstance(x, PackedSequence):
            if lengths is not None:
                raise wrong_lengths(lengths)
            batch_sizes, _ = arguments.check_packed(self, x, self._params())
            x, lengths = pad_packed_sequence(PackedSequence(x.data, batch_sizes, x.sorted_indices, x.unsorted_indices), self.batch_first)
        steps, states, params, spans = self._prepare(x, states, lengths, reset)
        traced = scan.trace(self.stack, steps, states, params, dropout=self.dropout, training=self.training, spans=spans)
        dtype = self._autocast_dtype(given)
        return Trace.of(traced if dtype is None else traced.to(dtype), self.stack, self.batch_first, unbatched=x.dim() == 2)

    def _run(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None,
        reset: Reset | None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
        """What forward does, whatever the cell's states.

        Whole sequences are run as they come, by a backend that checks them itself; whatever it does not take is checked here, in a
        person's words, brought into the scan's form, and run.
        """
        if lengths is None and reset is None and not torch.compiler.is_compiling():
            done = None
            try:
                # Past nn.Module.__getattr__, which costs more than a small kernel. functional_call swaps the entries of this very dict.
                params = self._read(self._parameters)
            except KeyError:  # a parametrisation, weight_norm or pruning took one out: it is a property or an attribute then
                pass
            else:
                start = states
                if self._learned and states is None and isinstance(x, Tensor) and not x.is_nested and x.dim() == 3:
                    start = self._start(self._fresh(params), x.shape[0 if self.batch_first else 1])
                unchecked = cast("Tensor", x)  # whatever it is: the kernels look
                done = scan.run_unchecked(self.stack, unchecked, start, params, self.dropout if self.training else 0.0, self.batch_first)
            if done is not None:
                return done
        steps, states, params, spans = self._prepare(x, states, lengths, reset)
        output, finals = scan.run(
            self.stack,
            steps,
            states,
            params,
            dropout=self.dropout,
            training=self.training,
            spans=spans,
            batch_first=as_truth("batch_first", self.batch_first),  # any object, if it was set past its check
        )
        dtype = self._autocast_dtype(x)
        if dtype is not None:
            output, finals = output.to(dtype), tuple([final.to(dtype) for final in finals])
        if steps is x:  # batched and time first: nothing to undo
            return output, finals
        if isinstance(x, PackedSequence):
            unsorted = x.unsorted_indices
            if unsorted is not None:
                finals = tuple([state.index_select(1, unsorted) for state in finals])
            return PackedSequence(output, x.batch_sizes, x.sorted_indices, unsorted), finals
        if x.dim() == 2:
            return output.squeeze(1), tuple([state.squeeze(1) for state in finals])
        return output.transpose(0, 1), finals

    def _run_asking(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None,
        reset: Reset | None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
        """What takes the place of ``_run`` in a subclass that overrides what torch.nn's forward asks it."""
        return run_asking(self, RecurrentLayer._run, x, states, lengths, reset)

    def _is_plain(self) -> bool:
        """Whether a call does what this class says: neither a subclass nor an attribute of the object overrides it."""
        kind: Any = type(self)
        is_own = kind.__call__ is nn.Module.__call__ and kind.forward is RecurrentLayer.forward and "forward" not in vars(self)
        return is_own and getattr(self._run, "__func__", None) is RecurrentLayer._run

    def _autocast_dtype(self, x: Tensor | PackedSequence) -> torch.dtype | None:
        """The dtype of all results of x under autocast, where it is not the one that the backends give them; None where it is."""
        return None

    def _prepare(self, x: Tensor | PackedSequence, states: tuple[Tensor, ...] | None, lengths: Lengths | None, reset: Reset | None) -> Call:
        return arguments.of_layer(self, x, states, lengths, reset)

    def _fresh(self, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The learned initial states as they are now, (L·D, H) each, checked."""
        directions = self.num_layers * self.stack.num_directions
        shapes = [(directions, width) for width in self.stack.state_sizes]
        fresh = [getattr(self, name, None) for name in self._learned]
        return as_parameters((self._names[0], *self._learned), (params[0], *fresh), (self.stack.shapes[0], *shapes))[1:]

    @staticmethod
    def _start(fresh: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
        """The learned initial states for every sequence of the batch, (L·D, B, H) each."""
        return tuple([state.unsqueeze(1).expand(-1, batch, -1).contiguous() for state in fresh])


dynamo.allow(RecurrentLayer)
