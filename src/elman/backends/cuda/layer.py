"""One layer on the GPU: the products around the scan, and the scan."""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from elman.backends.cuda import launcher, structs
from elman.backends.cuda.choice import choose
from elman.backends.cuda.commands import FLAGS, MAILBOX, NO_SCRATCH, At, Commands, Launch, addresses_of, of_direction, prepared
from elman.backends.cuda.cublaslt import Form
from elman.backends.cuda.gradients import parameter_gradients
from elman.backends.cuda.plan import Number, Plan, number_of
from elman.backends.cuda.products import Product, alignment
from elman.backends.cuda.totals import WIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.cuda.batch import Batch, BatchSizes
    from elman.backends.cuda.commands import Command
    from elman.backends.cuda.direction import Direction
    from elman.backends.cuda.shape import CellKernel, CellShape


_HARMLESS = 64  # bytes of a thread's memory: a step reads at most some that do not change
# Of a thread that makes projections, in multiplications: what a number takes beside its own, and how many are two or three microseconds.
# By counts of instructions, not by measurement. The inputs of a number are read eight at a time, one eight after the other.
_NUMBER, _MOST_PROJECTED, _WIDEST_PROJECTED = 64, 1024, 128


class _Form(NamedTuple):
    """What the commands of a layer depend on, beside where the operands of a call lie.

    Attributes:
        size: of a number, in bytes.
        inputs: I.
        strides: of what a launch reads and writes in rows, over steps and over sequences, in numbers.
        directions: how many.
        has_initial, has_fresh: which starts the directions have.
        is_there: of each operand whether there is one.
        device: its index.
    """

    kernel: CellKernel
    hidden: int
    number: Number
    size: int
    batch: BatchSizes
    inputs: int
    strides: tuple[int, ...]
    directions: int
    has_initial: bool
    has_fresh: bool
    is_there: tuple[bool, ...]
    device: int

    @staticmethod
    def of(
        kernel: CellKernel,
        hidden: int,
        x: Tensor,
        batch: Batch,
        strides: tuple[int, ...],
        directions: Sequence[Direction],
        operands: Sequence[Tensor | None],
    ) -> _Form:
        starts = bool(directions[0].initial), bool(directions[0].fresh)
        is_there = tuple([operand is not None for operand in operands])
        numbers = number_of(x.dtype), x.element_size()
        return _Form(kernel, hidden, *numbers, batch.sizes, x.shape[-1], strides, len(directions), *starts, is_there, x.get_device())

    def at(self, operand: int, offset: int = 0) -> float | At:
        """Where an operand, or so many bytes behind its beginning, is; 0 for what there is not."""
        return At(operand, offset) if self.is_there[operand] else 0

    def all_at(self, operands: Sequence[int], count: int, offset: int = 0) -> list[float | At]:
        """Where each of so many operands is; zeros if there are none."""
        return [self.at(each, offset) for each in operands] or [0] * count

    def ready(self, is_backward: bool, spans: Sequence[int], is_traced: bool = False) -> Ready:
        """The kernel of a launch whose lengths, offsets and reset these operands are."""
        has_spans = self.directions > 1 or any(self.is_there[each] for each in spans)
        sizes = self.number, self.hidden, self.batch.sequences, self.directions
        return _ready(self.kernel.shape, is_backward, *sizes, has_spans, self.device, is_traced)

    def own_and_starts(self, operands: Sequence[int]) -> list[float | At]:
        """Where a direction's parameters of the cell's own, its initial states and its fresh ones are, which these are."""
        own, states = len(self.kernel.shape.own), self.kernel.shape.states
        initial = operands[own : own + states] if self.has_initial else ()
        fresh = operands[own + len(initial) :] if self.has_fresh else ()
        return [*self.all_at(operands[:own], max(1, own)), *self.all_at(initial, states), *self.all_at(fresh, states)]


class Ready(NamedTuple):
    """A kernel that is compiled and loaded, for so many sequences.

    Attributes:
        plan: what it is compiled for.
        kernel: on its device.
        tiles: groups of blocks of a direction.
        groups: of all directions.
        at_once: groups of one launch: those whose blocks wait for each other through global memory are to run together.
    """

    plan: Plan
    kernel: launcher.Kernel
    tiles: int
    groups: int
    at_once: int


def forward(
    kernel: CellKernel,
    hidden: int,
    x: Tensor,
    batch: Batch,
    directions: Sequence[Direction],
    output: Tensor,
    finals: Sequence[Tensor],
    kept: Tensor | None,
    x_batch_first: bool,
    output_batch_first: bool,
) -> None:
    """Run a layer.

    Args:
        x: contiguous, laid out as ``batch`` says or, with x_batch_first False, (T, B, I).
        output: likewise, (..., D·H); written.
        finals: each (D, B, H); written.
        kept: (D, rows, K, H); written. None: not needed.
    """
    shape, count = kernel.shape, len(directions)
    width = shape.inputs * hidden
    projected = x.new_empty((count, batch.rows, width))
    operands: list[Tensor | None] = [*NO_SCRATCH, projected, x]
    for direction in directions:
        operands += (direction.w_ih, direction.b_ih)
    multiplied = len(operands)
    operands += (output, kept, batch.lengths, batch.offsets, batch.reset, *finals)
    for _, w_hh, _, b_hh, own, given, initial, fresh in directions:
        operands += (w_hh, b_hh, given, *own, *initial, *fresh)
    addresses = addresses_of(operands)
    rows = (width, x_batch_first), (count * hidden, output_batch_first), (x.shape[-1], x_batch_first)
    strides = tuple([stride for of_row in rows for stride in batch.row_strides(*of_row)])
    form = _Form.of(kernel, hidden, x, batch, strides, directions, operands)
    _forward_commands(form, alignment(addresses[:multiplied])).run(operands, addresses, x)


@prepared
def _forward_commands(form: _Form, aligned: int) -> Commands:
    """What ``forward`` puts onto the stream: the projections and the scan, or one launch for both."""
    shape, hidden, at, size, count = form.kernel.shape, form.hidden, form.at, form.size, form.directions
    states, width, rows = shape.states, shape.inputs * hidden, form.batch.rows
    projected, x, *rest = range(len(NO_SCRATCH), len(form.is_there))
    output, kept, lengths, offsets, reset, *others = rest[2 * count :]
    finals, others = others[:states], others[states:]
    spans = lengths, offsets, reset
    is_one_launch = _projects(form.ready(False, spans).plan, form.inputs, form.batch)
    product = Form(rows, form.inputs, width, form.inputs, form.inputs, width, b_transposed=True)
    products: list[Command] = []
    values: list[float | At] = []
    for k in range(count):
        w_ih, b_ih = rest[2 * k : 2 * k + 2]
        w_hh, b_hh, given, *more = of_direction(others, k, count)
        gates = At(projected, k * rows * width * size)
        if not is_one_launch:
            bias = At(b_ih) if form.is_there[b_ih] else None
            products.append(Product(form.number, product, At(x), At(w_ih), gates, size, aligned, form.device, bias=bias))
        values += (
            gates,
            *map(at, (given, w_hh, b_hh)),
            *form.own_and_starts(more),
            at(output, k * hidden * size),
            at(kept, k * rows * shape.kept * hidden * size),
            *form.all_at(finals, states, k * form.batch.sequences * hidden * size),
            *(map(at, (x, w_ih, b_ih)) if is_one_launch else (0, 0, 0)),
            k,
        )
    return _with_launches(products, form, False, spans, values)


def _projects(plan: Plan, inputs: int, batch: BatchSizes) -> bool:
    """Whether the scan's kernel is to make the projections too: there are so few that a launch of their own is expected to take longer."""
    numbers = batch.steps * min(plan.tile, batch.sequences) * plan.shape.inputs * plan.units
    return 0 < inputs <= _WIDEST_PROJECTED and -(-numbers // plan.threads) * (_NUMBER + inputs) <= _MOST_PROJECTED


def backward(
    kernel: CellKernel,
    hidden: int,
    x: Tensor,
    batch: Batch,
    directions: Sequence[Direction],
    output: Tensor,
    kept: Tensor | None,
    grad_output: Tensor | None,
    grad_finals: Sequence[Tensor | None],
    grad_kept: Tensor | None,
    grad_starts: Tensor | None,
    x_batch_first: bool,
    output_batch_first: bool,
    needs_x: bool,
    needs_parameters: bool,
) -> tuple[Tensor | None, list[tuple[Tensor, ...]], Tensor | None]:
    """The gradients of a layer: of x, (T, B, I) or packed (N, I); of each direction's parameters; and of the step inputs, (D, rows, S, H).

    Args:
        grad_output: laid out as the output, its rows aligned as the kernels copy them; None for zeros.
        grad_finals: each (D, B, H), contiguous; None for zeros.
        kept, grad_kept: (D, rows, K, H); None: there are none; for zeros.
        grad_starts: (1, or 2 with resets; states; D; B; H), of ``WIDE``: of the initial states, and of the fresh ones; written. None: not
            needed.
    """
    shape, count = kernel.shape, len(directions)
    grad_gates = x.new_empty((count, batch.rows, shape.columns * hidden))
    totals = x.new_empty((count, shape.totals, batch.sequences, hidden), dtype=WIDE) if shape.totals else None
    operands: list[Tensor | None] = [*NO_SCRATCH, grad_gates, totals, output, kept, grad_output, grad_kept, grad_starts]
    operands += (batch.lengths, batch.offsets, batch.reset, *grad_finals)
    for _, w_hh, _, _, own, given, initial, fresh in directions:
        operands += (w_hh, given, *own, *initial, *fresh)
    addresses = addresses_of(operands)
    grad_strides = (0, 0) if grad_output is None else batch.strides(grad_output, output_batch_first)
    strides = *grad_strides, *batch.row_strides(count * hidden, output_batch_first)
    form = _Form.of(kernel, hidden, x, batch, strides, directions, operands)
    _backward_commands(form).run(operands, addresses, x)
    grad_x = batch.new(x, x.shape[-1], False) if needs_x else None
    in_step_order = batch.in_step_order(x, x_batch_first) if needs_parameters else x
    of_run = in_step_order, batch, directions, output, kept, output_batch_first
    parameters = parameter_gradients(shape, hidden, form.number, grad_gates, totals, grad_x, *of_run, needs_parameters)
    at = shape.step_inputs_at
    grad_step_inputs = grad_gates.view(count, batch.rows, -1, hidden)[:, :, at:] if shape.step_inputs else None
    return grad_x, parameters, grad_step_inputs


@prepared
def _backward_commands(form: _Form) -> Commands:
    """The launches of ``backward``."""
    shape, hidden, at, size, count = form.kernel.shape, form.hidden, form.at, form.size, form.directions
    states, rows, operands = shape.states, form.batch.rows, range(len(NO_SCRATCH), len(form.is_there))
    gates, totals, output, kept, grad_output, grad_kept, starts, lengths, offsets, reset, *rest = operands
    finals, rest = rest[:states], rest[states:]
    of_state, of_kept = form.batch.sequences * hidden, rows * shape.kept * hidden * size

    def grad_start(of_fresh: bool, k: int) -> list[float | At]:
        """Of grad_starts, (1 or 2; states; D; B; H)."""
        places = [((of_fresh * states + state) * count + k) * of_state * WIDE.itemsize for state in range(states)]
        return [at(starts, place) if form.is_there[reset] or not of_fresh else 0 for place in places]

    values: list[float | At] = []
    for k in range(count):
        w_hh, given, *more = of_direction(rest, k, count)
        values += (
            at(grad_output, k * hidden * size),
            *map(at, (given, w_hh)),
            at(output, k * hidden * size),
            *(at(each, k * of_kept) for each in (kept, grad_kept)),
            *form.own_and_starts(more),
            *form.all_at(finals, states, k * of_state * size),
            At(gates, k * rows * shape.columns * hidden * size),
            at(totals, k * shape.totals * of_state * WIDE.itemsize),
            *grad_start(False, k),
            *grad_start(True, k),
            k,
        )
    return _with_launches([], form, True, (lengths, offsets, reset), values, form.is_there[grad_kept])


def _with_launches(
    before: Sequence[Command],
    form: _Form,
    is_backward: bool,
    spans: tuple[int, int, int],
    directions: Sequence[float | At],
    is_traced: bool = False,
) -> Commands:
    """Commands, and behind them the launches of a kernel: as many as it takes for all blocks of each to run at once, if they must.

    Args:
        spans: which operands the lengths, the offsets and the reset are.
        directions: what a launch is told of each.
    """
    (_, *constants), batch, index = form.kernel, form.batch, form.device
    plan, kernel, tiles, groups, at_once = form.ready(is_backward, spans, is_traced)
    if not plan.mailbox_numbers:
        at_once = groups
    inputs = () if is_backward else (form.inputs,)
    head = (batch.steps, batch.sequences, *map(form.at, spans), *batch.reset_strides, *form.strides, *inputs)
    second = (0,) * len(directions) if form.directions == 1 else ()
    rest = *directions, *second, *(array("f", constants[is_backward]) or (0.0,))
    launches: list[Command] = []
    for first in range(0, groups, at_once):
        memory = (At(MAILBOX), At(FLAGS, first * plan.flags * 4)) if plan.mailbox_numbers else (0, 0)
        params, places = structs.filled(plan.parameter, (*head, tiles, first, *memory, *rest))
        grid = min(at_once, groups - first) * plan.blocks
        launches.append(Launch(kernel, grid, plan.threads, plan.shared_bytes, params, places, plan.mailbox_numbers > 0, index))
    mailbox, flags = min(groups, at_once) * plan.mailbox_numbers, groups * plan.flags if plan.mailbox_numbers else 0
    return Commands([*before, *launches], index, mailbox=mailbox, flags=flags)


@lru_cache(maxsize=4096)
def _ready(
    shape: CellShape,
    is_backward: bool,
    number: Number,
    hidden: int,
    sequences: int,
    directions: int,
    has_spans: bool,
    index: int,
    is_traced: bool,
) -> Ready:
    device = launcher.device_properties(index)
    call = shape, is_backward, number, hidden, sequences, directions, has_spans, device, is_traced
    # Clusters of 16 do not fit every device, nor smaller ones every part of one.
    plan = next(filter(None, (_first_that_runs(choose(*call, largest), index) for largest in (16, 8, 4, 2, 1))), None)
    if plan is None:
        raise RuntimeError(
            f"{device.name} has no room for a network of hidden_size={hidden}: elman.to_torch(module) runs on torch's layers"
        )
    kernel = launcher.kernel(plan, index)
    tiles = -(-sequences // plan.tile)
    at_once = tiles * directions
    if plan.mailbox_numbers:
        at_once = max(1, kernel.resident_blocks(plan.threads, plan.shared_bytes) // plan.blocks)
    return Ready(plan, kernel, tiles, tiles * directions, at_once)


def _first_that_runs(plans: Sequence[Plan], index: int) -> Plan | None:
    """The first plan that fits the device and whose registers suffice, which is known once it is compiled; else that which lacks least.

    What little a plan with weights in shared memory lacks is mostly saved and read before the first step.
    """
    fitting: list[Plan] = []
    for plan in plans:
        if not has_room(plan, index):
            continue
        if launcher.kernel(plan, index).local_bytes <= spill_allowed(plan):
            return plan
        fitting.append(plan)
    return min(fitting, key=lambda plan: launcher.kernel(plan, index).local_bytes, default=None)


def spill_allowed(plan: Plan) -> int:
    """How many bytes of a thread may lie in memory for lack of registers."""
    return _HARMLESS if plan.shared_eighths else 0


def has_room(plan: Plan, index: int) -> bool:
    """Whether a cluster of the plan, if it has one, fits the device, or the part of it that this process has."""
    kernel = launcher.kernel(plan, index)
    try:
        return plan.blocks == 1 or not plan.is_cluster or kernel.resident_clusters(plan.blocks, plan.threads, plan.shared_bytes) > 0
    except RuntimeError:  # the driver may answer that there are no such clusters
        return False
