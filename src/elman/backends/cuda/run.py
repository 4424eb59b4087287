"""Runs a stack of layers on the GPU, and its gradient: what backends/call.py is for the CPU."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from elman.backends.call import Saved, check_operands, dense
from elman.backends.contract import check_call
from elman.backends.cuda import layer, source
from elman.backends.cuda.batch import Batch
from elman.backends.cuda.direction import Direction
from elman.backends.cuda.shape import CELLS, CellKernel, expected_of
from elman.backends.cuda.totals import WIDE
from elman.backends.program.lookup import program_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from elman.backends.cuda.shape import CellShape, Sizes
    from elman.backends.operands import Operands
    from elman.backends.spans import Spans
    from elman.backends.stack import Stack

_NOTHING = nullcontext()
_CONTIGUOUS = torch.contiguous_format
_ALIGNMENT = 16  # bytes that the kernels read of the weights at once


_BUILT_IN = {name: CellKernel(shape) for name, shape in CELLS.items()}


def kernel_of(stack: Stack, draws: bool = False) -> CellKernel:
    """A stack's cell as the kernels have it.

    Args:
        draws: whether there are the cell's draws, as in training.

    Raises:
        NotRecordedError: there is no program of a cell of one's own.
    """
    found = _BUILT_IN.get(stack.cell.name)
    if found is None:
        program = program_of(stack.cell, torch.float32, draws, units=stack.hidden_size)
        found = source.kernel_of(program, type(stack.cell).__name__)
    return found


def forward(
    stack: Stack, operands: Operands, batch_first: bool, save: bool, pad_saved: bool = False
) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
    """``forward_by`` the stack's own kernel. ``pad_saved``: here all T·B steps are saved either way."""
    return forward_by(kernel_of(stack, operands.spans.draws is not None), stack, operands, batch_first, save)


def forward_by(
    kernel: CellKernel, sizes: Sizes, operands: Operands, batch_first: bool, save: bool
) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
    """Run a stack of a cell that has this kernel.

    Args:
        operands: of which x is (T, B, I), with batch_first (B, T, I), or packed (N, I).
        save: whether ``backward`` will follow.

    Returns:
        The outputs, laid out as x; the final states; and what ``backward`` needs besides.
    """
    x = operands.x
    batch = Batch.of(x, operands.spans, batch_first)
    output = batch.new(x, _width(sizes), batch.batch_first)
    saved = _new_saved(kernel, sizes, x, batch.rows, save)
    finals = _forward_into(kernel, sizes, operands, batch, saved.hidden, output, saved.steps)
    return output, finals, saved


def check(stack: Stack, operands: Operands, *call: Any) -> None:
    """``contract.check_call`` of a built-in cell."""
    check_call(expected_of(kernel_of(stack).shape, stack, operands.x.shape[-1]), operands, *call)


def trace(stack: Stack, operands: Operands) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
    """Run a stack over x, (T, B, I), and keep everything: the outputs of every layer, (L, T, B, D·H), the final states, and the rest."""
    x = operands.x
    batch = Batch.of(x, operands.spans, False)
    outputs = x.new_empty((stack.num_layers, batch.steps, batch.sequences, stack.output_size))
    hidden = outputs[:-1].flatten(1, 2) if stack.num_layers > 1 else None
    kernel = kernel_of(stack)
    steps = _new_steps(stack, kernel, x, batch.rows, stack.num_layers)
    if steps is not None and batch.lengths is not None:
        steps.zero_()
    finals = _forward_into(kernel, stack, operands, batch, hidden, outputs[-1], steps)
    return (
        outputs,
        finals,
        Saved(hidden, None if steps is None else steps.view(len(steps), batch.steps, batch.sequences, *steps.shape[2:]), None),
    )


def backward(
    stack: Stack,
    operands: Operands,
    batch_first: bool,
    output: Tensor,
    saved: Saved,
    grad_output: Tensor | None,
    grad_finals: tuple[Tensor | None, ...],
    needs_grad: Sequence[bool],
    grad_saved: Saved | None = None,
    pad_saved: bool = False,
) -> Sequence[Tensor | None]:
    """``backward_by`` the stack's own kernel. ``pad_saved``: as ``forward`` was told."""
    ends = output, saved, grad_output, grad_finals, needs_grad, grad_saved
    return backward_by(kernel_of(stack, operands.spans.draws is not None), stack, operands, batch_first, *ends)


def backward_by(
    kernel: CellKernel,
    sizes: Sizes,
    operands: Operands,
    batch_first: bool,
    output: Tensor,
    saved: Saved,
    grad_output: Tensor | None,
    grad_finals: tuple[Tensor | None, ...],
    needs_grad: Sequence[bool],
    grad_saved: Saved | None = None,
) -> Sequence[Tensor | None]:
    """The gradients of a run.

    Args:
        output, saved: what ``forward_by`` or ``trace`` gave; of the latter's outputs the last layer's.
        grad_output, grad_finals: the gradients of the outputs and final states; None for zeros.
        needs_grad: of x, the initial states, the fresh states (if there are any), the step inputs, then each parameter.
        grad_saved: after ``trace``: the gradients of what was saved; None after ``forward``.

    Returns:
        The gradients in the order of ``needs_grad``, None where not needed.
    """
    check_operands(operands, grad_output, (*grad_finals, output))
    x, states, params, spans = operands
    with on_device_of(x), _without_autocast():
        batch = Batch.of(x, spans, batch_first)
        count, directions, top = len(grad_finals), sizes.num_directions, sizes.num_layers - 1
        x, output = dense(x), _aligned(dense(output))
        shape = kernel.shape
        given = _given(shape, sizes, x, batch, spans)
        saved = Saved(*[None if each is None else _aligned(dense(each)) for each in saved])
        grad_finals = tuple([None if grad is None or grad._is_zerotensor() else dense(grad) for grad in grad_finals])
        places = 2 if batch.reset is not None else 1
        starts: Tensor | None = None
        if any(needs_grad[1 : 1 + count * ((states is not None) + (spans.fresh is not None))]):
            starts = x.new_empty((sizes.num_layers, places, count, directions, batch.sequences, sizes.hidden_size), dtype=WIDE)
        needs_parameters = any(needs_grad[-len(params) :])
        needs_step_inputs = any(needs_grad[-len(params) - len(shape.step_inputs) : -len(params)])
        gradients: list[Tensor] = []
        of_step_inputs: list[Tensor] = []
        grad: Tensor | None = grad_output
        for index in range(top, -1, -1):
            own = slice(index * directions, (index + 1) * directions)
            is_top, is_first = index == top, index == 0
            parts = _directions(shape, sizes, index, operands, given)
            source = x if is_first else _lower(batch, saved.hidden, index - 1)
            out = output if is_top else _lower(batch, saved.hidden, index)
            if not is_top and grad_saved is not None and grad_saved.hidden is not None:
                assert grad is not None
                grad = grad + grad_saved.hidden[index].reshape(grad.shape)
            steps = None if saved.steps is None else saved.steps if top == 0 else saved.steps[own]
            if steps is None:
                steps = _run_again(kernel, sizes, source, batch, parts, out, is_first and batch.batch_first, is_top and batch.batch_first)
            grad_steps = None if grad_saved is None or grad_saved.steps is None else dense(grad_saved.steps[own].flatten(1, -3))
            if is_first and needs_parameters and batch.lengths is not None and batch.offsets is None:
                source = batch.without_padding(source, batch.batch_first)
            grad, parameters, grad_step_inputs = layer.backward(
                kernel,
                sizes.hidden_size,
                source,
                batch,
                parts,
                out,
                steps,
                _readable(grad, sizes.hidden_size),
                [None if final is None else final[own] for final in grad_finals],
                grad_steps,
                None if starts is None else starts[index],
                is_first and batch.batch_first,
                is_top and batch.batch_first,
                not is_first or needs_grad[0],
                needs_parameters,
            )
            gradients = [each for direction in parameters for each in direction] + gradients
            if grad_step_inputs is not None and needs_step_inputs:
                of_step_inputs.append(grad_step_inputs.sum(0))
        results: list[Tensor | None] = [grad.transpose(0, 1) if grad is not None and batch.batch_first else grad]
        if states is not None:
            results += [None if starts is None else starts[:, 0, k].flatten(0, 1).to(x.dtype, copy=True) for k in range(count)]
        if spans.fresh is not None:
            fresh_grads: list[Tensor | None] = [None] * count
            if starts is not None and batch.reset is not None:
                fresh_grads = [starts[:, 1, k].sum(2).flatten(0, 1).to(x.dtype) for k in range(count)]
            results += [torch.zeros_like(state) if each is None else each for state, each in zip(spans.fresh, fresh_grads, strict=True)]
        if not needs_step_inputs:
            results += [None] * len(shape.step_inputs)
        else:
            added = sum(of_step_inputs[1:], of_step_inputs[0]).view(batch.steps, batch.sequences, -1, sizes.hidden_size)
            summed = zip(added.unbind(2), shape.step_inputs, strict=True)
            results += [each.clone(memory_format=_CONTIGUOUS) if of_units else each.sum(-1) for each, of_units in summed]
        results += gradients if needs_parameters else [None] * len(params)
        return [result if need else None for result, need in zip(results, needs_grad, strict=True)]


def new_saved(stack: Stack, x: Tensor, rows: int | torch.SymInt) -> Saved:
    """Memory for what ``forward`` saves of so many rows."""
    return _new_saved(kernel_of(stack), stack, x, rows, True)


def _new_saved(kernel: CellKernel, sizes: Sizes, x: Tensor, rows: int | torch.SymInt, save: bool) -> Saved:
    """Memory for the lower layers' outputs and, to save, for what ``backward`` needs of so many rows."""
    hidden = x.new_empty((sizes.num_layers - 1, rows, _width(sizes))) if sizes.num_layers > 1 else None
    return Saved(hidden, _new_steps(sizes, kernel, x, rows, sizes.num_layers) if save and not sizes.recompute else None, None)


def _new_steps(sizes: Sizes, kernel: CellKernel, x: Tensor, rows: int | torch.SymInt, layers: int) -> Tensor | None:
    kept = kernel.shape.kept
    return x.new_empty((layers * sizes.num_directions, rows, kept, sizes.hidden_size)) if kept else None


def _width(sizes: Sizes) -> int:
    """Of the outputs."""
    return sizes.num_directions * sizes.hidden_size


def _forward_into(
    kernel: CellKernel,
    sizes: Sizes,
    operands: Operands,
    batch: Batch,
    hidden: Tensor | None,
    output: Tensor,
    steps: Tensor | None,
) -> tuple[Tensor, ...]:
    """Run a stack into memory that is there, and return the final states."""
    directions, layers = sizes.num_directions, sizes.num_layers
    with on_device_of(operands.x), _without_autocast():
        x = dense(operands.x)
        given = _given(kernel.shape, sizes, x, batch, operands.spans)
        finals = tuple([x.new_empty((layers * directions, batch.sequences, sizes.hidden_size)) for _ in range(kernel.shape.states)])
        for index in range(layers):
            own = slice(index * directions, (index + 1) * directions)
            is_top = index == layers - 1
            result = output if is_top else _lower(batch, hidden, index)
            layer.forward(
                kernel,
                sizes.hidden_size,
                x,
                batch,
                _directions(kernel.shape, sizes, index, operands, given),
                result,
                finals if layers == 1 else [final[own] for final in finals],
                steps if steps is None or layers == 1 else steps[own],
                index == 0 and batch.batch_first,
                is_top and batch.batch_first,
            )
            x = result
    return finals


def _run_again(
    kernel: CellKernel,
    sizes: Sizes,
    x: Tensor,
    batch: Batch,
    directions: list[Direction],
    output: Tensor,
    x_batch_first: bool,
    output_batch_first: bool,
) -> Tensor | None:
    """What a layer keeps of its steps, if it does and they were not kept."""
    steps = _new_steps(sizes, kernel, x, batch.rows, 1)
    if steps is not None:
        of_states = (sizes.num_directions, batch.sequences, sizes.hidden_size)
        finals = [x.new_empty(of_states) for _ in range(kernel.shape.states)]
        again = torch.empty_like(output)
        layer.forward(kernel, sizes.hidden_size, x, batch, directions, again, finals, steps, x_batch_first, output_batch_first)
    return steps


def _given(shape: CellShape, sizes: Sizes, x: Tensor, batch: Batch, spans: Spans) -> list[Tensor | None]:
    """What the steps of each layer and direction are given beside x, (T, B, given, H): step inputs, and random numbers of their own."""
    count = sizes.num_layers * sizes.num_directions
    if not shape.given:
        return [None] * count

    def together(*draws: Tensor) -> Tensor:
        given = x.new_empty((batch.steps, batch.sequences, shape.given, sizes.hidden_size))
        step_inputs = [each if each.dim() == 3 else each.unsqueeze(-1) for each in spans.step_inputs or ()]
        for place, numbers in enumerate((*step_inputs, *draws)):
            given[:, :, place].copy_(numbers.expand(given[:, :, place].shape))
        return given

    if not shape.draws:
        return [together()] * count
    assert spans.draws is not None
    return [together(*(draw[k] for draw in spans.draws)) for k in range(count)]


def _directions(shape: CellShape, sizes: Sizes, index: int, operands: Operands, given: Sequence[Tensor | None]) -> list[Direction]:
    """A layer's directions."""
    _, states, params, spans = operands
    made = []
    has_products, count = shape.gates > 0, len(params) // (sizes.num_layers * sizes.num_directions)
    for k in range(index * sizes.num_directions, (index + 1) * sizes.num_directions):
        each = map(dense, params[k * count : (k + 1) * count])
        w_ih, w_hh = next(each), next(each) if has_products else None
        b_ih, b_hh = next(each) if sizes.bias else None, next(each) if sizes.bias and has_products else None
        own = tuple([_for_each_unit(parameter, sizes.hidden_size) for parameter in each])
        w_hh = None if w_hh is None else _aligned(w_hh)
        initial = () if states is None else tuple([dense(state[k]) for state in states])
        fresh = () if spans.fresh is None else tuple([dense(state[k]) for state in spans.fresh])
        made.append(Direction(w_ih, w_hh, b_ih, b_hh, own, given[k], initial, fresh))
    return made


def _aligned(numbers: Tensor) -> Tensor:
    """At an address from which the kernels' widest copies can read: a view into somebody's flat memory may begin anywhere."""
    return numbers.clone() if numbers.data_ptr() % _ALIGNMENT else numbers


def _for_each_unit(parameter: Tensor, hidden: int) -> Tensor:
    """A parameter of the cell's own, (H,) or a single number, as (H,)."""
    return parameter if parameter.dim() else parameter.expand(hidden).contiguous()


def _lower(batch: Batch, hidden: Tensor | None, index: int) -> Tensor:
    """A lower layer's outputs, (T, B, D·H) or packed (N, D·H)."""
    assert hidden is not None
    return hidden[index] if batch.offsets is not None else hidden[index].view(batch.steps, batch.sequences, -1)


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Makes x's device the current one, which mostly it is."""
    return _NOTHING if x.get_device() == torch._C._cuda_getDevice() else torch.cuda.device(x.get_device())


def _without_autocast() -> AbstractContextManager[object]:
    """Keeps torch's operators to the dtypes that they are given."""
    return torch.autocast("cuda", enabled=False) if torch.is_autocast_enabled("cuda") else _NOTHING


def _readable(gradient: Tensor | None, hidden: int) -> Tensor | None:
    """A gradient of the outputs as the kernels copy it: contiguous rows, each direction's as well aligned as they are long."""
    if gradient is None or gradient._is_zerotensor():
        return None
    if gradient.is_contiguous() and gradient.data_ptr() % _ALIGNMENT == 0 and not gradient.is_neg():
        return gradient
    size = gradient.element_size()
    alignment = next(each for each in (16, 8, 4, 2) if hidden * size % each == 0)
    *outer, last = gradient.stride()
    if last != 1 or gradient.data_ptr() % alignment or any(stride * size % alignment for stride in outer) or gradient.is_neg():
        return gradient.resolve_neg().clone(memory_format=torch.contiguous_format)
    return gradient
