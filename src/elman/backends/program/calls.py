"""Watches what a step calls while it is recorded.

A step's key follows what the code names. What is called in another way (a table decides, a name is computed, a cell calls a method of a
cell in it) is seen only here.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType


@contextmanager
def watched() -> Iterator[dict[CodeType, str]]:
    """The code of all functions of Python's that this thread calls, with the names of their modules. Empty under somebody's profiler."""
    called: dict[CodeType, str] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code not in called:
            called[frame.f_code] = frame.f_globals.get("__name__") or ""

    if sys.getprofile() is not None:
        yield called
        return
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)
