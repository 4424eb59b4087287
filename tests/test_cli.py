"""The frame of the command line: help with an example, the version, and one clear line for bad input."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from importlib import metadata

import pytest
import torch
import typer
from typer.testing import CliRunner

import elman
from elman.cli.app import app
from elman.cli.frame import Group

HUGE = "1" + 400 * "0"  # beyond any float

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A process of its own, as a person would start it."""
    command = [sys.executable, "-m", "elman.cli", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"elman {command}" in result.stdout


def test_without_a_command_help_is_printed() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert "tour" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explain", "rrn"], "did you mean 'rnn'?"),
        (["explain", "zoo.MGU"], "did you mean --cell zoo.MGU?"),
        (["explain", "MGU"], "unknown kind 'MGU'; did you mean --cell zoo.MGU?"),
        (["tour", "--cell", "mgu"], "unknown kind 'mgu'; did you mean --cell zoo.MGU?"),
        (["explain", "--cell", "my/cells.py"], "unknown kind 'my/cells.py'; name the cell in it, too: --cell my/cells.py:MyCell"),
        (["bench", "--cell", "gru,zoo.MGU"], "unknown kind 'zoo.MGU'; race it without rnn, gru, lstm: --cell zoo.MGU"),
        (["bench", "--cell", "MGU"], "unknown kind 'MGU'; did you mean --cell zoo.MGU?"),
        (["explain", "--cell", "gnu"], "did you mean 'gru'?"),
        (["tour", "gru"], "(gru); did you mean --cell gru?"),
        (["bench", "rnn,lstm"], "(rnn,lstm); did you mean --cell rnn,lstm?"),
        (["bench", "zoo.MGU"], "(zoo.MGU); did you mean --cell zoo.MGU?"),
        (["explain", "rnn", "gru"], "Got unexpected extra argument(s) (gru)\n"),
        (["explain", "--cell", "zoo.Mgu"], "did you mean 'zoo.MGU'?"),
        (["explain"], "expected a kind of network or --cell, got neither"),
        (["explain", "rnn", "--hidden-size", "0"], "hidden_size to be at least 1, got 0"),
        (["explain", "rnn", "--batch", "-3"], "batch to be at least 1, got -3"),
        (["explain", "rnn", "--seq-len", "many"], "--seq-len"),
        (["explain", "rnn", "--step", "1"], "add --numbers"),
        (["explain", "rnn", "--numbers", "--unit", "20"], "unit must be between 0 and 19, got 20"),
        (["explain", "rnn", "--dtype", "int8"], "--dtype"),
        (["explain", "rnn", "--hidden-size", "1000000"], "at most"),
        (["explain", "rnn", "--hidden-size", HUGE], "got 1.0e+400"),
        (["explain", "lstm", "--hidden-size", HUGE, "--proj-size", HUGE], "numbers in this network and its data"),
        (["explain", "rnn", "--input-size", HUGE], "expected at most"),
        (["explain", "rnn", "--num-layers", HUGE], "num_layers to be at most 1000"),
        (["explain", "rnn", "--num-layers", "1000000000"], "num_layers to be at most 1000"),
        (["explain", "rnn", "--seq-len", HUGE], "expected at most"),
        (["explain", "rnn", "--batch", HUGE], "expected at most"),
        (["explain", "rnn", "--lengths", HUGE], "expected at most"),
        (["explain", "rnn", "--lengths", ""], "--lengths: expected whole numbers"),
        (["explain", "rnn", "--lengths", "٣"], "--lengths: expected whole numbers"),
        (["explain", "rnn", "--reset", ""], "--reset: expected steps"),
        (["explain", "rnn", "--reset", HUGE], "--reset step must be between 0 and 4"),
        (["explain", "rnn", "--seed", HUGE], "seed to fit into 64 bits"),
        (["explain", "rnn", "--dropout", "nan"], "from 0 to 1, got nan"),
        (["explain", "rnn", "--dropout", "-0.1"], "from 0 to 1, got -0.1"),
        (["explain", "rnn", "--dropout", ""], "--dropout"),
        (["explain", "rnn", "--input-size", ""], "--input-size"),
        (["explain", "rnn", "--input-size", "1.5"], "--input-size"),
        (["explain", "rnn", "--direction", "rückwärts"], "--direction"),
        (["explain", "rnn", "--numbers", "--step", HUGE], "step must be between 0 and 4"),
        (["explain", "rnn", "--numbers", "--sequence", "-1"], "sequence must be between 0 and 2"),
        (["explain", "rnn", "--numbers", "--layer", HUGE], "layer must be between 0 and 0"),
        (["explain", ""], "unknown kind ''"),
        (["explain", "循环"], "unknown kind '循环'"),
        (["tour", "--cell", ""], "unknown kind ''"),
        (["tour", "--lang", ""], "--lang"),
        (["tour", "--seed", "nan"], "--seed"),
        (["bench", "--json", ""], "expected a path, got ''"),
        (["bench", "--json", "."], "--json: cannot write .: Is a directory"),
        (["bench", "--json", "/dev/null/x"], "--json: cannot write /dev/null/x: Not a directory"),
        (["bench", "--json", "missing/x"], "--json: cannot write missing/x: No such file"),
        (["bench", "--rows", "1-" + HUGE], "rows 1 to 8"),
        (["bench", "--rows", "²"], "--rows: expected row numbers"),
        (["bench", "--rounds", "0"], "--rounds"),
        (["bench", "--against", ""], "torch, jax, ort, got ''"),
        (["bench", "--mode", ""], "--mode"),
        (["config", "surplus"], "surplus"),
        (["train", "text", ""], "expected a path, got ''"),
        (["train", "text", " "], "expected a path, got ' '"),
        (["train", "text", "/dev/null"], "neither a file nor a folder: /dev/null"),
        (["train", "text", "a\0b"], "no such file or folder: a·b"),
        (["train", "text", "--out", ""], "expected a path, got ''"),
        (["train", "text", "--out", "/dev/null"], "expected a folder for the results, /dev/null is a file"),
        (["train", "text", "--lr", "nan"], "--learning-rate: expected a positive and finite number, got nan"),
        (["train", "text", "--lr", "inf"], "--learning-rate: expected a positive and finite number, got inf"),
        (["train", "text", "--lr", "0"], "--learning-rate: expected a positive and finite number, got 0"),
        (["train", "text", "--seconds", "nan"], "--seconds: expected a positive and finite number"),
        (["train", "text", "--seconds", "-1"], "--seconds: expected a positive and finite number"),
        (["train", "text", "--steps", ""], "--steps"),
        (["train", "text", "--streams", "0"], "--streams"),
        (["train", "text", "--chunk", "-1"], "--chunk"),
        (["train", "text", "--seed", HUGE], "--seed"),
        (["train", "text", "--layers", "0"], "--layers"),
        (["train", "text", __file__, "--steps", "1", "--out", "never", "--hidden-size", HUGE], "more than 1000 TB"),
        (["train", "text", __file__, "--steps", "1", "--out", "never", "--layers", HUGE], "more than 1000 TB"),
        (["train", "nonsense"], "nonsense"),
        (["explain", "gru", "--nonlinearity", "relu"], "expected no nonlinearity, got relu: only an RNN takes it"),
        (["explain", "gru", "--proj-size", "2"], "expected no proj_size, got 2"),
        (["explain", "lstm", "--proj-size", "20"], "proj_size to be below hidden_size, 20"),
        (["tour", "--cell", "gnu"], "did you mean 'gru'?"),
        (["tour", "--lang", "fr"], "--lang"),
        (["tour", "--seed", str(2**64)], "seed to fit into 64 bits"),
        (["tour", "surplus"], "surplus"),
        (["tuor"], "tour"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("elman: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


@pytest.mark.parametrize(
    ("raised", "code"),
    [(ValueError("a\nb"), 2), (RuntimeError("a b"), 1), (FileNotFoundError("a b"), 1), (MemoryError(), 1), (typer.Abort(), 130)],
)
def test_each_failure_is_one_line_and_has_its_exit_code(raised: BaseException, code: int) -> None:
    broken = typer.Typer(cls=Group)

    @broken.callback()
    def root() -> None: ...

    @broken.command()
    def command() -> None:
        raise raised

    result = CliRunner().invoke(broken, ["command"])
    assert result.exit_code == code
    assert result.stderr.startswith("elman: ")
    assert result.stderr.count("\n") == 1


def test_a_defect_shows_itself() -> None:
    broken = typer.Typer(cls=Group)

    @broken.callback()
    def root() -> None: ...

    @broken.command()
    def command() -> None:
        raise AssertionError("a defect")

    assert isinstance(CliRunner().invoke(broken, ["command"]).exception, AssertionError)


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["0", "1", "-5", "²", "99999999999"])
def test_no_width_makes_the_output_empty_or_endless(columns: str) -> None:
    for arguments in (["tour"], ["--help"]):
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": columns, "LINES": columns})
        assert result.exit_code == 0, result.stderr
        assert 15 < result.stdout.count("\n") < 500
        assert max(map(len, result.stdout.splitlines())) <= 1000


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line() -> None:
    result = CliRunner().invoke(app, ["explain", "rnn", "--dropout", "0.5", "--no-time"])
    assert result.exit_code == 0
    assert result.stderr.startswith("elman: warning: dropout option adds dropout")
    assert result.stderr.count("\n") == 1


@pytest.mark.filterwarnings("default")
def test_a_warning_is_given_once_and_without_code() -> None:
    warned = typer.Typer(cls=Group)

    @warned.callback()
    def root() -> None: ...

    @warned.command()
    def command() -> None:
        for category in (UserWarning, RuntimeWarning):
            warnings.warn("two\nlines", category, stacklevel=1)

    assert CliRunner().invoke(warned, ["command"]).stderr == "elman: warning: two lines\n"


def test_what_could_steer_a_terminal_becomes_a_mark() -> None:
    result = CliRunner().invoke(app, ["train", "text", "\x1b[2J"])
    assert result.stderr == "elman: no such file or folder: ·[2J\n"


def test_a_closed_stdout_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", None)  # what Python makes of >&-
    monkeypatch.setattr(sys, "stderr", said)
    with pytest.raises(SystemExit) as left:
        app(["config"])
    assert left.value.code == 1
    assert said.getvalue().startswith("elman: standard output is closed")
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit):
        app(["config"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full: Linux has one")
@pytest.mark.slow
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "elman.cli", "--version"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (1, b"elman: No space left on device\n")


# Raises Ctrl-C when the module is looked for that the first argument names: a moment, not a time.
AT_IMPORT = """
import os, signal, sys
class Trap:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[0]:
            os.kill(os.getpid(), signal.SIGINT)
sys.argv = sys.argv[1:]
sys.meta_path.insert(0, Trap())
from elman_cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch", "elman.cli.app", "elman.show.network"])
def test_ctrl_c_at_any_moment_is_one_line_and_130(module: str) -> None:
    result = subprocess.run([sys.executable, "-c", AT_IMPORT, module, "tour"], capture_output=True, timeout=120, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"elman: interrupted\n")


@pytest.mark.slow
def test_ctrl_c_is_told_in_chinese() -> None:
    command = [sys.executable, "-c", AT_IMPORT, "elman.show.network", "tour", "--lang", "zh"]
    result = subprocess.run(command, capture_output=True, timeout=120, check=False, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert (result.returncode, result.stdout, result.stderr.decode()) == (130, b"", "elman：已中断\n")


def test_ctrl_c_when_all_is_said_changes_nothing() -> None:
    code = "import atexit, signal; from elman_cli import main; atexit.register(signal.raise_signal, signal.SIGINT); main()"
    result = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"elman {elman.__version__}\n", "")


def test_ctrl_c_in_a_command_that_tidies_up_is_one_line_and_130() -> None:
    interrupted = typer.Typer(cls=Group)

    @interrupted.callback()
    def root() -> None: ...

    @interrupted.command()
    def command() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(interrupted, ["command"])
    assert (result.exit_code, result.stderr) == (130, "elman: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tour", "--lang", "fr"], "elman: Invalid value for '--lang': 'fr' is not one of 'en', 'zh'.\n"),
        (
            ["explain"],
            "elman: expected a kind of network or --cell, got neither; for a built-in network write elman explain rnn\n",
        ),
    ],
)
def test_a_wrong_value_is_told_in_the_commands_own_words(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments, env={"LC_ALL": "C"})
    assert (result.exit_code, result.stderr) == (2, message)


def test_the_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout.decode().strip()) == (0, f"elman {elman.__version__}")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "text", "--help"]])
def test_help_imports_neither_torch_nor_numpy(arguments: list[str]) -> None:
    code = "import atexit, sys; atexit.register(lambda: print({'torch', 'numpy'} & set(sys.modules))); from elman_cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "set()")


def test_the_library_can_be_run_as_a_module() -> None:
    command = [sys.executable, "-m", "elman", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"elman {elman.__version__}\n", "")


def test_config_prints_what_runs_here() -> None:
    result = CliRunner().invoke(app, ["config"])
    assert result.exit_code == 0
    assert result.stdout.startswith("elman ")
    assert "threads" in result.stdout


def test_config_tells_programs_the_same() -> None:
    result = CliRunner().invoke(app, ["config", "--json"])
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["elman"] == elman.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert "reference" in facts["backends"]
    assert not set(facts["backends"]) & set(facts["not_available"])
    assert (facts["instruction_set"] is None) == (not facts["instruction_sets"])


def test_a_process_shows_the_tour_plain_in_a_pipe_and_in_a_poor_encoding() -> None:
    result = run("tour", "--lang", "zh", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert result.returncode == 0, result.stderr.decode()
    assert b"\x1b" not in result.stdout
    assert b"output[0, :, 20:]" in result.stdout


def test_a_process_meets_bad_input_without_a_traceback() -> None:
    result = run("explain", "rrn")
    assert result.returncode == 2
    assert result.stdout == b""
    assert result.stderr.decode() == "elman: unknown kind 'rrn'; did you mean 'rnn'?\n"


@pytest.mark.parametrize(
    ("language", "message"), [("en", "elman: ELMAN_ISA is 'nonsense', but"), ("zh", "elman：ELMAN_ISA 设为 'nonsense'，但没有")]
)
def test_an_instruction_set_that_is_not_here_is_one_line_too(language: str, message: str) -> None:
    # The way the installed command goes: importing elman is what fails.
    command = [sys.executable, "-c", "from elman_cli import main; main()", "config", "--lang", language]
    environment = {**os.environ, "ELMAN_ISA": "nonsense", "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=environment)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_the_installed_command_enters_beside_the_library() -> None:
    (script,) = (entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "elman")
    assert script.value == "elman_cli:main"


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error_to_speak_of() -> None:
    command = [sys.executable, "-m", "elman.cli", "tour", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
