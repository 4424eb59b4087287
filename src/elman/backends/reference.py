"""The specification: a stack of layers in plain torch.

It writes nothing in place and depends on no tensor's values. So it runs on any device and dtype, is differentiable to
any order, and works under torch's transforms (vmap, jvp, grad). It is a Python loop over the steps, and so slow.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, final

import torch
from torch.nn.functional import linear

from elman.backends.backend import Backend
from elman.backends.operands import Operands
from elman.backends.spans import Spans, Traced, flat_list
from elman.cells import take_step, trace_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from elman.backends.stack import Stack
    from elman.cells import Cell


@final
class ReferenceBackend(Backend):
    name = "reference"

    def refuses(self, stack: Stack, operands: Operands) -> str | None:
        return None

    def run(self, stack: Stack, operands: Operands, batch_first: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        batch_sizes = operands.spans.batch_sizes
        if stack.members:
            return self._run_members(stack, operands)
        if batch_sizes is not None and torch._C._get_tracing_state() is not None:
            return self._run_traced_packed(stack, operands, batch_sizes)
        output, finals = operands.x, []
        for output, last, _ in _layers(stack, operands, traced=False):  # noqa: B007 - the last layer's is what is put out
            finals += last
        return output, tuple(torch.stack(state) for state in zip(*finals, strict=True))

    def run_as_laid_out(self, stack: Stack, operands: Operands, batch_first: bool) -> tuple[Tensor, ...]:
        """The outputs, laid out as x is, which has its batch before its steps where ``batch_first``, and the final states; of a single step
        these alone.
        """
        if stack.single_step:
            _, finals = self.run(stack.sequence, operands.with_axes(stack.left_out))
            return tuple([final.flatten(0, stack.left_out) for final in finals])
        output, finals = self.run(stack, operands.time_first(batch_first, stack.lead))
        return output.transpose(stack.lead, stack.lead + 1) if batch_first else output, *finals

    def _run_members(self, stack: Stack, operands: Operands) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What ``run`` does with an ensemble: its members, one after another."""
        outputs, finals = zip(*[self.run(stack.of(0), operands.member(index)) for index in range(stack.members)], strict=True)
        return torch.stack(outputs), tuple([torch.stack(each) for each in zip(*finals, strict=True)])

    def _run_traced_packed(self, stack: Stack, operands: Operands, batch_sizes: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What ``run`` does under torch.jit.trace, which would write this call's batch sizes down for all others: padded, with lengths.

        The number of steps is that of this call for good; of other batches the longest sequence may be shorter.
        """
        steps = int(batch_sizes.shape[0])
        padded, lengths = torch._VF._pad_packed_sequence(operands.x, batch_sizes, False, 0.0, steps)
        spans = operands.spans.replaced(batch_sizes=None, lengths=lengths)
        output, finals = self.run(stack, Operands(padded, operands.states, operands.params, spans))
        packed, _ = torch._VF._pack_padded_sequence(output, lengths, False)
        return packed, finals

    def trace(self, stack: Stack, operands: Operands) -> Traced:
        outputs, finals, steps = zip(*_layers(stack, operands, traced=True), strict=True)
        each = [torch.stack(of_all) for of_all in zip(*itertools.chain(*steps), strict=True)]
        others = len(stack.cell.states) - 1
        return Traced(
            torch.stack(outputs),
            tuple(torch.stack(state) for state in zip(*itertools.chain(*finals), strict=True)),
            dict(zip(stack.cell.states[1:], each[:others], strict=True)),
            dict(zip(stack.cell.traced, each[others:], strict=True)),
        )


REFERENCE = ReferenceBackend()


def step(stack: Stack, operands: Operands) -> tuple[Tensor, ...]:
    """One step of one layer, of x (B, I) and states (B, H), as torch's operators that a compiler fuses: the states after it."""
    x, states, params, spans = operands
    weights = dict(zip(stack.kinds, params, strict=True))
    if states is None:
        states = tuple([x.new_zeros(x.shape[0], size) for size in stack.state_sizes])
    step_inputs = [each[0] for each in spans.step_inputs or ()]
    draws = None if spans.draws is None else [_at(draw[0], 0) for draw in spans.draws]
    return take_step(stack.cell, _project(x, weights), states, weights, step_inputs, draws)


def _project(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor | None:
    """The input's parts of all gates, (..., G·H); None where no gate has one."""
    return linear(x, weights["weight_ih"], weights.get("bias_ih")) if "weight_ih" in weights else None


def _at(draw: Tensor, t: int) -> Tensor:
    """The random numbers of a step, (B, H), of those of one direction: (T, B, H), or the same at all steps, (B, H)."""
    return draw[t] if draw.dim() == 3 else draw


def _layers(stack: Stack, operands: Operands, traced: bool) -> Iterator[tuple[Tensor, list[tuple[Tensor, ...]], list[list[Tensor]]]]:
    """One layer after the other.

    Yields:
        A layer's outputs, (T, B, D·H) or packed; for each direction the final states, (B, H); and, where it is traced, for each direction
        the states but the first after every step, and the gates, (T, B, H) each.
    """
    x, states, params, spans = operands
    if torch._C._get_tracing_state() is not None:
        x = x.permute(*range(x.dim()))  # what is traced writes no number of axes down: so an x of another is an error
    batch_sizes = None if spans.batch_sizes is None else flat_list(spans.batch_sizes)
    batch = x.shape[1] if batch_sizes is None else batch_sizes[0]
    alive = alive_steps(spans, batch, x)
    over = None if spans.lengths is None or alive is None else ~alive
    step_inputs = spans.step_inputs or ()
    if over is not None:  # a padding of NaN would reach the gradients: 0 * NaN is NaN
        x = x.masked_fill(over, 0)
        step_inputs = tuple([each.masked_fill(over if each.dim() == 3 else over.squeeze(-1), 0) for each in step_inputs])
    zeros = tuple(x.new_zeros(batch, size) for size in stack.state_sizes)  # of x's dtype, which autocast changes from layer to layer
    tensors = stack.tensors_per_direction
    for layer in range(stack.num_layers):
        finals: list[tuple[Tensor, ...]] = []
        columns: list[list[Tensor]] = []
        for reverse in (False, True)[: stack.num_directions]:
            k = layer * stack.num_directions + reverse
            weights = dict(zip(stack.kinds, params[k * tensors : (k + 1) * tensors], strict=True))
            initial = zeros if states is None else tuple(state[k] for state in states)
            fresh = zeros if spans.fresh is None else tuple(state[k].expand(batch, -1) for state in spans.fresh)
            cuts = None if spans.reset is None else cut_steps(spans.reset, alive, reverse).unbind(0)
            draws = None if spans.draws is None else tuple(draw[k] for draw in spans.draws)
            projected = _project(x, weights)
            steps: Sequence[Tensor | None]
            if projected is None:
                steps = [None] * len(x)
            else:
                steps = projected.unbind(0) if batch_sizes is None else torch.split(projected, batch_sizes)
            beside = step_inputs, draws
            seen, last = _unroll(stack.cell, steps, weights, initial, reverse, over, cuts, fresh, beside, traced)
            finals.append(last)
            whole = [torch.stack(each) if batch_sizes is None else torch.cat(each) for each in zip(*seen, strict=True)]
            columns.append(whole if over is None else [each.masked_fill(over, 0) for each in whole])
        x = columns[0][0] if len(columns) == 1 else torch.cat([each[0] for each in columns], -1)
        yield x, finals, [each[1:] for each in columns]


def alive_steps(spans: Spans, batch: int, x: Tensor) -> Tensor | None:
    """Which sequences have which step, (T, B, 1); None if all have all."""
    if spans.lengths is not None:
        alive = torch.arange(x.shape[0], device="cpu").unsqueeze(1) < spans.lengths
    elif spans.batch_sizes is not None:
        alive = torch.arange(batch, device="cpu") < spans.batch_sizes.unsqueeze(1)
    else:
        return None
    return alive.unsqueeze(-1).to(x.device)


def cut_steps(reset: Tensor, alive: Tensor | None, reverse: bool) -> Tensor:
    """The steps before which a direction is reset, (T, B, 1)."""
    cuts = reset.unsqueeze(-1)
    if alive is not None:
        cuts = cuts & alive
    return torch.cat((cuts[1:], torch.zeros_like(cuts[:1]))) if reverse else cuts


def _unroll(
    cell: Cell,
    projected: Sequence[Tensor | None],
    weights: Mapping[str, Tensor],
    initial: tuple[Tensor, ...],
    reverse: bool,
    over: Tensor | None,
    cuts: Sequence[Tensor] | None,
    fresh: tuple[Tensor, ...],
    beside: tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None],
    traced: bool,
) -> tuple[list[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """One direction of one layer.

    Args:
        cell: the equation of a step.
        projected: for each step the projected input of the sequences that have it, (alive, G·H), in the order of time; None where no gate
            has an input's part.
        weights: by kind.
        initial: the initial states, each (B, H); with a projection the first is (B, P).
        reverse: whether to go from the last step to the first.
        over: the steps that a sequence does not have, (T, B, 1), over which it keeps its states; None if there are none.
        cuts: for each step the sequences that take ``fresh`` for their states before it, (B, 1); None if there are none.
        fresh: shaped like ``initial``.
        beside: what a step gets besides: step inputs, (T, B) or (T, B, H), and random numbers, (T, B, H) or (B, H), None in evaluation.
        traced: whether gates and further states are asked for.

    Returns:
        For each step in the order of time the first state, and if ``traced`` the others and the gates; and each sequence's states after
        its last step, shaped like the initial ones.
    """
    step_inputs, draws = beside
    alive = _alive(projected[-1 if reverse else 0], initial)
    states = tuple(state[:alive] for state in initial)
    ended: list[tuple[Tensor, ...]] = []
    seen: list[tuple[Tensor, ...]] = []
    for t in reversed(range(len(projected))) if reverse else range(len(projected)):
        step = projected[t]
        before, alive = alive, _alive(step, initial)
        if alive < before:  # the shortest sequences have ended: put their states aside
            ended.append(tuple(state[alive:] for state in states))
            states = tuple(state[:alive] for state in states)
        elif alive > before:  # going backwards, shorter sequences begin
            states = tuple(torch.cat((state, first[before:alive])) for state, first in zip(states, initial, strict=True))
        if cuts is not None:
            states = mix(cuts[t][:alive], tuple(state[:alive] for state in fresh), states)
        unchanged = states
        if over is not None:  # what a sequence's states may have become, infinite too, is not to reach the gradients once more
            states = tuple(state.masked_fill(over[t], 0) for state in states)
        given = [each[t] for each in step_inputs], None if draws is None else [_at(draw, t) for draw in draws]
        if traced:
            states, gates = trace_step(cell, step, states, weights, *given)
        else:
            states, gates = take_step(cell, step, states, weights, *given), ()
        if over is not None:
            states = mix(over[t], unchanged, states)
        seen.append((*states, *gates) if traced else states[:1])
    if ended:
        states = tuple(torch.cat(parts) for parts in zip(states, *reversed(ended), strict=True))
    return seen[::-1] if reverse else seen, states


def _alive(projected: Tensor | None, initial: tuple[Tensor, ...]) -> int:
    """How many sequences have a step."""
    return initial[0].shape[0] if projected is None else projected.shape[0]


def mix(where: Tensor, some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """States of which some sequences' are taken from ``some``, (B, 1), the rest from ``others``, whose dtypes they keep."""
    return tuple(torch.where(where, a.to(b.dtype), b) for a, b in zip(some, others, strict=True))
