"""A program as a text, which an operator can take and a file can hold: JSON, read back as data and checked by the kernels."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from elman.backends.program.program import Code, Program, Role

_CODES = ("forward", "training", "backward")


def text_of(program: Program) -> str:
    """The text. Two programs have the same one only if they compute the same."""
    made = asdict(program)
    for name in _CODES:
        made[name]["constants"] = list(map(float.hex, made[name]["constants"]))  # JSON has neither infinities nor NaN
    return json.dumps(made, separators=(",", ":"), allow_nan=False)


@lru_cache(maxsize=1024)
def program_from(text: str) -> Program:
    """The program of a text, the same object at each call.

    Raises:
        RuntimeError: it is no text of a program.
    """
    try:
        made = json.loads(text)
        codes: dict[str, Any] = {name: _code(made.pop(name)) for name in _CODES}
        return Program(**codes, **{name: _tuples(value) for name, value in made.items()})
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise RuntimeError(f"expected program to be the text of a cell's program, got {text[:40]!r}") from error


def _code(made: dict[str, Any]) -> Code:
    operands = tuple([(Role(role), int(index)) for role, index in made.pop("operands")])
    constants = tuple(map(float.fromhex, made.pop("constants")))
    return Code(operands=operands, constants=constants, **{name: _tuples(value) for name, value in made.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
