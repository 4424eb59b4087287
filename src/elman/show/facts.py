"""What is found out of a network: objects whose public attributes are both what the pages show and what ``--json`` prints."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any


class Facts:
    """Facts of one kind. The constructor finds them out."""


def plain(value: Any) -> Any:
    """Facts as numbers, texts, dictionaries and tuples."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return {name: plain(one) for name, one in vars(value).items()} if isinstance(value, Facts) else value
