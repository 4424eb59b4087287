"""`elman bench` from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

import elman.bench.measure
from elman.bench import own_cells
from elman.bench.case import CELLS, MODES, cases_of
from elman.cli.app import app
from elman.cli.choice import select
from native import required

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PEERS = {"jax": ("jax",), "ort": ("onnxruntime", "onnx")}
QUICK = ["bench", "--quick", "--rounds", "1", "--cell", "rnn"]
HERE = [*QUICK, "--threads", "1"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        app(list(arguments))
    return int(left.value.code or 0)


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("jax", "onnxruntime", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("NPROC", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.mark.slow
def test_everybody_who_is_installed_agrees_and_is_timed_on_each_cell() -> None:
    # In a process of its own: JAX's and ONNX Runtime's threads would stay in this one.
    code = "from elman.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *QUICK, "--threads", "1", "--cell", "rnn,gru,lstm", "--rows", "1", "--json", "-"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    installed = {name for name, packages in PEERS.items() if all(find_spec(package) for package in packages)}
    assert facts["complete"] is True
    assert len(facts["absent"]) == 2 - len(installed)
    assert [(row["cell"], row["mode"]) for row in facts["rows"]] == [(cell, mode) for cell in CELLS for mode in MODES]
    for row in facts["rows"]:
        assert set(row["over_elman"]) == {"torch"} | (installed - ({"ort"} if row["mode"] == "train" else set()))


@pytest.mark.usefixtures("no_peers")
def test_without_peers_it_races_torch_alone_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*HERE, "--rows", "1", "--mode", "infer", "--markdown") == 0
    text = capsys.readouterr().out
    assert "| 1 | 5,3,10,20 |" in text
    assert "jax is skipped (" in text
    assert "ort is skipped (" in text


@pytest.mark.usefixtures("no_peers")
@pytest.mark.slow
def test_json_file_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    assert run(*HERE, "--rows", "1", "--json", str(path)) == 0
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert [row["mode"] for row in facts["rows"]] == ["infer", "train"]
    assert facts["threads"] == 1
    out = capsys.readouterr().out
    assert "RNN inference" in out
    assert "RNN training" in out


@pytest.mark.usefixtures("no_peers")
def test_the_chart_is_drawn_beside_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the chart is drawn by matplotlib; `make test` installs it")
    assert run(*HERE, "--rows", "1", "--mode", "infer", "--chart", str(tmp_path / "new" / "charts")) == 0
    assert "RNN inference" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "new" / "charts").iterdir()}
    assert names == {"bench-light.svg", "bench-dark.svg", "bench-light.zh-CN.svg", "bench-dark.zh-CN.svg"}


@pytest.mark.usefixtures("no_peers")
def test_without_matplotlib_the_chart_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(*HERE, "--chart", str(tmp_path)) == 2
    assert "--chart: needs matplotlib" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_peers")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_prints_what_has_been_measured(
    sent: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = elman.bench.measure.race, []

    def race(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            signal.raise_signal(sent)
        return real(*args, **kwargs)

    monkeypatch.setattr(elman.bench.measure, "race", race)
    assert run(*HERE, "--rows", "1", "--json", "-") == 130
    facts = json.loads(capsys.readouterr().out)
    assert facts["complete"] is False
    assert [row["mode"] for row in facts["rows"]] == ["infer"]


CUT_SHORT = [
    pytest.param("measure", "--rows 1 --against torch", id="libraries"),
    pytest.param("sequences", "--grid sequences", id="sequences"),
    pytest.param("threads", "--rows 1 --threads 1,2", id="threads", marks=required),
    pytest.param("compiled", "--rows 1 --compiled", id="compiled", marks=[required, pytest.mark.slow]),
    pytest.param("own_cells", "--cell zoo.MGU --against loop", id="cells"),
    pytest.param("dtype_race", "--rows 1 --dtype bfloat16", id="dtype"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's compiler
@pytest.mark.parametrize(("module", "options"), CUT_SHORT)
def test_every_page_says_if_it_was_cut_short(
    module: str, options: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, path = f"elman.bench.{module}", tmp_path / "bench.json"
    measure = import_module(module).measure

    def interrupted(*arguments: object, **named: object) -> Iterator[object]:
        yield next(measure(*arguments, **named))
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{module}.measure", interrupted)
    monkeypatch.setitem(own_cells.SHAPES, "cpu", ((2, 16, 4),))
    assert run(*HERE, *options.split(), "--markdown", "--json", str(path)) == 130
    assert capsys.readouterr().out.startswith("> **CUT SHORT: rows are missing.**")
    assert json.loads(path.read_text(encoding="utf-8"))["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rows", "9"], "rows 1 to 8, got '9'"),
        (["--rows", "0"], "rows 1 to 8, got '0'"),
        (["--rows", "3-2"], "expected the smaller row first, like 2-5, got '3-2'"),
        (["--rows", "2-"], "row numbers like 4,8 or 2-5, got '2-'"),
        (["--rows", "two"], "row numbers like 4,8 or 2-5, got 'two'"),
        (["--against", "torch,keras"], "torch, jax, ort, got 'keras'"),
        (["--threads", "0"], "--threads: expected different numbers from 1 to 1024 like 2 or 1,2,4, got '0'"),
        (["--threads", "1,two"], "got '1,two'"),
        (["--threads", "1,,2"], "got '1,,2'"),
        (["--threads", "2000"], "got '2000'"),
        (["--threads", "1,1"], "expected different numbers from 1 to 1024 like 2 or 1,2,4, got '1,1'"),
        (["--threads", "1,2", "--grid", "sequences"], "--grid sequences takes a single number, got '1,2'"),
        (["--busy", "-1"], "'--busy'"),
        *[
            ([*kind, "--busy", "1"], "--busy: needs several numbers of threads, as in --threads 1,2; add them")
            for kind in ([], ["--threads", "1"], ["--grid", "sequences"], ["--grid", "cells"], ["--compiled"], ["--dtype", "bfloat16"])
        ],
        (["--grid", "gnu"], "'--grid'"),
        (["--grid", "tour", "--rows", "4"], "rows 1 to 3, got '4'"),
        (["--cell", "rnn,gnu"], "--cell: unknown kind 'gnu'; did you mean 'gru'?"),
        (["--cell", ""], "--cell: unknown kind ''; expected one of rnn, gru, lstm"),
        (["--chart", "charts", "--grid", "sequences"], "--chart: compares libraries"),
        (["--chart", "charts", "--threads", "1,2"], "--chart: compares libraries"),
        (["--chart", "/dev/null/charts"], "--chart: cannot write to /dev/null/charts"),
        (["--compiled", "--grid", "sequences"], "--compiled does not take --grid sequences"),
        (["--compiled", "--threads", "1,2"], "--compiled does not take --threads 1,2; leave it out"),
        (["--compiled", "--against", "torch"], "--compiled does not take --against; leave it out"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_rows_are_chosen_by_number() -> None:
    sizes = cases_of("rnn", "sizes")
    assert select("rnn", "sizes", "") == list(enumerate(sizes, start=1))
    assert select("rnn", "sizes", "8,2-3,8") == [(8, sizes[7]), (2, sizes[1]), (3, sizes[2])]


def test_each_chosen_cell_has_the_chosen_rows() -> None:
    gru, lstm = cases_of("gru", "tour"), cases_of("lstm", "tour")
    assert select("lstm,gru,lstm", "tour", "2-3") == [(2, lstm[1]), (3, lstm[2]), (2, gru[1]), (3, gru[2])]
