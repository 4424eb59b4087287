"""What is allocated, by what the allocators say that they have given away: to the byte, whatever the pages of the process."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 2_000


class _MallInfo2(ctypes.Structure):
    """What glibc 2.33 and later tell of malloc's memory: mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def allocated_bytes() -> int:
    """Bytes that malloc has given away, to torch and to the kernels."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        pytest.skip("what is allocated is told by glibc's mallinfo2, which is not here")
    library.mallinfo2.restype = _MallInfo2
    gc.collect()
    told = library.mallinfo2()
    return int(told.uordblks + told.hblkhd)


def forgets(call: Callable[[], object]) -> bool:
    """Whether a call leaves something allocated: on average, once warm, 8 bytes of malloc's or a quarter of a block of Python's.

    A tensor takes more than 200 bytes, and an object of Python's a block; what caches still come to is less in so many calls.
    """
    sizes = []
    for calls in (CALLS // 2, CALLS):
        for _ in range(calls):
            call()
        sizes.append((allocated_bytes(), sys.getallocatedblocks()))
    (bytes_before, blocks_before), (bytes_after, blocks_after) = sizes
    return bytes_after - bytes_before > 8 * CALLS or blocks_after - blocks_before > CALLS // 4
