"""Every plan fits its device, and its warps have every weight, every unit and every sequence once. Needs no GPU.

The kernels' index arithmetic (kernels/product.cuh) is written again here, for all threads of a block at once.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elman.backends.cuda import compiler
from elman.backends.cuda.choice import candidates, choose, registers_of_thread, resident_groups
from elman.backends.cuda.launcher import DeviceProperties
from elman.backends.cuda.plan import Number, Plan
from elman.backends.cuda.shape import CELLS
from test_cuda_compiler import needs_nvrtc

DEVICES = {
    "A100": DeviceProperties("A100", (8, 0), 108, 166912, 65536, 40 << 20),
    "RTX 4090": DeviceProperties("RTX 4090", (8, 9), 128, 101376, 65536, 72 << 20),
    "H100": DeviceProperties("H100", (9, 0), 132, 232448, 65536, 50 << 20),
    "B200": DeviceProperties("B200", (10, 0), 148, 232448, 65536, 126 << 20),
    "RTX 5090": DeviceProperties("RTX 5090", (12, 0), 170, 101376, 65536, 96 << 20),
}
LARGEST_CLUSTER = {"A100": 1, "RTX 4090": 1, "H100": 16, "B200": 16, "RTX 5090": 8}
every_device = pytest.mark.parametrize("name", DEVICES)

cells = st.sampled_from(sorted(CELLS))
numbers = st.sampled_from(list(Number))
directions = st.sampled_from((True, False))


# --- kernels/product.cuh ------------------------------------------------------------------------------------------------


class Block:
    """The threads of a block, and what each of them has."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.gates = 1 if plan.is_backward else plan.shape.gates
        self.threads = np.arange(plan.threads)
        self.lane, self.warp = self.threads % 32, self.threads // 32
        self.per_chunk = 16 // plan.number.size
        self.column_tiles = plan.tile // 8
        self.warp_rows = plan.products[0][0] // 16 // plan.warp_tiles
        self.row, self.split = self.warp % self.warp_rows, self.warp // self.warp_rows
        self.unit_tiles = plan.warp_tiles // self.gates if plan.in_registers else 1
        self.items = self.unit_tiles * self.column_tiles * 4 if plan.in_registers else -(-plan.units * plan.tile // plan.threads)

    def chunks(self) -> tuple[np.ndarray, np.ndarray]:
        """The row and the first column of every chunk of weights that a thread loads."""
        plan, group = self.plan, 4 * self.per_chunk
        groups = plan.products[0][1] // group // plan.split
        takes_part = self.warp < self.warp_rows * plan.split
        rows, columns = [], []
        for m, k, half in product(range(plan.warp_tiles), range(groups), range(2)):
            rows.append(((self.row * plan.warp_tiles + m) * 16 + half * 8 + self.lane // 4)[takes_part])
            columns.append(((self.split * groups + k) * group + self.lane % 4 * self.per_chunk)[takes_part])
        return np.concatenate(rows), np.concatenate(columns)

    def has(self, e: int) -> np.ndarray:
        plan = self.plan
        return self.warp * 32 + e * plan.threads < plan.units * plan.tile if not plan.in_registers else self.warp >= 0

    def item(self, e: int) -> tuple[np.ndarray, np.ndarray]:
        """The unit and the sequence of each thread's item."""
        plan = self.plan
        if plan.in_registers:
            unit = (self.row * self.unit_tiles + e // (4 * self.column_tiles)) * 16 + self.lane // 4 + e % 4 // 2 * 8
            return unit, e // 4 % self.column_tiles * 8 + self.lane % 4 * 2 + e % 2
        at = self.threads + e * plan.threads
        return at % plan.units, at // plan.units

    def place(self) -> np.ndarray:
        return self.lane % 4 * 8 + self.lane // 4 if self.plan.in_registers else self.lane

    def item_at(self, e: int, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The unit and the sequence of those that lie from a place of the warp on."""
        plan = self.plan
        if plan.in_registers:
            unit = (self.row * self.unit_tiles + e // (4 * self.column_tiles)) * 16 + place % 8 + e % 4 // 2 * 8
            return unit, e // 4 % self.column_tiles * 8 + place // 8 * 2 + e % 2
        at = self.warp * 32 + place + e * plan.threads
        return at % plan.units, at // plan.units

    def sum_row(self, e: int, gate: int) -> tuple[np.ndarray, np.ndarray]:
        """The row and the sequence whose sum a thread takes from its registers for an item."""
        m, n, q = e // (4 * self.column_tiles) * self.gates + gate, e // 4 % self.column_tiles, e % 4
        row = (self.row * self.plan.warp_tiles + m) * 16 + self.lane // 4 + q // 2 * 8
        return row, n * 8 + self.lane % 4 * 2 + q % 2

    def unit_and_gate_of(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.plan.in_registers:
            return row // 16 // self.gates * 16 + row % 16, row // 16 % self.gates
        if self.plan.is_reduce_scatter:  # of all blocks
            return row, np.zeros_like(row)
        return row % self.plan.units, row // self.plan.units


def assert_once(found: np.ndarray, count: int) -> None:
    """Raise unless each of the numbers below ``count`` occurs once."""
    assert np.array_equal(np.sort(found), np.arange(count))


def has_idle_blocks(plan: Plan) -> bool:
    return plan.blocks > 1 and (plan.blocks - 1) * plan.units >= plan.hidden


def check_fit(plan: Plan, device: DeviceProperties, largest_cluster: int) -> None:
    assert plan.shared_bytes <= device.shared_bytes
    assert plan.threads <= 512
    # What a thread surely holds at once: its weights, and in registers its sums.
    held = plan.weight_registers + plan.in_registers * plan.warp_tiles * plan.tile // 2
    assert held < registers_of_thread(plan, device)
    assert plan.blocks * plan.units >= plan.hidden
    if has_idle_blocks(plan):  # only where there is no other plan with its weights in registers
        for other in candidates(plan.shape, plan.is_backward, plan.number, plan.hidden, plan.tile, device):
            assert has_idle_blocks(other) or other.shared_eighths or other.units > -(-plan.hidden // (16 * other.blocks)) * 16
        assert plan.blocks * plan.units <= 2 * plan.hidden
    assert plan.blocks <= (largest_cluster if plan.is_cluster else device.multiprocessors)
    assert resident_groups(plan, device) * plan.blocks <= device.multiprocessors
    assert plan.products[0][0] % (16 * plan.warp_tiles) == 0
    assert plan.product_warps <= plan.warps


def check_cover(plan: Plan) -> None:
    block = Block(plan)
    rows, columns = block.chunks()
    per_row = plan.products[0][1] // block.per_chunk
    assert not (columns % block.per_chunk).any()
    assert_once(rows * per_row + columns // block.per_chunk, plan.products[0][0] * per_row)
    unit, gate = block.unit_and_gate_of(np.arange(plan.products[0][0]))
    assert_once(gate * plan.units + unit, plan.products[0][0])
    items = []
    for e in range(block.items):
        has, (unit, sequence), place = block.has(e), block.item(e), block.place()
        items.append((sequence * plan.units + unit)[has])
        # The warp sends its items in pieces of 16 bytes, units that follow each other.
        assert_once(place[:32], 32)
        piece = place // block.per_chunk * block.per_chunk
        first, beside = block.item_at(e, piece)
        assert np.array_equal((first + place - piece)[has], unit[has])
        assert np.array_equal(beside[has], sequence[has])
        assert not (first % block.per_chunk).any()
        for gate in range(block.gates if plan.in_registers else 0):
            row, of = block.sum_row(e, gate)
            its_unit, its_gate = block.unit_and_gate_of(row)
            assert np.array_equal(of, sequence)
            assert np.array_equal(its_unit, unit)
            assert (its_gate == gate).all()
    assert_once(np.concatenate(items), plan.units * plan.tile)


# --- What holds of every plan -------------------------------------------------------------------------------------------


@every_device
@settings(max_examples=150, deadline=None)
@given(
    cell=cells,
    is_backward=st.booleans(),
    number=numbers,
    hidden=st.integers(1, 2100),
    sequences=st.integers(1, 300),
    both=st.booleans(),
)
@pytest.mark.slow
def test_a_chosen_plan_fits_and_covers(
    name: str, cell: str, is_backward: bool, number: Number, hidden: int, sequences: int, both: bool
) -> None:
    device = DEVICES[name]
    for plan in choose(CELLS[cell], is_backward, number, hidden, sequences, 1 + both, both, device):
        assert (plan.shape.name, plan.is_backward, plan.number, plan.hidden, plan.has_spans) == (cell, is_backward, number, hidden, both)
        assert plan.tile == 8 or plan.tile < 2 * sequences
        check_fit(plan, device, LARGEST_CLUSTER[name])
        check_cover(plan)


def sample() -> list[Plan]:
    """Plans of every kind that the candidates have: cells, both ways, number types, exchanges, where sums and weights are."""
    random, found = Random(0), {}
    for cell, is_backward, number, tile in product(CELLS, (False, True), Number, (8, 16, 32)):
        for hidden in (20, 64, 100, 256, 512, 768):
            for plan in candidates(CELLS[cell], is_backward, number, hidden, tile, DEVICES["H100"]):
                kind = (cell, is_backward, number.size, plan.blocks == 1, plan.is_cluster, plan.in_registers, plan.is_reduce_scatter)
                found.setdefault((*kind, plan.shared_eighths > 0), []).append(plan)
    return [random.choice(plans) for plans in found.values()]


def test_the_sample_has_every_exchange() -> None:
    plans = sample()
    for is_backward in (False, True):
        exchanges = {(plan.blocks == 1, plan.is_cluster) for plan in plans if plan.is_backward == is_backward}
        assert exchanges == {(True, True), (False, True), (False, False)}
    assert {plan.in_registers for plan in plans} == {False, True}
    scattered = {(plan.shape.name, plan.number.size, plan.is_cluster) for plan in plans if plan.is_reduce_scatter}
    assert scattered == {("gru", 2, True), ("gru", 4, True), ("gru", 4, False), ("lstm", 2, True), ("lstm", 4, True), ("lstm", 4, False)}
    shared = {(plan.shape.name, plan.is_backward, plan.number.size, plan.is_cluster) for plan in plans if plan.shared_eighths}
    assert shared == set(product(CELLS, (False, True), (2, 4), (False, True)))
    assert {plan.ring for plan in plans if plan.shared_eighths} == {4, 8}


@every_device
def test_weights_lie_in_shared_memory_only_where_registers_have_no_room(name: str) -> None:
    device = DEVICES[name]
    for cell, is_backward, number, hidden in product(CELLS, (False, True), Number, (20, 128, 256, 512, 768)):
        by_blocks: dict[tuple[object, ...], set[bool]] = {}
        for plan in candidates(CELLS[cell], is_backward, number, hidden, 8, device):
            kind = plan.blocks, plan.units, plan.is_cluster, plan.is_reduce_scatter
            by_blocks.setdefault(kind, set()).add(plan.shared_eighths > 0)
            assert (plan.shared_weight_bytes > 0) == (plan.shared_eighths > 0)
            weights = plan.weight_registers * plan.product_warps * 128 + plan.shared_weight_bytes
            assert weights == sum(rows * columns for rows, columns in plan.products) * number.size
            assert not plan.shared_eighths or weights > 65536 * 2, "half of the registers"
        assert all(len(of_blocks) == 1 for of_blocks in by_blocks.values())


def test_parts_of_the_gradient_are_fewer_bytes_than_all_gates() -> None:
    plans = [plan for plan in sample() if plan.is_reduce_scatter]
    for plan in plans:
        assert plan.exchanged_bytes < replace(plan, is_reduce_scatter=False).exchanged_bytes
    assert len(plans) == 12


def check_layout(defines: dict[str, int], entry: str) -> None:
    """Compile no further than the assertions."""
    compiler._compile("layout", "sm_90a", defines, entry, "--fdevice-syntax-only")


@needs_nvrtc
@pytest.mark.parametrize("number", Number)
@pytest.mark.parametrize("cell", CELLS)
def test_memory_is_what_the_kernels_lay_out(cell: str, number: Number) -> None:
    """The compiler itself adds up what the headers have."""
    for plan in (plan for plan in sample() if (plan.shape.name, plan.number) == (cell, number)):
        check_layout(plan.defines, plan.entry)


@needs_nvrtc
@pytest.mark.parametrize("macro", ["ELMAN_SHARED_BYTES", "ELMAN_MAILBOX_NUMBERS"])
def test_other_memory_does_not_compile(macro: str) -> None:
    plan = next(plan for plan in sample() if plan.mailbox_numbers)
    with pytest.raises(compiler.CompileError, match=r"as plan\.py counts it"):
        check_layout(plan.defines | {macro: plan.defines[macro] + 16}, plan.entry)
