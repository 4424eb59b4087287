"""docs/architecture.md says what happens: the usual call takes the way that is drawn there, and what it names is there."""

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
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = Path(elman.__file__).parent

PAGES = ("docs/architecture.md", "docs/kernels.md", "CONTRIBUTING.md")
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


def drawn() -> list[tuple[str, str]]:
    """The same as the page has it: the first table of its first chapter, each function with a link to its file."""
    rows = re.findall(r"^\| \d \| `(?:\w+\.)*(\w+)` \| \[[^\]]+\]\(\.\./([^)]+)\) \|", PAGE, re.MULTILINE)
    return [(path, name) for name, path in rows]


@pytest.mark.parametrize(
    "layer", [elman.RNN(10, 20), elman.RNN(10, 20, nonlinearity="relu"), elman.GRU(10, 20)], ids=["tanh", "relu", "gru"]
)
@torch.no_grad()
def test_the_usual_call_goes_the_way_that_is_drawn(layer: torch.nn.Module) -> None:
    x = torch.randn(5, 3, 10)
    layer(x)  # what is done once
    assert traced(lambda: layer(x)) == drawn()
    assert len(drawn()) <= MOST_FUNCTIONS


def test_a_call_that_goes_another_way_is_seen() -> None:
    layer = elman.RNN(10, 20)
    assert traced(lambda: layer(torch.randn(5, 3, 10), lengths=[5, 2, 0])) != drawn()


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
