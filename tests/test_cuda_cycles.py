"""The steps of the built-in cells' kernels, in the machine code: what they do, and what is not done anew in each of them."""

from __future__ import annotations

from collections import Counter

import pytest

from cuda_cycles import cycles, disassembler, plan_of, program_of
from elman.backends.cuda import compiler

pytestmark = pytest.mark.skipif(disassembler() is None, reason="nvdisasm is not installed")

KERNELS = [
    (cell, way, hidden, number)
    for cell in ("rnn_tanh", "gru", "lstm")
    for way in ("forward", "backward")
    for hidden, number in ((32, "float16"), (128, "tf32"), (256, "bfloat16"))
]


@pytest.fixture(scope="module", autouse=True)
def _can_compile() -> None:
    try:
        compiler.nvrtc_version()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("cell", "way", "hidden", "number"), KERNELS)
def test_a_step_makes_no_address_anew(cell: str, way: str, hidden: int, number: str) -> None:
    plan = plan_of(cell, way, hidden, number)
    found, listing = cycles(program_of(plan), plan.warps)
    kinds = Counter(instruction.kind for _, instruction in listing)
    steps = kinds["LDGDEPBAR"]
    assert steps >= 1
    (groups, _), column_tiles = plan._groups[0], plan.tile // 8
    assert kinds["HMMA"] == steps * plan.warp_tiles * groups * 2 * column_tiles  # the way that is followed is a whole step's
    assert kinds["BAR"] == steps * (1 if plan.blocks > 1 else 2)
    assert not {"S2UR", "LDC", "LDL", "STL"} & set(kinds)  # the block's rank, a launch's parameters, spilled registers
    assert kinds["S2R"] <= steps  # the thread's number, which no address is waiting for
    assert 250 < found < 2500
