"""Sequences of different lengths, cut by resets, as torch.nn runs them: each piece of each on its own, through the whole network."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from kinds import Kind, as_hx, as_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cases import Values

States = tuple[Tensor, ...]
Result = tuple[Tensor, States]


@dataclass
class Batch:
    """What a network is called with, time first, whatever the form of the call."""

    x: Tensor  # (T, B, I), NaN past a sequence's length
    states: States | None  # (L·D, B, H) each
    lengths: list[int] | None
    reset: Tensor | None  # (T, B), True here and there past a sequence's length

    @property
    def leaves(self) -> Values:
        return {"x": self.x, **{f"state {k}": state for k, state in enumerate(self.states or ())}}

    @staticmethod
    def draw(
        kind: Kind,
        directions: int,
        lengths: Sequence[int] | None,
        resets: float | None,
        *,
        steps: int = 6,
        batch_size: int = 4,
        given: bool = True,
        sizes: tuple[int, int] = (3, 4),
        seed: int = 0,
    ) -> Batch:
        """A batch for a network of ``directions`` layers and directions; ``resets`` is how likely one is, None for none at all."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        inputs, units = sizes
        x = normal(steps, batch_size, inputs)
        for b, length in enumerate(lengths or []):
            x[length:, b] = float("nan")
        states = tuple(normal(directions, batch_size, width).requires_grad_() for width in kind.widths(units)) if given else None
        reset = None if resets is None else torch.rand((steps, batch_size), generator=generator) < resets
        return Batch(x.requires_grad_(), states, None if lengths is None else list(lengths), reset)


def call(rnn: nn.Module, batch: Batch, form: str = "padded") -> Result:
    """One of elman's networks: outputs (T, B, D·H) and final states (L·D, B, H), whatever the form of the call."""
    time_first = not rnn.batch_first
    x, reset, lengths = batch.x, batch.reset, batch.lengths
    if form == "unbatched":
        states = None if batch.states is None else as_hx(tuple(state[:, 0] for state in batch.states))
        output, hx = rnn(x[:, 0], states, lengths=lengths, reset=None if reset is None else reset[:, 0])
        return output.unsqueeze(1), tuple(state.unsqueeze(1) for state in as_states(hx))
    given = x if time_first else x.transpose(0, 1)
    reset = reset if reset is None or time_first else reset.t()
    states = None if batch.states is None else as_hx(batch.states)
    if form == "packed":
        assert lengths is not None
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        if reset is not None:
            reset = reset[: max(lengths)] if time_first else reset[:, : max(lengths)]
        output, hx = rnn(packed, states, reset=reset)
        assert isinstance(output, PackedSequence)
        return pad_packed_sequence(output, total_length=len(x))[0], as_states(hx)
    output, hx = rnn(given, states, lengths=lengths, reset=reset)
    return output if time_first else output.transpose(0, 1), as_states(hx)


def run(theirs: nn.Module, batch: Batch, fresh: States | None = None) -> Result:
    """The same from torch.nn's network, time first: every piece on its own.

    Args:
        theirs: one of torch.nn's networks.
        batch: what to run.
        fresh: what a sequence begins from that has no states of its own, (L·D, H) each; None for zeros.
    """
    steps, batch_size, _ = batch.x.shape
    directions = 2 if theirs.bidirectional else 1
    widths = (theirs.proj_size or theirs.hidden_size, theirs.hidden_size)[: 2 if theirs.mode == "LSTM" else 1]
    fresh = fresh or tuple(batch.x.new_zeros(theirs.num_layers * directions, width) for width in widths)
    outputs, finals = [], []
    for b in range(batch_size):
        length = steps if batch.lengths is None else batch.lengths[b]
        own = fresh if batch.states is None else tuple(state[:, b] for state in batch.states)
        cuts = [] if batch.reset is None else [t for t in range(length) if batch.reset[t, b]]
        edges = [0, *(t for t in cuts if t > 0), length]
        pieces: list[Tensor] = []
        ended = own
        for k, (start, stop) in enumerate(itertools.pairwise(edges)):
            if start == stop:
                continue
            begins = [k == 0 and 0 not in cuts, k == len(edges) - 2]  # whether a direction begins the sequence here, with its own states
            initial = tuple(
                torch.stack([(a if begins[j % directions] else b)[j] for j in range(len(a))]).unsqueeze(1)
                for a, b in zip(own, fresh, strict=True)
            )
            output, hx = theirs(batch.x[start:stop, b : b + 1], as_hx(initial))
            pieces.append(output[:, 0])
            after = tuple(state[:, 0] for state in as_states(hx))
            ended = tuple(
                torch.stack([(b if j % directions == 0 or k == 0 else a)[j] for j in range(len(a))])
                for a, b in zip(ended, after, strict=True)
            )
        outputs.append(torch.cat([*pieces, batch.x.new_zeros(steps - length, directions * widths[0])]))
        finals.append(ended)
    return torch.stack(outputs, 1), tuple(torch.stack(state, 1) for state in zip(*finals, strict=True))


def values(results: Values, leaves: Values, unused: bool = False) -> Values:
    """Results, and the gradients of all of them together. A leaf or a result without one is an error, unless ``unused``."""
    generator = torch.Generator().manual_seed(1)
    grad_outputs = [torch.randn(result.shape, generator=generator, dtype=torch.float64) for result in results.values()]
    pairs = [(result, d) for result, d in zip(results.values(), grad_outputs, strict=True) if result.requires_grad or not unused]
    outputs, given = [result for result, _ in pairs], [d for _, d in pairs]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), given, retain_graph=True, materialize_grads=unused)
    found = {f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {name: result.detach() for name, result in results.items()} | found


def named(result: Result) -> Values:
    output, finals = result
    return {"output": output, **{f"final {k}": final for k, final in enumerate(finals)}}
