"""The memory of a raw call: one piece for all of its operands, of which AddressSanitizer sees no more than what is lent out."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from raw import Places, size_of


class Arena:
    """One piece of memory for all operands of a call. Under AddressSanitizer what is not lent out is poisoned."""

    def __init__(self, size: int) -> None:
        self.bytes = np.zeros(size, np.uint8)
        self.base = self.bytes.ctypes.data
        self.noted: dict[int, np.ndarray] = {}
        self.most = 0.0

    def fill(self, kind: type, most: float) -> None:
        """Write numbers from -most to most everywhere but where something else was noted."""
        self.most = most
        view = self.bytes[: len(self.bytes) // 8 * 8].view(kind)
        view[:] = np.random.default_rng(0).uniform(-most, most, view.shape)
        for address, what in self.noted.items():
            self.note(address, what)

    def note(self, address: int, what: np.ndarray) -> None:
        """Write something that is to stay there."""
        self.noted[address] = what
        at = address - self.base
        self.bytes[at : at + what.nbytes] = np.ascontiguousarray(what).view(np.uint8)

    def spoil(self, but: np.ndarray) -> None:
        """Write NaN everywhere but in the bytes of a mask: who reads there is caught."""
        self.bytes[~but] = 0xFF

    def read(self, addresses: np.ndarray, kind: Any) -> np.ndarray:
        offsets = addresses[..., None] - self.base + np.arange(np.dtype(kind).itemsize)
        return self.bytes[offsets].view(kind)[..., 0]

    def mask(self, places: Places, number: int) -> np.ndarray:
        """Which bytes belong to these elements."""
        mask = np.zeros(len(self.bytes), bool)
        for name, addresses in places.items():
            for byte in range(size_of(name, number)):
                mask[addresses - self.base + byte] = True
        return mask

    def lend(self, mask: np.ndarray) -> None:
        edges = np.flatnonzero(np.diff(np.concatenate(([True], mask, [True])).astype(np.int8)))
        for start, stop in edges.reshape(-1, 2).tolist():
            _asan("__asan_poison_memory_region", self.base + start, stop - start)

    def take_back(self) -> None:
        _asan("__asan_unpoison_memory_region", self.base, len(self.bytes))


def _asan(function: str, address: int, size: int) -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, function):
        getattr(library, function)(ctypes.c_void_p(address), ctypes.c_size_t(size))
