"""Watches what a step calls while it is recorded.

A step's key follows what the code names. What is called in another way (a table decides, a name is computed, a cell calls a method of a
cell in it) is seen only here.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from types import CodeType, FrameType


@contextmanager
def watched() -> Iterator[dict[CodeType, str] | None]:
    """The code of all functions of Python's that this thread calls, with the names of their modules; None where a profiler and a debugger
    watch it already.
    """
    called: dict[CodeType, str] = {}
    methods = [getattr(type(file), name, None) for file in (sys.stdout, sys.stderr) for name in ("write", "flush")]
    writes = {method.__code__ for method in methods if isinstance(method, FunctionType)}

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code not in called and not _is_beside(frame, writes):
            called[frame.f_code] = frame.f_globals.get("__name__") or ""

    ways = ((sys.getprofile, sys.setprofile), (sys.gettrace, sys.settrace))
    watch = next((watch for watching, watch in ways if watching() is None), None)
    if watch is None:
        yield None
        return
    watch(note)
    try:
        yield called
    finally:
        watch(None)


def _is_beside(frame: FrameType | None, writes: Container[CodeType]) -> bool:
    """Whether a call comes of an object that is let go of, which may happen at any time, or of what only shows something to the user."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code in writes or frame.f_globals.get("__name__") in ("logging", "warnings"):
            return True
        frame = frame.f_back
    return False
