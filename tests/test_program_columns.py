"""The columns of a program's step on threads, and inputs projected ahead of it: neither changes a bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import own_cells
import program_cells
from elman.backends import kernels
from elman.backends.native import NativeBackend
from elman.backends.reference import ReferenceBackend
from native import required, threads
from program_runs import Call, Options, distance

pytestmark = [required, pytest.mark.usefixtures("poisoned"), pytest.mark.slow]

NATIVE, REFERENCE = NativeBackend(), ReferenceBackend()
# One product and two states; a part of the state's own; several products, each a meeting; own parameters, step inputs and random numbers.
CELLS = {
    type(each).__name__: each
    for each in (
        program_cells.LSTM(),
        program_cells.GRU(),
        program_cells.GRU2014(),
        program_cells.TwoProducts(),
        program_cells.CfC(),
        program_cells.Noisy(),
        own_cells.Peephole(),
        own_cells.Decay(),
    )
}
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
every_isa = pytest.mark.usefixtures("every_isa")
# Calls worth several threads, and steps whose columns are. The last vector of a gate is not full.
ONE = Options(steps=8, batch=1, inputs=1300, hidden=174, layers=1, bidirectional=False)
WAYS = {
    "plain": ONE,
    "two layers": replace(ONE, layers=2),
    "both directions": replace(ONE, bidirectional=True, reset=True),
    "fresh states": replace(ONE, reset=True, fresh=True),
    "a trace": replace(ONE, traced=True, reset=True),
    "running again": replace(ONE, recompute=True, reset=True, fresh=True),
    "three of different lengths": replace(ONE, batch=3, lengths=(8, 0, 5), reset=True),
    "no state, no bias": replace(ONE, given_state=False, bias=False),
}
every_way = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)


def _found(call: Call) -> list[torch.Tensor]:
    """Results, gradients and, where nothing is traced, the results of inference."""
    results, grads = call.differentiate(NATIVE)
    with torch.no_grad():
        return [*results, *grads, *call.run(NATIVE)]


def _is_the_same_on_threads(call: Call) -> bool:
    with threads(1):
        alone = _found(call)
    for count, barrier in ((2, 0.0), (2, 1.0), (4, 0.0)):  # columns are divided, or are not
        kernels._native.assume_barrier(barrier)
        with threads(count):
            found = _found(call)
        assert kernels._native.threads_used() == min(count, kernels._native.usable_processors())
        if not all(map(torch.equal, found, alone)):
            return False
    return True


@every_cell
@every_way
def test_columns_on_threads_change_no_bit(cell: object, options: Options) -> None:
    assert _is_the_same_on_threads(Call.of(cell, options, torch.float32))


@every_isa
@every_cell
@pytest.mark.parametrize("name", ["running again", "three of different lengths"])
def test_nor_on_any_instruction_set(cell: object, name: str) -> None:
    assert _is_the_same_on_threads(Call.of(cell, WAYS[name], torch.float32))


@every_cell
@every_way
def test_they_have_the_references_numbers_and_gradients(cell: object, options: Options) -> None:
    call = Call.of(cell, options)
    with threads(2):
        found = call.differentiate(NATIVE)
    assert max(map(distance, found, call.differentiate(REFERENCE))) < 1e-12


@every_isa
@every_cell
@pytest.mark.parametrize("hidden", [1, 33])
def test_inputs_projected_ahead_change_no_bit(cell: object, hidden: int) -> None:
    """One sequence of few units and many chunks; of fewer units than a vector holds, too."""
    options = replace(ONE, steps=400, hidden=hidden, inputs=6000 // hidden)
    assert _is_the_same_on_threads(Call.of(cell, options, torch.float32))


def test_thousands_of_steps_in_a_row_are_right() -> None:
    """Each unit reads all others' numbers in each step: what is read too early would show in one of many calls."""
    call = Call.of(program_cells.TwoProducts(), replace(ONE, steps=60, inputs=8, hidden=260), torch.float32)
    with threads(1), torch.no_grad():
        alone = call.run(NATIVE)
    with threads(2), torch.no_grad():
        assert all(all(map(torch.equal, call.run(NATIVE), alone)) for _ in range(300))
