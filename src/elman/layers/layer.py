"""A layer over whole sequences: the constructor, shapes and packing that RNN, GRU and LSTM share."""

from __future__ import annotations

import numbers
import warnings
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from elman import scan
from elman.backends import WHOLE, Spans, Stack, run_plain
from elman.layers import checks
from elman.layers.module import Call, RecurrentModule

if TYPE_CHECKING:
    from elman.cells import Cell


class RecurrentLayer(RecurrentModule):
    """A stack of recurrent layers as a module. Abstract: a subclass picks the cell and says what ``hx`` looks like."""

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    recompute: bool

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
    ) -> None:
        super().__init__()
        for name, flag in (("bias", bias), ("batch_first", batch_first), ("recompute", recompute)):
            if not isinstance(flag, bool):
                raise TypeError(f"expected {name} to be True or False, got {flag!r}")
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers, "proj_size": proj_size}
        for name, size in sizes.items():
            if not isinstance(size, int):
                raise TypeError(f"expected {name} to be an int, got {size!r} of type {type(size).__name__}")
            if size < (least := 0 if name == "proj_size" else 1):
                raise ValueError(f"expected {name} to be at least {least}, got {size}")
        if proj_size >= hidden_size:
            raise ValueError(f"expected proj_size to be below hidden_size, {hidden_size}, got {proj_size}: leave it out for no projection")
        if not isinstance(dropout, numbers.Real) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"expected dropout to be a probability, a number from 0 to 1, got {dropout!r}")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} does nothing with num_layers=1: it acts between layers, on the output of each but the last",
                stacklevel=3,
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.recompute = recompute
        self.stack = Stack(cell, input_size, hidden_size, num_layers, bool(bidirectional), bias, proj_size, recompute)
        kinds = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if bias else ()), *(("weight_hr",) if proj_size else ()))
        suffixes = ("", "_reverse")[: self.stack.num_directions]
        self._own_parameters(
            [f"{kind}_l{layer}{suffix}" for layer in range(num_layers) for suffix in suffixes for kind in kinds], device, dtype
        )

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
        defaults["recompute"] = False  # after torch's
        for name, default in defaults.items():
            if getattr(self, name) != default:
                words.append(f"{name}={getattr(self, name)}")
        return ", ".join(words)

    def _run(self, x: Tensor | PackedSequence, states: tuple[Tensor, ...] | None) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
        """What forward does, whatever the cell's states."""
        if not (self.dropout and self.training) and not torch.compiler.is_compiling() and (params := self._own_params()) is not None:
            done = run_plain(self.stack, x, states, params, self.batch_first)  # type: ignore[arg-type]  # refuses all but tensors
            if done is not None:
                return done
        steps, states, params, spans = self._prepare(x, states)
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

    def _prepare(self, x: Tensor | PackedSequence, states: tuple[Tensor, ...] | None) -> Call:
        params = self._params()
        if not isinstance(x, Tensor):
            return self._prepare_packed(x, states, params)
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
        if states is not None:
            directions = self.num_layers * self.stack.num_directions
            if rank == 3:
                self._check_states(states, x, "(L·D, B, H)", (directions, shape[batch]))
            else:
                self._check_states(states, x, "(L·D, H)", (directions,))
        if rank == 2:
            return x.unsqueeze(1), None if states is None else tuple([state.unsqueeze(1) for state in states]), params, WHOLE
        return x.transpose(0, 1) if time else x, states, params, WHOLE

    def _prepare_packed(self, packed: PackedSequence, states: tuple[Tensor, ...] | None, params: tuple[Tensor, ...]) -> Call:
        if not isinstance(packed, PackedSequence):
            raise checks.wrong_kind("x", "a tensor or a PackedSequence", packed)
        x, batch_sizes, sorted_indices, _ = packed
        # torch.nn.LSTM does not look at a PackedSequence as RNN and GRU do, and its operators raise another type.
        wrong_dtype = ValueError if len(self._state_names) == 1 else RuntimeError
        checks.check_input(x, params[0], self.input_size, checks.PACKED_AXES, wrong_dtype)
        batch_sizes = checks.check_batch_sizes(batch_sizes, x)
        if states is not None:
            self._check_states(states, x, "(L·D, B, H)", (self.num_layers * self.stack.num_directions, int(batch_sizes[0])))
            if sorted_indices is not None:
                states = tuple([state.index_select(1, sorted_indices) for state in states])
        return x, states, params, Spans(batch_sizes)


class OneStateLayer(RecurrentLayer):
    """A layer whose cell has the one state h, so that hx and h_n are tensors. Abstract: a subclass picks the cell."""

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
