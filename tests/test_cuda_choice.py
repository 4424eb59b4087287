"""Which plan runs which network on which device. Needs no GPU."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import program_cells
from elman.backends.cuda import choice, launcher, layer, source
from elman.backends.cuda.batch import BatchSizes
from elman.backends.cuda.choice import candidates, choose, is_fast_with_many_sequences, registers_of_thread
from elman.backends.cuda.launcher import DeviceProperties
from elman.backends.cuda.plan import Number
from elman.backends.cuda.shape import CELLS
from elman.backends.program.lookup import program_of
from test_cuda_plan import DEVICES, every_device, has_idle_blocks

if TYPE_CHECKING:
    import elman
    from elman.backends.cuda.shape import CellShape


@pytest.mark.parametrize("number", Number)
@pytest.mark.parametrize("cell", CELLS)
@every_device
def test_usual_sizes_have_plans(name: str, cell: str, number: Number) -> None:
    device = DEVICES[name]
    for hidden, is_backward in product((20, 32, 64, 128, 256), (False, True)):
        assert choose(CELLS[cell], is_backward, number, hidden, 16, 1, False, device), (hidden, is_backward)
        for plan in candidates(CELLS[cell], is_backward, number, hidden, 8, device):
            assert not has_idle_blocks(plan)


def test_a_device_of_an_unknown_kind_has_clusters_of_up_to_8() -> None:
    thor = DeviceProperties("Jetson Thor", (11, 0), 20, 232448, 65536, 32 << 20)
    for cell, is_backward, hidden in product(CELLS, (False, True), (64, 256, 512)):
        plans = candidates(CELLS[cell], is_backward, Number.BFLOAT16, hidden, 8, thor)
        assert max((plan.blocks for plan in plans if plan.is_cluster), default=1) <= 8


@pytest.mark.parametrize("answer", ["none", "an error"])
def test_where_a_cluster_of_16_does_not_fit_another_plan_runs(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        local_bytes = 0

        def resident_clusters(self, cluster: int, *_: int) -> int:
            if cluster > 8 and answer == "an error":
                raise RuntimeError("cuOccupancyMaxActiveClusters fails: invalid cluster size")
            return 0 if cluster > 8 else 1

        def resident_blocks(self, *_: int) -> int:
            return 132

    monkeypatch.setattr(launcher, "device_properties", lambda index: DEVICES["H100"])
    monkeypatch.setattr(launcher, "kernel", lambda plan, index: Kernel())
    for cell, is_backward, hidden in product(CELLS, (False, True), (256, 512)):
        sizes = CELLS[cell], is_backward, Number.BFLOAT16, hidden, 1, 1, False
        wide = all(plan.is_cluster and plan.blocks == 16 for plan in choose(*sizes, DEVICES["H100"]))
        assert wide or (cell, hidden) != ("lstm", 512), "the case is there"
        plan = layer._ready.__wrapped__(*sizes, 0, False).plan
        assert not plan.is_cluster or plan.blocks <= 8


@pytest.mark.parametrize("multiprocessors", [1, 3, 7, 14])
@pytest.mark.parametrize("apart", [2, 8])
def test_a_part_of_a_device_runs_what_it_has_room_for(multiprocessors: int, apart: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance, or a process's share. So many of its multiprocessors at most lie where a cluster may."""

    class Kernel:
        local_bytes = 0

        def resident_clusters(self, cluster: int, *_: int) -> int:
            return min(multiprocessors, apart) // cluster

        def resident_blocks(self, *_: int) -> int:
            return multiprocessors

    part = replace(DEVICES["H100"], multiprocessors=multiprocessors)
    monkeypatch.setattr(launcher, "device_properties", lambda index: part)
    monkeypatch.setattr(launcher, "kernel", lambda plan, index: Kernel())
    for cell, is_backward, hidden, number in product(CELLS, (False, True), (20, 64, 256, 512), (Number.BFLOAT16, Number.TF32)):
        sizes = CELLS[cell], is_backward, number, hidden, 9, 2, False
        if not any(choose(*sizes, part, largest_cluster=largest) for largest in (1, min(multiprocessors, apart))):
            continue  # nothing fits
        ready = layer._ready.__wrapped__(*sizes, 0, False)
        assert ready.plan.blocks <= (min(multiprocessors, apart) if ready.plan.is_cluster else multiprocessors)
        assert ready.at_once > 0


def test_where_nothing_fits_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "device_properties", lambda index: DEVICES["H100"])
    monkeypatch.setattr(layer, "choose", lambda *sizes: ())
    with pytest.raises(RuntimeError, match=r"H100 has no room for a network of hidden_size=128: elman\.to_torch"):
        layer._ready.__wrapped__(CELLS["lstm"], False, Number.BFLOAT16, 128, 1, 1, False, 0, False)


@pytest.mark.parametrize("cell", program_cells.CELLS)
def test_plans_of_ones_own_cells_fit(cell: type[elman.Cell]) -> None:
    program = program_of(cell(), torch.float32, bool(cell.draws), units=128)
    if source.refuses(program):
        pytest.skip("this cell runs on the reference")
    shape = source.kernel_of(program, cell.__name__).shape
    for device, is_backward, number, tile in product(DEVICES.values(), (False, True), (Number.BFLOAT16, Number.TF32), (8, 32)):
        for hidden in (1, 100, 512, 1500):
            for plan in candidates(shape, is_backward, number, hidden, tile, device):
                assert plan.shared_bytes <= device.shared_bytes
                assert plan.weight_registers < registers_of_thread(plan, device)
                assert plan.blocks * plan.units >= hidden
            if not any(shape.products) and not shape.rows[is_backward]:
                continue
            sizes = 4, -(-hidden // 64) * 16, False, False, device
            for plan in choice._arrangements(shape, is_backward, number, hidden, tile, *sizes, True):
                assert plan.weight_registers < registers_of_thread(plan, device)


@pytest.mark.parametrize(
    ("cell", "steps", "sequences", "inputs", "hidden", "expected"),
    [
        ("lstm", 5, 3, 10, 20, True),  # the notebook's
        ("lstm", 5, 3, 40, 20, True),
        ("rnn_tanh", 1, 1, 128, 256, True),  # a step of a stream
        ("rnn_tanh", 1, 1, 129, 256, False),
        ("gru", 128, 8, 1, 20, False),  # many numbers of one input each
        ("rnn_tanh", 40, 2, 10, 20, True),
        ("gru", 40, 2, 10, 20, False),
        ("lstm", 40, 64, 10, 20, False),
    ],
)
def test_small_calls_make_their_projections_in_the_scan(
    cell: str, steps: int, sequences: int, inputs: int, hidden: int, expected: bool
) -> None:
    plan = choose(CELLS[cell], False, Number.BFLOAT16, hidden, sequences, 1, False, DEVICES["H100"])[0]
    assert layer._projects(plan, inputs, BatchSizes(steps, sequences, steps * sequences, (0, 0))) == expected


# By name: compute capability, multiprocessors, shared memory of a block.
CARDS = {
    "RTX 4090": ((8, 9), 128, 101376),
    "RTX 5090": ((12, 0), 170, 101376),
    "H100 SXM": ((9, 0), 132, 232448),
    "H200": ((9, 0), 132, 232448),
    "B200": ((10, 0), 148, 232448),
    "A100": ((8, 0), 108, 166912),
    "H100 PCIe": ((9, 0), 114, 232448),
    "RTX 3090": ((8, 6), 82, 101376),
    "RTX 5080": ((12, 0), 84, 101376),
    "L4": ((8, 9), 58, 101376),
    "RTX 4070": ((8, 9), 46, 101376),
    "RTX 3060": ((8, 6), 28, 101376),
    "RTX 4060": ((8, 9), 24, 101376),
    "RTX 5060": ((12, 0), 30, 101376),
}


def card(name: str) -> DeviceProperties:
    return DeviceProperties(name, *CARDS[name], 65536, 50 << 20)


@pytest.mark.parametrize("number", Number)
@pytest.mark.parametrize("cell", CELLS)
def test_what_registers_have_room_for_runs_on_every_device(cell: str, number: Number) -> None:
    for device, hidden in product((card("RTX 4060"), *DEVICES.values()), (100, 256, 300, 536, 700, 1000)):
        both = [candidates(CELLS[cell], is_backward, number, hidden, 8, device) for is_backward in (False, True)]
        if all(not all(plan.shared_eighths for plan in plans) for plans in both):
            assert is_fast_with_many_sequences(CELLS[cell], number, hidden, device)


LARGEST = {"rnn_tanh": (3072, 2048), "rnn_relu": (3072, 2048), "gru": (1536, 1024), "lstm": (1536, 768)}  # in 16 bits, in 32


@every_device
@settings(max_examples=60, deadline=None)
@given(cell=st.sampled_from(sorted(CELLS)), number=st.sampled_from(list(Number)), is_backward=st.booleans(), data=st.data())
def test_every_size_has_a_plan_up_to_a_largest(name: str, cell: str, number: Number, is_backward: bool, data: st.DataObject) -> None:
    hidden = data.draw(st.integers(1, LARGEST[cell][number.size == 4]))
    assert choose(CELLS[cell], is_backward, number, hidden, 16, 1, False, DEVICES[name]), hidden


def documented() -> dict[str, list[int]]:
    """The largest hidden sizes that docs/cuda.md says of each card: of RNN, GRU, LSTM in 16 bits, then in 32."""
    section = (
        (Path(__file__).parent.parent / "docs" / "cuda.md").read_text(encoding="utf-8").split("## Largest hidden size")[1].split("\n## ")[0]
    )
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ") and line[2].isalpha()]
    return {card: [int(size) for cell in sizes for size in cell.split(", ")] for cards, *sizes in rows for card in cards.split(", ")}


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_the_largest_sizes_are_as_documented(name: str) -> None:
    device = card(name)
    kinds = [(CELLS[cell], number) for number in (Number.BFLOAT16, Number.TF32) for cell in ("rnn_tanh", "gru", "lstm")]

    def runs(kind: tuple[CellShape, Number], hidden: int) -> bool:
        fits = all(choose(kind[0], is_backward, kind[1], hidden, 1, 1, False, device) for is_backward in (False, True))
        return fits and is_fast_with_many_sequences(*kind, hidden, device)

    for kind, largest in zip(kinds, documented()[name], strict=True):
        assert all(runs(kind, hidden) for hidden in [*range(16, largest, 112), largest])
        assert not any(runs(kind, hidden) for hidden in range(largest + 16, largest + 512, 16))


@pytest.mark.parametrize(
    ("cell", "is_backward", "number", "hidden", "sequences", "expected"),
    [
        ("lstm", False, Number.BFLOAT16, 256, 256, False),
        ("lstm", True, Number.BFLOAT16, 512, 16, False),
        ("rnn_tanh", False, Number.BFLOAT16, 1024, 16, False),
        ("gru", False, Number.TF32, 512, 16, True),
        ("gru", True, Number.BFLOAT16, 1024, 64, True),
        ("lstm", True, Number.BFLOAT16, 768, 64, True),
        ("lstm", True, Number.TF32, 512, 128, True),
    ],
)
def test_weights_lie_in_shared_memory_where_the_model_expects_much_of_it(
    cell: str, is_backward: bool, number: Number, hidden: int, sequences: int, expected: bool
) -> None:
    plan = choose(CELLS[cell], is_backward, number, hidden, sequences, 1, False, DEVICES["H100"])[0]
    assert (plan.shared_eighths > 0) == expected


@pytest.mark.parametrize(
    ("cell", "number", "hidden", "expected"),
    [
        ("lstm", Number.BFLOAT16, 128, True),
        ("lstm", Number.BFLOAT16, 256, True),
        ("gru", Number.FLOAT16, 256, True),
        ("lstm", Number.TF32, 512, True),
        ("rnn_tanh", Number.BFLOAT16, 256, False),
        ("rnn_tanh", Number.TF32, 256, False),
        ("lstm", Number.BFLOAT16, 1024, False),
        ("lstm", Number.BFLOAT16, 32, False),
    ],
)
def test_backward_exchanges_parts_of_the_gradient_where_that_was_measured_faster(
    cell: str, number: Number, hidden: int, expected: bool
) -> None:
    plan = choose(CELLS[cell], True, number, hidden, 16, 1, False, DEVICES["H100"])[0]
    assert plan.is_reduce_scatter == expected


@every_device
@pytest.mark.parametrize("number", Number)
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
def test_there_is_a_simpler_plan_if_the_registers_of_the_first_do_not_suffice(name: str, cell: str, number: Number) -> None:
    for is_backward, hidden, sequences in product((False, True), (64, 200, 300, 512, 768), (1, 32, 128, 512)):
        plans = choose(CELLS[cell], is_backward, number, hidden, sequences, 1, False, DEVICES[name])
        assert plans or hidden > 512
        if plans:
            assert not all(plan.is_reduce_scatter for plan in plans)
            tiles = [tile for tile in (8, 16, 32) if tile == 8 or tile < 2 * sequences]
            every = [plan for tile in tiles for plan in candidates(CELLS[cell], is_backward, number, hidden, tile, DEVICES[name])]
            assert all(plan.shared_eighths for plan in every) == all(plan.shared_eighths for plan in plans)


def test_of_plans_that_spill_the_one_that_spills_least_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        def __init__(self, local_bytes: int) -> None:
            self.local_bytes = local_bytes

        def resident_clusters(self, *_: int) -> int:
            return 1

    plans = choose(CELLS["lstm"], True, Number.TF32, 512, 128, 1, True, DEVICES["H100"])
    monkeypatch.setattr(launcher, "kernel", lambda plan, index: Kernel(80 + 32 * plan.is_reduce_scatter))
    found = layer._first_that_runs(plans, 0)
    assert plans[0].is_reduce_scatter
    assert found is not None
    assert not found.is_reduce_scatter
