"""A trained model: what it writes, where it is kept, what its units follow, and the picture."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

import elman
from elman.language import speaking
from elman.train.char_model import CharModel
from elman.train.checkpoint import CheckpointError, content_of, load, save
from elman.train.corpus import Corpus, TextFile
from elman.train.evaluate import bits_of_each, bits_per_character
from elman.train.features import features
from elman.train.fit import FitSettings, Step
from elman.train.report import closing, opening
from elman.train.sample import printable, sample
from elman.train.text import Outcome, TextSettings, train_text, write_metrics
from elman.train.units import read_line
from texts import CODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.train.curve import CurvePoint


DRAWING = {"noise": elman.zoo.LeakyRNN(noise=0.5), "zoneout": elman.Zoneout(elman.cells.Lstm(), h=0.5, c=0.5)}


@pytest.fixture
def model() -> CharModel:
    torch.manual_seed(0)
    return CharModel(embedding_size=8, hidden_size=16, num_layers=1)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    files = [TextFile(f"{number}.py", CODE.replace(b"join", b"join%d" % number) * 5) for number in range(12)]
    return train_text(Corpus.split("joins", files), TextSettings(FitSettings(steps=60, streams=8, chunk=32), hidden_size=48))


@pytest.fixture(scope="module")
def short() -> Outcome:
    """A model that has seen little of a single small file."""
    corpus = Corpus.split("one.py", [TextFile("one.py", CODE * 5)])
    return train_text(corpus, TextSettings(FitSettings(steps=3, streams=4), hidden_size=16))


def test_the_same_seed_writes_the_same(model: CharModel) -> None:
    first = sample(model, b"def ", 50, seed=1)
    assert len(first) == 50
    assert sample(model, b"def ", 50, seed=1) == first
    assert sample(model, b"def ", 50, seed=2) != first


def test_a_cell_of_ones_own_keeps_its_initial_values() -> None:
    weight = CharModel(8, 16, 1, elman.zoo.AntisymmetricRNN()).rnn.weight_hh_l0
    assert torch.equal(weight, -weight.T)


def test_a_low_temperature_writes_the_likeliest(model: CharModel) -> None:
    with torch.no_grad():
        logits, _ = model(torch.tensor([[ord("a")]]))
    assert sample(model, b"a", 1, temperature=1e-4)[0] == logits[-1, 0].argmax()


@pytest.mark.parametrize(
    "judge",
    [
        lambda model: bits_per_character(model, CODE),
        lambda model: bits_of_each(model, torch.arange(20)[:, None]).tolist(),
        lambda model: sample(model, b"def ", 50, seed=1),
        lambda model: read_line(model, CODE, code=True),
    ],
    ids=["bits_per_character", "bits_of_each", "sample", "read_line"],
)
@pytest.mark.parametrize("cell", DRAWING.values(), ids=DRAWING)
def test_a_model_is_judged_without_the_random_numbers_of_its_training(judge: Callable[[CharModel], object], cell: elman.Cell) -> None:
    model = CharModel(8, 16, 1, cell)
    model.head.eval()
    before = torch.get_rng_state()
    assert judge(model) == judge(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.training, model.rnn.training, model.head.training) == (True, True, False)


def test_what_is_shown_cannot_steer_a_terminal() -> None:
    assert printable(b"a\x1b[2J\r\xc2\x9b\n\tb") == "a·[2J··\n    b"


def test_a_model_comes_back_from_its_file(model: CharModel, tmp_path: Path) -> None:
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.sizes == model.sizes
    characters = torch.arange(20)[:, None]
    torch.testing.assert_close(again(characters), model(characters), rtol=0, atol=0)


def test_a_models_file_has_the_same_bytes_each_time(model: CharModel) -> None:
    contents = {content_of(model) for _ in range(20)}  # safetensors puts what is beside the tensors in a random order
    assert len(contents) == 1
    assert int.from_bytes(min(contents)[:8], "little") % 8 == 0  # as the format's own writer aligns the tensors
    assert re.match(rb'.{8}\{"__metadata__":\{"format":', *contents, re.DOTALL)


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


@pytest.mark.parametrize("name", ["embedding_size", "hidden_size", "num_layers"])
@pytest.mark.parametrize("size", ["0", "-1", "3", "1e3", "null", "[2]", "2.5", "1" + "0" * 30, "60000"])
def test_sizes_that_are_not_the_weights_are_refused_before_a_model_is_made(
    name: str, size: str, model: CharModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    sizes = ", ".join(f'"{each}": {size if each == name else value}' for each, value in model.sizes.items())
    save_file(model.state_dict(), path, metadata={"format": "elman.CharModel", "sizes": f"{{{sizes}}}"})
    monkeypatch.setattr("elman.train.checkpoint.CharModel", None)
    with pytest.raises(CheckpointError, match=f"^{path} does not hold a character model: its sizes are .*{name}.*, those of its weights"):
        load(path)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        load(tmp_path)


def test_features_see_strings_comments_and_brackets() -> None:
    known = features(CODE, code=True)

    def marked(name: str) -> list[str]:
        marked = "".join(chr(byte) if mark else "\n" for byte, mark in zip(CODE, known[name].tolist(), strict=True))
        return [part for part in marked.split("\n") if part.strip()]

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


@pytest.mark.parametrize("cell", [None, *DRAWING.values()], ids=["the default", *DRAWING])
def test_the_same_seed_gives_the_same_model(cell: elman.Cell | None) -> None:
    corpus = Corpus.split("joins", [TextFile("one.py", CODE * 20)])
    settings = TextSettings(FitSettings(steps=3, streams=4), hidden_size=16, cell=cell, seed=7)
    outcomes = []
    for other in range(2):
        torch.manual_seed(other)
        before = torch.get_rng_state()
        outcomes.append(train_text(corpus, settings))
        assert torch.equal(torch.get_rng_state(), before)
    first, second = outcomes
    assert first.curve == [replace(point, seconds=ours.seconds) for point, ours in zip(second.curve, first.curve, strict=True)]
    assert first.bits == second.bits
    assert first.written == second.written
    assert first.line == second.line


def test_another_seed_draws_other_numbers_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    untrained = CharModel(8, 16, 1, DRAWING["noise"])
    monkeypatch.setattr("elman.train.text._untrained", lambda _: deepcopy(untrained))
    corpus = Corpus.split("joins", [TextFile("one.py", CODE * 20)])
    settings = TextSettings(FitSettings(steps=1, streams=4), 8, 16, 1, DRAWING["noise"])
    bits = [train_text(corpus, replace(settings, seed=seed)).last.bits for seed in (1, 1, 2)]
    assert bits[0] == bits[1] != bits[2]


def test_what_was_learnt_before_a_stop_is_measured() -> None:
    def second(step: Step, point: CurvePoint | None) -> bool:
        return step.number < 2

    corpus = Corpus.split("joins", [TextFile("one.py", CODE * 20)])
    outcome = train_text(corpus, TextSettings(FitSettings(steps=1000, streams=4), hidden_size=16), second)
    assert outcome.last.number == 2
    assert 0 < outcome.bits < 9
    assert not outcome.metrics()["training"]["finished"]


def test_files_hold_what_was_found(outcome: Outcome, tmp_path: Path) -> None:
    metrics, model = tmp_path / "metrics.json", tmp_path / "model.safetensors"
    write_metrics(outcome, metrics)
    save(outcome.model, model)
    assert json.loads(metrics.read_text())["held_out_bits_per_character"]["elman"] == outcome.bits
    assert load(model).sizes == outcome.model.sizes


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


def test_the_learning_curve_lies_inside_its_axes(short: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from elman.train import plot

    drawn: list[Any] = []
    real = plot.Figure.savefig

    def read(self: Any, *args: Any, **named: Any) -> None:
        drawn.append(self.axes[0])
        real(self, *args, **named)

    monkeypatch.setattr(plot.Figure, "savefig", read)
    plot.draw(short, tmp_path / "picture.png")
    (axes,) = drawn
    bottom, top = axes.get_ylim()
    lines = [line.get_ydata() for line in axes.lines if line.get_transform() != axes.transAxes]
    assert len(lines) == 5  # training, held out, the dot, gzip, xz
    assert max(short.bits, *short.compressed.values()) > 5
    assert all(bottom < value < top for line in lines for value in line)


@pytest.mark.filterwarnings("ignore:Glyph .* missing")  # no font here need have Chinese
@pytest.mark.parametrize(("font", "said"), [("DejaVu Sans", "学习曲线"), (None, "Learning curve")])
def test_the_pictures_labels_are_in_a_language_that_a_font_has(
    font: str | None, said: str, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Text = pytest.importorskip("matplotlib.text").Text
    from elman.train import plot

    labels: list[str] = []
    real = plot.Figure.savefig

    def read(self: Any, *args: Any, **named: Any) -> None:
        labels.extend(text.get_text() for text in self.findobj(Text))
        real(self, *args, **named)

    monkeypatch.setattr(plot.Figure, "savefig", read)
    monkeypatch.setattr(plot, "chinese_font", lambda: font)
    with speaking("zh"):
        plot.draw(outcome, tmp_path / "picture.png")
    assert said in labels
    english = {"Learning curve", "training text", "held-out text", "What it writes", "sample text"}
    assert english & set(labels) == (set() if font else english)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_speaks_both_languages(outcome: Outcome, language: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    with speaking(language):
        Console(width=100).print(closing(outcome, {"metrics": Path("metrics.json")}))
    said = capsys.readouterr().out
    assert f"{outcome.bits:.3f}" in said
    assert ("留出文件" in said) == (language == "zh")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_of_a_single_file_says_what_was_held_out(short: Outcome, language: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    with speaking(language):
        Console(width=200).print(opening(short.corpus, short.settings), closing(short, {}))
    said = capsys.readouterr().out
    size = len(short.corpus.train_text)
    begin = {"en": f"one file: {size:,} characters for training", "zh": f"单个文件：{size:,} 个字符用于训练"}[language]
    assert begin in said
    assert {"en": "only the held-out end of the file. ", "zh": "压缩的只是留出的文件末尾。"}[language] in said
    assert f"{short.bits * len(short.corpus.held_out_text) / 8:,.0f} B" in said


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_takes_from_the_bars_not_from_the_figures(
    outcome: Outcome, language: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    with speaking(language):
        Console(width=width).print(closing(outcome, {"metrics": Path("metrics.json")}))
    said = capsys.readouterr().out.splitlines()
    for bits in (outcome.bits, *outcome.compressed.values()):
        count = bits * len(outcome.corpus.held_out_text) / 8
        size = f"{count:,.0f} B" if count < 10_000 else f"{count / 1000:,.0f} kB"
        assert any(f"{bits:.3f}" in line and size in line for line in said)
