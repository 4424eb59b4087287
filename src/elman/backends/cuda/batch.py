"""Which steps the sequences of a batch have, as the kernels read it: on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from elman.backends.spans import Spans


class BatchSizes(NamedTuple):
    """The numbers among a batch's attributes.

    Attributes:
        steps, sequences, rows: as of the batch.
        reset_strides: of its reset, over steps and over sequences.
    """

    steps: int
    sequences: int
    rows: int
    reset_strides: tuple[int, int]


class Batch(NamedTuple):
    """Steps, sequences, and what of them there is.

    Attributes:
        steps: T.
        sequences: B.
        rows: of the data, T·B; packed, N.
        lengths: (B,), int32 on the device; None: all have all steps.
        offsets: packed, the row at which each step begins, (T,), int32 on the device; None: not packed.
        reset: (T, B), bool on the device; None: none.
        batch_first: x, and so the outputs, are (B, T, ...).
    """

    steps: int
    sequences: int
    rows: int
    lengths: Tensor | None
    offsets: Tensor | None
    reset: Tensor | None
    batch_first: bool

    @staticmethod
    def of(x: Tensor, spans: Spans, batch_first: bool) -> Batch:
        """Of x, (T, B, I), with batch_first (B, T, I), or packed (N, I).

        Raises:
            RuntimeError: a CUDA graph is being captured, and there are lengths or packed steps. Each replay would read them from
                memory of the CPU that is no longer theirs.
        """
        sizes, lengths, reset = spans.borders()
        if (sizes is not None or lengths is not None) and not torch.compiler.is_compiling() and _is_captured(x):
            raise RuntimeError("a CUDA graph cannot capture lengths or a PackedSequence, which are read on the CPU: capture calls without")
        if sizes is not None:
            sequences = int(sizes[0])
            own = (sizes.unsqueeze(1) > torch.arange(sequences, device="cpu")).sum(0)
            both = torch.cat((own, sizes.cumsum(0) - sizes)).to(torch.int32).to(x.device, non_blocking=True)
            return Batch(len(sizes), sequences, x.shape[0], both[:sequences], both[sequences:], reset, False)
        steps, sequences, _ = x.shape
        if batch_first:
            steps, sequences = sequences, steps
        on_device = None if lengths is None else lengths.to(torch.int32).to(x.device, non_blocking=True)
        return Batch(steps, sequences, steps * sequences, on_device, None, reset, batch_first)

    @property
    def is_whole(self) -> bool:
        """Whether every sequence is run through all steps, in one piece."""
        return self.lengths is None and self.reset is None

    @property
    def sizes(self) -> BatchSizes:
        """All that is no tensor."""
        over_steps, over_sequences = (0, 0) if self.reset is None else self.reset.stride()
        return BatchSizes(self.steps, self.sequences, self.rows, (over_steps, over_sequences))

    def strides(self, data: Tensor, batch_first: bool) -> tuple[int, int]:
        """Where the rows of data lie, over steps and over sequences, in numbers."""
        first, second, *_ = data.stride()
        if self.offsets is not None:
            return 0, first
        return (second, first) if batch_first else (first, second)

    def row_strides(self, width: int, batch_first: bool) -> tuple[int, int]:
        """``strides`` of contiguous rows of so many numbers."""
        if self.offsets is not None:
            return 0, width
        return (width, self.steps * width) if batch_first else (self.sequences * width, width)

    def new(self, like: Tensor, width: int, batch_first: bool) -> Tensor:
        """Memory for a row of so many numbers at each step of each sequence."""
        if self.offsets is not None:
            return like.new_empty((self.rows, width))
        return like.new_empty((self.sequences, self.steps, width) if batch_first else (self.steps, self.sequences, width))

    def in_step_order(self, data: Tensor, batch_first: bool) -> Tensor:
        """Data whose rows lie step after step, be they (T, B, ...), (T·B, ...) or (N, ...)."""
        return data.transpose(0, 1).contiguous() if batch_first and self.offsets is None else data

    def without_padding(self, data: Tensor, batch_first: bool) -> Tensor:
        """Data, (T, B, H) or with batch_first (B, T, H), whose padding is zeros: a product adds 0 times what lies there, be it NaN."""
        assert self.lengths is not None
        over = torch.arange(self.steps, device=data.device).unsqueeze(1) >= self.lengths
        return data.masked_fill((over.t() if batch_first else over).unsqueeze(-1), 0)

    def states_before(self, output: Tensor, initial: Tensor | None, fresh: Tensor | None, batch_first: bool, reverse: bool) -> Tensor:
        """The state before each step, (T·B, H) or (N, H).

        Args:
            output: the states after each step, laid out as the outputs.
            initial: (B, H); None for zeros.
            fresh: (H,), what a reset starts from; None for zeros.
        """
        if self.offsets is not None:
            return self._packed_states_before(output, initial, fresh, reverse)
        after = output.transpose(0, 1) if batch_first else output
        steps, sequences, width = after.shape
        before = after.new_empty((steps, sequences, width))
        if reverse:
            before[:-1].copy_(after[1:])
        else:
            before[1:].copy_(after[:-1])
        edge = before[-1 if reverse else 0]
        if initial is None:
            edge.zero_()
        else:
            edge.copy_(initial)
            if reverse and self.lengths is not None:  # a sequence begins at its own last step
                last = (self.lengths.long() - 1).clamp_min(0)
                before[last, torch.arange(sequences, device=before.device)] = initial
        if self.reset is not None:
            cuts = self.reset
            if self.lengths is not None:
                cuts = cuts & (torch.arange(steps, device=before.device).unsqueeze(1) < self.lengths)
            if reverse:
                cuts = torch.cat((cuts[1:], torch.zeros_like(cuts[:1])))
            before = torch.where(cuts.unsqueeze(-1), before.new_zeros(()) if fresh is None else fresh, before)
        return before.reshape(self.rows, width)

    def _packed_states_before(self, output: Tensor, initial: Tensor | None, fresh: Tensor | None, reverse: bool) -> Tensor:
        assert self.offsets is not None
        assert self.lengths is not None
        rows = torch.arange(self.rows, device=output.device)
        step = torch.searchsorted(self.offsets, rows, right=True) - 1
        sequence = rows - self.offsets[step]
        beside = step + 1 if reverse else step - 1  # the step that was run before
        is_first = beside >= self.lengths[sequence] if reverse else beside < 0
        at = self.offsets[beside.clamp(0, self.steps - 1)] + sequence
        start = output.new_zeros(()) if initial is None else initial[sequence]
        before = torch.where(is_first.unsqueeze(-1), start, output[at.clamp(0, self.rows - 1)])
        if self.reset is not None:
            if reverse:
                cut = self.reset[beside.clamp_max(self.steps - 1), sequence] & ~is_first
            else:
                cut = self.reset[step, sequence]
            before = torch.where(cut.unsqueeze(-1), output.new_zeros(()) if fresh is None else fresh, before)
        return before


def _is_captured(x: Tensor) -> bool:
    """Whether what x is used for becomes part of a CUDA graph. torch.compile cannot trace the question."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
