"""The text of a program: what the operator takes, and an exported file holds."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

import elman
import own_cells
from elman.backends.program.call import kernel_of
from elman.backends.program.lookup import program_of
from elman.backends.program.operator import counts, form_of
from elman.backends.program.text import program_from, text_of
from native import required

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = required

T, B, I, H = 5, 3, 3, 4  # noqa: E741
CELLS = {
    "gru": own_cells.Gru(),
    "gru2014": own_cells.Gru2014(),
    "decay": own_cells.Decay(),
    "layer norm": elman.zoo.LayerNormLSTM(),
    "zoneout": elman.Zoneout(own_cells.Gru(), h=0.5),
}
OPERATOR = torch.ops.elman.program.default
every_cell = pytest.mark.parametrize("name", CELLS)


@pytest.mark.parametrize("draws", [False, True], ids=["without draws", "with draws"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_cell
def test_a_text_gives_the_program_back(name: str, dtype: torch.dtype, draws: bool) -> None:
    program = program_of(CELLS[name], dtype, draws)
    assert program_from(text_of(program)) == program


def bounded(self, x, r, s, p):
    return torch.where(x.f > -math.inf, torch.tanh(x.n + 0.1 * r.n), -0.0), s.c


def test_a_text_holds_all_constants() -> None:
    program = program_of(own_cells.cell(bounded), torch.float64)
    assert {-math.inf, 0.1} <= set(program.forward.constants)
    again = program_from(text_of(program))
    assert list(map(repr, again.forward.constants)) == list(map(repr, program.forward.constants))
    assert again == program


def changed(**entries: object) -> str:
    return json.dumps(json.loads(text_of(program_of(CELLS["gru"], torch.float32))) | entries)


WRONG_TEXTS = {
    "nothing": "",
    "no program": "[1, 2]",
    "no code": json.dumps({"forward": 1, "training": 1, "backward": 1}),
    "an index beyond all numbers": text_of(program_of(CELLS["gru"], torch.float32)).replace("[2,0]", "[2,Infinity]", 1),
    "too deep": "[" * 100_000,
    "an entry more": changed(more=1),
    "a count that is no number": changed(states="many"),
    "a count of another program": changed(states=3),
    "too large a count": changed(saved=2**40),
    "products of no gates": changed(products=[[9]]),
}


@pytest.mark.parametrize("text", WRONG_TEXTS.values(), ids=WRONG_TEXTS)
def test_a_wrong_text_is_refused(text: str) -> None:
    rnn = elman.Recurrent(CELLS["gru"], I, H)
    operands = [torch.randn(T, B, I), *[parameter.detach() for parameter in rnn.parameters()]]
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        OPERATOR(operands, None, None, text, [H, 1, 1, 1, 0, 0, 0, 0, 0], True)


@pytest.mark.parametrize(
    "form",
    [
        [],
        [H] * 8,
        [-1, 1, 1, 1, 0, 0, 0, 0, 0],
        [2**40, 1, 1, 1, 0, 0, 0, 0, 0],
        [H, 0, 1, 1, 0, 0, 0, 0, 0],
        [H, 2**40, 1, 1, 0, 0, 0, 0, 0],
        [H, 1, 3, 1, 0, 0, 0, 0, 0],
        [H, 1, 1, 0, 0, 0, 0, 0, 0],
        [H, 1, 1, 1, 0, 0, 1, 0, 0],
        [H, 1, 1, 1, 0, 0, 9, 0, 0],
        [H, 1, 1, 1, 0, 0, -1, 0, 0],
        [H, 1, 1, 1, 0, 0, 0, 1, 0],
    ],
    ids=str,
)
def test_a_wrong_form_is_refused(form: list[int]) -> None:
    rnn = elman.Recurrent(CELLS["gru"], I, H)
    operands = [torch.randn(T, B, I), *[parameter.detach() for parameter in rnn.parameters()]]
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        OPERATOR(operands, None, None, text_of(program_of(CELLS["gru"], torch.float32)), form, True)


def test_a_text_is_made_and_checked_once() -> None:
    text = text_of(program_of(CELLS["gru"], torch.float32))
    assert kernel_of(program_from(text)) is kernel_of(program_from(text))
    assert counts(program_from(text), form_of([H, 1, 1, 1, 0, 0, 1, 1, 0])) == (1, 1, 1, 0, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own exporter warns of itself
def test_an_exported_file_runs_where_nobody_knows_the_cell(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rnn, x = elman.Recurrent(CELLS["gru2014"], I, H, 2).eval(), torch.randn(T, B, I)
    torch.export.save(torch.export.export(rnn, (x,)), tmp_path / "net.pt2")
    torch.save((x, rnn(x)[0].detach()), tmp_path / "data.pt")
    code = """
import sys, torch, elman
x, expected = torch.load("data.pt")
assert torch.equal(torch.export.load("net.pt2").module()(x)[0], expected)
assert "own_cells" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True)
