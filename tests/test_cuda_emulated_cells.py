"""Cells of one's own on the CUDA kernels, whose sources run on the CPU (cuda_emulator.py), against the reference in float64."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import cuda_emulator
import program_cells
from elman.backends.cuda import source
from elman.backends.cuda.plan import Number
from elman.backends.program.lookup import program_of
from test_cuda_emulated import CELLS, EXCHANGES, SIZES, SUMS, Network, check

pytestmark = [
    cuda_emulator.required,
    pytest.mark.usefixtures("poisoned"),
]

FORMS = ("whole", "lengths and reset", "packed and reset", "lengths", "reset")
# Sines of time, quotients, exponentials, the largest of some numbers: a rounding to 16 bits may cost anything there.
SENSITIVE = {"SLSTM", "PhasedLSTM", "Ageing", "Attention"}
FACTOR = 8  # of the roundings that a built-in cell may add up: one of an input costs an Attention 60
# Parameters of the cell's own and gates apart, with and without lengths and sums over the units.
QUICK = {("PeepholeLSTM", "cluster"), ("LayerNormLSTM", "cluster"), ("Attention", "alone")}


def networks() -> list[Network]:
    """Each cell with each exchange."""
    found = []
    for turn, (cell, exchange) in enumerate(product(program_cells.CELLS, EXCHANGES)):
        name, form = cell.__name__, FORMS[turn % 5]
        if cell.step_inputs or cell.draws:
            form = form.replace("packed", "lengths")  # they come with padded sequences alone
        number = list(Number)[3 * (turn % 2) if name in SENSITIVE else turn % 4]
        sums, tile, hidden = list(SUMS)[turn // 3 % len(SUMS)], (8, 8, 16, 32)[turn % 4], SIZES[exchange][turn % 3]
        found.append(
            Network(
                *(name, number, exchange, sums, tile, hidden, 20, form),
                bidirectional=turn % 2 == 0,
                given_state=turn % 3 > 0 and name != "SLSTM",  # whose quotient is of states
                learned=turn % 2 == 0 and name != "SLSTM",
                is_padded=exchange == "cluster",
                seed=turn,
            )
        )
    return found


CASES = [pytest.param(each, marks=[] if (each.cell, each.exchange) in QUICK else [pytest.mark.slow]) for each in networks()]


@pytest.mark.parametrize("network", CASES, ids=str)
def test_a_cell_of_ones_own_is_the_references(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = CELLS[network.cell]()
    program = program_of(cell, torch.float32, bool(cell.draws), units=network.hidden)
    reason = source.refuses(program)
    if reason is not None:
        pytest.skip(f"the cuda backend {reason}")
    network.install(monkeypatch)
    check(network, FACTOR)
