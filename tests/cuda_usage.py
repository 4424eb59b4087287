"""What the compiled CUDA kernels take of a device, as the assembler reports it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elman.backends.cuda import compiler

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Usage:
    """What a kernel takes of the device, as the assembler reports it.

    Attributes:
        registers: per thread.
        spill_stores, spill_loads: bytes per thread that are written to and read from memory for lack of registers.
        stack: bytes per thread, spills and local arrays.
        shared: bytes per block, without those that the launch asks for.
    """

    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int


def usage_of(name: str, arch: str, defines: Mapping[str, str | int], source: str) -> dict[str, Usage]:
    """What each kernel of a source takes of the device, by the kernel's name: compiles, whatever the cache has."""
    _, log = compiler._compile(name, arch, defines, source, "--ptxas-options=-v")
    found: dict[str, Usage] = {}
    kernel, stack = "", (0, 0, 0)
    for line in log.splitlines():
        if entry := _ENTRY.search(line):
            kernel, stack = entry[1], (0, 0, 0)
        elif frame := _STACK.search(line):  # of the kernel, and of each function that it calls
            stack = (stack[0] + int(frame[1]), stack[1] + int(frame[2]), stack[2] + int(frame[3]))
        elif used := _USED.search(line):
            shared = _SHARED.search(line)
            found[kernel] = Usage(int(used[1]), stack[1], stack[2], stack[0], int(shared[1]) if shared else 0)
    return found
