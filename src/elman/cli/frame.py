"""What every command shares: one clear line for bad input, the language, JSON."""

from __future__ import annotations

import json
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

# Every mistake in an argument is one of these: an unknown option or command, a missing one, a bad value.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130


class Lang(str, Enum):
    """The languages that output comes in."""

    en = "en"
    zh = "zh"


class Group(TyperGroup):
    """A group of commands that meets bad input with one line on stderr and exit code 2, never with a traceback.

    Bad input is what the parser refuses, and any ValueError that a command raises. Trouble with files, memory or torch (OSError,
    RuntimeError) is one line and exit code 1. Anything else is a defect of Elman's, and shows itself as such.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except UsageError as error:
            # typer's own base class, which has no public name; without a message it has printed the help of a group of commands
            message: str = error.format_message()  # type: ignore[attr-defined]
            fail(message or "a command is missing: one of those above", BAD_INPUT)
        except ValueError as error:
            fail(str(error), BAD_INPUT)
        except typer.Abort:
            fail("interrupted", INTERRUPTED)
        except (OSError, RuntimeError, MemoryError) as error:
            fail(str(error) or type(error).__name__, FAILED)
        else:
            sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> None:
    """Leave with one line on stderr."""
    print(f"elman: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def print_json(facts: object) -> None:
    """Print facts for a program: UTF-8, no colour, keys in the order in which the dataclasses have them."""
    print(json.dumps(facts, ensure_ascii=False, indent=2))
