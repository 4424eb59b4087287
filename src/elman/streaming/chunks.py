"""Truncated backpropagation through time: a sequence in chunks, which pass on the state but not the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from elman.layers.errors import check_layout, wrong_kind
from elman.layers.options import as_size
from elman.layers.spans import as_lengths, as_reset
from elman.layers.step_inputs import check_names
from elman.streaming.network import check_network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elman.layers import Recurrent
    from elman.layers.spans import Lengths, Reset


def chunks(
    rnn: Recurrent[Any],
    x: Tensor,
    size: int,
    hx: Tensor | tuple[Tensor, ...] | None = None,
    *,
    lengths: Lengths | None = None,
    reset: Reset | None = None,
    **step_inputs: Tensor,
) -> Chunks:
    """Run a network over long sequences in chunks, for truncated backpropagation through time.

    >>> import elman, torch
    >>> from torch.nn.functional import mse_loss
    >>> x, target = torch.randn(1000, 8, 10), torch.randn(1000, 8, 1)
    >>> rnn, head = elman.LSTM(10, 20), torch.nn.Linear(20, 1)
    >>> optimizer = torch.optim.Adam([*rnn.parameters(), *head.parameters()])
    >>> for epoch in range(2):
    ...     for steps, output in elman.chunks(rnn, x, 250):
    ...         loss = mse_loss(head(output), target[steps])
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()

    Each chunk is run when you ask for it, with the parameters as they are then, from the state in which the previous chunk ended. No
    gradient flows from one chunk to another, so memory depends on the size of a chunk, not on the length of the sequence, and the gradient
    does not see further back than the chunk's first step. If ``size`` is T or more, nothing is cut. In training, random
    numbers that a cell draws once per sequence are drawn again for each chunk.

    Source: R. J. Williams, J. Peng, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network Trajectories", Neural
    Computation 2 (1990).

    Args:
        rnn: a network with one direction.
        x: (T, B, I), or (B, T, I) with batch_first; unbatched, (T, I). If it carries a graph, as an embedding's output does, that is not
            cut: embed each chunk in a loop of your own instead, and detach the state between chunks.
        size: the number of steps of a chunk. The last chunk has the steps that remain.
        hx: the initial state, as the network takes it. If it carries a graph, that is not cut. Default: as for the network.
        lengths: the number of steps of each sequence, (B,), as the network takes them. Outputs past a sequence's end are 0, and its
            state stays.
        reset: where a fresh sequence begins, (T, B), or (B, T) with batch_first, as the network takes it.
        step_inputs: what the network's cell declares as step_inputs, as the network takes them.

    Returns:
        An iterator, for one pass (a second one raises a RuntimeError), over pairs of a chunk's steps, a ``slice`` of the time axis, and its
        outputs, laid out as x. Its ``state`` is the state after the last chunk so far, as hx and without a graph: pass it to the next call
        if the sequences go on.

    Raises:
        TypeError: rnn is not one of Elman's layers, x is not a tensor, size is not an int, or a step input is missing or not declared;
            lengths or reset as in a call.
        ValueError: rnn is bidirectional, x has the wrong number of dimensions, or size is below 1.
        RuntimeError: x has no step; lengths or reset do not fit the whole of x; or a step input is not a tensor whose first axes are x's.
        Exception: at the first chunk, whatever else the network raises for these arguments.
    """
    return Chunks(rnn, x, size, hx, lengths, reset, step_inputs)


class Chunks:
    """An iterator over the chunks of a sequence, each run when you ask for it. ``elman.chunks`` returns one.

    >>> import elman, torch
    >>> chunks = elman.chunks(elman.GRU(10, 20), torch.randn(7, 3, 10), 3)
    >>> [(steps.start, steps.stop, tuple(output.shape)) for steps, output in chunks]
    [(0, 3, (3, 3, 20)), (3, 6, (3, 3, 20)), (6, 7, (1, 3, 20))]
    >>> chunks.state.shape
    torch.Size([1, 3, 20])

    Attributes:
        state: the state after the last chunk so far, as hx and without a graph; before the first, the initial state as given.
    """

    def __init__(
        self,
        rnn: Recurrent[Any],
        x: Tensor,
        size: int,
        hx: Tensor | tuple[Tensor, ...] | None,
        lengths: Lengths | None,
        reset: Reset | None,
        step_inputs: dict[str, Any] | None = None,
    ) -> None:
        check_network(rnn, "the first chunk does")
        if not isinstance(x, Tensor):
            raise wrong_kind("x", "a tensor", x)
        check_layout("x", x)
        if x.dim() not in (2, 3):
            raise ValueError(f"expected x of 2 or 3 dimensions, got {x.dim()}: x has shape {tuple(x.shape)}")
        size = as_size("size", size, 1)
        self.state: Any = hx
        self._rnn, self._x, self._size = rnn, x, size
        self._time, batch = (1, 0) if rnn.batch_first and x.dim() == 3 else (0, 1)
        steps, sequences = x.shape[self._time], x.shape[batch] if x.dim() == 3 else 1
        if steps == 0:
            raise RuntimeError(f"expected at least one step, got none: x has shape {tuple(x.shape)}")
        self._lengths = None if lengths is None else as_lengths(lengths, sequences, steps)
        self._reset = None
        if reset is not None:  # a copy, as of the lengths: the caller may write into its own before the last chunk
            self._reset = as_reset(reset, x, steps, sequences if x.dim() == 3 else None, rnn.batch_first).clone()
        self._beside = step_inputs or {}
        check_names(rnn.stack.cell, self._beside)
        for name, value in self._beside.items():
            if not isinstance(value, Tensor) or value.shape[: x.dim() - 1] != x.shape[:-1]:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise RuntimeError(f"expected {name} to be a tensor whose first axes are those of x, {tuple(x.shape[:-1])}, got {got}")
        self._begin = 0

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        if self._begin >= self._x.shape[self._time]:
            raise RuntimeError("expected chunks to be run once, got a second pass: call elman.chunks again for each pass")
        return self

    def __next__(self) -> tuple[slice, Tensor]:
        time, begin = self._time, self._begin
        size = min(self._size, self._x.shape[time] - begin)
        if size <= 0:
            raise StopIteration
        spans: dict[str, Tensor] = {}
        if self._lengths is not None:
            spans["lengths"] = (self._lengths - begin).clamp(0, size)
        if self._reset is not None:
            spans["reset"] = self._reset.narrow(time, begin, size)
        beside = {name: value.narrow(time, begin, size) for name, value in self._beside.items()}
        output, hx = self._rnn(self._x.narrow(time, begin, size), self.state, **spans, **beside)
        self.state = tuple([state.detach() for state in hx]) if isinstance(hx, tuple) else hx.detach()
        self._begin = begin + size
        return slice(begin, begin + size), output
