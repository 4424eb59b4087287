"""What is allocated, by what the allocators say that they have given away: to the byte, whatever the pages of the process."""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 2_000


class _MallInfo2(ctypes.Structure):
    """What glibc 2.33 and later tell of malloc's memory: mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def _told() -> int:
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return 0
    library.mallinfo2.restype = _MallInfo2
    told = library.mallinfo2()
    return int(told.uordblks + told.hblkhd)


@cache
def _is_told() -> bool:
    """Whether glibc tells what torch has, which it does not if another malloc is in its place."""
    before = _told()
    block = torch.empty(2**20, dtype=torch.uint8)
    return _told() - before >= block.numel()


def allocated_bytes() -> int:
    """Bytes that malloc has given away, to torch and to the kernels."""
    if not _is_told():
        pytest.skip("what is allocated is told by glibc's mallinfo2, which is not here")
    gc.collect()
    return _told()


def forgets(call: Callable[[], object]) -> bool:
    """Whether a call leaves something allocated, in each of several thousands of calls: 8 bytes of malloc's on average, or a quarter of a
    block of Python's.

    A tensor takes more than 200 bytes, and an object of Python's a block. What caches and threads still come to is there in some thousand
    calls, not in all. Without glibc's mallinfo2 Python's blocks alone are counted, which tensors are among.
    """
    for _ in range(CALLS // 2):
        call()
    before = _count()
    for _ in range(5):
        for _ in range(CALLS):
            call()
        after = _count()
        if after[0] - before[0] <= 8 * CALLS and after[1] - before[1] <= CALLS // 4:
            return False
        before = after
    return True


def _count() -> tuple[int, int]:
    """Bytes that malloc has given away, 0 if they are not told, and blocks that Python has."""
    gc.collect()
    return _told() if _is_told() else 0, sys.getallocatedblocks()
