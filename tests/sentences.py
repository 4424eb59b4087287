"""The sentences that the command line can print, collected from the code: what ``xgettext`` would find, and what is made elsewhere."""

from __future__ import annotations

import ast
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer import rich_utils

from elman.cli.app import app
from elman.cli.frame import paragraphs

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[1] / "src" / "elman"
# Rooms whose errors a person at the command line meets.
ROOMS = ("show", "cli", "bench", "train")


def fields(sentence: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None)


def marked() -> Iterator[str]:
    """What stands in ``_("...")``."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
                yield from (_constant(one) for one in _branches(node.args[0]) if isinstance(one, ast.Constant))


def help_texts() -> Iterator[str]:
    """Every help text of every command, its panels, and the parser's titles."""
    yield from _help_of(typer.main.get_command(app))
    yield from (rich_utils.ARGUMENTS_PANEL_TITLE, rich_utils.OPTIONS_PANEL_TITLE, rich_utils.COMMANDS_PANEL_TITLE)
    yield from ("Show this message and exit.", rich_utils.DEFAULT_STRING.format("3"), rich_utils.REQUIRED_LONG_STRING)


def errors() -> Iterator[str]:
    """A line for each error that the rooms above the library raise, or its import does, ``⟨…⟩`` standing for what it is filled with."""
    for file in (*(file for room in ROOMS for file in (PACKAGE / room).rglob("*.py")), PACKAGE / "backends" / "kernels.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            calls = [node.exc] if isinstance(node, ast.Raise) else [node] if isinstance(node, ast.Call) else []
            for call in calls:
                if isinstance(call, ast.Call) and call.args and ast.unparse(call.func).endswith(("Error", "BadParameter", "fail")):
                    yield from _lines(call.args[0])


def refusals() -> Iterator[str]:
    """A line for each reason for which a backend does not run a call."""
    for file in (PACKAGE / "backends").rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and "refuses" in function.name:
                for node in ast.walk(function):
                    if isinstance(node, ast.Return) and node.value is not None:
                        yield from _lines(node.value)


def not_recorded() -> Iterator[str]:
    """A line for each reason for which a cell has no program."""
    for file in (PACKAGE / "backends" / "program").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                place = {"refuse": ", at cell.py:12", "_refusing": ", at cell.py:12", "NotRecordedError": ""}.get(ast.unparse(node.func))
                yield from (line + place for line in _lines(node.args[0]) if place is not None and line.startswith("does"))


def _help_of(command: Any) -> Iterator[str]:
    for text in (command.help, command.epilog):
        yield from (part for part in paragraphs(text or "") if part)
    for param in command.params:
        yield from (text for text in (param.help, param.rich_help_panel) if text)
    for one in getattr(command, "commands", {}).values():
        yield from _help_of(one)


def _branches(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.IfExp):
        yield from (*_branches(node.body), *_branches(node.orelse))
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _branches(value)
    else:
        yield node


def _lines(node: ast.expr) -> Iterator[str]:
    for one in _branches(node):
        if isinstance(one, ast.JoinedStr):
            yield "".join(_constant(part) if isinstance(part, ast.Constant) else f"⟨{index}⟩" for index, part in enumerate(one.values))
        elif isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def _constant(node: ast.expr) -> str:
    assert isinstance(node, ast.Constant)
    return str(node.value)
