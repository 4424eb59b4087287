"""The cases raced: their arithmetic, their numbers, the grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from elman.bench.case import CELLS, GRIDS, Case, cases_of


def test_flops_by_hand() -> None:
    # Three units read two features and themselves: 3·(2 + 3) = 15 multiply-adds for each of 5·4 steps and sequences.
    assert Case("rnn", steps=5, batch=4, input_size=2, hidden_size=3).flops("infer") == 2 * 15 * 20
    assert Case("rnn", steps=5, batch=4, input_size=2, hidden_size=3).flops("train") == 3 * 2 * 15 * 20


def test_flops_of_layers_and_directions_add_up() -> None:
    # The second layer reads both directions' 3 units: 3·(6 + 3); every layer runs twice.
    case = Case("rnn", steps=5, batch=4, input_size=2, hidden_size=3, num_layers=2, bidirectional=True)
    assert case.flops("infer") == 2 * (2 * 15 + 2 * 27) * 20


def test_flops_count_every_gate() -> None:
    flops = {cell: Case(cell, 5, 4, 2, 3).flops("infer") for cell in CELLS}
    assert flops == {"rnn": 600, "gru": 3 * 600, "lstm": 4 * 600}


def test_the_grid_of_sizes_goes_from_the_tours_size_to_a_wide_batch() -> None:
    assert [(case.steps, case.batch, case.input_size, case.hidden_size) for case in cases_of("rnn", "sizes")] == [
        (5, 3, 10, 20),
        (1000, 1, 32, 32),
        (100, 1, 64, 64),
        (100, 1, 256, 256),
        (100, 16, 64, 64),
        (100, 32, 128, 128),
        (50, 64, 256, 256),
        (50, 64, 512, 512),
    ]


def test_the_grid_of_all_has_every_case_once() -> None:
    assert set(GRIDS["all"]) == set(GRIDS["sizes"]) | set(GRIDS["tour"]) | set(GRIDS["edge"])
    assert len(set(GRIDS["all"])) == len(GRIDS["all"])


@pytest.mark.parametrize("grid", GRIDS)
def test_every_cell_has_the_same_rows(grid: str) -> None:
    assert [cases_of("rnn", grid)] * 2 == [tuple(replace(case, cell="rnn") for case in cases_of(cell, grid)) for cell in ("gru", "lstm")]
    assert {case.cell for case in cases_of("gru", grid)} == {"gru"}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("case", GRIDS["tour"], ids=str)
def test_the_parameters_are_torchs_by_name_shape_and_range(case: Case, cell: str) -> None:
    case = replace(case, cell=cell)
    make = getattr(torch.nn, cell.upper())
    layer = make(case.input_size, case.hidden_size, num_layers=case.num_layers, bidirectional=case.bidirectional)
    arrays, parameters = case.arrays()
    assert {name: array.shape for name, array in parameters.items()} == {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert arrays["x"].shape == (case.steps, case.batch, case.input_size)
    assert {array.dtype for array in (*arrays.values(), *parameters.values())} == {np.dtype(np.float32)}
    bound = case.hidden_size**-0.5
    assert bound / 2 < max(np.abs(array).max() for array in parameters.values()) <= bound


def test_the_numbers_are_given_by_the_seed() -> None:
    case = GRIDS["tour"][0]
    assert np.array_equal(case.arrays(seed=1)[0]["x"], case.arrays(seed=1)[0]["x"])
    assert not np.array_equal(case.arrays(seed=1)[0]["x"], case.arrays(seed=2)[0]["x"])
