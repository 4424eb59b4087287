"""`elman train text`: what it prints and writes, and what it says of bad input, full disks and interruptions."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from typer.testing import CliRunner

import texts
from elman.cli.app import app
from elman.train import memory, outputs
from elman.train.checkpoint import load, save
from elman.train.fit import FitSettings, Step, fit
from texts import CODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.train.char_model import CharModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return texts.folder_of_files(tmp_path / "texts")


def test_the_command_end_to_end(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["train", "text", str(folder), "--steps", "3", "--hidden-size", "16", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.stderr
    metrics = json.loads(result.stdout)
    assert metrics["training"]["steps_done"] == 3
    assert set(metrics["held_out_bits_per_character"]) == {"elman", "gzip", "xz"}
    assert {"model.safetensors", "sample.txt", "metrics.json"} <= {path.name for path in out.iterdir()}
    assert all(Path(path).stat().st_size > 0 for path in metrics["files"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.txt"], "no such file or folder: missing.txt"),
        (["--steps", "0"], "--steps: expected a positive and finite number, got 0"),
        (["--hidden-size", "-3"], "--hidden-size"),
        (["--steps", "1", "--seconds", "1"], "--steps and --seconds cannot be combined"),
        (["--out", __file__], "is a file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", "text", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_bad_input(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "text", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds 0 characters" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "used"),
    [({}, "None 10000"), ({"GOMP_SPINCOUNT": "7"}, "None 7"), ({"OMP_WAIT_POLICY": "active"}, "active None")],
    ids=["nothing", "a count", "a policy"],
)
def test_torchs_threads_spin_briefly_unless_told_otherwise(given: dict[str, str], used: str, folder: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")} | given
    arguments = ["elman", "train", "text", str(folder), "--steps", "1", "--hidden-size", "4", "--out", str(tmp_path / "out")]
    code = f"""
import os, sys
sys.argv = {arguments}
class Looking:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch sees", os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), file=sys.stderr)
sys.meta_path.insert(0, Looking())
from elman_cli import main
main()
"""
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"torch sees {used}" in result.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_ctrl_c_and_sigterm_keep_what_was_learnt(
    sent: signal.Signals, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit_interrupted(
        model: CharModel, text: bytes, settings: FitSettings, after_step: Callable[[Step], bool | None], *_: object, **__: object
    ) -> Step:
        def interrupt(step: Step) -> bool | None:
            if step.number == 3:
                signal.raise_signal(sent)
            return after_step(step)

        return fit(model, text, settings, interrupt)

    monkeypatch.setattr("elman.train.text.fit", fit_interrupted)
    before = signal.getsignal(sent)
    arguments = ["train", "text", str(folder), "--steps", "1000", "--hidden-size", "16", "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["training"]["steps_done"] == 3
    assert load(tmp_path / "out" / "model.safetensors").sizes["hidden_size"] == 16
    assert signal.getsignal(sent) is before


def test_the_shortest_text_there_is(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    arguments = ["train", "text", str(tmp_path / "abc"), "--steps", "2", "--hidden-size", "1", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr


def train(*arguments: object) -> Any:
    """A quick training, from outside."""
    return CliRunner().invoke(app, ["train", "text", *map(str, arguments), "--hidden-size", "16"], env={"LC_ALL": "C", "COLUMNS": "200"})


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_second_training_does_not_learn_from_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    learnt = []
    for out in ("demo", "demo", "another"):
        result = train(".", "--steps", 2, "--out", out)
        assert result.exit_code == 0, result.stderr
        learnt.append(json.loads((folder / out / "metrics.json").read_text())["corpus"])
    assert len({corpus["sha256"] for corpus in learnt}) == 1
    assert learnt[1]["left_out"] == {"out": ["demo"]}
    assert {Path(name).parent.name for name in learnt[2]["left_out"]["training"]} == {"demo"}
    said = " ".join(result.stdout.split())
    assert "Skipped: demo/metrics.json, demo/model.safetensors, demo/picture.png and 1 more (written by an earlier training run)" in said


def test_an_out_that_is_the_folder_of_texts_keeps_both(folder: Path) -> None:
    for _ in range(2):
        result = train(folder, "--steps", 2, "--out", folder)
        assert result.exit_code == 0, result.stderr
        assert json.loads((folder / "metrics.json").read_text())["corpus"]["train_files"] == 3


def test_a_text_of_ones_own_is_not_overwritten(folder: Path) -> None:
    (folder / "sample.txt").write_bytes(CODE)
    for given in (folder, folder / "sample.txt"):
        result = train(given, "--steps", 2, "--out", folder)
        assert result.exit_code == 2
        assert "sample.txt would be read and then overwritten" in result.stderr
    assert (folder / "sample.txt").read_bytes() == CODE


@pytest.mark.parametrize("place", ["file/out", "/dev/null/out", "taken"])
def test_a_folder_that_cannot_take_the_results_is_known_before_the_training(
    place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "taken" / "metrics.json").mkdir(parents=True)
    monkeypatch.setattr("elman.train.text.fit", lambda *_, **__: pytest.fail("it trained"))
    result = train(folder, "--steps", 2, "--out", tmp_path / place)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("elman: --out: the results cannot be written to ")
    assert result.stderr.count("\n") == 1


def test_a_disk_without_room_is_known_before_the_training(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    monkeypatch.setattr("elman.train.text.fit", lambda *_, **__: pytest.fail("it trained"))
    result = train(folder, "--steps", 2, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["new", "new/inner", "old"])
def test_a_training_without_a_step_leaves_no_folder_of_its_own(
    place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    (tmp_path / "old").mkdir()
    monkeypatch.setattr("elman.train.text.fit", interrupt)
    result = train(folder, "--steps", 2, "--out", tmp_path / place)
    assert result.exit_code == 130
    assert names_in(tmp_path) == {"texts", "old"}


def test_weights_go_elsewhere_if_their_disk_is_full_by_then(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_there(model: CharModel, path: Path) -> None:
        save(model, path) if path.parent != tmp_path / "out" else full_disk()

    monkeypatch.setattr(outputs, "save", save_there)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = train(folder, "--steps", 2, "--out", tmp_path / "out", "--json")
    path = Path(json.loads(result.stdout)["files"]["model"])
    assert path.parent.name.startswith("elman-")
    assert load(path).sizes["hidden_size"] == 16


@pytest.mark.parametrize(
    ("failing", "error", "code"),
    [
        ("elman.train.text.bits_per_character", RuntimeError("no bits"), 1),
        ("elman.train.text.compressors", MemoryError(), 1),
        ("elman.train.text.sample", KeyboardInterrupt(), 130),
        ("elman.train.text.read_line", ValueError("no line"), 1),
        ("elman.train.text.to_json", OSError(errno.ENOSPC, "No space left on device"), 1),
        ("elman.cli.train._draw", AttributeError("no picture"), 1),
    ],
)
@pytest.mark.slow
def test_weights_are_kept_whatever_fails_later(
    failing: str, error: BaseException, code: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    if failing.endswith("bits_per_character"):  # which the learning curve calls as well
        monkeypatch.setattr("elman.train.curve._POINTS", 0.1)
    monkeypatch.setattr(failing, fail)
    result = train(folder, "--steps", 2, "--out", tmp_path / "out")
    assert result.exit_code == code
    assert result.stderr.startswith("elman: ")
    assert result.stderr.count("\n") == 1
    assert str(tmp_path / "out" / "model.safetensors") in result.stderr
    assert load(tmp_path / "out" / "model.safetensors").sizes["hidden_size"] == 16


def test_one_file_that_fails_does_not_take_the_others_with_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elman.cli.train._draw", full_disk)
    result = train(folder, "--steps", 2, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert "matplotlib" not in result.stdout
    assert names_in(tmp_path / "out") == {"model.safetensors", "sample.txt", "metrics.json"}


@pytest.mark.parametrize("rate", ["1e4", "1e30", "1e300"])
@pytest.mark.parametrize(("language", "said"), [("en", "diverged at step 2"), ("zh", "第 2 步发散")])
def test_a_training_that_diverges_says_so_and_keeps_the_last_good_weights(
    rate: str, language: str, said: str, folder: Path, tmp_path: Path
) -> None:
    result = train(folder, "--steps", 50, "--lr", rate, "--out", tmp_path / "out", "--lang", language)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "to 0.003" in result.stderr or "降到 0.003" in result.stderr
    assert result.stderr.count("\n") == 1
    assert all(weight.isfinite().all() for weight in load(tmp_path / "out" / "model.safetensors").parameters())


@pytest.mark.parametrize("step", ["torch.tanh(x.n + r.n) * float('nan')", "(x.n + r.n + s.h) * 1e20", "torch.log(x.n + r.n - 9)"])
@pytest.mark.parametrize(("language", "said"), [("en", "training cannot begin: the untrained network costs"), ("zh", "无法开始训练")])
def test_a_cell_that_no_learning_rate_helps_says_so(step: str, language: str, said: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import elman, torch\nclass Own(elman.Cell):\n    gates = ('n',)\n"
        f"    def step(self, x, r, s, p):\n        return {step} + 0 * s.h\n"
    )
    result = train(folder, "--steps", 5, "--cell", f"{tmp_path / 'own.py'}:Own", "--out", tmp_path / "out", "--lang", language)
    assert result.exit_code == 1
    assert result.stderr.startswith(("elman: ", "elman："))
    assert said in result.stderr
    assert "--lr" not in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_more_streams_and_longer_chunks_than_the_text_has_are_cut_and_told(folder: Path, tmp_path: Path) -> None:
    result = train(folder, "--steps", 2, "--streams", 100000, "--chunk", 100000, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    used = metrics["training"]["streams"], metrics["training"]["chunk"]
    assert used == (1, metrics["corpus"]["train_characters"] - 1)
    assert f"using --streams 1 --chunk {used[1]}." in result.stdout


def test_a_training_that_memory_cannot_hold_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 5e6)
    result = train(folder, "--steps", 2, "--streams", 30, "--chunk", 100, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "of memory, and 5.0 MB is free: lower --hidden-size (16), --num-layers (2), --streams (" in result.stderr
    assert not (tmp_path / "out").exists()


def test_memory_is_told_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e6 < memory.available() < 1e15
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: full_disk())
    assert memory.available() > 1e6
