"""The command line speaks English and Chinese: each sentence has a translation, and no English is left where Chinese is asked for."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

import elman
import sentences
from elman.cells.values import missing
from elman.cli.app import app
from elman.cli.frame import language_asked_for
from elman.cli.help import WrappedText
from elman.language import LANGUAGES, _, language_of, speaking, translated
from elman.language.zh import SENTENCES
from elman.show.tensors import GATES, LETTERS, ROLES
from elman.train.features import features
from elman.zoo.by_name import cell_by_name
from test_try_step import STEPS, build, cell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHINESE = re.compile("[\u4e00-\u9fff]")
# What has no word in it but names.
SYSTEMS = ("Linux", "Darwin", "Windows")
WORDLESS = {", ", ": ", "elman: {message}", *(f"{{dtype}} on the {device}" for device in ("CPU", "GPU"))}
WORDLESS |= {f"{{python}} on {system} {{machine}}" for system in SYSTEMS}


def unknown(lines: Any) -> list[str]:
    """Those lines that stay English."""
    with speaking("zh"):
        return [line for line in dict.fromkeys(lines) if not CHINESE.search(translated(line))]


# --- The table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("english", SENTENCES)
def test_a_translation_has_the_fields_of_its_sentence_and_is_chinese(english: str) -> None:
    assert sentences.fields(SENTENCES[english]) == sentences.fields(english)
    assert CHINESE.search(SENTENCES[english]) or english in WORDLESS
    assert not CHINESE.search(english)


def test_every_sentence_of_the_code_has_a_translation() -> None:
    found = set(sentences.marked())
    assert len(found) > 150
    assert sorted(found - SENTENCES.keys()) == []


def test_every_help_text_has_a_translation() -> None:
    assert unknown(sentences.help_texts()) == []


def test_every_error_has_a_translation() -> None:
    found = list(sentences.errors())
    assert len(found) > 40
    assert unknown(line for line in found if re.search(r"[a-z]{3}", re.sub("⟨.*?⟩", "", line))) == []


def test_every_reason_of_a_backend_has_a_translation() -> None:
    assert unknown(f"native {reason}" for reason in sentences.refusals()) == []


def test_every_reason_not_to_record_a_cell_has_a_translation() -> None:
    lines = [f"native {reason}" for reason in sentences.not_recorded()]
    assert len(lines) > 20
    assert unknown(lines) == []


def test_every_feature_of_the_picture_has_a_translation() -> None:
    assert unknown(features(b"f('a')  # b", code=True)) == []


def test_what_letters_tensors_gates_and_directions_mean_has_a_translation() -> None:
    assert unknown(["forward", "reverse"]) == []
    meanings = [meaning for _axes, meaning in ROLES.values()]
    assert unknown([*meanings, *LETTERS.values(), *GATES.values()]) == []


def test_an_english_sentence_without_a_translation_is_seen() -> None:
    assert unknown(["a sentence that nobody has translated", "interrupted"]) == ["a sentence that nobody has translated"]


# --- Translating ------------------------------------------------------------------------------------------------------


def test_a_finished_line_is_translated_with_what_fills_it() -> None:
    with speaking("zh"):
        assert translated("elman: unknown kind 'rrn'; did you mean 'rnn'?") == "elman：未知的网络类型：'rrn'；是不是 'rnn'？"
        assert translated("elman: unknown kind '{'; did you mean 'rnn'?") == "elman：未知的网络类型：'{'；是不是 'rnn'？"
        assert translated("--json: cannot write a/b: Is a directory") == "--json：无法写入 a/b：这是一个目录"
        assert translated("no such thing: at all") == "no such thing: at all"
        assert translated("") == ""


def test_the_name_of_the_text_to_learn_is_translated() -> None:
    with speaking("zh"):
        assert translated("the standard library of Python 3.11.7") == "Python 3.11.7 标准库"


def test_english_is_left_as_it_is() -> None:
    for line in ("interrupted", "elman: unknown kind 'rrn'; did you mean 'rnn'?"):
        assert translated(line) == line
    assert _("layer {layer}", layer=2) == "layer 2"


def test_what_fills_a_sentence_is_not_a_format() -> None:
    with speaking("zh"):
        assert translated("no such file or folder: {path}{0}") == "没有这个文件或文件夹：{path}{0}"


def test_what_is_too_long_to_be_a_sentence_is_left_as_it_is() -> None:
    line = "interrupted; " * 10_000
    with speaking("zh"):
        assert translated(line) == line
        assert translated("interrupted; interrupted") == "已中断；已中断"


def test_speaking_ends_with_its_block() -> None:
    with pytest.raises(ZeroDivisionError), speaking("zh"):
        1 / 0  # noqa: B018
    assert _("forward") == "forward"


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh"),
    ],
)
def test_the_locale_chooses_the_language(environment: dict[str, str], language: str) -> None:
    assert language_of(environment) == language


@pytest.mark.parametrize(
    ("arguments", "language"),
    [("tour --lang zh", "zh"), ("--lang=zh tour --help", "zh"), ("tour --lang en", "en"), ("tour --lang", "zh"), ("tour --lang fr", "zh")],
)
def test_the_option_is_stronger_than_the_locale(arguments: str, language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert language_asked_for(arguments.split()) == language


# --- What is printed --------------------------------------------------------------------------------------------------

# Words that English sentences are made of and Python code is not.
ENGLISH = re.compile(
    r"\b(the|of|are|to|by|on|this|that|each|its|has|it|which|what|where|must|expected|got|does|only|run|no|show|print)\b", re.I
)
# Options, file names, what stands in quotes, calls.
CODE = re.compile(r"--[\w-]+|\S*[/.(=]\S*|'[^']*'|no-\w+")

COMMANDS = (
    "--help",
    *(f"{command} --help" for command in ("tour", "explain", "config", "bench", "train", "train text")),
    "tour --weights",
    "tour --cell lstm",
    "config",
    "explain lstm --num-layers 5 --bidirectional --proj-size 3 --batch-first --dropout 0.5 --numbers --no-time",
    "explain rnn --dtype float16 --no-time",
    "explain gru --lengths 5,3,0 --reset 2 --bidirectional --num-layers 2 --numbers",
    "explain --cell zoo.MGU --num-layers 2 --lengths 5,3,0",
    "bench --quick --rounds 1 --cell gru --rows 1 --threads 1,2 --mode infer",
    "bench --quick --rounds 1 --cell gru --rows 1 --compiled --mode infer",
    "bench --quick --rounds 1 --cell rnn --rows 1 --mode infer --against torch",
    "bench --quick --rounds 1 --cell rnn --rows 1 --mode train --against torch --markdown",
)
MISTAKES = (
    "tuor",
    "tour --cell gnu",
    "tour --cell",
    "tour --sed 1",
    "tour --seed x",
    "tour surplus",
    "tour gru",
    "explain",
    "explain rnn --hidden-size 0",
    "explain rnn --num-layers 100000",
    "explain rnn --dtype int8",
    "explain rnn --dropout 2",
    "explain rnn --dropout x",
    "explain gru --nonlinearity relu",
    "explain gru --proj-size 2",
    "explain rnn --numbers --unit 99",
    "explain --cell zoo.MGU --numbers",
    "explain --cell zoo.MGU --proj-size 2",
    "explain --cell MGU",
    "bench --cell MGU",
    "explain rnn --lengths 5,x",
    "explain rnn --reset 9",
    "bench --rows 99",
    "bench --threads 1,1",
    "bench --busy -1",
    "bench --busy 999",
    "bench --busy 1",
    "bench --json /dev/null/x",
    "train text /nowhere",
    "train text --lr 0",
    "train",
)


def left_in_english(text: str) -> list[str]:
    return [line for line in text.splitlines() if ENGLISH.search(CODE.sub(" ", line))]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_left_in_english(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--lang", "zh"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert CHINESE.search(result.stdout)
    assert left_in_english(result.stdout) == []


@pytest.mark.parametrize("command", MISTAKES)
def test_no_error_is_left_in_english(command: str) -> None:
    result = CliRunner().invoke(app, ["--lang", "zh", *command.split()], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert CHINESE.search(result.stderr)
    assert left_in_english(result.stderr) == []


@pytest.mark.filterwarnings("default")
def test_a_warning_is_translated() -> None:
    result = CliRunner().invoke(app, ["explain", "rnn", "--dropout", "0.5", "--no-time", "--lang", "zh"])
    assert result.stderr.startswith("elman：警告：num_layers=1 时 dropout=0.5 不生效")
    assert left_in_english(result.stderr) == []


CELLS = {
    "unused": "def step(self, x, r, s, p):\n        return x.f + r.f",
    "one unused": "parameters = {'q': 'H'}\n    def step(self, x, r, s, p):\n        return x.f + r.f + x.g + r.g",
    "mixes": "def step(self, x, r, s, p):\n        return (x.f + r.f + x.g + r.g).softmax(0)",
}


@pytest.mark.parametrize("name", CELLS)
def test_a_warning_of_a_cell_is_translated(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"import elman\nclass Mine(elman.Cell):\n    gates = ('f', 'g')\n    {CELLS[name]}\n", encoding="utf-8")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        elman.Recurrent(cell_by_name(f"{path}:Mine"), 3, 4)
    with speaking("zh"):
        said = translated(str(caught[0].message))
    assert f"（位于 {path}:" in said
    assert left_in_english(said.replace(str(path), "")) == []
    assert said.count("(") == said.count(")")
    assert said.count("（") == said.count("）")


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_what_is_wrong_with_a_step_is_translated(step: Any) -> None:
    error, declared, _, own = STEPS[step]
    with pytest.raises(error) as caught:
        build(cell(step, **declared))
    with speaking("zh"):
        said = translated(str(caught.value))
    place = re.search(r"（位于 (.*?:\d+)）", said)
    assert place is not None
    assert left_in_english(said.replace(place[1], "").replace(own, "")) == []


@pytest.mark.parametrize("declared", ["parameters", "step_inputs", "draws"])
def test_the_code_in_a_translated_hint_is_left_as_it_is(declared: str) -> None:
    with pytest.raises(TypeError) as caught:
        elman.Recurrent(type("Mine", (elman.Cell,), {"gates": ("f",), declared: ["q"], "step": lambda self, x, r, s, p: s.h})(), 3, 4)
    with speaking("zh"):
        said = translated(str(caught.value))
    assert re.search(r"请写 \{'q': '\w*'\} 表示.*\{'q': '\w*'\} 表示", said)
    assert left_in_english(said) == []


def test_what_is_no_place_is_left_in_its_sentence() -> None:
    with speaking("zh"):
        said = [
            translated("elman: --json: cannot write /tmp/a (b): c/x.json: no space"),
            translated("elman: --out: the results cannot be written to /tmp/x: OSError(28): full; choose another folder"),
        ]
    assert said == [
        "elman：--json：无法写入 /tmp/a (b)：c/x.json: no space",
        "elman：--out：结果无法写入 /tmp/x：OSError(28): full；请换一个文件夹",
    ]


def test_english_that_is_left_is_seen() -> None:
    assert left_in_english("输出\nthe output of the run\nrnn.trace(x).h 到 x.to(y)") == ["the output of the run"]


REASONS: dict[str, Callable[[elman.RNN, torch.Tensor], str]] = {
    "complex64": lambda _, x: elman.why(elman.RNN(2, 3, dtype=torch.complex64), x.to(torch.complex64)),
    "empty": lambda rnn, x: elman.why(rnn, x[:, :0]),
    "meta": lambda rnn, x: elman.why(rnn.to("meta"), x.to("meta")),
}


@pytest.mark.parametrize("name", ["q", "ff", "h"])  # unknown, close to another, declared elsewhere
@pytest.mark.parametrize("role", ["x", "r", "s", "p", "d"])
def test_names_of_declarations_are_not_translated(role: str, name: str) -> None:
    """Not even those that are words elsewhere, such as "states"."""
    line = missing(role, elman.zoo.MGU(), name)
    with speaking("zh"):
        said = translated(line)
    assert CHINESE.search(said)
    assert left_in_english(said) == []
    for declaration in ("gates", "states", "parameters", "draws", "step_inputs"):
        assert (declaration in said) == (declaration in line)


@pytest.mark.parametrize("reason", REASONS)
def test_what_why_says_is_translated(reason: str) -> None:
    with speaking("zh"):
        said = translated(REASONS[reason](elman.RNN(2, 3), torch.zeros(4, 1, 2)))
    assert CHINESE.search(said)
    assert left_in_english(said) == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("command", [command for command in COMMANDS if "--help" in command])
@pytest.mark.parametrize("width", [80, 100, 120])
def test_help_is_not_cut_off(command: str, width: int, language: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--lang", language], env={"COLUMNS": str(width)})
    assert result.exit_code == 0
    assert "…" not in result.stdout


@pytest.mark.parametrize("width", [1, 7, 20, 40])
@pytest.mark.parametrize(
    "text", ["sizes：常见规模；tour：导览（三个网络）。trace 和流式推理，只比 Elman 和 torch", "one word, then another"]
)
def test_help_is_broken_between_words_and_chinese_characters(text: str, width: int) -> None:
    lines = [line.plain for line in WrappedText(text).wrap(Console(), width)]
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)
    assert max(map(cell_len, lines)) <= max(width, 2)  # which a Chinese character takes
    if width > max(map(len, re.findall(r"[a-zA-Z,<|>]+", text))) + 2:
        assert re.findall(r"[a-zA-Z]+", " ".join(lines)) == re.findall(r"[a-zA-Z]+", text)
        assert not any(line[0] in "，。；：、）" for line in lines)


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_names_the_same_options_in_both_languages(language: str) -> None:
    result = CliRunner().invoke(app, ["explain", "--help", "--lang", language], env={"COLUMNS": "200"})
    english = CliRunner().invoke(app, ["explain", "--help", "--lang", "en"], env={"COLUMNS": "200"})
    assert re.findall(r"^│ \*? *(--[\w-]+)", result.stdout, re.M) == re.findall(r"^│ \*? *(--[\w-]+)", english.stdout, re.M)
