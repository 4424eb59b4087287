"""A trained model: what it writes, where it is kept, what its units follow, the picture, and the command."""

from __future__ import annotations

import errno
import json
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from elman.cli.app import app
from elman.train import memory, outputs
from elman.train.char_model import CharModel
from elman.train.checkpoint import CheckpointError, load, save
from elman.train.corpus import Corpus, TextFile
from elman.train.features import features
from elman.train.fit import FitSettings, Step, fit
from elman.train.report import Report
from elman.train.sample import printable, sample
from elman.train.text import CurvePoint, Outcome, TextSettings, train_text, write_files
from elman.train.units import read_line

if TYPE_CHECKING:
    from collections.abc import Callable

CODE = b'''def join(parts, mark=", "):
    """Join the parts."""
    text = mark.join(str(part) for part in parts[1:])  # all but the first
    return "(" + text + ")"
'''


@pytest.fixture
def model() -> CharModel:
    torch.manual_seed(0)
    return CharModel(embedding_size=8, hidden_size=16, num_layers=1)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    files = [TextFile(f"{number}.py", CODE.replace(b"join", b"join%d" % number) * 5) for number in range(12)]
    return train_text(Corpus.split("joins", files), TextSettings(FitSettings(steps=60, streams=8, chunk=32), hidden_size=48))


def test_the_same_seed_writes_the_same(model: CharModel) -> None:
    first = sample(model, b"def ", 50, seed=1)
    assert len(first) == 50
    assert sample(model, b"def ", 50, seed=1) == first
    assert sample(model, b"def ", 50, seed=2) != first


def test_a_low_temperature_writes_the_likeliest(model: CharModel) -> None:
    with torch.no_grad():
        logits, _ = model(torch.tensor([[ord("a")]]))
    assert sample(model, b"a", 1, temperature=1e-4)[0] == logits[-1, 0].argmax()


def test_what_is_shown_cannot_steer_a_terminal() -> None:
    assert printable(b"a\x1b[2J\r\xc2\x9b\n\tb") == "a·[2J··\n    b"


def test_a_model_comes_back_from_its_file(model: CharModel, tmp_path: Path) -> None:
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.sizes == model.sizes
    characters = torch.arange(20)[:, None]
    torch.testing.assert_close(again(characters), model(characters), rtol=0, atol=0)


def test_files_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong"
    path.write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="does not hold a character model"):
        load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="its format is None"):
        load(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "elman.CharModel", "sizes": '{"hidden_size": 4}'})
    with pytest.raises(CheckpointError, match="does not hold a character model"):
        load(path)


def test_features_see_strings_comments_and_brackets() -> None:
    known = features(CODE, code=True)

    def marked(name: str) -> list[str]:
        marks = "".join(chr(byte) if mark else "\n" for byte, mark in zip(CODE, known[name].tolist(), strict=True))
        return [part for part in marks.split("\n") if part.strip()]

    assert marked("in a comment") == ["# all but the first"]
    assert marked("in a docstring") == ['"""Join the parts.""']
    assert marked("in a string") == ['", ', '"(', '")']
    assert marked("in brackets") == ['(parts, mark=", "', "(str(part) for part in parts[1:]"]
    assert known["depth of indentation"][CODE.index(b"return")] == 4
    assert known["column in the line"][CODE.index(b"text = ")] == 5


def test_a_unit_that_follows_a_feature_is_found(model: CharModel) -> None:
    """Unit 5 is made to tell capitals from all else: no other unit may be named for them."""
    with torch.no_grad():
        for parameter in model.rnn.parameters():
            parameter.zero_()
        model.embedding.weight.zero_()
        model.embedding.weight[ord("A") : ord("Z") + 1, 0] = 1
        model.rnn.get_parameter("weight_ih_l0")[5, 0] = 2
    line = read_line(model, b"SOME words IN capitals AND others NOT, enough for A line TO BE shown\n" * 9, code=False)
    (unit,) = [unit for unit in line.units if unit.follows == "in capitals"]
    assert unit.index == 5
    assert unit.correlation == pytest.approx(1, abs=1e-4)
    assert [value > 0.5 for value in unit.values] == [character.isupper() for character in line.text]


def test_a_line_costs_what_it_costs_within_the_text(outcome: Outcome) -> None:
    assert len(outcome.line.bits) == len(outcome.line.text)
    assert outcome.line.text in outcome.corpus.held_out_text.decode()
    assert all(len(unit.values) == len(outcome.line.text) for unit in outcome.line.units)


def test_training_learns_and_keeps_its_curve(outcome: Outcome) -> None:
    assert outcome.bits < 4
    assert [point.step for point in outcome.curve] == sorted({point.step for point in outcome.curve})
    assert outcome.curve[-1].step == 60
    assert outcome.curve[0].held_out_bits > outcome.curve[-1].held_out_bits


def test_the_same_seed_gives_the_same_model() -> None:
    corpus = Corpus.split("joins", [TextFile("one.py", CODE * 20)])
    first, second = (train_text(corpus, TextSettings(FitSettings(steps=3, streams=4), hidden_size=16, seed=7)) for _ in range(2))
    assert first.bits == second.bits
    assert first.written == second.written


def test_what_was_learnt_before_a_stop_is_measured() -> None:
    def second(step: Step, point: CurvePoint | None) -> bool:
        return step.number < 2

    corpus = Corpus.split("joins", [TextFile("one.py", CODE * 20)])
    outcome = train_text(corpus, TextSettings(FitSettings(steps=1000, streams=4), hidden_size=16), second)
    assert outcome.last.number == 2
    assert 0 < outcome.bits < 9
    assert not outcome.metrics()["training"]["finished"]


def test_files_hold_what_was_found(outcome: Outcome, tmp_path: Path) -> None:
    files = write_files(outcome, tmp_path / "new" / "folder")
    assert json.loads(files["metrics"].read_text())["held_out_bits_per_character"]["elman"] == outcome.bits
    assert files["sample"].read_bytes() == outcome.written
    assert load(files["model"]).sizes == outcome.model.sizes


def test_the_picture_is_a_png_of_its_size_and_not_blank(outcome: Outcome, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    from elman.train.plot import DPI, SIZE, draw

    path = tmp_path / "picture.png"
    draw(outcome, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    dots = image.imread(path)
    width, height = (round(inches * DPI) for inches in SIZE)
    assert dots.shape == (height, width, 4)
    for part in (dots[: height // 2, : width // 2], dots[: height // 2, width // 2 :], dots[height // 2 :]):
        assert part[..., :3].std() > 0.02


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_speaks_both_languages(outcome: Outcome, language: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    Console(width=100).print(Report(language).closing(outcome, {"metrics": Path("metrics.json")}))
    said = capsys.readouterr().out
    assert f"{outcome.bits:.3f}" in said
    assert ("留出文件" in said) == (language == "zh")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_takes_from_the_bars_not_from_the_figures(
    outcome: Outcome, language: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    Console(width=width).print(Report(language).closing(outcome, {"metrics": Path("metrics.json")}))
    said = capsys.readouterr().out.splitlines()
    for bits in (outcome.bits, *outcome.compressed.values()):
        size = f"{bits * len(outcome.corpus.held_out_text) / 8 / 1000:,.0f} kB"
        assert any(f"{bits:.3f}" in line and size in line for line in said)


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.py").write_bytes(CODE * (number + 3))
    return folder


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
        (["--steps", "1", "--seconds", "1"], "one of the two"),
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


def test_ctrl_c_keeps_what_was_learnt(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit_interrupted(model: CharModel, text: bytes, settings: FitSettings, after_step: Callable[[Step], bool | None]) -> Step:
        def interrupt(step: Step) -> bool | None:
            if step.number == 3:
                signal.raise_signal(signal.SIGINT)
            return after_step(step)

        return fit(model, text, settings, interrupt)

    monkeypatch.setattr("elman.train.text.fit", fit_interrupted)
    before = signal.getsignal(signal.SIGINT)
    arguments = ["train", "text", str(folder), "--steps", "1000", "--hidden-size", "16", "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["training"]["steps_done"] == 3
    assert load(tmp_path / "out" / "model.safetensors").sizes["hidden_size"] == 16
    assert signal.getsignal(signal.SIGINT) is before


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
    assert "Left out: demo/metrics.json, demo/model.safetensors, demo/picture.png and 1 more (written by an earlier training)" in said


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
    monkeypatch.setattr("elman.train.text.fit", lambda *_: pytest.fail("it trained"))
    result = train(folder, "--steps", 2, "--out", tmp_path / place)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("elman: --out: the results cannot be written to ")
    assert result.stderr.count("\n") == 1


def test_a_disk_without_room_is_known_before_the_training(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    monkeypatch.setattr("elman.train.text.fit", lambda *_: pytest.fail("it trained"))
    result = train(folder, "--steps", 2, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["new", "new/inner", "old"])
def test_a_training_without_a_step_leaves_no_folder_of_its_own(
    place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> NoReturn:
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
def test_weights_are_kept_whatever_fails_later(
    failing: str, error: BaseException, code: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    if failing.endswith("bits_per_character"):  # which the learning curve calls as well
        monkeypatch.setattr("elman.train.text._CURVE_POINTS", 0.1)
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
    assert "--lr 0.003" in result.stderr or "降到 0.003" in result.stderr
    assert result.stderr.count("\n") == 1
    assert all(weight.isfinite().all() for weight in load(tmp_path / "out" / "model.safetensors").parameters())


def test_more_streams_and_longer_chunks_than_the_text_has_are_cut_and_told(folder: Path, tmp_path: Path) -> None:
    result = train(folder, "--steps", 2, "--streams", 100000, "--chunk", 100000, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    used = metrics["training"]["streams"], metrics["training"]["chunk"]
    assert used == (1, metrics["corpus"]["train_characters"] - 1)
    assert f"--streams 1 --chunk {used[1]} are used" in result.stdout


def test_a_training_that_memory_cannot_hold_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 5e6)
    result = train(folder, "--steps", 2, "--streams", 30, "--chunk", 100, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "of memory, and 5.0 MB are free: lower --hidden-size (16), --num-layers (2), --streams (" in result.stderr
    assert not (tmp_path / "out").exists()


def test_memory_is_told_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e6 < memory.available() < 1e15
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: full_disk())
    assert memory.available() > 1e6
