"""Each instruction set: ELMAN_ISA forces it, it computes the right numbers, and one that is not here is refused by name.

The kernels are written once, in vectors; what differs is how long these are and how many fit the registers. "wide" has AVX-512's shapes
on any processor, in builds for tests. The fuzz and the activations' errors are tried on all sets in one process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from elman.backends import kernels
from native import required

pytestmark = required

TESTS = Path(__file__).parent
OFFERED = kernels.isas() if kernels.available() else ()
KNOWN = ("scalar", "wide", "avx2", "avx512", "neon")

# Every tile and every part of a vector, many chunks and threads, and all guarantees on bits.
CORE = (
    "test_native.py::test_every_number_of_rows_is_right_at_widths_around_a_vectors",
    "test_native.py::test_every_number_of_rows_is_right_at_projections_around_a_vectors_width",
    "test_native.py::test_few_and_many_input_features_are_right",
    *(f"test_native.py::test_many_chunks_on_many_threads_are_right[all at once-packed-{kind}]" for kind in ("tanh", "gru", "lstm")),
    "test_native.py::test_the_columns_of_a_step_can_be_split_among_threads",
    "test_native.py::test_nan_and_infinity_go_where_torchs_go",
    "test_bits.py",
    "test_recompute.py::test_gradients_are_the_same_where_threads_share_the_layers",
    "test_recompute.py::test_gradients_are_the_same_where_threads_split_the_columns_of_a_step",
    "test_recompute.py::test_gradients_are_the_same_to_the_bit",
    "test_bfloat16.py::test_each_step_is_one_rounding_from_float32",
    "test_bfloat16.py::test_every_number_is_rounded_to_the_nearest_even",
    "test_bfloat16.py::test_layers_and_directions_are_what_they_are_alone",
    "test_bfloat16.py::test_nothing_is_read_past_the_last_number",
)


def _python(*arguments: str, isa: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ELMAN_ISA"}
    if isa is not None:
        environment["ELMAN_ISA"] = isa
    return subprocess.run([sys.executable, *arguments], env=environment, cwd=TESTS, capture_output=True, text=True, check=False)


def _skip_unless_offered(isa: str) -> None:
    if isa not in OFFERED:
        pytest.skip(f"{isa} IS NOT TESTED: this processor and this build offer {', '.join(OFFERED)}")


@pytest.mark.parametrize("isa", KNOWN)
def test_a_forced_set_is_the_one_that_runs(isa: str) -> None:
    _skip_unless_offered(isa)
    code = "import elman, torch; elman.show_config(); print(elman.why(elman.RNN(1, 1), torch.zeros(1, 1, 1)))"
    result = _python("-c", code, isa=isa)
    assert result.returncode == 0, result.stderr
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("instruction set"))
    assert line.split()[2] == isa
    assert f"native ({isa})" in result.stdout.splitlines()[-1]


@pytest.mark.timeout(1200)  # a minute or two alone, several where others are at work
@pytest.mark.parametrize("isa", KNOWN)
def test_a_forced_set_passes_the_core_of_the_tests(isa: str) -> None:
    _skip_unless_offered(isa)
    if isa == kernels.isa():
        pytest.skip(f"{isa} is what these tests run on already")
    result = _python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *CORE, isa=isa)
    assert result.returncode == 0, result.stdout
    assert "skipped" not in result.stdout.splitlines()[-1]


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
