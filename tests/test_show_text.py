"""Both languages say everything, and say it of the same things."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from elman.show.kinds import KINDS
from elman.show.text import LANGUAGES, TEXT, Words, language_of

SHOW = Path(__file__).parents[1] / "src" / "elman" / "show"


def placeholders(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


@pytest.mark.parametrize("key", TEXT)
def test_both_languages_have_it_with_the_same_placeholders(key: str) -> None:
    assert set(TEXT[key]) == set(LANGUAGES)
    assert all(TEXT[key].values())
    assert placeholders(TEXT[key]["en"]) == placeholders(TEXT[key]["zh"])


def test_every_sentence_is_used() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in SHOW.glob("*.py") if file.name != "text.py")
    asked = re.findall(r'"([a-z_]+\.[A-Za-z_.{}]*)', code)
    patterns = [re.compile(re.sub(r"\\\{.*?\\\}", ".+", re.escape(one)) + ".*") for one in asked]
    unused = [key for key in TEXT if not any(pattern.fullmatch(key) for pattern in patterns)]
    assert unused == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_gates_and_states_of_every_kind_have_words(kind: str) -> None:
    for cell in KINDS[kind].cells.values():
        keys = [f"gate.{cell.name}.{gate}" for gate in cell.gates if len(cell.gates) > 1]
        keys += [f"role.{state}_n{end}" for state in cell.states for end in ("", ".bidirectional")]
        assert [key for key in keys if key not in TEXT] == []


def test_chinese_is_chinese() -> None:
    chinese = re.compile("[\u4e00-\u9fff]")
    assert [key for key, said in TEXT.items() if not chinese.search(said["zh"]) or chinese.search(said["en"])] == []


def test_a_sentence_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        Words("en")("nonsense")


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
