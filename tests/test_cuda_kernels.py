"""Every CUDA kernel compiles for every target, without a GPU, in the registers that there are: nothing is spilled to memory.

ELMAN_CUDA_KERNELS=20 compiles twenty times as many.
"""

from __future__ import annotations

import os
from functools import cache
from itertools import combinations, product
from random import Random
from types import SimpleNamespace

import pytest

from cuda_usage import usage_of
from elman.backends.cuda import launcher, layer
from elman.backends.cuda.choice import choose, registers_of_thread
from elman.backends.cuda.launcher import DeviceProperties
from elman.backends.cuda.plan import Number, Plan
from elman.backends.cuda.shape import CELLS
from test_cuda_compiler import needs_nvrtc

# One device of each target: its multiprocessors, the shared memory of a block, and the second-level cache.
DEVICES = {
    "sm_80": DeviceProperties("A100", (8, 0), 108, 166912, 65536, 40 << 20),
    "sm_89": DeviceProperties("L40", (8, 9), 142, 101376, 65536, 96 << 20),
    "sm_90a": DeviceProperties("H100", (9, 0), 132, 232448, 65536, 50 << 20),
    "sm_100": DeviceProperties("B200", (10, 0), 148, 232448, 65536, 126 << 20),
    "sm_120": DeviceProperties("RTX 5090", (12, 0), 170, 101376, 65536, 96 << 20),
}
ROUNDS = int(os.environ.get("ELMAN_CUDA_KERNELS", "1"))
HIDDEN = (8, 20, 64, 96, 128, 200, 256, 304, 384, 512, 600, 768, 1024, 1536, 2048)
SEQUENCES = (1, 3, 8, 16, 64, 128, 256)


def sample() -> list[tuple[str, tuple[Plan, ...]]]:
    """Plans to choose from, of all cells, number types and targets, forward and backward.

    Pairs of these all occur, their products where there is time. Which sizes go with them is drawn, the same each time.
    """
    random, found = Random(0), []
    for turn in range(ROUNDS):
        for i, cell in enumerate(CELLS.values()):
            for j, number in enumerate(Number):
                for k, is_backward in enumerate((False, True)):
                    target = list(DEVICES)[(i + 2 * j + 3 * k + turn) % len(DEVICES)]
                    plans: tuple[Plan, ...] = ()
                    while not plans:  # there are sizes that a device has no kernel for
                        hidden, sequences, directions = random.choice(HIDDEN), random.choice(SEQUENCES), random.choice((1, 2))
                        has_spans = directions == 2 or random.random() < 0.5
                        is_traced = is_backward and cell.kept > 0 and random.random() < 0.25
                        plans = choose(cell, is_backward, number, hidden, sequences, directions, has_spans, DEVICES[target], is_traced)
                    found.append((target, plans))
    return list(dict.fromkeys(found))


def name(plans: object) -> str | None:
    if isinstance(plans, tuple):
        plan = plans[0]
        return f"{plan.shape.name}-{'backward' if plan.is_backward else 'forward'}-{plan.number.name.lower()}-{plan.hidden}"
    return None


@needs_nvrtc
@pytest.mark.parametrize(("target", "plans"), sample(), ids=name)
@pytest.mark.slow
def test_a_kernel_stays_in_its_registers(target: str, plans: tuple[Plan, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of the plans that runs. Of a large network's kernel some may be spilled."""
    usage = cache(lambda plan: usage_of("scan", target, plan.defines, plan.entry)["scan"])
    monkeypatch.setattr(launcher, "kernel", lambda plan, index: SimpleNamespace(local_bytes=usage(plan).stack))
    monkeypatch.setattr(layer, "has_room", lambda plan, index: True)
    plan = layer._first_that_runs(plans, 0)
    assert plan is not None
    used, device = usage(plan), DEVICES[target]
    for each in {plan, *(first for first in plans[:1] if not first.shared_eighths)}:
        assert usage(each).spill_stores <= (0 if each.hidden <= 128 and each.tile == 8 else 160)
    assert plan.weight_registers < used.registers <= registers_of_thread(plan, device)
    assert plan.shared_bytes + used.shared <= device.shared_bytes


@needs_nvrtc
@pytest.mark.parametrize("target", DEVICES)
def test_the_devices_are_of_these_targets(target: str) -> None:
    assert DEVICES[target].arch == target


def test_the_sample_has_every_pair() -> None:
    plans = [(target, plan.shape.name, plan.number.name, plan.is_backward) for target, (plan, *_) in sample()]
    every = (DEVICES, CELLS, Number.__members__, (False, True))
    for one, other in combinations(range(4), 2):
        assert {(plan[one], plan[other]) for plan in plans} == set(product(every[one], every[other]))
