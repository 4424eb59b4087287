"""The steps of the built-in cells' kernels, in the machine code: what they do, and what is not done anew in each of them."""

from __future__ import annotations

from collections import Counter

import pytest

from cuda_cycles import cycles, disassembler, plan_of, program_of
from elman.backends.cuda import compiler
from test_cuda_compiler import needs_nvrtc

pytestmark = [needs_nvrtc, pytest.mark.skipif(disassembler() is None, reason="nvdisasm is not installed")]

# How many instructions a step has, by NVRTC 13.0. Addresses that are made anew in each step are 6 to 20 % more.
INSTRUCTIONS = {
    ("rnn_tanh", "forward", 32, "float16"): 61,
    ("rnn_tanh", "forward", 128, "tf32"): 115,
    ("rnn_tanh", "forward", 256, "bfloat16"): 91,
    ("rnn_tanh", "backward", 32, "float16"): 71,
    ("rnn_tanh", "backward", 128, "tf32"): 113,
    ("rnn_tanh", "backward", 256, "bfloat16"): 120,
    ("gru", "forward", 32, "float16"): 117,
    ("gru", "forward", 128, "tf32"): 158,
    ("gru", "forward", 256, "bfloat16"): 166,
    ("gru", "backward", 32, "float16"): 123,
    ("gru", "backward", 128, "tf32"): 188,
    ("gru", "backward", 256, "bfloat16"): 223,
    ("lstm", "forward", 32, "float16"): 134,
    ("lstm", "forward", 128, "tf32"): 179,
    ("lstm", "forward", 256, "bfloat16"): 165,
    ("lstm", "backward", 32, "float16"): 132,
    ("lstm", "backward", 128, "tf32"): 219,
    ("lstm", "backward", 256, "bfloat16"): 235,
}


@pytest.mark.parametrize(("cell", "way", "hidden", "number"), INSTRUCTIONS)
def test_a_step_makes_no_address_anew(cell: str, way: str, hidden: int, number: str) -> None:
    plan = plan_of(cell, way, hidden, number)
    found, listing = cycles(program_of(plan), plan.warps)
    kinds = Counter(instruction.kind for _, instruction in listing)
    steps = kinds["LDGDEPBAR"]
    assert steps >= 1
    (groups, _), column_tiles = plan._groups[0], plan.tile // 8
    assert kinds["HMMA"] == steps * plan.warp_tiles * groups * 2 * column_tiles  # the way that is followed is a whole step's
    assert kinds["BAR"] == steps * (1 if plan.blocks > 1 else 2)
    # The block's rank, a launch's parameters, spilled registers, memory that may be global or shared.
    assert not {"S2UR", "LDC", "LDL", "STL", "LD", "ST"} & set(kinds)
    assert kinds["S2R"] <= steps  # the thread's number, which no address is waiting for
    if compiler.nvrtc_version() == (13, 0):
        assert len(listing) <= 1.05 * steps * INSTRUCTIONS[cell, way, hidden, number]
    assert 250 < found < 2500


def test_a_row_of_single_numbers_is_asked_for_at_once() -> None:
    plan = plan_of("lstm", "forward", 37, "bfloat16")
    _, listing = cycles(program_of(plan), plan.warps)
    places = [place for place, (_, instruction) in enumerate(listing) if instruction.name.startswith("LDG.")]
    assert len(places) == -(-plan.tile * 4 * plan.units // plan.threads)
    assert not any(instruction.kind == "STS" for _, instruction in listing[places[0] : places[-1]])  # which would wait for a number
