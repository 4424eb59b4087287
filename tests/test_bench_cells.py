"""The race of cells: everybody runs the very equation, and the command line takes all of elman.zoo."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from rich.console import Console

import elman
import own_cells
from elman import zoo
from elman.bench import own_cells as race_of_cells
from elman.bench.agreement import WrongAnswerError, check
from elman.bench.case import MODES
from elman.bench.cell_contestants import CellCase, CompiledLoop, ElmanNetwork, Loop, rivals
from elman.bench.contestants import Job
from elman.bench.loop import gates_of_other_vectors
from elman.bench.place import cpu
from elman.bench.render import Page, Table
from elman.cli.app import app

if TYPE_CHECKING:
    from elman.bench.case import Arrays, Mode
    from elman.bench.cell_contestants import CellContestant

CELLS = [*[cell() for cell in zoo.CELLS], own_cells.Decay(), own_cells.Layered(), zoo.LeakyRNN(noise=0.1), elman.Zoneout(zoo.MGU())]

# In a process of its own: JAX's threads would stay in this one.
IN_A_PROCESS = """
from test_bench_cells import CELLS, agree
from elman.bench.cell_contestants import JaxScan
who = JaxScan(1)
for cell in CELLS:
    agree(who, cell)
"""


def numbers(who: CellContestant, case: CellCase, mode: Mode) -> Arrays:
    job = who.job(case, mode)
    return job.numbers(job.run())


def agree(who: CellContestant, cell: elman.Cell) -> None:
    """Raise unless the contestant's numbers are the loop's."""
    case = CellCase(cell, steps=5, batch=3, size=6)
    for mode in MODES:
        check(f"{who.name}, {cell}, {mode}", numbers(who, case, mode), numbers(Loop(), case, mode))


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_elman_agrees_with_the_loop(cell: elman.Cell) -> None:
    agree(ElmanNetwork(), cell)


@pytest.mark.slow
def test_jax_agrees_with_the_loop() -> None:
    if find_spec("jax") is None:
        pytest.skip("jax is not installed: make bench installs it")
    command = [sys.executable, "-c", IN_A_PROCESS]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's compiler
def test_the_compiled_loop_agrees_with_the_loop() -> None:
    agree(CompiledLoop(), zoo.GRU2014())


def test_a_wrong_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = numbers(Loop(), CellCase(zoo.MGU(), 5, 3, 6), "infer")
    monkeypatch.setattr(zoo.MGU, "step", lambda _, x, r, s, p: torch.tanh(x.n + r("n", s.h)) + 0 * (x.f + r.f))
    wrong = numbers(Loop(), CellCase(zoo.MGU(), 5, 3, 6), "infer")
    with pytest.raises(RuntimeError, match="away from torch's"):
        check("loop", wrong, right)


def test_the_rows_that_another_vector_needs_are_found() -> None:
    assert gates_of_other_vectors(zoo.GRU2014()) == ("n",)
    assert gates_of_other_vectors(zoo.GRUD()) == ("r", "z", "n")
    assert gates_of_other_vectors(zoo.LayerNormLSTM()) == ()


def test_the_input_and_the_parameters_are_the_same_every_time() -> None:
    for one, other in zip(*(CellCase(zoo.CfC(), 5, 3, 6).arrays() for _ in range(2)), strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    given, parameters = CellCase(zoo.CfC(), 5, 3, 6).arrays()
    assert list(given) == ["x", "dt"]
    assert given["dt"].shape == (5, 3)
    assert list(parameters) == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch imports parts of its own that it deprecates
def test_each_cells_step_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch compiles the same code a limited number of times, and then runs it eagerly."""
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    compiled = CompiledLoop()
    for cell in (zoo.MGU(), zoo.UGRNN()):
        compiled.job(CellCase(cell, 2, 2, 4), "infer")
    assert len(resets) == 2


def test_who_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setenv("NPROC", "1")
    found, absent = rivals(["loop", "jax"], 1)
    assert [who.name for who in found] == ["loop"]
    assert absent[0].startswith("jax is skipped (")


# --- The command line -------------------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        app(list(arguments))
    return int(left.value.code or 0)


@pytest.mark.slow
def test_the_grid_of_cells_has_the_whole_zoo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(race_of_cells.SHAPES, "cpu", ((2, 16, 4),))
    quick = ["--quick", "--rounds", "1", "--mode", "infer"]
    assert run("bench", "--grid", "cells", "--against", "loop", *quick, "--json", "-") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [row["cell"] for row in facts["rows"]] == [repr(cell()) for cell in zoo.CELLS]
    assert all(row["over_elman"].keys() == {"loop"} for row in facts["rows"])


WRONG: dict[str, list[str]] = {
    "unknown cell 'zoo.Lion'": ["--cell", "zoo.Lion"],
    "expected libraries from loop, compile, jax, got 'ort'": ["--grid", "cells", "--against", "ort"],
    "expected libraries from loop, compile, got 'jax'": ["--cell", "zoo.MGU", "--dtype", "bfloat16", "--against", "jax"],
    "--cell zoo.MGU does not take --ragged; leave it out": ["--cell", "zoo.MGU", "--device", "cuda", "--ragged"],
    "on the CPU expected bfloat16 or float16 (without the option it is float32), got 'float32'": ["--grid", "cells", "--dtype", "float32"],
    "takes a single number, got 1, 2": ["--grid", "cells", "--threads", "1,2"],
    "--grid cells does not take --rows; leave it out": ["--grid", "cells", "--rows", "1"],
    "--grid cells does not take --a-a; leave it out": ["--grid", "cells", "--a-a"],
    "--grid cells does not take --chart; leave it out": ["--grid", "cells", "--chart", "/dev/null/charts"],
    "--grid cells does not take --compiled; leave it out": ["--grid", "cells", "--compiled"],
    "--cell zoo.MGU does not take --compiled; leave it out": ["--cell", "zoo.MGU", "--compiled"],
    "--cell zoo.MGU does not take --rows; leave it out": ["--cell", "zoo.MGU", "--rows", "1"],
    "--cell zoo.MGU does not take --grid edge; leave it out": ["--cell", "zoo.MGU", "--grid", "edge"],
}


@pytest.mark.parametrize("said", WRONG)
def test_a_mistake_is_told_in_a_sentence(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *WRONG[said], "--lang", "en") == 2
    assert said in capsys.readouterr().err


def test_a_contestant_that_lacks_an_operation_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unable(Loop.__mro__[1]):  # type: ignore[misc]
        name = "unable"

        def job(self, case: CellCase, mode: Mode) -> Job:
            def run() -> None:
                raise NotImplementedError("fold")

            return Job(run, lambda result: result)

    monkeypatch.setitem(race_of_cells.SHAPES, "cpu", ((100, 16, 4),))
    place = cpu(1, 0.0)
    (row,) = race_of_cells.measure([zoo.MGU()], ["infer"], ElmanNetwork(), [Loop(), Unable()], place, rounds=1)
    assert row.timings.keys() == {"loop", "elman"}
    assert row.to_dict()["lacking"] == {"unable": "fold"}
    notes = race_of_cells.page([row], [], place, "float32", rounds=1, complete=True).notes
    assert "MGU() is not run by unable, which has no fold." in notes


@pytest.mark.parametrize("cell", [zoo.MGU(), own_cells.Decay()], ids=repr)
def test_in_another_dtype_everybody_has_the_same_rounded_numbers(cell: elman.Cell) -> None:
    case = CellCase(cell, steps=5, batch=3, size=6)
    ours, loop = (who("cpu", torch.bfloat16) for who in (ElmanNetwork, Loop))
    for mode in MODES:
        exact = loop.job(case, mode, in_float64=True)
        expected = exact.numbers(exact.run())
        for who in (ours, loop):
            found = numbers(who, case, mode)
            assert found.keys() == expected.keys()
            for name, array in found.items():
                assert np.array_equal(torch.from_numpy(array).bfloat16().double().numpy(), array)
                assert 0 < np.linalg.norm(array - expected[name]) < 0.05 * np.linalg.norm(expected[name])
    assert ours.why(case, "train").endswith("bfloat16 on the CPU")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", [zoo.MGU(), zoo.LayerNormLSTM(), zoo.PhasedLSTM()], ids=repr)
def test_wrong_numbers_in_another_dtype_are_not_timed(cell: elman.Cell, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros for all that a network gives: also of cells whose gradients are ill-conditioned."""
    monkeypatch.setitem(race_of_cells.SHAPES, "cpu", ((20, 4, 16),))
    right, place = ElmanNetwork._network, cpu(1, 0.0)
    ours, loop = (who("cpu", torch.bfloat16) for who in (ElmanNetwork, Loop))
    assert len(list(race_of_cells.measure([cell], [mode], ours, [loop], place, rounds=1))) == 1

    def wrong(self: ElmanNetwork, case: CellCase, parameters: dict[str, torch.Tensor]) -> object:
        network = right(self, case, parameters)

        def run(given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            output, finals = network(given)
            return 0 * output, tuple(0 * final for final in finals)

        return run

    monkeypatch.setattr(ElmanNetwork, "_network", wrong)
    with pytest.raises(WrongAnswerError, match="elman, "):
        list(race_of_cells.measure([cell], [mode], ours, [loop], place, rounds=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "dtype"),
    [(["--device", "cuda"], "bfloat16"), (["--device", "cuda", "--dtype", "float16"], "float16"), (["--dtype", "bfloat16"], "bfloat16")],
    ids=str,
)
def test_cells_are_raced_in_another_dtype(
    options: list[str], dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a GPU, for which the CPU stands here."""
    monkeypatch.setattr("elman.bench.place.cuda", lambda: cpu(1, 0.001))
    monkeypatch.setitem(race_of_cells.SHAPES, "cpu", ((2, 16, 4),))
    assert run("bench", "--cell", "zoo.MGU", *options, "--against", "loop", "--rounds", "1", "--quick", "--json", "-") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dtype"] == dtype
    assert [(row["cell"], row["mode"], row["steps"], row["batch"], row["size"]) for row in facts["rows"]] == [
        ("MGU()", mode, 2, 16, 4) for mode in MODES
    ]
    assert all(dtype in row["backend"] for row in facts["rows"])
    assert facts["complete"] is True


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_cells_are_raced_on_a_gpu(dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(race_of_cells.SHAPES, "cuda", ((20, 16, 64),))
    options = ["--device", "cuda", "--dtype", dtype, "--against", "loop", "--rounds", "1"]
    assert run("bench", "--cell", "zoo.MGU,zoo.PeepholeLSTM", *options, "--json", "-") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["card"]["name"] == torch.cuda.get_device_name()
    assert len(facts["rows"]) == 4
    assert all(row["backend"].startswith(f"cuda: {dtype}") for row in facts["rows"])


OWN = "AntisymmetricRNN(epsilon=0.01, gamma=0.01, gated=False)"
TABLES = {
    "cells": Table(
        "",
        ["", "T,B,I,H", "", "µs", "loop/elman", "compile/elman", "jax/elman"],
        [[OWN, "100,16,128,128", "train", "12345", "12.34", "23.45", "3.21"]],
        words=(0, 2),
    ),
    "a race": Table(
        "LSTM",
        ["", "T,B,I,H", "µs", *(f"{name}/elman" for name in ("torch", "compile", "jax", "onnxruntime", "elman again")), "±"],
        [["1", "1000,16,1024,1024", "1234567.8", "12.34", "23.45", "34.56", "45.67", "1.002", "12.3%"]],
        words=(1,),
    ),
    "numbers": Table("", ["µs"] * 9, [[f"{number}23456789" for number in range(1, 10)]], words=()),
}


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_narrow_page_cuts_nothing(table: Table, width: int) -> None:
    """Words are wrapped between words; numbers are whole, in one line, though it may be longer than the page."""
    page = io.StringIO()
    Page([table], []).print(Console(width=width, file=page))
    lines = [line.split() for line in page.getvalue().splitlines()]
    (row,) = table.body
    numbers = [cell for i, cell in enumerate(row) if i not in table.words]
    assert any(all(number in line for number in numbers) for line in lines)
    printed = [word for line in lines for word in line]
    assert all(word in printed for i in table.words for word in row[i].split())
