"""The frame of the command line: help with an example, the version, and one clear line for bad input."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata

import pytest
import typer
from typer.testing import CliRunner

import elman
from elman.cli.app import app
from elman.cli.frame import Group

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
        (["explain"], "Missing argument"),
        (["explain", "rnn", "--hidden-size", "0"], "hidden_size must be at least 1, got 0"),
        (["explain", "rnn", "--batch", "-3"], "batch must be at least 1, got -3"),
        (["explain", "rnn", "--seq-len", "many"], "--seq-len"),
        (["explain", "rnn", "--numbers", "--unit", "20"], "unit must be between 0 and 19, got 20"),
        (["explain", "rnn", "--dtype", "int8"], "--dtype"),
        (["explain", "rnn", "--hidden-size", "1000000"], "at most"),
        (["explain", "gru", "--nonlinearity", "relu"], "nonlinearity is an option of rnn"),
        (["explain", "gru", "--proj-size", "2"], "proj_size is an option of lstm"),
        (["explain", "lstm", "--proj-size", "20"], "proj_size must be below hidden_size, 20"),
        (["tour", "--cell", "gnu"], "did you mean 'gru'?"),
        (["tour", "--lang", "fr"], "--lang"),
        (["tour", "--seed", str(2**64)], "seed must fit into 64 bits"),
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


def test_the_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout.decode().strip()) == (0, f"elman {elman.__version__}")


def test_config_prints_what_runs_here() -> None:
    result = CliRunner().invoke(app, ["config"])
    assert result.exit_code == 0
    assert result.stdout.startswith("elman ")
    assert "threads" in result.stdout


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


def test_an_instruction_set_that_is_not_here_is_one_line_too() -> None:
    # The way the installed command goes: importing elman is what fails.
    command = [sys.executable, "-c", "from elman_cli import main; main()", "config"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "ELMAN_ISA": "nonsense"})
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("elman: ELMAN_ISA is 'nonsense'")
    assert result.stderr.count("\n") == 1


def test_the_installed_command_enters_beside_the_library() -> None:
    (script,) = (entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "elman")
    assert script.value == "elman_cli:main"


def test_a_reader_that_leaves_early_is_no_error_to_speak_of() -> None:
    command = [sys.executable, "-m", "elman.cli", "tour", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
