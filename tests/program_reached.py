"""What steps read in the tests of what is seen to change: a class, an enumeration and a dict, in a module of their own."""

from __future__ import annotations

import enum

BELOW = {"number": 0.25}


class Settings:
    number = 0.25

    @classmethod
    def asked(cls) -> float:
        return cls.number


class Mode(enum.Enum):
    ONE = "one"

    def __init__(self, word: str) -> None:
        self.gain = 0.25

    @property
    def number(self) -> float:
        return BELOW["number"]
