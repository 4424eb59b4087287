"""Arbitrary operands thrown at programs' kernels: a call is refused or leaves results of the right shapes, and changes nothing else.

`make sanitize` runs this file on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer. ELMAN_FUZZ multiplies the number of
calls. test_program_checks throws arbitrary programs.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import random_cells
from elman.backends import kernels
from elman.backends.program.call import kernel_of
from elman.backends.program.lookup import program_of
from native import required
from program_runs import Call, Options

pytestmark = [required, pytest.mark.filterwarnings("ignore")]  # torch warns of some of what is tried

CALLS = 400 * int(os.environ.get("ELMAN_FUZZ", "1"))
REFUSALS = (RuntimeError, ValueError, TypeError, MemoryError, OverflowError)
NAMES = (
    *("numbers", "params", "x", "initial", "fresh", "lengths", "reset", "step_inputs", "draws", "batch_first", "threads"),
    *("output", "hidden", "kept", "grad_output", "grad_hidden", "grad_final", "grad_traced", "padded", "needs_grad"),
)
GUARD = 64  # numbers around each operand


class Guarded:
    """Copies of tensors, each with a margin on both sides. Nobody may write to a margin, nor between them unless it is ``written``."""

    def __init__(self) -> None:
        self._bases: list[tuple[Tensor, Tensor, int]] = []  # with what they were, and how many numbers at each end must stay

    def __call__(self, value: Any, written: bool = False) -> Any:
        if isinstance(value, dict):
            return {name: self(each, written) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self(each, written) for each in value)
        if not isinstance(value, Tensor):
            return value
        base = torch.full((value.numel() + 2 * GUARD,), 1, dtype=value.dtype)
        inside = base[GUARD : GUARD + value.numel()].view(value.shape)
        inside.copy_(value)
        self._bases.append((base, base.clone(), GUARD if written else len(base)))
        return inside

    def are_unchanged(self) -> bool:
        ends = [(base[part], before[part]) for base, before, kept in self._bases for part in (slice(kept), slice(-kept, None))]
        return all(torch.equal(now.view(torch.uint8), before.view(torch.uint8)) for now, before in ends)


def valid(rng: random.Random) -> tuple[Any, dict[str, Any], dict[str, Any], Guarded]:
    """A program, the operands of its run, the memory that a traced one writes to, and what guards them all."""
    cell, options = random_cells.drawn(rng), Options.drawn(rng)
    dtype = rng.choice([torch.float32, torch.float64])
    call = Call.of(cell, options, dtype, rng.randrange(9))
    spans, guarded = call.spans, Guarded()
    program = program_of(cell, dtype, spans.draws is not None, options.traced)
    handle, needs_draws = kernel_of(program)
    given: dict[str, Any] = {
        "numbers": call.stack.numbers,
        "params": call.params,
        "x": call.x,
        "initial": call.states,
        "fresh": spans.fresh,
        "lengths": spans.lengths,
        "reset": spans.reset,
        "step_inputs": spans.step_inputs or (),
        "draws": (spans.draws or ()) if needs_draws else (),
        "batch_first": False,
        "threads": rng.choice([1, 2, 3]),
    }
    memory: dict[str, Any] = {}
    if options.traced:
        stack, (steps, batch, _) = call.stack, call.x.shape
        every = call.x.new_zeros((stack.num_layers, steps, batch, stack.output_size))
        size = stack.num_layers * stack.num_directions, steps, batch, stack.hidden_size
        count = len(cell.states) - 1 + len(cell.traced)
        memory = {"output": every[-1], "hidden": every[:-1] if len(every) > 1 else None, "traced": [call.x.new_zeros(size)] * count}
    return handle, guarded(given), guarded(memory, written=True), guarded


def forward(handle: Any, given: dict[str, Any], memory: dict[str, Any]) -> Any:
    return kernels._native.program_forward(handle, *(given[name] for name in NAMES[:11]), True, False, **memory)


def backward(handle: Any, given: dict[str, Any]) -> Any:
    return kernels._native.program_backward(handle, *(given[name] for name in NAMES))


def spoiled(rng: random.Random, value: Any, others: list[Any]) -> Any:
    """Something else in the place of an operand."""
    if isinstance(value, list | tuple) and value and rng.random() < 0.8:
        changed, place = list(value), rng.randrange(len(value))
        how = rng.random()
        if how < 0.15:
            del changed[place]
        elif how < 0.3:
            changed.insert(place, changed[place])
        else:
            changed[place] = spoiled(rng, changed[place], others)
        return type(value)(changed)
    if isinstance(value, bool | int) and rng.random() < 0.8:
        return rng.choice([-1, 0, 1, 2, 3, 7, 2**31, 2**40, 2**62, -(2**63), 2**64, True, False])
    if isinstance(value, Tensor) and rng.random() < 0.75:
        return spoiled_tensor(rng, value)
    return rng.choice([None, (), [], 0, -1, "x", 1.5, b"12", object(), np.zeros((2, 3)), np.zeros(0, np.float32), torch.zeros(()), *others])


def spoiled_tensor(rng: random.Random, value: Tensor) -> Any:
    def freed() -> Tensor:
        behind = rng.choice([0, 1, 2**18])
        copy = torch.empty(behind + value.numel(), dtype=value.dtype)[behind:].view(value.shape)
        copy.untyped_storage().resize_(0)
        return copy

    axis = rng.randrange(max(1, value.dim()))
    ways = [
        lambda: value.to(rng.choice([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.complex64])),
        lambda: value.unsqueeze(axis),
        lambda: value.flatten(),
        lambda: value.transpose(0, -1) if value.dim() else value,
        lambda: value.narrow(axis, 0, max(0, value.shape[axis] - 1)) if value.dim() else value,
        lambda: torch.cat([value, value], axis) if value.dim() else value,
        lambda: value.narrow(axis, 0, 1).expand(value.shape) if value.numel() else value,
        lambda: value.new_zeros(()).expand(value.shape),
        lambda: value.new_zeros(1).expand(2**40, *value.shape[1:]),
        lambda: value.clone().requires_grad_() if value.is_floating_point() else value,
        lambda: value.to("meta"),
        lambda: value.to_sparse() if value.dim() else value,
        lambda: value.numpy(),
        lambda: value.tolist(),
        lambda: torch.as_strided(value, value.shape, [0] * value.dim()),
        lambda: value * rng.choice([0, -1, 2**40, float("nan")]) if value.is_floating_point() else value - rng.choice([1, 9, 2**62]),
        lambda: value.new_empty((0, *value.shape[1:])),
        freed,
    ]
    try:
        return rng.choice(ways)()
    except (RuntimeError, IndexError):  # there is no such tensor
        return None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_any_operands_are_refused_or_run_and_nothing_else_is_written(seed: int) -> None:
    rng, outcomes = random.Random(seed), Counter[str]()
    for _ in range(CALLS // 4):
        handle, given, memory, guarded = valid(rng)
        output, finals, hidden, kept = forward(handle, given, memory)
        x, (_, _, units, _, layers, directions, *_) = given["x"], given["numbers"]
        assert output.shape == (*x.shape[:2], directions * units)
        assert all(final.shape == (layers * directions, x.shape[1], units) for final in finals)
        count = 1 + len(given["initial"] or ()) + len(given["fresh"] or ()) + len(given["step_inputs"]) + len(given["params"])
        arriving = (torch.randn_like(output), None if hidden is None else torch.zeros_like(hidden), finals, memory.get("traced"))
        beside = (*(guarded(each) for each in (output, hidden, kept, *arriving)), bool(memory), (True,) * count)
        given |= dict(zip(NAMES[11:], beside, strict=True))
        gradients, leaves = backward(handle, given), [x, *(given["initial"] or ()), *(given["fresh"] or ())]
        assert [each.shape for each in gradients[: len(leaves)]] == [each.shape for each in leaves]
        assert [each.shape for each in gradients[len(gradients) - len(given["params"]) :]] == [each.shape for each in given["params"]]
        several = (layers * directions,) if layers * directions > 1 else ()
        beside_x = gradients[len(leaves) : len(gradients) - len(given["params"])]
        assert [each.shape for each in beside_x] == [(*several, *each.shape) for each in given["step_inputs"]]
        assert guarded.are_unchanged()
        for _ in range(8):
            which = rng.choice(["forward", "backward"])
            changed = {name: given[name] for name in NAMES[: 11 if which == "forward" else None]}
            changed |= memory if which == "forward" else {}
            for name in rng.sample(sorted(changed), rng.randint(1, 3)):
                changed[name] = spoiled(rng, changed[name], [given["x"], output])
            try:
                if which == "backward":
                    backward(handle, changed)
                else:
                    forward(handle, changed, {name: changed[name] for name in memory})
            except REFUSALS as error:
                outcomes[f"{which}: {type(error).__name__}" if str(error) else "no words"] += 1
            else:
                outcomes[f"{which}: ran"] += 1
            assert guarded.are_unchanged()
    assert not outcomes["no words"]
    assert outcomes["forward: ran"] > 10
    assert outcomes["backward: ran"] > 10
    assert outcomes["forward: RuntimeError"] + outcomes["forward: TypeError"] > 100
    assert outcomes["backward: RuntimeError"] + outcomes["backward: TypeError"] > 100
