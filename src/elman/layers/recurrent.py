"""A network of any cell over whole sequences."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from elman import scan
from elman.backends import Stack
from elman.layers import arguments
from elman.layers.check_cell import as_cell
from elman.layers.initial_state import as_states, for_all
from elman.layers.module import RecurrentModule, State
from elman.layers.options import as_flag, as_probability, as_projection, as_size, as_truth
from elman.layers.packed import pack_as, reordered, uncompiled
from elman.layers.parameters import as_parameters
from elman.layers.spans import wrong_lengths
from elman.layers.step_inputs import in_order, with_draws
from elman.layers.symbolic import MODULE_CALL, recorded
from elman.layers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends import Operands
    from elman.cells import Cell
    from elman.layers.spans import Lengths, Reset

# The attributes of a built network that may be set to other values.
_CHECKED: dict[str, Callable[[str, Any], object]] = {"batch_first": as_flag, "dropout": as_probability, "recompute": as_flag}


class Recurrent(RecurrentModule[State]):
    """A recurrent network of a cell: several layers, both directions, lengths, resets, traces, streams, gradients.

    >>> import elman, torch
    >>> class Leaky(elman.Cell):
    ...     gates = ("h",)
    ...     parameters = {"rate": ""}
    ...     def step(self, x, r, s, p):
    ...         return s.h + torch.sigmoid(p.rate) * (torch.tanh(x.h + r.h) - s.h)
    >>> net = elman.Recurrent(Leaky(), 10, 20, num_layers=2)
    >>> output, h_n = net(torch.randn(5, 3, 10), lengths=[5, 2, 0])
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))

    ``elman.Cell`` says how a cell is written. ``elman.RNN``, ``GRU`` and ``LSTM`` are networks of this kind with torch.nn's interface.

    The constructor's arguments are described at ``__init__``, those of a call at ``forward``. I is input_size, H hidden_size, L num_layers,
    and D the number of directions, 1 or 2.

    Attributes:
        weight_ih_l0: a block of H rows for each of the cell's input gates: (G·H, I); in higher layers (G·H, D·H). The parameters of the
            reverse direction are called ``weight_ih_l0_reverse`` etc.
        weight_hh_l0: a block of H rows for each of its recurrent gates, (G·H, H).
        bias_ih_l0, bias_hh_l0: as many rows, (G·H,).
        rate_l0: the cell's own parameters by their names: (H,) or a single number, ().
        h_0: (L·D, H), one for each state, only with learn_initial_state.
    """

    _fixed = RecurrentModule._fixed | {"cell", "num_layers", "bidirectional", "proj_size", "learn_initial_state"}
    cell: Cell
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size = 0
    recompute = False
    learn_initial_state = False

    def __init__(
        self: Recurrent[Any],
        cell: Cell,
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
        recompute: bool = False,
        learn_initial_state: bool = False,
    ) -> None:
        """Build the network.

        To find mistakes in the cell's step, the constructor tries it on a small batch of arbitrary numbers.

        Args:
            cell: the equation of a step.
            input_size: I, the number of features of x at each step.
            hidden_size: H, the number of units of each layer and direction.
            num_layers: L, the number of layers. Each reads the output of the layer below.
            bias: whether there are biases b_ih and b_hh.
            batch_first: whether x and output are (B, T, ...) instead of (T, B, ...). States are laid out alike in both cases.
            dropout: the probability with which, in training, each output of every layer but the last is set to zero.
            bidirectional: whether each layer also reads from the last step to the first. D is then 2, otherwise 1.
            device: where the parameters are created.
            dtype: the dtype of the parameters.
            recompute: whether to keep only the states for backward, and run the steps again there.
            learn_initial_state: whether there is a parameter for each state, h_0 etc., zeros at first, from which calls without hx start,
                and sequences after a reset.

        You can set batch_first, dropout and recompute later. Another value for one of the other arguments raises an AttributeError.

        Raises:
            TypeError: cell is not a cell; a flag is not a bool, or a size is not an int.
            ValueError: the cell's declarations contradict each other; a size is not positive; dropout is not a probability.
            AttributeError: the step asks for a name that the cell does not declare.
            RuntimeError: the step fails, does not return its states, uses a gate's rows twice, writes to its arguments or what it reads, or
                gives other numbers the second time; or the cell's init does not fill what it says it fills.

        Warns:
            UserWarning: a result does not depend on all that the cell declares, or depends on the batch's other sequences; the step trains
                a tensor that is not a parameter; or dropout is above 0 with one layer.
        """
        super().__init__()
        self.cell = as_cell(cell, hidden_size, device, dtype)
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
            constructors=1 if type(self).__init__ is Recurrent.__init__ else 2,
        )

    def _cell(self) -> Cell:
        return self.cell

    def _build(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        *,
        recompute: bool,
        learn_initial_state: bool,
        constructors: int,
    ) -> None:
        """Check the constructor's arguments and create the parameters. ``constructors``: how many of them called one another."""
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
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers greater than 1, "
                f"but got dropout={dropout} and num_layers=1",  # in torch.nn's words, which programs filter by
                stacklevel=2 + constructors,
            )
        self._derive(self._cell())
        self._own_parameters(device, dtype)
        for name, width in zip(self._learned, self.stack.state_sizes, strict=False):
            shape = (self.num_layers * self.stack.num_directions, width)
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, device=device, dtype=dtype)))

    def _derive(self, cell: Cell) -> None:
        sizes = self.input_size, self.hidden_size, self.num_layers
        stack = Stack(cell, *sizes, as_truth("bidirectional", self.bidirectional), self.bias, self.proj_size, self.recompute)
        suffixes = ("", "_reverse")[: stack.num_directions]
        names = [f"{kind}_l{layer}{suffix}" for layer in range(self.num_layers) for suffix in suffixes for kind in stack.kinds]
        self._set_stack(stack, names, tuple([f"{state}_0" for state in cell.states]) if self.learn_initial_state else ())

    def __setattr__(self, name: str, value: Any) -> None:
        check = _CHECKED.get(name)
        super().__setattr__(name, value if check is None else check(name, value))
        if name == "recompute" and "stack" in vars(self):
            vars(self)["stack"] = replace(self.stack, recompute=value)

    def extra_repr(self) -> str:
        return f"{self.cell!r}, {self._sizes_and_options()}"

    def _sizes_and_options(self) -> str:
        words = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        defaults |= {"recompute": False, "learn_initial_state": False}  # after torch's
        words += [f"{name}={getattr(self, name)}" for name, default in defaults.items() if getattr(self, name) != default]
        return ", ".join(words)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        **step_inputs: Tensor,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Run the network over whole sequences.

        Args:
            input: x, of shape (T, B, I), or (B, T, I) with batch_first; unbatched, (T, I); or a PackedSequence.
            hx: the initial state, (L·D, B, H), of a cell of several states a tuple of such tensors. Unbatched, (L·D, H). Default: the
                learned initial state if there is one, otherwise zeros.
            lengths: the number of steps of each sequence: B integers from 0 to T, in any order. Outputs past a sequence's length are 0, the
                reverse direction starts at its last step, and a sequence of length 0 ends in its initial state. Values in the padding, even
                NaN, affect neither results nor gradients. Default: T for all. Not allowed with a PackedSequence, which has its own.
            reset: where a fresh sequence begins: bools, (T, B), or (B, T) with batch_first; unbatched, (T,). If it is True at step t, the
                steps before t and the steps from t on are run separately, in both directions. A fresh sequence starts from the learned
                initial state or zeros, never from hx. With a PackedSequence, T is its longest length, and the sequences are in the order
                before packing. Default: nowhere.
            step_inputs: what the cell declares as step_inputs, by name: (T, B), or with "H" (T, B, H), laid out as x, on its device and of
                its dtype; unbatched, (T,) or (T, H); with a PackedSequence padded, in the order before packing.

        Returns:
            ``output, hx``: the last layer's first state after each step, both directions concatenated, (T, B, D·H), laid out as x; and the
            states of every layer and direction after its last step, shaped like hx.

        Raises:
            TypeError: input is not a tensor or a PackedSequence; hx is not a tensor, or for several states a tuple of tensors; lengths are
                not integers; reset is not an array of bools; or a step input is missing, not declared, or no tensor.
            ValueError: input has the wrong number of dimensions or the wrong dtype; or there are lengths and a PackedSequence.
            RuntimeError: input has the wrong number of features, no step, or is on another device; hx or a step input has the wrong shape,
                dtype or device; lengths are not B numbers from 0 to T; or reset has the wrong shape or device.
        """
        if not isinstance(input, Tensor) or nn.Module.__call__ is not MODULE_CALL:
            node = recorded(self, input, hx, lengths=lengths, reset=reset, **step_inputs)
            if node is not None:
                return node  # type: ignore[no-any-return]
        states = None if hx is None else as_states(self._state_names, hx, self.stack.cell.step_inputs, step_inputs)
        output, finals = self._run(input, states, lengths, reset, self._beside(step_inputs))
        return output, finals[0] if len(finals) == 1 else finals  # type: ignore[return-value]  # what State says of the cell

    def _beside(self, step_inputs: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """What a caller gave as step inputs; None where there are none and none are needed, nor random numbers."""
        cell = self.stack.cell
        return step_inputs if step_inputs or cell.step_inputs or (cell.draws and self.training) else None

    def trace(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        *,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        **step_inputs: Tensor,
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
            x: the input, as a call takes it. Of a PackedSequence, output is one, too; all else is padded, in the order before packing.
            state: the initial state, as a call takes hx.
            lengths: the number of steps of each sequence, as a call takes them.
            reset: where a fresh sequence begins, as a call takes it.
            step_inputs: what the cell declares as step_inputs, as a call takes them.

        Returns:
            A differentiable named tuple ``Trace``: ``output`` and ``final``, as a call returns them; ``h``, (L, D, T, B, H), with
            batch_first (L, D, B, T, H); ``c``, an LSTM's, and the dicts ``gates`` and ``states``, laid out as h; ``last``, the final h of
            the last layer's directions, (B, D·H). With a projection, h, last and output have P for H.

        Raises:
            Exception: whatever a call raises for these arguments.
        """
        states, given = as_states(self._state_names, state, self.stack.cell.step_inputs, step_inputs), x
        if isinstance(x, PackedSequence):
            x, lengths = self._unpacked(x, lengths)
        operands = self._prepare(x, states, lengths, reset, self._beside(step_inputs))
        if self.training:
            operands = with_draws(self.stack, operands)
        traced = scan.trace(self.stack, operands, dropout=self.dropout, training=self.training)
        traced = traced if (dtype := self._autocast_dtype(given)) is None else traced.to(dtype)
        return Trace.of(traced, self.stack, self.batch_first, unbatched=x.dim() == 2).packed_as(given, lengths, self.batch_first)

    def _run(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None,
        reset: Reset | None,
        beside: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
        """What forward does, whatever the cell's states. ``beside``: step inputs by name; None if none, nor random numbers, are needed."""
        step_inputs = () if beside is None else in_order(self.stack.cell, beside, self.batch_first, self.training)
        if lengths is None and reset is None and step_inputs is not None and not torch.compiler.is_compiling():
            done = None
            try:
                # Past nn.Module.__getattr__, which costs more than a small kernel. functional_call swaps the entries of this very dict.
                params = self._read(self._parameters)
            except KeyError:  # a parametrisation, weight_norm or pruning took one out: it is a property or an attribute then
                pass
            else:
                start = states
                if self._learned and states is None and isinstance(x, Tensor) and not x.is_nested and x.dim() == 3:
                    start = for_all(self._fresh(params), x.shape[0 if self.batch_first else 1])
                if start is not None or not self._learned:  # under vmap x may be unbatched
                    given = cast("Tensor", x), start, params, self.dropout if self.training else 0.0, self.batch_first, step_inputs
                    done = scan.run_unchecked(self.stack, *given)  # whatever x is: a backend checks it, or leaves it to us
            if done is not None:
                return done
        if isinstance(x, PackedSequence) and (not self.stack.cell.name or torch.compiler.is_dynamo_compiling()):
            return self._run_packed(x, states, lengths, reset, beside)
        operands = self._prepare(x, states, lengths, reset, beside)
        if beside is not None and self.training:
            operands = with_draws(self.stack, operands)
        output, finals = scan.run(
            self.stack,
            operands,
            dropout=self.dropout,
            training=self.training,
            batch_first=as_truth("batch_first", self.batch_first),  # any object, if it was set past its check
        )
        if (dtype := self._autocast_dtype(x)) is not None:
            output, finals = output.to(dtype), tuple([final.to(dtype) for final in finals])
        if operands.x is x:  # batched and time first: nothing to undo
            return output, finals
        if isinstance(x, PackedSequence):
            return PackedSequence(output, *x[1:]), reordered(finals, x.unsorted_indices)
        if x.dim() == 2:
            return output.squeeze(1), tuple([state.squeeze(1) for state in finals])
        return output.transpose(0, 1), finals

    def _run_packed(
        self,
        packed: PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None,
        reset: Reset | None,
        beside: dict[str, Tensor] | None,
    ) -> tuple[PackedSequence, tuple[Tensor, ...]]:
        """What ``_run`` does with a PackedSequence for a cell without kernels of its own: it is padded, run with lengths, and packed."""
        if torch.compiler.is_dynamo_compiling():
            return cast("tuple[PackedSequence, Any]", uncompiled(Recurrent._run)(self, packed, states, lengths, reset, beside))
        x, own_lengths = self._unpacked(packed, lengths)
        output, finals = self._run(x, states, own_lengths, reset, beside)
        return pack_as(packed, cast("Tensor", output), own_lengths, self.batch_first), finals

    def _unpacked(self, packed: PackedSequence, lengths: Lengths | None) -> tuple[Tensor, Tensor]:
        """A PackedSequence, checked, as a padded batch in the order before packing, and its lengths."""
        if lengths is not None:
            raise wrong_lengths(lengths)
        batch_sizes, _ = arguments.check_packed(self, packed, self._params())
        whole = PackedSequence(packed.data, batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        return pad_packed_sequence(whole, self.batch_first)

    def _is_plain(self) -> bool:
        """Whether a call runs this class's methods: neither a subclass nor an attribute of the object overrides them."""
        kind: Any = type(self)
        is_own = kind.__call__ is nn.Module.__call__ and kind.forward is Recurrent.forward and "forward" not in vars(self)
        return is_own and getattr(self._run, "__func__", None) is Recurrent._run

    def _autocast_dtype(self, x: Tensor | PackedSequence) -> torch.dtype | None:
        """The dtype of all results of x under autocast, where it is not the one that the backends give them; None where it is."""
        return None

    def _prepare(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None,
        reset: Reset | None,
        beside: dict[str, Tensor] | None = None,
    ) -> Operands:
        return arguments.of_layer(self, x, states, lengths, reset, beside)

    def _fresh(self, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The learned initial states as they are now, (L·D, H) each, checked."""
        directions = self.num_layers * self.stack.num_directions
        shapes = [(directions, width) for width in self.stack.state_sizes]
        fresh = [getattr(self, name, None) for name in self._learned]
        return as_parameters((self._names[0], *self._learned), (params[0], *fresh), (self.stack.shapes[0], *shapes))[1:]
