"""What the operands of a recorded call must be: the kernels know nothing but sizes and addresses, so that every operand passes here.

In eager calls the layers have checked them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.call import Saved
    from elman.backends.cuda.shape import CellShape, Sizes
    from elman.backends.spans import Spans

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_call(
    shape: CellShape,
    sizes: Sizes,
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    params: Sequence[Tensor],
    spans: Spans,
    batch_first: bool,
    *results: Any,
) -> None:
    """Raise a RuntimeError if something that a run is given does not fit the rest.

    Args:
        results: of a gradient also what it is given of the run: output, saved, grad_output, grad_finals, needs_grad.
    """
    operands = x, states, params, spans, batch_first
    _check_operands(shape, sizes, *operands)
    if results:
        _check_results(shape, sizes, *operands, *results)


def _check_operands(
    shape: CellShape,
    sizes: Sizes,
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    params: Sequence[Tensor],
    spans: Spans,
    batch_first: bool,
) -> None:
    batch_sizes, lengths, reset, fresh, step_inputs, draws = spans
    if x.dtype not in _DTYPES:
        raise RuntimeError(f"expected x of float32, bfloat16 or float16, got {x.dtype}")
    if min(sizes.hidden_size, sizes.num_layers) < 1 or sizes.num_directions not in (1, 2):
        got = f"{sizes.hidden_size}, {sizes.num_layers} and {sizes.num_directions}"
        raise RuntimeError(f"expected hidden_size and num_layers of at least 1, and 1 or 2 directions, got {got}")
    if batch_sizes is not None and lengths is not None:
        raise RuntimeError("expected batch_sizes or lengths, got both")
    steps, batch = _steps_and_sequences(x, spans, batch_first)
    if not steps:
        raise RuntimeError("expected at least one step, got none")
    hidden, directions, of_steps = sizes.hidden_size, sizes.num_layers * sizes.num_directions, (steps, batch)
    for name, given, of_state in (
        ("an initial state", states, (directions, batch, hidden)),
        ("a fresh state", fresh, (directions, hidden)),
    ):
        if given is not None and len(given) != shape.states:
            raise RuntimeError(f"expected {name} for each of {shape.states} states, got {len(given)}")
        for state in given or ():
            check(name, state, of_state, x)
    for numbers, of_units in zip(step_inputs or (), shape.step_inputs, strict=False):
        check("a step input", numbers, (*of_steps, hidden) if of_units else of_steps, x)
    for numbers in draws or ():
        check("random numbers", numbers, (directions, *of_steps, hidden) if numbers.dim() == 4 else (directions, batch, hidden), x)
    shapes = _parameter_shapes(shape, sizes, x.shape[-1])
    if len(shapes) != len(params):
        raise RuntimeError(f"expected {len(shapes)} parameters, got {len(params)}")
    for parameter, expected in zip(params, shapes, strict=True):
        check("a parameter", parameter, expected, x)
    check("reset", reset, of_steps, x, torch.bool)
    if lengths is not None:
        if lengths.shape != (batch,) or lengths.dtype is not torch.int64:
            raise RuntimeError(f"expected lengths of shape {(batch,)}, of int64, got {lengths}")
        if not ((lengths >= 0) & (lengths <= steps)).all():  # waits for the device, if the lengths are there
            raise RuntimeError(f"expected lengths from 0 to {steps}, got {lengths.tolist()}")


def _check_results(
    shape: CellShape,
    sizes: Sizes,
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    params: Sequence[Tensor],
    spans: Spans,
    batch_first: bool,
    output: Tensor,
    saved: Saved,
    grad_output: Tensor | None,
    grad_finals: Sequence[Tensor | None],
    needs_grad: Sequence[bool],
) -> None:
    if len(grad_finals) != shape.states:
        raise RuntimeError(f"expected a gradient, or None, for each of {shape.states} final states, got {len(grad_finals)}")
    others = shape.states * ((states is not None) + (spans.fresh is not None)) + len(shape.step_inputs) + len(params)
    if len(needs_grad) != 1 + others:
        raise RuntimeError(f"expected needs_grad of {1 + others}, got {len(needs_grad)}")
    if sizes.num_layers > 1 and saved.hidden is None:
        raise RuntimeError(f"expected the outputs of {sizes.num_layers - 1} lower layers, got none")
    _, batch = _steps_and_sequences(x, spans, batch_first)
    rows, hidden, width = x.shape[:-1].numel(), sizes.hidden_size, sizes.num_directions * sizes.hidden_size
    directions = sizes.num_layers * sizes.num_directions
    check("output", output, (*x.shape[:-1], width), x)
    check("the gradient of output", grad_output, (*x.shape[:-1], width), x)
    for grad in grad_finals:
        check("the gradient of a final state", grad, (directions, batch, hidden), x)
    if sizes.num_layers > 1:
        check("hidden", saved.hidden, (sizes.num_layers - 1, rows, width), x)
    check("what was kept", saved.steps, (directions, rows, shape.kept, hidden), x)


def check(name: str, tensor: Tensor | None, shape: tuple[int, ...], x: Tensor, dtype: torch.dtype | None = None) -> None:
    """Raise a RuntimeError unless a tensor has this shape, is where x is, and has this dtype, x's if none is given."""
    if tensor is None:
        return
    if tensor.shape != shape:
        raise RuntimeError(f"expected {name} of shape {shape}, got {tuple(tensor.shape)}")
    if tensor.dtype is not (dtype or x.dtype):
        raise RuntimeError(f"expected {name} of {dtype or x.dtype}, got {tensor.dtype}")
    if tensor.device != x.device:
        raise RuntimeError(f"expected {name} on {x.device}, where x is, got it on {tensor.device}")


def _steps_and_sequences(x: Tensor, spans: Spans, batch_first: bool) -> tuple[int, int]:
    batch_sizes = spans.batch_sizes
    if batch_sizes is None:
        if x.dim() != 3:
            raise RuntimeError(f"expected x of shape (T, B, I), with batch_first (B, T, I), got {tuple(x.shape)}")
        first, second, _ = x.shape
        return (second, first) if batch_first else (first, second)
    if x.dim() != 2:
        raise RuntimeError(f"expected x of shape (N, I) with batch_sizes, got {tuple(x.shape)}")
    if batch_sizes.dim() != 1 or batch_sizes.dtype is not torch.int64 or not batch_sizes.is_cpu or not len(batch_sizes):
        raise RuntimeError(f"expected batch_sizes of shape (T,), int64 on the CPU, got {batch_sizes}")
    if int(batch_sizes.sum()) != len(x) or int(batch_sizes[-1]) < 1 or bool((batch_sizes[1:] > batch_sizes[:-1]).any()):
        raise RuntimeError(f"expected batch_sizes that do not increase, are at least 1 and add up to {len(x)}, got {batch_sizes.tolist()}")
    return len(batch_sizes), int(batch_sizes[0])


def _parameter_shapes(shape: CellShape, sizes: Sizes, input_size: int) -> list[tuple[int, ...]]:
    hidden, found = sizes.hidden_size, list[tuple[int, ...]]()
    inputs, gates = shape.inputs * hidden, shape.gates * hidden
    for index in range(sizes.num_layers * sizes.num_directions):
        found.append((inputs, input_size if index < sizes.num_directions else sizes.num_directions * hidden))
        found += [(gates, hidden)] * bool(gates)
        found += [(rows,) for rows in (inputs, gates) if rows and sizes.bias]
        found += [(hidden,) if of_units else () for of_units in shape.own]
    return found
