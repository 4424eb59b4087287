"""What steps read in the tests of what is seen to change: a class, an enumeration and a dict, in a module of their own."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import torch

from elman.backends.program.lookup import program_of

if TYPE_CHECKING:
    import pytest

    from elman import Cell

BELOW = {"number": 0.25}


def text(cell: Cell) -> str:
    """What the program of a step does."""
    return str(program_of(cell, torch.float64).forward)


class Settings:
    number = 0.25

    @classmethod
    def asked(cls) -> float:
        return cls.number


def change_settings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Settings, "number", 0.75)


def change_below(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(BELOW, "number", 0.75)


class Below(Settings):
    """Has the number of the class above it, until it is given one of its own."""


class Nested:
    class options:  # noqa: N801
        _number = 0.25
        settings = Settings

        @staticmethod
        def looked_up() -> float:
            return BELOW["number"]


class Indexed:
    def __class_getitem__(cls, name: str) -> float:
        return BELOW[name]


class Mode(enum.Enum):
    ONE = "one"

    def __init__(self, word: str) -> None:
        self.gain = 0.25

    @property
    def number(self) -> float:
        return BELOW["number"]
