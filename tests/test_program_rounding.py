"""A float32 run of a program, forward and backward, is as near to float64 as its instructions' roundings make it: ``program_bounds``."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch

import program_bounds
from elman import zoo
from elman.backends.native import NativeBackend
from elman.backends.program.lookup import program_of
from elman.backends.reference import ReferenceBackend
from native import required
from program_runs import Call, Options, distance
from test_program_scan import CELLS, SOME

if TYPE_CHECKING:
    from elman import Cell
    from program_bounds import Near

pytestmark = [required, pytest.mark.usefixtures("poisoned")]

NATIVE, REFERENCE = NativeBackend(), ReferenceBackend()
# Where there are jumps a bound says nothing: a phase may be off by a period, and the gradient of amax asks which number is the largest.
EVERY = CELLS | {f"zoo-{kind.__name__}": kind() for kind in zoo.CELLS}
for name in ("zoo-PhasedLSTM", "program-Attention"):
    del EVERY[name]
OPTIONS = Options(steps=4, batch=4, layers=1, bidirectional=False)


def _call(cell: Cell) -> Call:
    # An sLSTM divides by its third state, which is positive from the first step on where none is given.
    return Call.of(cell, replace(OPTIONS, given_state="SLSTM" not in type(cell).__name__), torch.float32)


@cache
def _expected(name: str) -> tuple[list[Near], list[Near]]:
    """The results and gradients of a float64 run of the same numbers, with the bounds on a float32 run's errors."""
    call = _call(EVERY[name])
    numbers = call.spans.with_numbers(lambda t: t.double())
    states = call.states and tuple(state.double() for state in call.states)
    wide = replace(call, x=call.x.double(), states=states, params=[each.double() for each in call.params], spans=numbers)
    arriving = [each.double() for each in Call.arriving(call.run(NATIVE))]
    found = program_bounds.run(program_of(call.stack.cell, torch.float32, numbers.draws is not None), wide, arriving)
    for ours, theirs in zip(found, wide.differentiate(REFERENCE, arriving), strict=True):
        assert distance([each.value for each in ours], theirs) < 1e-12
        assert all(each.error.isfinite().all() for each in ours)
    return found


def _are_within(name: str, off: float = 0.0) -> bool:
    pairs = zip(_call(EVERY[name]).differentiate(NATIVE), _expected(name), strict=True)
    return all(
        bool(((one.double() * (1 + off) - other.value).abs() <= other.error).all())
        for found, expected in pairs
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("name", EVERY)
def test_float32_is_within_its_bound(name: str) -> None:
    assert _are_within(name)


@pytest.mark.usefixtures("every_isa")
@pytest.mark.parametrize("name", SOME)
def test_so_it_is_on_each_instruction_set(name: str) -> None:
    assert _are_within(name)


@pytest.mark.parametrize("name", EVERY)
def test_a_number_that_is_off_is_seen(name: str) -> None:
    """The bounds are some 10 to 50 times what is found, as is usual where errors are added up as if none cancelled another."""
    assert not _are_within(name, off=0.01)
