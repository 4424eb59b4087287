"""Commands for a stream, launches and products, prepared once for all calls of one form: a call says where its tensors lie.

What leads to a launch takes the processor longer than the launch itself, and short calls are bound by it. So sizes, strides and algorithms
are made out when a form is first met; a call hands a list of addresses to ``elman._native``, which does all commands at once. Where that is
not built, and for a command that fails there, Python does it.
"""

from __future__ import annotations

import atexit
from contextlib import nullcontext
from functools import lru_cache
from struct import Struct
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakSet

import torch

from elman.backends import kernels
from elman.backends.cuda import launcher

if kernels.available():
    from elman import _native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

# The first operands of a call are memory for its commands alone, which they make; the caller's come behind these.
NO_SCRATCH = (None, None, None)
WORKSPACE, MAILBOX, FLAGS = range(len(NO_SCRATCH))
_LOWEST = 1 << 36  # of an address below, it is asked whether there is memory
_NOTHING = nullcontext()
_put = Struct("@Q").pack_into
_caches: WeakSet[Any] = WeakSet()


def prepared(make: Callable[..., Commands]) -> Callable[..., Commands]:
    """Decorates a function that makes Commands: those of 1,024 forms are kept."""
    cached = lru_cache(maxsize=1024)(make)
    _caches.add(cached)
    return cached


@atexit.register
def _forget() -> None:
    """Let go of what the driver and cuBLASLt have made while these are there."""
    for cached in list(_caches):
        cached.cache_clear()


class At(NamedTuple):
    """A place in the memory of a call's operand.

    Attributes:
        operand: which.
        offset: from its beginning, in bytes.
    """

    operand: int
    offset: int = 0


def addresses_of(operands: Sequence[Tensor | None]) -> list[int]:
    """Where each lies; 0 for none.

    Raises:
        RuntimeError: the memory of one has been freed.
    """
    return [0 if each is None else at if (at := each.data_ptr()) > _LOWEST else _checked(each, at) for each in operands]


def _checked(operand: Tensor, address: int) -> int:
    """The address, if anything lies there: without memory, torch counts from 0, up to where a part of the tensor begins."""
    if operand.numel() and not operand.untyped_storage().nbytes():
        raise RuntimeError(f"expected all tensors to lie in memory, got one of shape {tuple(operand.shape)} whose storage was freed")
    return address


def view(operands: Sequence[Tensor | None], at: At, size: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """What lies at a place, as a tensor, for what torch does. ``size``: of a number, in bytes."""
    operand = operands[at.operand]
    assert operand is not None
    return operand.as_strided(shape, strides, operand.storage_offset() + at.offset // size)


class Command(Protocol):
    """Something that is put onto a stream."""

    @property
    def workspace(self) -> int:
        """How many bytes it needs meanwhile."""

    def run(self, operands: Sequence[Tensor | None], addresses: Sequence[int]) -> None:
        """Put it onto torch's current stream, of torch's current device."""

    def add_to(self, compiled: Any) -> bool:
        """Add it to an ``elman._native.Commands``. False: it can be done in Python only."""


class Launch:
    """A launch of a kernel.

    Attributes:
        kernel: a ``launcher.Kernel``.
        grid, block, shared_bytes, together: as ``Kernel.launch`` takes them.
        params: the kernel's parameter, but for the addresses in it.
        places: where in it each address is, in bytes, and of what.
    """

    workspace = 0

    def __init__(
        self,
        kernel: launcher.Kernel,
        grid: int,
        block: int,
        shared_bytes: int,
        params: bytes,
        places: Sequence[tuple[int, At]],
        together: bool,
        index: int,
    ) -> None:
        self.kernel, self.grid, self.block, self.shared_bytes = kernel, grid, block, shared_bytes
        self.params, self.places, self.together, self._index = params, places, together, index

    def run(self, operands: Sequence[Tensor | None], addresses: Sequence[int]) -> None:
        params = bytearray(self.params)
        for place, (operand, offset) in self.places:
            _put(params, place, addresses[operand] + offset)
        stream = torch._C._cuda_getCurrentRawStream(self._index)
        self.kernel.launch(self.grid, self.block, self.shared_bytes, stream, bytes(params), together=self.together)

    def add_to(self, compiled: Any) -> bool:
        function = launcher.function_address("cuLaunchCooperativeKernel" if self.together else "cuLaunchKernel")
        if not function:
            return False
        places = [(place, *at) for place, at in self.places]
        compiled.add_launch(function, self.kernel.handle, self.grid, self.block, self.shared_bytes, self.params, places)
        return True


class Copy:
    """Numbers of one operand copied to another, as a command."""

    workspace = 0

    def __init__(self, source: At, out: At, count: int, size: int) -> None:
        """``size``: of a number, in bytes."""
        self._places, self._count, self._size = (source, out), count, size

    def run(self, operands: Sequence[Tensor | None], addresses: Sequence[int]) -> None:
        source, out = (view(operands, at, self._size, (self._count,), (1,)) for at in self._places)
        out.copy_(source)

    def add_to(self, compiled: Any) -> bool:
        function = launcher.function_address("cuMemcpyDtoDAsync_v2")
        if not function:
            return False
        compiled.add_copy(function, *self._places, self._count * self._size)
        return True


class Commands:
    """Commands that follow each other on the current stream of a device, which is to be torch's current one."""

    def __init__(self, commands: Sequence[Command], index: int, *, mailbox: int = 0, flags: int = 0) -> None:
        """Of the device of this index.

        Args:
            mailbox: how many numbers of the operands' dtype MAILBOX has.
            flags: how many zeros, in int32, FLAGS has.
        """
        self._commands, self._index = commands, index
        self._mailbox, self._flags = mailbox, flags
        self._workspace = max((command.workspace for command in commands), default=0)
        self._lock = RLock()  # what a product adds or sums beside is told by its description, which is every thread's
        self._compiled = _compiled(commands, index)
        self._has_run = False

    def run(self, operands: list[Tensor | None], addresses: list[int], like: Tensor) -> None:
        """Put them onto the stream.

        Args:
            operands: the tensors of a call, those of NO_SCRATCH first.
            addresses: where each lies; 0 for none.
            like: of the operands' dtype and device.
        """
        if self._workspace:
            self._make(WORKSPACE, like.new_empty(self._workspace, dtype=torch.uint8), operands, addresses)
        if self._flags:
            self._make(MAILBOX, like.new_empty(self._mailbox), operands, addresses)
            self._make(FLAGS, torch.zeros(self._flags, dtype=torch.int32, device=like.device), operands, addresses)
        commands, at = self._commands, 0
        with self._lock:
            if self._compiled is None:
                for command in commands:
                    command.run(operands, addresses)
                return
            launcher.ensure_context(self._index)
            stream = torch._C._cuda_getCurrentRawStream(self._index)
            # The first time cuBLASLt loads a kernel, which a capture of a CUDA graph cannot record, and is to allow.
            with _NOTHING if self._has_run else launcher.current(self._index):
                while (at := self._compiled.run(at, addresses, stream)) < len(commands):
                    commands[at].run(operands, addresses)  # which says what is wrong, or knows another way
                    at += 1
            self._has_run = True

    @staticmethod
    def _make(which: int, scratch: Tensor, operands: list[Tensor | None], addresses: list[int]) -> None:
        operands[which], addresses[which] = scratch, scratch.data_ptr()


def of_direction(operands: Sequence[int], k: int, count: int) -> Sequence[int]:
    """Those of the k-th of so many directions, which have equally many, one after the other."""
    each = len(operands) // count
    return operands[k * each : (k + 1) * each]


def _compiled(commands: Sequence[Command], index: int) -> Any:
    """The commands as ``elman._native`` does them; None where it is not built, and on the CPU, of index -1."""
    if not kernels.available() or index < 0:
        return None
    compiled = _native.Commands()
    for command in commands:
        if not command.add_to(compiled):
            compiled.add_stop()
    return compiled
