"""No rounding is left to the compiler: the kernels' source says where a multiply-add is fused.

GCC 13, allowed to contract, fuses one sum in some instantiations of a template and not in others, and the guarantees on bits fall. So no
unit is compiled with contraction on, and a compiler that may contract all the same finds nothing to contract.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import elman
from elman.backends import kernels
from kinds import GRU, LSTM, PROJECTED, RELU, TANH, Kind
from native import Values, assert_same_bits, evaluate, initial_states, required

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SETS = tuple(isa for isa in (kernels.isas() if kernels.available() else ()) if isa in ("avx512", "avx2", "wide", "neon"))  # those that fuse

# --- The flags --------------------------------------------------------------------------------------------------------


def contracting(commands: list[dict[str, str]]) -> list[str]:
    """The sources of ours whose last word on contraction is not off; without a word GCC contracts, and so does Clang within a statement."""
    wrong = []
    for command in commands:
        if "csrc" not in Path(command["file"]).parts:
            continue
        flags = shlex.split(command["command"])
        last = [flag for flag in flags if flag.startswith("-ffp-contract=")][-1:]
        if last != ["-ffp-contract=off"] or {"-ffast-math", "-Ofast"} & set(flags):
            wrong.append(Path(command["file"]).name)
    return wrong


BUILDS = sorted((ROOT / "build").glob("*/compile_commands.json"))


@pytest.mark.skipif(not BUILDS, reason="nothing was built in this checkout")
@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.parent.name)
def test_every_unit_is_compiled_without_contraction(build: Path) -> None:
    commands = json.loads(build.read_text(encoding="utf-8"))
    assert {Path(command["file"]).name for command in commands} >= {"target.cpp", "bfloat16.cpp", "binding.cpp"}
    assert contracting(commands) == []


@pytest.mark.parametrize("flags", ["", "-ffp-contract=fast", "-ffp-contract=off -ffp-contract=on", "-ffp-contract=off -ffast-math"])
def test_a_unit_that_contracts_is_seen(flags: str) -> None:
    assert contracting([{"file": "/somewhere/csrc/target.cpp", "command": f"g++ {flags} -O3 -c target.cpp"}]) == ["target.cpp"]


# --- The source -------------------------------------------------------------------------------------------------------

COMPILER = shutil.which(os.environ.get("CXX", "c++"))
FUSES = {"x86_64": "-mavx2 -mfma", "aarch64": "", "arm64": ""}.get(platform.machine())
can_compile = pytest.mark.skipif(COMPILER is None or FUSES is None, reason="no compiler here for a processor that fuses")

# All that is done with numbers, once each: what the number type is does not matter.
KERNELS = """
#include "cells/all.h"
#include "scan/backward.h"
#include "scan/forward.h"
namespace elman::ELMAN_TARGET {
template bool forward<BFloat16, Lstm<float>>(const Forward&, Team&);
template bool backward<float, ElmanTanh<float>>(const Backward&, Team&);
template bool backward<float, Gru<float>>(const Backward&, Team&);
template bool backward<float, Lstm<float>>(const Backward&, Team&);
}
"""
OUTSIDE = "float outside(float a, float b, float c) { return a * b + c; }"


def assemblies(source: str) -> tuple[str, str]:
    """What becomes of a source without contraction, and where the compiler may contract whatever it finds."""

    def assembly(contraction: str) -> str:
        flags = f"-std=c++20 -O2 {FUSES} -fno-math-errno -fno-trapping-math -ffp-contract={contraction} -DELMAN_TARGET=here -Icsrc"
        command = [COMPILER, *shlex.split(flags), "-x", "c++", "-", "-S", "-o", "-"]
        done = subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with ThreadPoolExecutor(2) as pool:
        off, fast = pool.map(assembly, ("off", "fast"))
    return off, fast


@pytest.mark.slow
@can_compile
def test_a_compiler_that_may_contract_makes_the_same_code() -> None:
    off, fast = assemblies(KERNELS)
    assert off == fast


@can_compile
def test_a_sum_that_could_be_contracted_is_seen() -> None:
    off, fast = assemblies(OUTSIDE)
    assert off != fast


# --- The numbers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def _the_instruction_set_stays_as_it_was() -> Iterator[None]:
    isa = kernels.isa()
    yield
    kernels._native.use(isa)


def _on(isa: str, kind: Kind, dtype: torch.dtype) -> Values:
    torch.manual_seed(0)
    rnn = kind.build(elman, 9, 33, num_layers=2, bidirectional=True, dtype=dtype)
    x = torch.randn(40, 5, 9, dtype=dtype)
    kernels._native.use(isa)
    return evaluate(rnn, x, initial_states(rnn, 5), lengths=[40, 3, 0, 17, 40], reset=torch.rand(40, 5) < 0.1)


@required
@pytest.mark.skipif(len(SETS) < 2, reason="there is one instruction set here that fuses")
@pytest.mark.usefixtures("_the_instruction_set_stays_as_it_was")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", [TANH, RELU, GRU, LSTM, PROJECTED], ids=str)
def test_instantiations_for_other_registers_round_alike(kind: Kind, dtype: torch.dtype) -> None:
    """Sets that fuse differ in how long a vector is and how many fit the registers. No user is promised this; a compiler's choice shows."""
    first, *others = SETS
    expected = _on(first, kind, dtype)
    for isa in others:
        assert_same_bits(_on(isa, kind, dtype), expected)
