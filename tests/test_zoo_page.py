"""The page of the zoo: it has every cell, and the number of its parameters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import elman
from elman import zoo

PAGES = [Path(__file__).parents[1] / "docs" / name for name in ("zoo.md", "zoo.zh-CN.md")]
BUILT_IN = {"LSTM": elman.LSTM, "GRU": elman.GRU}


def told(page: str) -> dict[str, str]:
    """By cell, the parameters a unit as the tables have them."""
    return dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| [\d.]+ \| [^|]+ \|$", page, re.MULTILINE))


def per_unit(formula: str, inputs: int, units: int) -> float:
    """A formula like ``4I + 4H + 8 + 2 / H``."""
    return float(eval(re.sub(r"(\d)([IH])", r"\1*\2", formula), {"I": inputs, "H": units}))


def count(module: elman.Recurrent) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_has_every_cell_and_its_parameters(page: Path) -> None:
    formulas = told(page.read_text(encoding="utf-8"))
    assert formulas.keys() == {cell.__name__ for cell in zoo.CELLS}
    for name, formula in formulas.items():
        for inputs, units in ((3, 4), (7, 5)):
            network = elman.Recurrent(getattr(zoo, name)(), inputs, units)
            assert per_unit(formula, inputs, units) * units == pytest.approx(count(network)), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_compares_with_the_built_in_cells(page: Path) -> None:
    found = re.findall(r"(LSTM|GRU)\S* (?:has |为 )?(\d\w \+ \d\w \+ \d)", page.read_text(encoding="utf-8"))
    assert [name for name, _ in found] == ["LSTM", "GRU"]
    for name, formula in found:
        assert per_unit(formula, 3, 4) * 4 == count(BUILT_IN[name](3, 4))


def test_a_wrong_formula_is_seen() -> None:
    assert per_unit("4I + 4H + 8 + 2 / H", 3, 4) == 36.5
    assert per_unit("4I + 4H + 9", 3, 4) * 4 != count(elman.LSTM(3, 4))
