"""Every contestant computes the network that torch does, in inference and in training, of each kind, layer and direction."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from elman.bench.agreement import WrongAnswerError, check
from elman.bench.case import CELLS, MODES, Case
from elman.bench.contestants import Elman, Torch

if TYPE_CHECKING:
    from elman.bench.case import Arrays, Mode
    from elman.bench.contestants import Contestant

# One layer, several with both directions, a single unit and a single step.
CASES = (Case("rnn", 4, 2, 5, 3), Case("rnn", 3, 2, 5, 4, num_layers=3, bidirectional=True), Case("rnn", 1, 3, 5, 1))
PEERS = {"Jax": ("jax",), "OnnxRuntime": ("onnxruntime", "onnx")}

# In a process of its own: JAX's and ONNX Runtime's threads would stay in this one.
IN_A_PROCESS = """
from test_bench_contestants import CELLS, agree
from elman.bench import contestants
who = contestants.{peer}(1)
for cell in CELLS:
    agree(who, cell)
"""


def numbers(who: Contestant, case: Case, mode: Mode) -> Arrays:
    job = who.job(case, mode)
    return job.numbers(job.run())


def agree(who: Contestant, cell: str) -> None:
    """Raise unless the contestant's numbers are torch's."""
    for case in (replace(case, cell=cell) for case in CASES):
        for mode in who.modes:
            check(f"{who.name}, {cell} {case}, {mode}", numbers(who, case, mode), numbers(Torch(), case, mode))


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.slow
def test_a_peer_agrees_with_torch(peer: str) -> None:
    if not all(find_spec(package) for package in PEERS[peer]):
        pytest.skip(f"{peer}'s packages are not installed: make bench installs them")
    code = IN_A_PROCESS.format(peer=peer)
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cell", CELLS)
def test_elman_agrees_with_torch_and_says_what_it_ran_on(cell: str) -> None:
    ours = Elman()
    agree(ours, cell)
    assert ours.why(replace(CASES[0], cell=cell), "infer").startswith(("native", "reference"))


@pytest.mark.parametrize(
    ("cell", "names"), [("rnn", {"output", "h_n"}), ("gru", {"output", "h_n"}), ("lstm", {"output", "h_n", "c_n"})], ids=CELLS
)
def test_all_final_states_are_compared(cell: str, names: set[str]) -> None:
    assert set(numbers(Torch(), replace(CASES[0], cell=cell), "infer")) == names


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("cell", "gates"), [("gru", (1, 0, 2)), ("lstm", (0, 1, 3, 2))])
def test_swapped_gates_are_noticed(cell: str, gates: tuple[int, ...], mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    case, who = replace(CASES[0], cell=cell), Torch()
    expected = numbers(who, case, mode)
    arrays, parameters = case.arrays()

    def swap(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        parts = np.split(array, len(gates))
        return np.concatenate([parts[gate] for gate in gates])

    swapped = {name: swap(array) for name, array in parameters.items()}
    monkeypatch.setattr(Case, "arrays", lambda self: (arrays, swapped))
    with pytest.raises(WrongAnswerError, match="away from torch's"):
        check("somebody", numbers(who, case, mode), expected)
