"""Each instruction set: ELMAN_ISA forces it, and one that is not here is refused by name.

The kernels are written once, in vectors; what differs is how long these are and how many fit the registers. "wide" has AVX-512's shapes
on any processor, in builds for tests. That each set computes the right numbers is tested where numbers are: what the fixture
``every_isa`` marks, every tile and every part of a vector, many chunks and threads, and all guarantees on bits, runs on each, as do the
fuzz, the streams and the activations' errors. A set that is forced computes what the same set computes there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

import elman
from elman.backends import kernels
from native import evaluate, required

pytestmark = [required, pytest.mark.slow]

TESTS = Path(__file__).parent
OFFERED = kernels.isas() if kernels.available() else ()
KNOWN = ("scalar", "wide", "avx2", "avx512", "neon")


def _python(*arguments: str, isa: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ELMAN_ISA"}
    if isa is not None:
        environment["ELMAN_ISA"] = isa
    return subprocess.run([sys.executable, *arguments], env=environment, cwd=TESTS, capture_output=True, text=True, check=False)


def _skip_unless_offered(isa: str) -> None:
    if isa not in OFFERED:
        pytest.skip(f"{isa} IS NOT TESTED: this processor and this build offer {', '.join(OFFERED)}")


def ran() -> tuple[str, int]:
    """What ran a network, as elman.why says, and a sum over the bits of its results and gradients."""
    torch.manual_seed(0)
    lstm, x = elman.LSTM(20, 70, 2, bidirectional=True), torch.randn(30, 5, 20)
    return elman.why(lstm, x), zlib.crc32(b"".join(value.numpy().tobytes() for value in evaluate(lstm, x).values()))


@pytest.mark.parametrize("isa", KNOWN)
def test_a_forced_set_is_the_one_that_runs(isa: str) -> None:
    """And gives what it gives in the tests, which change sets within a process."""
    _skip_unless_offered(isa)
    result = _python("-c", "import elman, test_isa; elman.show_config(); print(*test_isa.ran(), sep='\\n')", isa=isa)
    assert result.returncode == 0, result.stderr
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("instruction set"))
    assert line.split()[2] == isa
    before = kernels.isa()
    kernels._native.use(isa)
    why, bits = ran()
    kernels._native.use(before)
    assert f"native ({isa})" in why
    assert result.stdout.splitlines()[-2:] == [why, str(bits)]


def test_the_best_set_is_taken_where_none_is_forced() -> None:
    result = _python("-c", "from elman.backends import kernels; print(kernels.isa(), *kernels.isas())", isa=None)
    chosen, *offered = result.stdout.split()
    assert chosen == offered[0]
    assert chosen not in ("scalar", "wide") or set(offered) <= {"scalar", "wide"}


@pytest.mark.parametrize("isa", ["nonsense", "AVX2", *(isa for isa in KNOWN if isa not in OFFERED)])
def test_a_set_that_is_not_here_is_refused_with_those_that_are(isa: str) -> None:
    result = _python("-c", "import elman", isa=isa)
    assert result.returncode != 0
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"ValueError: ELMAN_ISA is {isa!r}")
    for offered in OFFERED:
        assert offered in last
