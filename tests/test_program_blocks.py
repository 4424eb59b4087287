"""Cells without a product in the step run block by block of steps, and column by column on threads: neither changes a number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import elman
import program_cells
from elman.backends.native import NativeBackend
from elman.backends.reference import ReferenceBackend
from native import required, threads
from program_runs import Call, Options, distance

pytestmark = [required, pytest.mark.usefixtures("poisoned")]

NATIVE, REFERENCE = NativeBackend(), ReferenceBackend()
CELLS = {
    type(each).__name__: each
    for each in (
        program_cells.MinGRU(),
        program_cells.SRU(),
        program_cells.Ageing(),
        program_cells.Normalized(),
        elman.zoo.IndRNN("tanh"),
    )
}
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
every_isa = pytest.mark.usefixtures("every_isa")
ONE = Options(batch=1, layers=1, bidirectional=False)


def _is_the_references(call: Call) -> bool:
    (results, grads), (expected, expected_grads) = call.differentiate(NATIVE), call.differentiate(REFERENCE)
    return max(distance(results, expected), distance(grads, expected_grads)) < 1e-12


@every_cell
@pytest.mark.slow
def test_sequences_shorter_and_longer_than_blocks(cell: object) -> None:
    """Two threads, of which each takes some of a thousand units, three to eight steps in a block."""
    with threads(2):
        for steps in (1, 2, 3, 4, 5, 6, 7, 8, 17):
            assert _is_the_references(Call.of(cell, replace(ONE, steps=steps, inputs=300, hidden=1000, reset=steps % 2 == 0)))


@every_cell
@pytest.mark.parametrize("lengths", [None, (300, 0, 299, 2)])
@pytest.mark.slow
def test_blocks_of_several_sequences(cell: object, lengths: tuple[int, ...] | None) -> None:
    """Of four sequences of two units 100 to 300 steps are a block."""
    for steps in (1, 100, 300):
        shorter = lengths and tuple(min(steps, each) for each in lengths)
        options = replace(ONE, steps=steps, batch=4, inputs=20, hidden=2, bidirectional=True, lengths=shorter, reset=True, fresh=True)
        assert _is_the_references(Call.of(cell, options))


@every_isa
@every_cell
@pytest.mark.parametrize(("hidden", "batch", "inputs"), [(1, 2, 3000), (17, 1, 300), (70, 1, 140), (134, 1, 60), (134, 3, 9)])
@pytest.mark.slow
def test_columns_on_threads_change_no_bit(cell: object, hidden: int, batch: int, inputs: int) -> None:
    """Calls worth several threads. One unit cannot be split; of the others the last vector is not full. Three sequences share two."""
    options = replace(ONE, steps=400, batch=batch, hidden=hidden, inputs=inputs, bidirectional=batch == 3)
    for given in (options, replace(options, lengths=(400, 37, 0)[:batch], reset=True, fresh=True), replace(options, recompute=True)):
        found = []
        for count in (1, 2, 3):
            with threads(count):
                results, grads = Call.of(cell, given, torch.float32).differentiate(NATIVE)
                found.append([*results, *grads])
        assert all(map(torch.equal, found[0], found[1]))
        assert all(map(torch.equal, found[0], found[2]))


@every_isa
@every_cell
def test_where_a_sequence_is_cut_changes_no_bit(cell: object) -> None:
    """The pieces run on one thread, unlike the whole, which is worth two."""
    call = Call.of(cell, replace(ONE, steps=12, hidden=700, inputs=300, draws=False), torch.float32)
    output, *finals = call.run(NATIVE)
    for cut in range(1, 12):
        states, parts = call.states, []
        for part in (slice(0, cut), slice(cut, 12)):
            beside = call.spans.step_inputs and tuple(each[part] for each in call.spans.step_inputs)
            piece, *states = replace(call, x=call.x[part], states=states, spans=call.spans._replace(step_inputs=beside)).run(NATIVE)
            parts.append(piece)
        assert torch.equal(torch.cat(parts), output)
        assert all(map(torch.equal, states, finals))


@every_cell
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("traced", [False, True])
def test_a_trace_and_running_again_have_the_same_gradients(cell: object, traced: bool, batch: int) -> None:
    several = replace(ONE, steps=9, batch=4, hidden=2, layers=2, bidirectional=True, lengths=(9, 0, 4, 8), reset=True)
    options = several if batch == 4 else replace(ONE, steps=60, hidden=130, inputs=130, layers=2, reset=True)
    expected = Call.of(cell, replace(options, traced=traced)).differentiate(REFERENCE)
    for recompute in (False, True):
        found = Call.of(cell, replace(options, traced=traced, recompute=recompute)).differentiate(NATIVE)
        assert max(map(distance, found, expected)) < 1e-12


@pytest.mark.slow
@every_cell
@pytest.mark.parametrize("recompute", [False, True])
def test_backward_in_more_than_one_chunk(cell: object, recompute: bool) -> None:
    """Of one sequence of 1100 units 240 to 960 steps fill a chunk of gate gradients, on two threads."""
    with threads(2):
        assert _is_the_references(Call.of(cell, replace(ONE, steps=1000, hidden=1100, inputs=20, recompute=recompute, reset=True)))
