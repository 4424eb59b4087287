"""Every row of docs/compatibility.md is held by a test, in both languages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGES = [TESTS.parent / "docs" / name for name in ("compatibility.md", "compatibility.zh-CN.md")]


def held_by(page: Path) -> list[tuple[str, str]]:
    """The file and the test that each row of the table names."""
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and "::" in line]
    return [(found[1], found[2]) for row in rows if (found := re.search(r"\| `(\w+\.py)::(\w+)` \|$", row))]


def test_every_row_names_a_test_that_there_is() -> None:
    table = PAGES[0].read_text(encoding="utf-8").split("|---|---|---|\n")[1].split("\n\n")[0]
    named = held_by(PAGES[0])
    assert len(named) == len(table.splitlines()) > 15
    for file, test in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {test}"


def test_both_languages_name_the_same_tests() -> None:
    assert held_by(PAGES[0]) == held_by(PAGES[1])


@pytest.mark.parametrize("row", ["| what | natively | `test_x.py` |", "| what | natively |"])
def test_a_row_without_a_test_is_seen(row: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"|---|---|---|\n{row}\n", encoding="utf-8")
    assert held_by(tmp_path / "page.md") == []
