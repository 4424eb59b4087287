"""The kernels' raw interface, told independently of them: which memory a call may touch, and so which calls must be refused.

For test_fuzz. Imports NumPy alone: under the sanitizers nothing else is wanted in the process. A call is a dict of the arguments by
name, in the order of elman._native; its memory is an ``Arena``, to which all of its addresses belong.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

Call = dict[str, Any]
Places = dict[str, np.ndarray]  # for each operand the addresses of its elements, in the operand's shape

_NETWORK = (
    *("cell", "number", "T", "B", "I", "H", "P", "L", "D", "batch_sizes", "lengths", "resets", "resets_step", "resets_row"),
    *("params", "threads", "x", "x_step", "x_row", "initial", "fresh", "output", "output_step", "output_row"),
)
FORWARD = (*_NETWORK, "final", "hidden", "kept", "marks", "kept_padded")
BACKWARD = (
    *(*_NETWORK, "hidden", "kept", "marks", "kept_padded", "d_output", "d_output_step", "d_output_row", "d_output_column"),
    *("d_hidden", "d_kept", "d_final", "d_x", "d_x_step", "d_x_row", "d_initial", "d_fresh", "d_params"),
)
ACTIVATION = ("function", "number", "source", "target", "count")
LISTS = ("params", "d_params", "initial", "final", "d_initial", "d_final")  # of addresses
SIZES = (4, 8, 2)  # bytes of a number: float32, float64, bfloat16
BFLOAT16 = 2
CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm")  # by number
GATES, KEPT, STATES, LSTM = (1, 1, 3, 4), (0, 0, 4, 5), (1, 1, 1, 2), 3

MOST_ELEMENTS, MOST_WORK = 4_000_000, 200_000_000  # elements of an operand, and multiply-adds, up to which these tests run a call
CHUNK = 2**23  # bytes of gate gradients in which the backward pass walks
LAST = 2**63  # no process has memory beyond
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")


class IllegalError(Exception):
    """The call must be refused, and nothing written."""


class UnknowableError(Exception):
    """The call names memory that is not ours, as nobody but the caller can know; or it would take for ever."""


class Arena:
    """One piece of memory for all operands of a call. Under AddressSanitizer what is not lent out is poisoned."""

    def __init__(self, size: int) -> None:
        self.bytes = np.zeros(size, np.uint8)
        self.base = self.bytes.ctypes.data

    def fill(self, kind: type, most: float) -> None:
        """Write numbers from -most to most everywhere."""
        view = self.bytes[: len(self.bytes) // 8 * 8].view(kind)
        view[:] = np.random.default_rng(0).uniform(-most, most, view.shape)

    def offsets(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """Where the bytes of these elements lie in ``bytes``: one axis more."""
        return addresses[..., None] - self.base + np.arange(size)

    def read(self, addresses: np.ndarray, kind: type) -> np.ndarray:
        return self.bytes[self.offsets(addresses, np.dtype(kind).itemsize)].view(kind)[..., 0]

    def mask(self, places: list[np.ndarray], size: int) -> np.ndarray:
        """Which bytes belong to these elements."""
        mask = np.zeros(len(self.bytes), bool)
        for addresses in places:
            mask[self.offsets(addresses, size)] = True
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


class _Operands:
    """Collects what a call touches; says at the end what is wrong with it."""

    def __init__(self, arena: Arena, size: int) -> None:
        self.arena, self.size = arena, size
        self.read: Places = {}
        self.written: Places = {}
        self.illegal: list[str] = []
        self.unknowable: list[str] = []

    def add(self, name: str, address: Any, shape: tuple[int, ...], strides: tuple[int, ...], write: bool, nullable: bool) -> None:
        if not _is_address(address):
            self.illegal.append(f"{name} is no address")
            return
        if any(stride < 0 for stride in strides):
            self.illegal.append(f"{name} has a negative stride")
            return
        if 0 in shape or (address == 0 and nullable):
            return
        if address == 0:
            self.illegal.append(f"{name} is null")
            return
        if address % self.size:
            self.illegal.append(f"{name} is misaligned")
        end = address + (sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1) * self.size
        if end > LAST:
            self.illegal.append(f"{name} ends beyond memory")
        elif address < self.arena.base or end > self.arena.base + len(self.arena.bytes) or np.prod(shape, dtype=float) > MOST_ELEMENTS:
            self.unknowable.append(name)
        else:
            places = np.full(shape, address, np.int64)
            for axis, (n, stride) in enumerate(zip(shape, strides, strict=True)):
                places += (np.arange(n) * stride * self.size).reshape((n,) + (1,) * (len(shape) - axis - 1))
            (self.written if write else self.read)[name] = places

    def finish(self) -> tuple[Places, Places]:
        if self.illegal:
            raise IllegalError("; ".join(self.illegal))
        if self.unknowable:
            raise UnknowableError(", ".join(self.unknowable))
        count = sum(places.size * self.size for places in self.written.values())
        written = self.arena.mask(list(self.written.values()), self.size)
        if written.sum() != count:
            raise IllegalError("written elements overlap")
        if (written & self.arena.mask(list(self.read.values()), self.size)).any():
            raise IllegalError("written elements overlap read ones")
        return self.read, self.written


def operands(kind: str, call: Call, arena: Arena) -> tuple[Places, Places]:
    """What a call of "forward", "backward" or "activation" reads, and what it writes. Sequences have shape (rows, columns).

    Raises:
        IllegalError: the kernels must refuse the call.
        UnknowableError: the call must not be made.
    """
    if any(type(value) is not int for name, value in call.items() if name not in LISTS):
        raise IllegalError("an argument is no integer")
    numbers = (0, 1, BFLOAT16) if kind == "forward" else (0, 1)
    if not (0 <= call.get("cell", 0) < len(CELLS) and 0 <= call.get("function", 0) <= 2 and call["number"] in numbers):
        raise IllegalError("an unknown cell, function or number type")
    if call["number"] == BFLOAT16 and (call["hidden"] or call["kept"] or call["marks"]):
        raise IllegalError("in bfloat16 nothing is kept")
    size = SIZES[call["number"]]
    found = _Operands(arena, size)
    if kind == "activation":
        if not 0 <= call["count"] < LAST:
            raise IllegalError("a count out of range")
        found.add("source", call["source"], (call["count"],), (1,), False, False)
        found.add("target", call["target"], (call["count"],), (1,), True, False)
        return found.finish()

    T, B, I, H, P, L, D = (call[name] for name in ("T", "B", "I", "H", "P", "L", "D"))  # noqa: E741
    cell = call["cell"]
    if min(T, B, H, L) < 1 or I < 0 or D not in (1, 2) or not 1 <= call["threads"] < 2**31:
        raise IllegalError("a size out of range")
    if P and not (cell == LSTM and 0 < P < H):
        raise IllegalError("a projection where there is none")
    width = D * (P or H)
    if any(value >= LAST for value in (T, B, I, H, L)) or max(T * B, L * B, L * H) * max(width, I) * GATES[cell] * size > LAST:
        raise IllegalError("sizes beyond memory")
    _add_parameters(found, "", call)
    sizes = batch_sizes(call, arena)
    if max(T * B, 1) * L * width * GATES[cell] * (max(width, I) + H) > MOST_WORK:
        found.unknowable.append("time")
    rows = 1 if found.unknowable else sum(sizes) if sizes else T * B

    def sequence(name: str, columns: int, column: int, write: bool, nullable: bool) -> None:
        if nullable and call[name] == 0:
            return
        step, row = call[f"{name}_step"], call[f"{name}_row"]
        if T == 1:
            step = 0  # the stride of an axis of length one means nothing
        if B == 1 and sizes is None:
            row = 0
        if min(step, row) < 0 or max(step, row) >= LAST:
            found.illegal.append(f"strides of {name}")
        elif sizes is not None:
            found.add(name, call[name], (rows, columns), (row, column), write, nullable)
        else:
            found.add(name, call[name], (T, B, columns), (step, row, column), write, nullable)

    def states(name: str, write: bool, nullable: bool) -> None:
        addresses = call[name]
        if not isinstance(addresses, list | tuple) or len(addresses) != STATES[cell]:
            raise IllegalError(f"not one address for each state in {name}")
        for state, address, columns in zip("hc", addresses, (P or H, H), strict=False):
            found.add(f"{name} {state}", address, (L * D * B * columns,), (1,), write, nullable)

    forward = kind == "forward"
    sequence("x", I, 1, False, False)
    states("initial", False, True)
    sequence("output", width, 1, forward, False)
    found.add("hidden", call["hidden"], ((L - 1) * rows * width,), (1,), forward, forward)
    found.add("kept", call["kept"], (L * D * rows * KEPT[cell] * H,), (1,), forward, True)
    marks = 1 if found.unknowable else len(mark_positions(call))
    found.add("marks", call["marks"], (L * D * marks * B * H * (cell == LSTM),), (1,), forward, forward or call["kept"] != 0)
    if forward:
        states("final", True, False)
    else:
        if call["d_output_column"] not in (0, 1):
            raise IllegalError("the column stride of d_output")
        sequence("d_output", width, call["d_output_column"], False, True)
        states("d_final", False, True)
        sequence("d_x", I, 1, True, True)
        states("d_initial", True, True)
        _add_parameters(found, "d ", call)
    return found.finish()


def mark_positions(call: Call) -> list[int]:
    """Before which steps of its way a direction's memory is marked: where the backward pass's chunks end, the last step first."""
    chunk = max(1, CHUNK // ((8 if call["number"] else 4) * GATES[call["cell"]] * call["H"] * call["B"]))
    return [max(0, end - chunk) for end in range(call["T"], 0, -chunk)]


def shapes(call: Call, direction: int) -> tuple[tuple[int, ...], ...]:
    """Those of the parameters of a direction, counted through all layers; w_hr's is () without a projection."""
    rows, h = GATES[call["cell"]] * call["H"], call["P"] or call["H"]
    columns = call["I"] if direction < call["D"] else call["D"] * h
    return (rows, columns), (rows, h), (rows,), (rows,), (call["P"], call["H"]) if call["P"] else ()


def _add_parameters(found: _Operands, prefix: str, call: Call) -> None:
    addresses = call["d_params" if prefix else "params"]
    directions = call["L"] * call["D"]
    if not isinstance(addresses, list | tuple) or len(addresses) != len(WEIGHTS) * directions:
        raise IllegalError("not five addresses for each layer and direction")
    for i in range(directions):
        five = addresses[len(WEIGHTS) * i : len(WEIGHTS) * (i + 1)]
        if not prefix and (five[2] == 0) != (five[3] == 0):
            raise IllegalError("one bias without the other")
        for name, address, shape in zip(WEIGHTS, five, shapes(call, i), strict=True):
            if shape == () and not _is_address(address):
                raise IllegalError(f"{name} is no address")
            if shape == () and address != 0 and not prefix:
                raise IllegalError("w_hr without a projection")
            if shape:
                strides = (shape[1], 1) if len(shape) == 2 else (1,)
                found.add(f"{prefix}{name} {i}", address, shape, strides, bool(prefix), bool(prefix) or name.startswith("b"))


def _is_address(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**64


def batch_sizes(call: Call, arena: Arena) -> list[int] | None:
    """The batch sizes behind the address, checked; None where there is none."""
    address, T = call["batch_sizes"], call["T"]
    if address == 0:
        return None
    if not _is_address(address) or address % 8:
        raise IllegalError("no address of batch sizes")
    if not arena.base <= address <= arena.base + len(arena.bytes) - 8 * T:
        raise UnknowableError("batch_sizes")
    sizes: list[int] = arena.read(address + 8 * np.arange(T), np.int64).tolist()
    if sizes[0] != call["B"] or min(sizes) < 1 or sorted(sizes, reverse=True) != sizes:
        raise IllegalError("batch sizes that increase, end or do not begin with B")
    return sizes
