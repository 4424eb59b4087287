"""A layer over whole sequences: the constructor, shapes and packing that RNN, GRU and LSTM share."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from elman import scan
from elman.backends import WHOLE, Spans, Stack
from elman.layers import checks
from elman.layers.module import Call, RecurrentModule
from elman.layers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.cells import Cell
    from elman.layers.checks import Lengths, Reset


# What may be another value in a built layer.
_CHECKED: dict[str, Callable[[str, Any], object]] = {
    "batch_first": checks.as_flag,
    "dropout": checks.as_probability,
    "recompute": checks.as_flag,
}


class RecurrentLayer(RecurrentModule):
    """A stack of recurrent layers as a module. Abstract: a subclass picks the cell and says what ``hx`` looks like."""

    _fixed = RecurrentModule._fixed | {"num_layers", "bidirectional", "proj_size", "learn_initial_state", "mode"}
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    recompute = False
    learn_initial_state = False

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        recompute: bool,
        learn_initial_state: bool,
    ) -> None:
        super().__init__()
        self.input_size = checks.as_size("input_size", input_size, 1)
        self.hidden_size = checks.as_size("hidden_size", hidden_size, 1)
        self.num_layers = checks.as_size("num_layers", num_layers, 1)
        self.bias = checks.as_flag("bias", bias)
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.proj_size = checks.as_size("proj_size", proj_size, 0)
        self.recompute = recompute
        self.learn_initial_state = checks.as_flag("learn_initial_state", learn_initial_state)
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"expected proj_size to be below hidden_size, {hidden_size}, got {proj_size}: leave it out for no projection")
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout={dropout} does nothing with num_layers=1: it acts between layers, on the output of each but the last",
                stacklevel=3,
            )
        self._derive(cell)
        self._own_parameters(device, dtype)
        for name, width in zip(self._learned, self.stack.state_sizes, strict=False):
            shape = (self.num_layers * self.stack.num_directions, width)
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, device=device, dtype=dtype)))

    def _derive(self, cell: Cell) -> None:
        sizes = self.input_size, self.hidden_size, self.num_layers
        stack = Stack(cell, *sizes, checks.as_truth("bidirectional", self.bidirectional), self.bias, self.proj_size, self.recompute)
        suffixes = ("", "_reverse")[: stack.num_directions]
        names = [f"{kind}_l{layer}{suffix}" for layer in range(self.num_layers) for suffix in suffixes for kind in stack.kinds]
        self._set_stack(stack, names, tuple([f"{state}_0" for state in cell.states]) if self.learn_initial_state else ())

    def __setattr__(self, name: str, value: Any) -> None:
        check = _CHECKED.get(name)
        super().__setattr__(name, value if check is None else check(name, value))
        if name == "recompute" and "stack" in vars(self):
            vars(self)["stack"] = replace(self.stack, recompute=value)

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters in a list for each layer and direction: [w_ih, w_hh, b_ih, b_hh, w_hr], less those that there are not."""
        params, tensors = self._params(), self.stack.tensors_per_direction
        return [list(params[i : i + tensors]) for i in range(0, len(params), tensors)]

    def flatten_parameters(self) -> None:
        """Do nothing. There for code that calls it on torch.nn's layers, where it lays weights out for cuDNN."""

    def extra_repr(self) -> str:
        words = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        defaults |= {"recompute": False, "learn_initial_state": False}  # after torch's
        for name, default in defaults.items():
            if getattr(self, name) != default:
                words.append(f"{name}={getattr(self, name)}")
        return ", ".join(words)

    def trace(
        self,
        x: Tensor | PackedSequence,
        state: Tensor | tuple[Tensor, ...] | None = None,
        *,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
    ) -> Trace:
        """Run the network as a call does, and show all that it computes on its way: every layer's states and gates at every step.

        >>> import elman, torch
        >>> lstm = elman.LSTM(10, 20, num_layers=2, bidirectional=True)
        >>> traced = lstm.trace(torch.randn(5, 3, 10), lengths=[5, 2, 4])
        >>> traced.output.shape, traced.h.shape, traced.gates["f"].shape, traced.last.shape
        (torch.Size([5, 3, 40]), torch.Size([2, 2, 5, 3, 20]), torch.Size([2, 2, 5, 3, 20]), torch.Size([3, 40]))
        >>> torch.equal(traced.last[:, :20], traced.output[[4, 1, 3], [0, 1, 2], :20])  # row by row its own last step
        True

        Args:
            x: as a call takes it. A PackedSequence is unpacked: what is traced has its rows in the order in which they were packed from.
            state: the initial states, what a call takes as hx.
            lengths: as a call takes them.
            reset: as a call takes it.

        Returns:
            A named tuple of ``output``, ``final``, ``h``, ``c``, ``gates`` and ``last``, all of which can be differentiated; see ``Trace``.

        Raises:
            Exception: whatever a call raises for these arguments.
        """
        states, given = self._states(state), x
        if isinstance(x, PackedSequence):
            if lengths is not None:
                raise checks.wrong_lengths(lengths)
            batch_sizes, _ = self._check_packed(x, self._params())
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
                done = scan.run(
                    self.stack,
                    cast("Tensor", x),  # whatever it is: the kernels look
                    start,
                    params,
                    dropout=self.dropout,
                    training=self.training,
                    batch_first=self.batch_first,
                    checked=False,
                )
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
            batch_first=self.batch_first,
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

    def _autocast_dtype(self, x: Tensor | PackedSequence) -> torch.dtype | None:
        """The dtype of all results of x under autocast, where it is not the one that the backends give them; None where it is."""
        return None

    def _prepare(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
    ) -> Call:
        params = self._params()
        if not isinstance(x, Tensor):
            return self._prepare_packed(x, states, params, lengths, reset)
        checks.check_layout("x", x)
        weight = params[0]
        # Only a few comparisons here: this runs for every call, and what is wrong is found out afterwards.
        shape = x.shape
        rank = len(shape)
        if (
            (rank != 3 and rank != 2)
            or shape[-1] != self.input_size
            or x.dtype is not weight.dtype
            or not ((x.is_cpu and weight.is_cpu) or x.device == weight.device)
        ):
            checks.check_input(x, weight, self.input_size, checks.BATCH_FIRST_AXES if self.batch_first else checks.LAYER_AXES, ValueError)
        time, batch = (1, 0) if self.batch_first and rank == 3 else (0, 1)
        if shape[time] == 0:
            raise RuntimeError(f"expected at least one step, got none: x has shape {tuple(shape)}")
        rows = shape[batch] if rank == 3 else 1
        if states is not None:
            directions = self.num_layers * self.stack.num_directions
            if rank == 3:
                self._check_states(states, x, "(L·D, B, H)", (directions, rows))
            else:
                self._check_states(states, x, "(L·D, H)", (directions,))
                states = tuple([state.unsqueeze(1) for state in states])
        spans = WHOLE
        if lengths is not None:
            spans = Spans(lengths=checks.as_lengths(lengths, rows, shape[time]))
        if reset is not None:
            spans = spans._replace(reset=self._time_major(reset, x, shape[time], rows if rank == 3 else None))
        if self._learned:
            states, spans = self._begin(states, spans, self._fresh(params), rows)
        if rank == 2:
            x = x.unsqueeze(1)
        return x.transpose(0, 1) if time else x, states, params, spans

    def _prepare_packed(
        self,
        packed: PackedSequence,
        states: tuple[Tensor, ...] | None,
        params: tuple[Tensor, ...],
        lengths: Lengths | None,
        reset: Reset | None,
    ) -> Call:
        if not isinstance(packed, PackedSequence):
            raise checks.wrong_kind("x", "a tensor or a PackedSequence", packed)
        if lengths is not None:
            raise checks.wrong_lengths(lengths)
        batch_sizes, rows = self._check_packed(packed, params)
        x, _, sorted_indices, _ = packed
        if states is not None:
            self._check_states(states, x, "(L·D, B, H)", (self.num_layers * self.stack.num_directions, rows))
            if sorted_indices is not None:
                states = tuple([state.index_select(1, sorted_indices) for state in states])
        spans = Spans(batch_sizes)
        if reset is not None:
            reset = self._time_major(reset, x, len(batch_sizes), rows)
            spans = spans._replace(reset=reset if sorted_indices is None else reset.index_select(1, sorted_indices))
        if self._learned:
            states, spans = self._begin(states, spans, self._fresh(params), rows)
        return x, states, params, spans

    def _check_packed(self, packed: PackedSequence, params: tuple[Tensor, ...]) -> tuple[Tensor, int]:
        """Raise what is wrong with a PackedSequence, if anything is. Returns its batch sizes, less steps without rows, and its rows."""
        # torch.nn.LSTM does not look at a PackedSequence as RNN and GRU do, and its operators raise another type.
        wrong_dtype = ValueError if len(self._state_names) == 1 else RuntimeError
        x, batch_sizes, sorted_indices, unsorted_indices = packed
        checks.check_input(x, params[0], self.input_size, checks.PACKED_AXES, wrong_dtype)
        batch_sizes, rows = checks.check_batch_sizes(batch_sizes, x)
        checks.check_order(sorted_indices, unsorted_indices, rows, x)
        return batch_sizes, rows

    def as_reset(self, reset: Reset, x: Tensor, steps: int, rows: int | None) -> Tensor:
        """The reset as a tensor, laid out as it was given, checked. Unbatched, ``rows`` is None."""
        if rows is None:
            return checks.as_reset(reset, x, (steps,), "(T,)")
        if self.batch_first:
            return checks.as_reset(reset, x, (rows, steps), "(B, T)")
        return checks.as_reset(reset, x, (steps, rows), "(T, B)")

    def _time_major(self, reset: Reset, x: Tensor, steps: int, rows: int | None) -> Tensor:
        """The same as the scan has it, (T, B)."""
        checked = self.as_reset(reset, x, steps, rows)
        if rows is None:
            return checked.unsqueeze(1)
        return checked.t() if self.batch_first else checked

    def _begin(
        self, states: tuple[Tensor, ...] | None, spans: Spans, fresh: tuple[Tensor, ...], rows: int
    ) -> tuple[tuple[Tensor, ...], Spans]:
        """The initial states and the spans, with the learned states wherever a sequence begins without given ones."""
        return self._start(fresh, rows) if states is None else states, spans if spans.reset is None else spans._replace(fresh=fresh)

    def _fresh(self, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The learned initial states as they are now, (L·D, H) each, checked."""
        directions = self.num_layers * self.stack.num_directions
        shapes = [(directions, width) for width in self.stack.state_sizes]
        fresh = [getattr(self, name, None) for name in self._learned]
        return checks.as_parameters((self._names[0], *self._learned), (params[0], *fresh), (self.stack.shapes[0], *shapes))[1:]

    @staticmethod
    def _start(fresh: tuple[Tensor, ...], rows: int) -> tuple[Tensor, ...]:
        """The learned initial states for each of so many rows, (L·D, B, H)."""
        return tuple([state.unsqueeze(1).expand(-1, rows, -1).contiguous() for state in fresh])


class OneStateLayer(RecurrentLayer):
    """A layer whose cell has the one state h, so that hx and h_n are tensors. Abstract: a subclass picks the cell."""

    @overload
    def forward(
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Lengths | None = None, reset: Reset | None = None
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self, input: PackedSequence, hx: Tensor | None = None, *, lengths: None = None, reset: Reset | None = None
    ) -> tuple[PackedSequence, Tensor]: ...

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the network.

        >>> import elman, torch
        >>> output, h_n = elman.GRU(10, 20)(torch.randn(5, 3, 10), lengths=[5, 0, 2])
        >>> (output != 0).any(2).sum(0)  # steps of each row
        tensor([5, 0, 2])

        Args:
            input: x, (T, B, I), or (B, T, I) with batch_first; unbatched, (T, I); or a PackedSequence.
            hx: the initial states, (L·D, B, H); unbatched, (L·D, H). The learned ones by default, or zeros.
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
            The outputs, laid out as x: the last layer's state after each step, both directions beside each other, (T, B, D·H);
            and h_n, the states after each direction's last step, shaped like hx. The reverse direction's last step is the first in time.

        Raises:
            TypeError: input is no tensor and no PackedSequence, hx is no tensor, lengths are no integers, or reset is no bool tensor.
            ValueError: input has the wrong number of dimensions or the wrong dtype; there are lengths with a PackedSequence.
            RuntimeError: input has the wrong number of features, no step, or is on another device; hx has the wrong shape, dtype or device;
                lengths are not B from 0 to T; reset has the wrong shape or device.
        """
        output, (h_n,) = self._run(input, None if hx is None else (hx,), lengths, reset)
        return output, h_n
