"""A layer's gradients of x and of all parameters, from those of the gates at all steps and the totals of all steps: products and sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from elman.backends.cuda.commands import NO_SCRATCH, At, Commands, Copy, addresses_of, of_direction, prepared
from elman.backends.cuda.cublaslt import Form
from elman.backends.cuda.products import Product, alignment
from elman.backends.cuda.totals import WIDE, sum_totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.cuda.batch import Batch
    from elman.backends.cuda.commands import Command
    from elman.backends.cuda.direction import Direction
    from elman.backends.cuda.plan import Number
    from elman.backends.cuda.shape import CellShape


class Factor(NamedTuple):
    """What a product multiplied at each step, in rows behind each other.

    Attributes:
        offset: where it begins in its operand, in numbers.
        pitch: from the beginning of a row to that of the next.
        skipped: how many rows are left out, of the direction's first step, since they are zeros.
    """

    offset: int
    pitch: int
    skipped: int


def parameter_gradients(
    shape: CellShape,
    hidden: int,
    number: Number,
    grad_gates: Tensor,
    totals: Tensor | None,
    grad_x: Tensor | None,
    x: Tensor,
    batch: Batch,
    directions: Sequence[Direction],
    output: Tensor,
    kept: Tensor | None,
    batch_first: bool,
    needs_parameters: bool,
) -> list[tuple[Tensor, ...]]:
    """Write the gradient of x, and return those of each direction's parameters, if they are needed: W_ih, and of W_hh, b_ih and b_hh those
    that there are, then the cell's own.

    Args:
        grad_gates: (D, rows, columns·H).
        totals: (D, shape.totals, B, H); None if there are none.
        grad_x: step after step, written; None: it is not needed.
        x: likewise.
    """
    operands: list[Tensor | None] = [*NO_SCRATCH, grad_gates, totals, x, grad_x]
    parameters: list[list[Tensor | None]] = []
    factors: list[Factor] = []
    for k, direction in enumerate(directions):
        operands.append(direction.w_ih)
        if not needs_parameters:
            continue
        made = [None if each is None else torch.empty_like(each) for each in direction[:4]]
        made += [x.new_empty(hidden if of_units else ()) for of_units in shape.own]
        operands += made
        parameters.append(made)
        if direction.w_hh is not None:
            for j in shape.multiplied:
                operand, factor = _multiplied(shape, j, hidden, batch, direction, output, kept, batch_first, k)
                operands.append(operand)
                factors.append(factor)
    addresses = addresses_of(operands)
    is_there = tuple([address != 0 for address in addresses])
    sizes = x.shape[-1], batch.rows, batch.sequences, len(directions)
    aligned = alignment(addresses)
    commands = _commands(shape, hidden, number, x.element_size(), *sizes, tuple(factors), is_there, aligned, x.get_device())
    commands.run(operands, addresses, x)
    return [tuple([each for each in made if each is not None]) for made in parameters]


@prepared
def _commands(
    shape: CellShape,
    hidden: int,
    number: Number,
    size: int,
    inputs: int,
    rows: int,
    sequences: int,
    count: int,
    factors: tuple[Factor, ...],
    is_there: tuple[bool, ...],
    aligned: int,
    index: int,
) -> Commands:
    """What ``parameter_gradients`` puts onto the stream, for operands of which these are there."""
    width, pitch = shape.inputs * hidden, shape.columns * hidden
    gates, totals, x, grad_x, *rest = range(len(NO_SCRATCH), len(is_there))
    commands: list[Command] = []

    def multiply(out: At, a: At, b: At, form: Form, row_sums: int | None = None, accumulate: bool = False) -> None:
        sums = None if row_sums is None or not is_there[row_sums] else At(row_sums)
        commands.append(Product(number, form, a, b, out, size, aligned, index, row_sums=sums, accumulate=accumulate))

    for k in range(count):
        w_ih, *more = of_direction(rest, k, count)
        first = k * rows * pitch
        if is_there[grad_x]:
            form = Form(rows, width, inputs, pitch, inputs, inputs)
            multiply(At(grad_x), At(gates, first * size), At(w_ih), form, accumulate=k > 0)
        if not more:
            continue
        grad_w_ih, grad_w_hh, grad_b_ih, grad_b_hh, *more = more
        grad_own, multiplied = more[: len(shape.own)], more[len(shape.own) :]
        multiply(At(grad_w_ih), At(gates, first * size), At(x), Form(width, rows, inputs, pitch, inputs, inputs, True), grad_b_ih)
        own = dict(zip(shape.multiplied, zip(multiplied, factors[k * len(multiplied) :], strict=False), strict=False))
        done = 0
        for j, begin, end in shape.runs if is_there[grad_w_hh] else ():
            factor, (at, factor_pitch, skipped) = own[j]
            form = Form((end - begin) * hidden, rows - skipped, hidden, pitch, factor_pitch, hidden, True)
            of_run = first + begin * hidden + (0 if k else skipped * pitch)
            multiply(At(grad_w_hh, done * hidden * size), At(gates, of_run * size), At(factor, at * size), form)
            if is_there[grad_b_hh] and end <= shape.inputs:  # who writes into one gradient is not to change the other
                same = At(grad_b_ih, begin * hidden * size), At(grad_b_hh, done * size)
                commands.append(Copy(*same, (end - begin) * hidden, size))
            done += (end - begin) * hidden
        into: list[tuple[float | At, bool]] = list(zip(map(At, grad_own), shape.own, strict=True))
        into += [(At(grad_b_hh, gate * hidden * size) if is_there[grad_b_hh] else 0, True) for gate in shape.apart]
        if any(place for place, _ in into):
            parts = At(totals, k * shape.totals * sequences * hidden * WIDE.itemsize)
            commands.append(sum_totals(number, parts, into, sequences, hidden, index))
    return Commands(commands, index)


def _multiplied(
    shape: CellShape,
    j: int,
    hidden: int,
    batch: Batch,
    direction: Direction,
    output: Tensor,
    kept: Tensor | None,
    batch_first: bool,
    index: int,
) -> tuple[Tensor, Factor]:
    """What product j multiplied, and where in it."""
    if j:
        assert kept is not None
        at = shape.factors_at[j - 1]
        if batch.lengths is None or batch.offsets is not None:
            return kept, Factor(index * kept.stride(0) + at * hidden, shape.kept * hidden, 0)
        of_steps = kept[index].view(batch.steps, batch.sequences, shape.kept, hidden)[:, :, at]
        return batch.without_padding(of_steps, False).contiguous(), Factor(0, hidden, 0)
    # The state before a step: where nothing else comes between, the output of the step that was run before it. A first step's is zeros.
    follows = batch.is_whole and not direction.initial
    if follows and not batch_first:
        pitch = output.shape[-1]
        return output, Factor(batch.sequences * pitch + hidden if index else 0, pitch, batch.sequences)
    own = output if output.shape[-1] == hidden else output[..., index * hidden : (index + 1) * hidden]
    if follows:
        after = own.transpose(0, 1)
        return (after[1:] if index else after[:-1]).contiguous(), Factor(0, hidden, batch.sequences)
    initial, fresh = (parts[0] if parts else None for parts in (direction.initial, direction.fresh))
    return batch.states_before(own, initial, fresh, batch_first, bool(index)), Factor(0, hidden, 0)
