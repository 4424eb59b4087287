"""What a cell gets at every step besides x and its states: step inputs, checked, and random numbers, drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from elman.cells.closest import closest
from elman.layers.errors import check_layout, check_like, wrong_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from elman.backends import Operands, Stack
    from elman.cells import Cell


# What a call names an argument of trace.
_MEANT = {"hx": "state"}


def check_names(cell: Cell, given: Mapping[str, Any]) -> None:
    """Raise a TypeError unless the caller gave just what the cell declares."""
    kind, declared = type(cell).__name__, ", ".join(cell.step_inputs)
    for name in given:
        if name not in cell.step_inputs:
            there = f"whose step inputs are {declared}" if declared else "which has no step inputs"
            others = [each for each in ("lengths", "reset", *cell.step_inputs) if each != name]  # which a single step does not take
            meant = _MEANT.get(name) or closest(name, others)
            hint = f": did you mean {meant}=?" if meant else f": the cell is {kind}, {there}"
            raise TypeError(f"expected no argument {name}, got one{hint}")
    for name in cell.step_inputs:
        if name not in given:
            raise TypeError(f"expected {name}, which {kind} needs at every step, got none: pass it by name, {name}=...")


def in_order(cell: Cell, given: Mapping[str, Any], batch_first: bool, training: bool) -> tuple[Any, ...] | None:
    """Step inputs in the order in which the cell declares them, unchecked; None where they are to be turned around, or numbers drawn."""
    if batch_first or given.keys() != cell.step_inputs.keys() or (cell.draws and training):
        return None
    return tuple([given[name] for name in cell.step_inputs])


def as_step_inputs(
    stack: Stack, given: Mapping[str, Any], x: Tensor, steps: tuple[int, ...], axes: str, time: int, batch: int | None
) -> tuple[Tensor, ...]:
    """The step inputs in the order in which the cell declares them, time first and with a batch axis, checked.

    Args:
        stack: what is to be run.
        given: by name, as the caller gave them.
        x: the input, checked.
        steps: the shape of one number for each step and sequence, as x is laid out.
        axes: the names of these axes, as "(T, B".
        time: which axis is time.
        batch: which axis is the batch; None if there is none.

    Raises:
        TypeError: one is missing, not declared or not a tensor.
        RuntimeError: one has the wrong shape, layout, dtype or device.
    """
    check_names(stack.cell, given)
    found = []
    for name, size in stack.cell.step_inputs.items():
        value, shape = given[name], (*steps, stack.hidden_size) if size else tuple(steps)
        if not isinstance(value, Tensor):
            raise TypeError(f"{wrong_kind(name, 'a tensor', value)}{_fill(value, shape, x)}")
        check_layout(name, value)
        if value.shape != shape:
            told = f"{axes}, H)" if size else f"{axes}{',' * (len(steps) == 1)})"
            raise RuntimeError(f"expected {name} of shape {shape}, {told}, got {tuple(value.shape)}{_mend(name, value, shape)}")
        check_like(name, value, x)
        if batch is None:
            value = value.unsqueeze(1)
        found.append(value.transpose(0, 1) if time == 1 else value)
    return tuple(found)


def _fill(value: Any, shape: tuple[int, ...], x: Tensor) -> str:
    """How to give one number for all."""
    if torch.compiler.is_compiling() or not isinstance(value, (int, float)) or not math.isfinite(value):
        return ""
    dtype = "" if x.dtype is torch.get_default_dtype() else f", dtype={x.dtype}"
    device = "" if x.is_cpu else f", device={str(x.device)!r}"
    return f": for the same number everywhere pass torch.full({tuple(shape)}, {float(value)}{dtype}{device})"


def _mend(name: str, value: Tensor, shape: tuple[int, ...]) -> str:
    """How to give a tensor this shape, where its axes alone are others."""
    got, swapped = tuple(value.shape), (*shape[1::-1], *shape[2:])
    if got == swapped:
        return f": swap its axes with {name}.swapaxes(0, 1)"
    if got == (*shape, 1):
        return f": drop the last axis with {name}.squeeze(-1)"
    if got == (*swapped, 1):
        return f": drop the last axis and swap the others with {name}.squeeze(-1).swapaxes(0, 1)"
    if got == shape[:-1] != shape[1:]:
        return f": repeat it along the last axis with {name}.unsqueeze(-1).expand{shape}"
    return f": repeat it along the first axis with {name}.expand{shape}" if got == shape[1:] != shape[:-1] else ""


def with_draws(stack: Stack, operands: Operands, make: Callable[..., Tensor] = torch.rand) -> Operands:
    """The operands with the random numbers of a call, in the order in which the cell declares them; none if it declares none.

    Args:
        stack: what is to be run.
        operands: of which x is (T, B, I).
        make: what makes a tensor of them.

    Returns:
        Those of every step, (L·D, T, B, H); those of a sequence, (L·D, B, H), if there are resets as those of its steps.
    """
    x, reset = operands.x, operands.spans.reset
    if not stack.cell.draws:
        return operands

    def numbers(shape: tuple[int, ...]) -> Tensor:
        if x.dtype not in (torch.bfloat16, torch.float16):
            return make(shape, device=x.device, dtype=x.dtype)
        # Drawn in 16 bits they would be multiples of 2^-8 or 2^-11: rates below that are none. Rounded, small ones keep their digits.
        return make(shape, device=x.device, dtype=torch.float32).to(x.dtype).clamp_(max=1 - torch.finfo(x.dtype).eps / 2)

    steps, batch, _ = x.shape
    count = stack.num_layers * stack.num_directions
    whole, once = (count, steps, batch, stack.hidden_size), (count, batch, stack.hidden_size)
    drawn = []
    for kind in stack.cell.draws.values():
        if kind == "sequence" and reset is not None:  # of each sequence those of its first step
            at = torch.arange(steps, device=x.device).unsqueeze(1)
            first = torch.where(reset, at, 0).cummax(0).values
            every = numbers(whole)
            drawn.append(every.gather(1, first.unsqueeze(-1).expand(whole)))
        else:
            drawn.append(numbers(once if kind == "sequence" else whole))
    return operands.replaced(spans=operands.spans.replaced(draws=tuple(drawn)))
