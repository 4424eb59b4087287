"""docs/architecture.md, in both languages, says what happens: the usual call takes the path in its table, and what it names is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import elman

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

ROOT = Path(__file__).parents[1]
PACKAGE = Path(elman.__file__).parent

ARCHITECTURE = ("docs/architecture.md", "docs/architecture.zh-CN.md")
PAGES = (*ARCHITECTURE, "docs/kernels.md", "CONTRIBUTING.md")
MOST_FUNCTIONS = 6  # from rnn(x) to the kernels


_native = pytest.importorskip("elman._native", reason="the kernels are not built here", exc_type=ImportError)


def traced(call: Callable[[], object]) -> list[tuple[str, str]]:
    """The functions of ours that a call goes through, in order: where each is, and its name."""
    found: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, function: object) -> None:
        if event == "call" and (path := Path(frame.f_code.co_filename)).is_relative_to(PACKAGE):
            found.append((f"src/elman/{path.relative_to(PACKAGE)}", frame.f_code.co_name))

    def forward(*operands: object, forward: Callable[..., object] = _native.forward, **options: object) -> object:
        found.append(("csrc/binding.cpp", "forward"))  # which a profile does not see
        return forward(*operands, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "forward", forward)
        sys.setprofile(note)
        try:
            call()
        finally:
            sys.setprofile(None)
    return found


def documented(page: str) -> list[tuple[str, str]]:
    """The same from a page: the table of its first chapter, which links each function to its file."""
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| `(?:\w+\.)*(\w+)` \| \[[^\]]+\]\(\.\./([^)]+)\) \|", text, re.MULTILINE)
    return [(path, name) for name, path in rows]


@pytest.mark.parametrize("page", ARCHITECTURE)
@pytest.mark.parametrize(
    "layer", [elman.RNN(10, 20), elman.RNN(10, 20, nonlinearity="relu"), elman.GRU(10, 20)], ids=["tanh", "relu", "gru"]
)
@torch.no_grad()
def test_the_usual_call_takes_the_documented_path(layer: torch.nn.Module, page: str) -> None:
    x = torch.randn(5, 3, 10)
    layer(x)  # what is done once
    assert traced(lambda: layer(x)) == documented(page)
    assert len(documented(page)) <= MOST_FUNCTIONS


def test_a_call_on_another_path_is_seen() -> None:
    layer = elman.RNN(10, 20)
    assert traced(lambda: layer(torch.randn(5, 3, 10), lengths=[5, 2, 0])) != documented(ARCHITECTURE[0])


@pytest.mark.parametrize("page", PAGES)
def test_every_address_in_the_code_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = {(ROOT / page).parent / path for path in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)}
    named = {ROOT / path for path in re.findall(r"`((?:csrc|src/elman|tests|docs)/[\w./-]+\.\w+)`", text)}
    assert [str(path) for path in sorted(linked | named) if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_page_says_how_many_lines_the_sources_have(page: str) -> None:
    """It would be out of date with the next commit; tests/test_house.py holds the limit."""
    assert re.findall(r"\d,?\d{3} (?:lines|行)", (ROOT / page).read_text(encoding="utf-8")) == []
