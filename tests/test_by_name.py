"""A cell is found by the name that somebody types, and `elman explain`, `tour`, `bench` and `train text` take it by `--cell`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import elman
from elman.bench import own_cells
from elman.cli.app import app
from elman.language import speaking, translated
from elman.train.char_model import CharModel
from elman.train.checkpoint import CheckpointError, load, save
from elman.zoo.by_name import cell_by_name, is_own

CODE = '''
import torch, elman

class Leaky(elman.Cell):
    """A leaky unit."""

    gates = ("h",)

    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def step(self, x, r, s, p):
        return s.h + self.alpha * (torch.tanh(x.h + r.h) - s.h)

class Timed(Leaky):
    step_inputs = {"dt": ""}
    parameters = {"tau": "H"}

    def step(self, x, r, s, p):
        return s.h + x.dt * p.tau * (torch.tanh(x.h + r.h) - s.h)

class Needy(Leaky):
    def __init__(self, alpha):
        self.alpha = alpha

class Wrong(Leaky):
    def step(self, x, r, s, p):
        return s.h + x.q

class Normed(Leaky):
    def init(self, name, tensor):
        if name == "weight_hh":
            tensor.normal_()
            tensor /= float(tensor.norm())
            return True
        return False

ready = Leaky(0.5)
number = 3
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE, encoding="utf-8")
    return path


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], env={"LC_ALL": "C", "COLUMNS": "100"})
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


# --- The name ---------------------------------------------------------------------------------------------------------


def test_a_file_and_a_name_give_the_cell(file: Path) -> None:
    cell = cell_by_name(f"{file}:Leaky")
    assert repr(cell) == "Leaky(alpha=0.1)"
    assert elman.Recurrent(cell, 3, 4).weight_hh_l0.shape == (4, 4)
    assert repr(cell_by_name(f"{file}:ready")) == "Leaky(alpha=0.5)"


def test_which_names_mean_a_cell_of_ones_own() -> None:
    assert is_own("zoo.MGU")
    assert is_own("a/b.py:Cell")
    assert not any(map(is_own, ("rnn", "gru,lstm", "zoology")))


ERRORS = {
    "{file}:Leakey": r"expected a cell called Leakey in .*mine.py, got none; did you mean 'Leaky'\?",
    "{file}:number": "expected a cell called number in .*mine.py, got none; expected one of Leaky, Timed, Needy, Wrong, Normed, ready",
    "{file}:Needy": "expected .*:Needy to be made without arguments, got TypeError: .*'alpha'",
    "{file}x:Leaky": "no such file or folder: .*mine.pyx",
    "zoo.NoSuchCell": "unknown cell 'zoo.NoSuchCell'",
    "{file}:": "expected a cell like zoo.MGU or path/to/file.py:MyCell, got '.*mine.py:'",
    ":Leaky": "expected a cell like zoo.MGU or path/to/file.py:MyCell, got ':Leaky'",
    "leaky": "expected a cell like zoo.MGU or path/to/file.py:MyCell, got 'leaky'",
}


@pytest.mark.parametrize(("name", "words"), ERRORS.items(), ids=ERRORS)
def test_what_is_wrong_with_a_name_is_said(name: str, words: str, file: Path) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        cell_by_name(name.format(file=file))
    with speaking("zh"):
        assert translated(str(raised.value)) != str(raised.value)


def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(ValueError, match=r"cannot import .*broken.py: ZeroDivisionError: division by zero"):
        cell_by_name(f"{broken}:Cell")


# --- The commands -----------------------------------------------------------------------------------------------------


def test_a_file_that_ends_the_program_is_named_too(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(ValueError, match=r"cannot import .*script\.py: SystemExit: 3"):
        cell_by_name(f"{file}:Leaky")


QUICK = ("--against", "loop", "--quick", "--rounds", "1")


@pytest.mark.parametrize(
    "arguments", [("explain", "--json"), ("tour", "--json"), ("bench", *QUICK, "--json", "-")], ids=lambda each: each[0]
)
def test_what_a_cell_prints_is_not_among_the_json(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(own_cells.SHAPES, "cpu", ((3, 16, 4),))
    file = tmp_path / "own.py"
    file.write_text(f"print('read')\n{CODE}".replace("        return s.h", "        print('stepped')\n        return s.h"))
    result = CliRunner().invoke(app, [*arguments, "--cell", f"{file}:Leaky"], env={"LC_ALL": "C"})
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)
    assert "read\n" in result.stderr
    assert "stepped\n" in result.stderr


def test_explain_shows_a_cell(file: Path) -> None:
    told = json.loads(invoke("explain", "--cell", f"{file}:Timed", "--hidden-size", 6, "--bidirectional", "--batch-first", "--json"))[
        "network"
    ]
    cell = told["cell"]
    assert cell.pop("name") == "Timed(alpha=0.1)"
    assert cell.pop("about") == ""
    assert "return s.h + x.dt * p.tau" in cell.pop("source")
    assert cell == {"gates": ["h"], "states": ["h"], "parameters": ["tau"], "step_inputs": ["dt"], "draws": []}
    shapes = {each["name"]: each["shape"] for each in (*told["tensors"], *told["parameters"])}
    assert (shapes["x"], shapes["dt"], shapes["output"], shapes["h_n"]) == ([3, 5, 10], [3, 5], [3, 5, 12], [2, 3, 6])
    assert shapes["tau_l0_reverse"] == [6]
    assert told["costs"]["parameters"] == 2 * (6 * 10 + 6 * 6 + 12 + 6)
    page = invoke("explain", "--cell", f"{file}:Timed")
    for said in ("Timed(alpha=0.1)", "step inputs", "net(x, dt=dt)", "(5, 3, 20)", "tau_l0", "What runs it", "h_n[0] = output[-1]"):
        assert said in page


def test_explain_shows_where_sequences_of_a_cell_end(file: Path) -> None:
    page = invoke("explain", "--cell", f"{file}:Timed", "--lengths", "5,3,0", "--reset", "2", "--bidirectional")
    assert "output, h_n = net(x, lengths=lengths, reset=reset, dt=dt)" in page
    assert "sequence 1 forward  ○ ──▶ ○  ┃  ◆     ·     ·  h_n[0, 1]" in page
    assert "✓ Checked in this run" in page


def test_tour_shows_a_cell_in_three_networks(file: Path) -> None:
    networks = json.loads(invoke("tour", "--cell", f"{file}:Leaky", "--json"))["networks"]
    shapes = [{tensor["name"]: tensor["shape"] for tensor in network["tensors"]} for network in networks]
    assert [each["h_n"] for each in shapes] == [[1, 3, 20], [2, 3, 20], [2, 3, 10]]
    assert invoke("tour", "--cell", f"{file}:Leaky").count("What runs it") == 3


@pytest.mark.slow
def test_bench_times_a_cell(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(own_cells.SHAPES, "cpu", ((3, 16, 4),))
    found = json.loads(invoke("bench", "--cell", f"{file}:Timed,{file}:Leaky", *QUICK, "--json", "-"))
    assert [(row["cell"], row["mode"], row["size"]) for row in found["rows"]] == [
        (cell, mode, 4) for cell in ("Timed(alpha=0.1)", "Leaky(alpha=0.1)") for mode in ("infer", "train")
    ]
    assert all(row["over_elman"]["loop"] > 0 for row in found["rows"])
    assert "loop/elman" in invoke("bench", "--cell", f"{file}:Leaky", *QUICK, "--mode", "infer")


def test_train_text_trains_a_cell(file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be " * 100, encoding="utf-8")
    options = ("--steps", 2, "--hidden-size", 8, "--streams", 2, "--chunk", 8, "--out", tmp_path / "out")
    metrics = json.loads(invoke("train", "text", text, "--cell", f"{file}:ready", *options, "--json"))
    assert metrics["model"]["cell"] == "Leaky(alpha=0.5)"
    path = tmp_path / "out" / Path(metrics["files"]["model"]).name
    cell = cell_by_name(f"{file}:ready")
    assert repr(load(path, cell).rnn.cell) == "Leaky(alpha=0.5)"
    with pytest.raises(CheckpointError, match=r"holds a model of Leaky\(alpha=0.5\), got None: pass cell=..."):
        load(path)


def test_a_model_of_the_default_cell_is_of_no_other(tmp_path: Path, file: Path) -> None:
    save(CharModel(4, 4, 1), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds a model of the default cell"):
        load(tmp_path / "model.safetensors", cell_by_name(f"{file}:ready"))


def test_a_cell_whose_init_reads_its_numbers_is_tried(file: Path) -> None:
    elman.Recurrent(cell_by_name(f"{file}:Normed", [8, 16]), 3, 8)


def test_a_model_of_a_cell_has_as_many_parameters_as_is_said_before(file: Path) -> None:
    cell = cell_by_name(f"{file}:Leaky")
    assert CharModel.count_parameters(4, 6, 2, cell) == sum(parameter.numel() for parameter in CharModel(4, 6, 2, cell).parameters())


COMMANDS = {
    "neither": (("explain",), "expected a kind of network or --cell, got neither"),
    "both": (("explain", "rnn", "--cell", "{file}:Leaky"), "expected a kind of network or --cell, got both"),
    "numbers": (("explain", "--cell", "{file}:Leaky", "--numbers"), "--numbers is for rnn, gru and lstm only, got "),
    "a wrong step": (("explain", "--cell", "{file}:Wrong"), "expected the step of Wrong to use x.h, got x.q (at "),
    "a wrong step to train": (("train", "text", "--cell", "{file}:Wrong"), "expected the step of Wrong to use x.h, got x.q (at "),
    "a wrong step to race": (("bench", "--quick", "--cell", "{file}:Wrong"), "expected the step of Wrong to use x.h, got x.q (at "),
    "device": (("tour", "--cell", "{file}:Leaky", "--device", "cuda"), "runs on the CPU only; leave --device out"),
    "threads": (("bench", "--cell", "{file}:Leaky", "--threads", "1,2"), "takes a single number, got 1, 2"),
    "step inputs": (("train", "text", "--cell", "{file}:Timed"), "--cell: expected a cell without step inputs, got "),
}


@pytest.mark.parametrize(("arguments", "words"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_says_what_is_wrong_in_one_line(arguments: tuple[str, ...], words: str, file: Path) -> None:
    said = invoke(*(each.format(file=file) for each in arguments), code=2)
    assert words in said.replace("\n", " ")
    assert "Traceback" not in said
    with speaking("zh"):
        line = said.strip()
        assert translated(line) != line
