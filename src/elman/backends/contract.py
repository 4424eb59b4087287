"""What the operands of a recorded call on a GPU must be: kernels know nothing but sizes and addresses, so that every operand passes here.

In eager calls the layers have checked them; on the CPU the kernels do (csrc/contracts.h, csrc/program/contract.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.call import Saved
    from elman.backends.operands import Operands
    from elman.backends.spans import Spans


class Expected(NamedTuple):
    """What decides which operands fit.

    Attributes:
        dtypes: that x may have.
        hidden_size, num_layers, num_directions: as a stack's.
        state_sizes: the width of each state, the first of which is that of the outputs of a direction.
        step_inputs: for each whether it has a number for each unit.
        parameters: the shape of each.
        kept: numbers of a unit that a run keeps of each step; None: it keeps nothing, not even the lower layers' outputs.
    """

    dtypes: tuple[torch.dtype, ...]
    hidden_size: int
    num_layers: int
    num_directions: int
    state_sizes: tuple[int, ...]
    step_inputs: tuple[bool, ...]
    parameters: Sequence[tuple[int, ...]]
    kept: int | None


def check_call(expected: Expected, operands: Operands, batch_first: bool, *results: Any) -> None:
    """Raise a RuntimeError if something that a run is given does not fit the rest.

    Args:
        results: of a gradient also what it is given of the run: output, saved, grad_output, grad_finals, needs_grad.
    """
    batch = _check_operands(expected, operands, batch_first)
    if results:
        _check_results(expected, operands, batch, *results)


def _check_operands(expected: Expected, operands: Operands, batch_first: bool) -> int:
    """How many sequences there are."""
    x, states, params, spans = operands
    batch_sizes, lengths, reset, fresh, step_inputs, draws = spans
    if x.dtype not in expected.dtypes:
        raise RuntimeError(f"expected x of {', '.join(map(str, expected.dtypes))}, got {x.dtype}")
    if min(expected.hidden_size, expected.num_layers) < 1 or expected.num_directions not in (1, 2):
        got = f"{expected.hidden_size}, {expected.num_layers} and {expected.num_directions}"
        raise RuntimeError(f"expected hidden_size and num_layers of at least 1, and 1 or 2 directions, got {got}")
    if batch_sizes is not None and lengths is not None:
        raise RuntimeError("expected batch_sizes or lengths, got both")
    steps, batch = _steps_and_sequences(x, spans, batch_first)
    if not steps:
        raise RuntimeError("expected at least one step, got none")
    hidden, directions, of_steps = expected.hidden_size, expected.num_layers * expected.num_directions, (steps, batch)
    for name, given, lead in (("an initial state", states, (directions, batch)), ("a fresh state", fresh, (directions,))):
        if given is not None and len(given) != len(expected.state_sizes):
            raise RuntimeError(f"expected {name} for each of {len(expected.state_sizes)} states, got {len(given)}")
        for state, size in zip(given or (), expected.state_sizes, strict=False):
            check(name, state, (*lead, size), x)
    for numbers, of_units in zip(step_inputs or (), expected.step_inputs, strict=False):
        check("a step input", numbers, (*of_steps, hidden) if of_units else of_steps, x)
    for numbers in draws or ():
        check("random numbers", numbers, (directions, *of_steps, hidden) if numbers.dim() == 4 else (directions, batch, hidden), x)
    if len(expected.parameters) != len(params):
        raise RuntimeError(f"expected {len(expected.parameters)} parameters, got {len(params)}")
    for parameter, shape in zip(params, expected.parameters, strict=True):
        check("a parameter", parameter, shape, x)
    check("reset", reset, of_steps, x, torch.bool)
    if lengths is not None:
        if lengths.shape != (batch,) or lengths.dtype is not torch.int64:
            raise RuntimeError(f"expected lengths of shape {(batch,)}, of int64, got {lengths}")
        if not ((lengths >= 0) & (lengths <= steps)).all():  # waits for the device, if the lengths are there
            raise RuntimeError(f"expected lengths from 0 to {steps}, got {lengths.tolist()}")
    return batch


def _check_results(
    expected: Expected,
    operands: Operands,
    batch: int,
    output: Tensor,
    saved: Saved,
    grad_output: Tensor | None,
    grad_finals: Sequence[Tensor | None],
    needs_grad: Sequence[bool],
) -> None:
    x, states, params, spans = operands
    count, layers, width = len(expected.state_sizes), expected.num_layers, expected.num_directions * expected.state_sizes[0]
    if len(grad_finals) != count:
        raise RuntimeError(f"expected a gradient, or None, for each of {count} final states, got {len(grad_finals)}")
    others = count * ((states is not None) + (spans.fresh is not None)) + len(expected.step_inputs) + len(params)
    if len(needs_grad) != 1 + others:
        raise RuntimeError(f"expected needs_grad of {1 + others}, got {len(needs_grad)}")
    rows, directions = x.shape[:-1].numel(), layers * expected.num_directions
    check("output", output, (*x.shape[:-1], width), x)
    check("the gradient of output", grad_output, (*x.shape[:-1], width), x)
    for grad, size in zip(grad_finals, expected.state_sizes, strict=True):
        check("the gradient of a final state", grad, (directions, batch, size), x)
    if expected.kept is None:
        return
    if layers > 1 and saved.hidden is None:
        raise RuntimeError(f"expected the outputs of {layers - 1} lower layers, got none")
    check("hidden", saved.hidden, (layers - 1, rows, width), x)
    check("what was kept", saved.steps, (directions, rows, expected.kept, expected.hidden_size), x)


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
