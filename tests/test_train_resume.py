"""`elman train text --resume`: what a stopped training left goes on to the numbers, bit for bit, of one that was not stopped."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

import elman
import texts
from elman.cli.app import app
from elman.train import curve, fit, unfinished
from elman.train.char_model import CharModel
from elman.train.checkpoint import load
from elman.train.corpus import Corpus, TextFile
from elman.train.fit import DivergedError, FitSettings, Progress, Step
from elman.train.text import TextSettings, train_text
from elman.train.unfinished import ResumeError, Unfinished
from texts import CODE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT = CODE * 4  # 3 chunks of 12 streams: read several times over
SETTINGS = FitSettings(steps=20, streams=12, chunk=16)
CELLS = {
    "the default": None,
    "one that draws": elman.Zoneout(elman.cells.Lstm(), h=0.2, c=0.2),
}


def small(cell: elman.Cell | None = None) -> CharModel:
    torch.manual_seed(3)
    return CharModel(8, 16, 2, cell)


def until(last: int, seen: list[float]) -> Callable[[Step], bool]:
    def after_step(step: Step) -> bool:
        seen.append(step.bits)
        return step.number < last

    return after_step


def written(progress: Progress, path: Path) -> Progress:
    """What comes out of a file."""
    unfinished.save(Unfinished(progress, [], [], {}, ""), path)
    return unfinished.load(path).progress


# --- Fitting ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_stopped_fit_goes_on_to_the_same_bits(cell: elman.Cell | None, tmp_path: Path) -> None:
    whole, parts = small(cell), small(cell)
    costs: list[float] = []
    torch.manual_seed(5)
    last = fit.fit(whole, TEXT, SETTINGS, until(20, costs))

    path, costs_of_parts = tmp_path / "training", list[float]()
    torch.manual_seed(5)
    fit.fit(parts, TEXT, SETTINGS, until(5, costs_of_parts), save=lambda progress: written(progress, path))
    for end in (6, 20):  # the second time it stops after a single step
        torch.manual_seed(77)  # another process draws from elsewhere
        parts = small(cell)
        start = unfinished.load(path).progress
        resumed = fit.fit(parts, TEXT, SETTINGS, until(end, costs_of_parts), start=start, save=lambda progress: written(progress, path))

    assert costs_of_parts == costs
    assert (resumed.number, resumed.characters) == (last.number, last.characters)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in parts.state_dict().items())


def test_it_is_saved_as_often_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []

    def save(progress: Progress) -> None:
        saved.append(progress.step.number)

    fit.fit(small(), TEXT, FitSettings(steps=4, streams=12), save=save)
    assert saved == []  # no minute has passed, and it came to its end
    monkeypatch.setattr(fit, "SAVE_EVERY", 0)
    fit.fit(small(), TEXT, FitSettings(steps=4, streams=12), save=save)
    assert saved == [1, 2, 3]


def test_a_resumed_fit_that_diverges_goes_back_to_the_weights_of_the_whole_one(tmp_path: Path) -> None:
    def ruin(model: CharModel) -> Callable[[Step], bool]:
        def after_step(step: Step) -> bool:
            if step.number == 3:
                with torch.no_grad():
                    model.head.weight.fill_(float("inf"))
            return step.number < stop

        return after_step

    whole, parts, path, stop = small(), small(), tmp_path / "training", 20
    with pytest.raises(DivergedError) as of_whole:
        fit.fit(whole, TEXT, SETTINGS, ruin(whole))
    stop = 3
    with pytest.raises(DivergedError):  # whoever stops it there judges the last weights, and has saved before
        fit.fit(parts, TEXT, SETTINGS, ruin(parts), save=lambda progress: written(progress, path))
    parts = small()
    with pytest.raises(DivergedError) as of_parts:
        fit.fit(parts, TEXT, SETTINGS, start=unfinished.load(path).progress)
    assert of_parts.value.weights_step == of_whole.value.weights_step == 2
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in parts.state_dict().items())


def test_the_clock_goes_on(tmp_path: Path) -> None:
    path, settings = tmp_path / "training", FitSettings(seconds=1000.0, streams=12, chunk=16)
    first = fit.fit(small(), TEXT, settings, until(3, []), save=lambda progress: written(progress, path))
    progress = unfinished.load(path).progress
    start = replace(progress, step=replace(progress.step, seconds=500.0, fraction=0.5))
    then = fit.fit(small(), TEXT, settings, until(4, []), start=start)
    assert (first.number, then.number) == (3, 4)
    assert then.seconds > 500
    assert then.fraction == pytest.approx(then.seconds / 1000)


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return texts.folder_of_files(tmp_path / "texts")


def train(folder: Path, out: str, *options: object, steps: int = 12) -> Any:
    words = ["train", "text", folder, "--steps", steps, "--hidden-size", 16, "--out", folder.parent / out, *options]
    return CliRunner().invoke(app, [str(word) for word in words], env={"LC_ALL": "C", "COLUMNS": "200"})


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the signal of Ctrl-C after so many steps."""
    real = curve.Recorder.__call__

    def interrupt(self: curve.Recorder, step: Step) -> bool | None:
        if step.number == steps:
            signal.raise_signal(signal.SIGINT)
        return real(self, step)

    monkeypatch.setattr(curve.Recorder, "__call__", interrupt)


@pytest.mark.slow
def test_the_command_goes_on_where_ctrl_c_stopped_it(folder: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(5, patch)
        result = train(folder, "out")
    assert result.exit_code == 0, result.stderr
    assert "training.safetensors" in result.stdout
    assert "the unfinished training: the same command with --resume continues it" in result.stdout
    result = train(folder, "out", "--resume")
    assert result.exit_code == 0, result.stderr
    assert not (tmp_path / "out" / "training.safetensors").exists()
    assert train(folder, "whole").exit_code == 0
    parts, whole = (json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("out", "whole"))
    for each in (*parts["curve"], *whole["curve"]):
        each.pop("seconds")
    assert parts["curve"] == whole["curve"]
    assert parts["held_out_bits_per_character"] == whole["held_out_bits_per_character"]
    assert parts["training"]["steps_done"] == 12
    assert (tmp_path / "out" / "sample.txt").read_bytes() == (tmp_path / "whole" / "sample.txt").read_bytes()
    weights = [load(tmp_path / out / "model.safetensors").state_dict() for out in ("out", "whole")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_minute(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise SystemExit(137)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "SAVE_EVERY", 0)
        patch.setattr(fit, "clip_grad_norm_", lambda *_: killed() if (tmp_path / "out" / "training.safetensors").exists() else None)
        assert train(folder, "out").exit_code == 137
    assert unfinished.load(tmp_path / "out" / "training.safetensors").progress.step.number == 1
    assert train(folder, "out", "--resume").exit_code == 0
    assert train(folder, "whole").exit_code == 0
    assert (tmp_path / "out" / "sample.txt").read_bytes() == (tmp_path / "whole" / "sample.txt").read_bytes()


def test_a_full_disk_does_not_end_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")

    monkeypatch.setattr(fit, "SAVE_EVERY", 0)
    monkeypatch.setattr(unfinished, "save", full)
    result = train(folder, "out", steps=2)
    assert result.exit_code == 0
    assert "the training goes on, but --resume cannot continue it: there: No space left on device" in result.stderr


def test_a_training_that_diverged_leaves_nothing_to_resume(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SAVE_EVERY", 0)
    result = train(folder, "out", "--lr", "1e30")
    assert result.exit_code == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors"}


@pytest.fixture
def stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The texts, beside a training of them that was stopped."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, patch)
        assert train(folder, "out").exit_code == 0
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--streams", 8], "expected the options that the training was started with, --streams 32, got --streams 8"),
        (["--seed", 1, "--lr", 0.1], "with, --learning-rate 0.003 --seed 0, got --learning-rate 0.1 --seed 1"),
        (["--cell", "zoo.MGU"], "with, none, got --cell MGU()"),
        (["--out", "elsewhere"], "expected an unfinished training in elsewhere, found none"),
    ],
)
def test_another_training_is_refused_in_one_sentence(options: list[object], message: str, stopped: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(stopped.parent)
    before = (stopped.parent / "out" / "training.safetensors").read_bytes()
    result = train(stopped, "out", "--resume", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("elman: --resume: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert (stopped.parent / "out" / "training.safetensors").read_bytes() == before
    assert not (stopped.parent / "elsewhere").exists()


def test_steps_in_place_of_seconds_are_refused(stopped: Path) -> None:
    words = ["train", "text", str(stopped), "--hidden-size", "16", "--out", str(stopped.parent / "out"), "--resume", "--lang", "zh"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "--steps 12" in result.stderr
    assert "--seconds 90" in result.stderr
    assert "训练" in result.stderr


def test_another_text_is_refused(stopped: Path) -> None:
    (stopped / "3.py").write_bytes(CODE)
    result = train(stopped, "out", "--resume")
    assert result.exit_code == 2
    assert "expected the text that the training was started with, got another: give the same files" in result.stderr


def test_a_file_that_holds_no_training_is_refused(stopped: Path) -> None:
    path = stopped.parent / "out" / "training.safetensors"
    content = path.read_bytes()
    for wrong in (b"no safetensors", content[:-1]):
        path.write_bytes(wrong)
        with pytest.raises(ResumeError, match=r"--resume: .*training.safetensors does not hold a training: "):
            unfinished.load(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "elman.Training", "training": "{}"})
    with pytest.raises(ResumeError, match="does not hold a training"):
        unfinished.load(path)
    with pytest.raises(ResumeError, match=r"its format is 'elman.CharModel', not 'elman.Training'"):
        unfinished.load(path.with_name("model.safetensors"))


def rewrite(path: Path, tensors: dict[str, torch.Tensor | None], **facts: object) -> None:
    """Put other tensors and facts into a file; None takes a tensor out."""
    with safe_open(path, framework="pt") as file:
        metadata, kept = file.metadata(), {name: file.get_tensor(name) for name in file.keys() if name not in tensors}  # noqa: SIM118
    metadata["training"] = json.dumps(json.loads(metadata["training"]) | facts)
    save_file(kept | {name: tensor for name, tensor in tensors.items() if tensor is not None}, path, metadata=metadata)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tensors",
    [
        {"model.rnn.weight_hh_l0": torch.zeros(3)},
        {"model.rnn.weight_hh_l0": torch.zeros(16, 16, dtype=torch.float64)},
        {"model.rnn.weight_hh_l0": None},
        {"model.rnn.p_l0": torch.zeros(16)},
        {"proven.head.bias": None},
        {"state.0": torch.zeros(2, 3, 4)},
        {"adam.0.exp_avg": torch.zeros(2)},
        {"adam.0.exp_avg": None},
        {"adam.99.step": torch.zeros(())},
        {"generator.0": None},
        {"generator.0": torch.zeros(5000)},
        {"generator.0": torch.zeros(5056, dtype=torch.uint8)},
        {"generator.1": torch.zeros(5056, dtype=torch.uint8)},
    ],
    ids=str,
)
def test_another_networks_training_is_refused_and_the_weights_stay(tensors: dict[str, torch.Tensor | None], stopped: Path) -> None:
    """Which the settings cannot tell where the file of an own cell has been changed."""
    path = stopped.parent / "out" / "training.safetensors"
    weights = path.with_name("model.safetensors").read_bytes()
    rewrite(path, tensors)
    content = path.read_bytes()
    result = train(stopped, "out", "--resume")
    assert result.exit_code == 2
    assert result.stderr.startswith("elman: --resume: expected ")
    assert result.stderr.count("\n") == 1
    assert path.read_bytes() == content
    assert path.with_name("model.safetensors").read_bytes() == weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tensors", "facts"),
    [
        ({"bits": torch.zeros(2, 2)}, {}),
        ({"adam.x.step": torch.zeros(())}, {}),
        ({}, {"step": {"number": -5, "characters": 1, "seconds": 1.0, "fraction": 0.1, "bits": 8.0}}),
        ({}, {"step": {"number": 1.5, "characters": 1, "seconds": 1.0, "fraction": 0.1, "bits": 8.0}}),
        ({}, {"step": {"number": 5, "characters": 1, "seconds": "a", "fraction": 0.1, "bits": 8.0}}),
        ({}, {"settings": None}),
        ({}, {"curve": None}),
        ({}, {"curve": [{"step": 1, "characters": 1, "seconds": 1.0, "train_bits": "8", "held_out_bits": 8.0}]}),
        ({}, {"curve": [{"step": 1, "characters": 1, "seconds": 1.0, "train_bits": None, "held_out_bits": 8.0}]}),
    ],
    ids=str,
)
def test_a_file_whose_facts_are_wrong_is_refused(tensors: dict[str, torch.Tensor | None], facts: dict[str, object], stopped: Path) -> None:
    path = stopped.parent / "out" / "training.safetensors"
    rewrite(path, tensors, **facts)
    with pytest.raises(ResumeError, match="does not hold a training: "):
        unfinished.load(path)


def test_a_folder_in_place_of_the_file_is_named(stopped: Path) -> None:
    path = stopped.parent / "out" / "training.safetensors"
    path.unlink()
    path.mkdir()
    result = train(stopped, "out", "--resume")
    assert result.exit_code == 1
    assert "training.safetensors: Is a directory" in result.stderr


def test_an_unfinished_training_is_no_text_to_learn_from(stopped: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "metrics.json"):
        (stopped.parent / "out" / name).unlink()
    result = train(stopped.parent, "", "--out", tmp_path / "another", steps=1)
    metrics = json.loads((tmp_path / "another" / "metrics.json").read_text())
    assert result.exit_code == 0
    assert any(name.endswith("out/training.safetensors") for name in metrics["corpus"]["left_out"]["training"])


# --- Without the command ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_training_of_the_library_goes_on(cell: elman.Cell | None, tmp_path: Path) -> None:
    corpus = Corpus.split("joins", [TextFile("one.py", CODE * 20)])
    settings, path = TextSettings(FitSettings(steps=8, streams=4), hidden_size=16, cell=cell), tmp_path / "training.safetensors"
    whole = train_text(corpus, settings)
    train_text(corpus, settings, lambda step, point: step.number < 3, save=lambda training: unfinished.save(training, path))
    parts = train_text(corpus, settings, resume=path)
    assert parts.bits == whole.bits
    assert [point.train_bits for point in parts.curve] == [point.train_bits for point in whole.curve]
