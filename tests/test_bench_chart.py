"""The chart of a benchmark: every library's ratio as text, in both languages, on light and dark pages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="the chart is drawn by matplotlib; `make test` installs it")

from elman.bench.chart import THEMES, draw, svg
from elman.language import LANGUAGES, speaking

if TYPE_CHECKING:
    from pathlib import Path

SIZES = ("steps", "batch", "input_size", "hidden_size")


def facts(**means: dict[str, dict[str, float]]) -> dict[str, Any]:
    return {
        "geometric_means": means,
        "rows": [dict(zip(SIZES, size, strict=True)) for size in ((5, 3, 10, 20), (50, 64, 512, 512)) * 2],
        "threads": 2,
        "machine": {"cpu": "A Processor", "isa": "AVX2", "versions": {"torch": "2.13.0", "elman": "0.1.0", "jax": "0.10.2"}},
    }


TWO = facts(
    rnn={"infer": {"torch": 6.4, "jax": 3.1, "ort": 2.9, "best": 2.0}, "train": {"torch": 8.1, "jax": 1.7, "best": 1.7}},
    lstm={"infer": {"torch": 2.0, "jax": 2.4, "ort": 1.14, "best": 1.14}, "train": {"torch": 1.75, "jax": 2.2, "best": 1.75}},
)


def texts(chart: str) -> list[str]:
    return ["".join(element.itertext()).strip() for element in ElementTree.fromstring(chart).iter("{http://www.w3.org/2000/svg}text")]


def test_every_library_stands_with_its_ratio() -> None:
    shown = [text for text in texts(svg(TWO, "light")) if re.fullmatch(r"[\d.]+×|Elman|torch.nn|JAX|ONNX Runtime", text)]
    pairs = list(zip(shown[::2], shown[1::2], strict=True))
    rnn = [("torch.nn", "6.4×"), ("JAX", "3.1×"), ("ONNX Runtime", "2.9×")]
    lstm = [("torch.nn", "2.0×"), ("JAX", "2.4×"), ("ONNX Runtime", "1.1×")]
    training = [("Elman", "1.0×"), ("torch.nn", "8.1×"), ("JAX", "1.7×"), ("Elman", "1.0×"), ("torch.nn", "1.8×"), ("JAX", "2.2×")]
    assert pairs == [("Elman", "1.0×"), *rnn, ("Elman", "1.0×"), *lstm, *training]


@pytest.mark.parametrize(("lang", "title"), [("en", "relative to Elman"), ("zh", "以 Elman 为 1")])
def test_it_says_what_was_measured_and_on_what(lang: str, title: str) -> None:
    with speaking(lang):
        text = "\n".join(texts(svg(TWO, "dark")))
    for word in ("5, 3, 10, 20", "50, 64, 512, 512", "2 ", "A Processor", "AVX2", "torch 2.13.0, jax 0.10.2", title):
        assert word in text
    assert "{" not in text
    assert ("RNN inference" in text) == (lang == "en")


def test_a_run_that_was_cut_short_or_raced_torch_alone_can_be_drawn() -> None:
    shown = texts(svg(facts(rnn={"infer": {"torch": 6.4}, "train": {"torch": 8.1}}, gru={"infer": {"torch": 3.0}}), "light"))
    assert [text for text in shown if text.startswith(("RNN ", "GRU "))] == ["RNN inference", "GRU inference", "RNN training"]
    assert "JAX" not in shown


def test_the_files_are_the_same_each_time_and_need_nothing_from_elsewhere(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        assert len(draw(TWO, folder)) == len(THEMES) * len(LANGUAGES)
    for path in sorted(first.iterdir()):
        chart = path.read_text(encoding="utf-8")
        assert chart == (second / path.name).read_text(encoding="utf-8")
        assert re.findall(r'(?:href|src)="(?!#)[^"]*"|url\((?!#)|@import', chart) == []
