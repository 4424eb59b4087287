"""What is found out of a network: objects whose attributes are both what the pages show and what ``--json`` prints."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from types import SimpleNamespace
from typing import Any


class Facts(SimpleNamespace):
    """Facts by name, in order. A kind that takes more than a line to find out has a class, whose constructor does it."""


def plain(value: Any) -> Any:
    """Facts as numbers, texts, dictionaries and tuples."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, Facts):
        return {name: plain(fact) for name, fact in vars(value).items()}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
