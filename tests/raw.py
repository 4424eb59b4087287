"""The kernels' raw interface, told independently of them: which memory a call may touch, and so which calls must be refused.

For test_fuzz. Imports NumPy alone: under the sanitizers nothing else is wanted in the process. A call is a dict of the arguments by
name, in the order of elman._native; its memory is an ``Arena``, to which all of its addresses belong.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

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
LISTS = ("params", "d_params", "initial", "fresh", "final", "d_initial", "d_fresh", "d_final")  # of addresses
SIZES = (4, 8, 2)  # bytes of a number: float32, float64, bfloat16
BFLOAT16 = 2
CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm")  # by number
GATES, KEPT, STATES, LSTM = (1, 1, 3, 4), (0, 0, 4, 5), (1, 1, 1, 2), 3

MOST_ELEMENTS, MOST_WORK = 4_000_000, 600_000_000  # elements of an operand, and multiply-adds, up to which these tests run a call
CHUNK = 2**23  # bytes of gate gradients in which the backward pass walks
LAST = 2**63  # no process has memory beyond
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")


class IllegalError(Exception):
    """The call must be refused, and nothing written."""


class UnknowableError(Exception):
    """The call names memory that is not ours, as nobody but the caller can know; or it would take for ever."""


class Steps(NamedTuple):
    """The steps that are run. Rows are counted in falling order of length, those of the same length as they come."""

    alive: list[int]  # how many rows have each step; empty where none has any
    order: list[int]  # which rows of the caller's they are; then the caller's rows without a step
    packed: bool  # whether sequences hold these steps one after another, and nothing else

    @staticmethod
    def of(lengths: list[int]) -> Steps:
        """Those of rows of these lengths in padded sequences."""
        ended = np.cumsum(np.bincount(lengths))[:-1]
        return Steps((len(lengths) - ended).tolist(), sorted(range(len(lengths)), key=lambda row: -lengths[row]), False)

    @property
    def rows(self) -> int:
        """How many have a step."""
        return self.alive[0] if self.alive else 0

    @property
    def count(self) -> int:
        """The steps of all rows."""
        return sum(self.alive)

    def each(self) -> tuple[np.ndarray, np.ndarray]:
        """The step and the caller's row of each, in the order of packed sequences."""
        alive = np.array(self.alive, int)
        rows = np.arange(self.count) - np.repeat(np.cumsum(alive) - alive, alive)
        return np.repeat(np.arange(len(alive)), alive), np.array(self.order)[rows]

    def seen(self, call: Call) -> Call:
        """The call as the kernels see it: with no more steps and rows than there are."""
        return call | {"T": len(self.alive), "B": self.rows}


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

    def read(self, addresses: np.ndarray, kind: type) -> np.ndarray:
        offsets = addresses[..., None] - self.base + np.arange(np.dtype(kind).itemsize)
        return self.bytes[offsets].view(kind)[..., 0]

    def mask(self, places: Places, size: int) -> np.ndarray:
        """Which bytes belong to these elements."""
        mask = np.zeros(len(self.bytes), bool)
        for name, addresses in places.items():
            for byte in range(size_of(name, size)):
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


def size_of(name: str, size: int) -> int:
    """How many bytes an element of an operand has, where a number has ``size``."""
    return 1 if name == "resets" else size


class _Operands:
    """Collects what a call touches; says at the end what is wrong with it."""

    def __init__(self, arena: Arena, size: int) -> None:
        self.arena, self.size = arena, size
        self.read: Places = {}
        self.written: Places = {}
        self.illegal: list[str] = []
        self.unknowable: list[str] = []

    def add(
        self,
        name: str,
        address: Any,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        write: bool,
        nullable: bool,
        touched: tuple[Any, ...] = (),
    ) -> None:
        """An operand, all of which must be there. Where ``touched`` indexes some of it, the rest is not read; it is written under its name
        and "padding".
        """
        size = size_of(name, self.size)
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
        if address % size:
            self.illegal.append(f"{name} is misaligned")
        end = address + (sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1) * size
        if end > LAST:
            self.illegal.append(f"{name} ends beyond memory")
        elif address < self.arena.base or end > self.arena.base + len(self.arena.bytes) or np.prod(shape, dtype=float) > MOST_ELEMENTS:
            self.unknowable.append(name)
        else:
            places = np.full(shape, address, np.int64)
            for axis, (n, stride) in enumerate(zip(shape, strides, strict=True)):
                places += (np.arange(n) * stride * size).reshape((n,) + (1,) * (len(shape) - axis - 1))
            rest = np.ones(shape, bool)
            rest[touched] = False
            (self.written if write else self.read)[name] = places[touched]
            if write and rest.any():
                self.written[f"{name} padding"] = places[rest]

    def finish(self) -> tuple[Places, Places]:
        if self.illegal:
            raise IllegalError("; ".join(self.illegal))
        if self.unknowable:
            raise UnknowableError(", ".join(self.unknowable))
        count = sum(places.size * self.size for places in self.written.values())
        written = self.arena.mask(self.written, self.size)
        if written.sum() != count:
            raise IllegalError("written elements overlap")
        if (written & self.arena.mask(self.read, self.size)).any():
            raise IllegalError("written elements overlap read ones")
        return self.read, self.written


def operands(kind: str, call: Call, arena: Arena) -> tuple[Places, Places]:
    """What a call of "forward", "backward" or "activation" reads, and what it writes.

    Of padded sequences, and of what is kept, the steps that are run, in the order of packed ones: sequences have shape (steps, columns).
    States have shape (L·D, rows, columns), the rows in the order of ``Steps``; those of rows without a step are apart, under their name
    and "idle".

    Raises:
        IllegalError: the kernels must refuse the call.
        UnknowableError: the call must not be made.
    """
    if any(type(value) is not (bool if name == "kept_padded" else int) for name, value in call.items() if name not in LISTS):
        raise IllegalError("an argument is no integer, or no bool")
    numbers = (0, 1, BFLOAT16) if kind == "forward" else (0, 1)
    if not (0 <= call.get("cell", 0) < len(CELLS) and 0 <= call.get("function", 0) <= 2 and call["number"] in numbers):
        raise IllegalError("an unknown cell, function or number type")
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
    ragged = ragged_steps(call, arena)
    if max(T * B, 1) * L * width * GATES[cell] * (max(width, I) + H) > MOST_WORK:
        found.unknowable.append("time")
    if call["number"] == BFLOAT16 and (call["hidden"] or call["kept"] or call["marks"]):
        found.illegal.append("in bfloat16 nothing is kept")
    known = not found.unknowable
    steps = ragged or (Steps([B] * T, list(range(B)), False) if known else None)
    run = steps.each() if known and steps else ()
    padded = bool(call["lengths"]) and call["kept_padded"]

    def sequence(name: str, columns: int, column: int, write: bool, nullable: bool) -> None:
        if nullable and call[name] == 0:
            return
        step, row = call[f"{name}_step"], call[f"{name}_row"]
        if T == 1:
            step = 0  # the stride of an axis of length one means nothing
        if B == 1 and not call["batch_sizes"]:
            row = 0
        if min(step, row) < 0 or max(step, row) >= LAST:
            found.illegal.append(f"strides of {name}")
        elif ragged and ragged.packed:
            found.add(name, call[name], (ragged.count, columns), (row, column), write, nullable)
        else:
            found.add(name, call[name], (T, B, columns), (step, row, column), write, nullable, run)

    def kept(name: str, count: int, columns: int, write: bool, nullable: bool) -> None:
        """Of each layer or direction."""
        if padded:
            strides = (T * B * columns, B * columns, columns, 1)
            found.add(name, call[name], (count, T, B, columns), strides, write, nullable, (slice(None), *run))
        else:  # of how many rows nothing is known, if not even of one
            rows = steps.count if steps else 1
            found.add(name, call[name], (count, rows, columns), (rows * columns, columns, 1), write, nullable)

    def states(name: str, write: bool, nullable: bool) -> None:
        for state, address, columns in _by_state(call, name):
            own = f"{name} {state}"
            found.add(own, address, (L * D, B, columns), (B * columns, columns, 1), write, nullable)
            to = found.written if write else found.read
            if steps and own in to:
                places = to.pop(own)
                to |= {own: places[:, steps.order[: steps.rows]], f"{own} idle": places[:, steps.order[steps.rows :]]}

    def fresh(name: str, write: bool) -> None:
        for state, address, columns in _by_state(call, name):
            found.add(f"{name} {state}", address, (L * D, columns), (columns, 1), write, True)

    forward = kind == "forward"
    if call["resets"]:
        if max(call["resets_step"], call["resets_row"]) >= LAST:
            found.illegal.append("strides of resets")
        found.add("resets", call["resets"], (T, B), (call["resets_step"], call["resets_row"]), False, False, run)
    sequence("x", I, 1, False, False)
    states("initial", False, True)
    fresh("fresh", False)
    sequence("output", width, 1, forward, False)
    kept("hidden", L - 1, width, forward, forward)
    kept("kept", L * D, KEPT[cell] * H, forward, True)
    marks = len(mark_positions(steps.seen(call))) if steps else 1
    marked = (L * D, marks, steps.rows if steps else 1, H * (cell == LSTM))
    found.add("marks", call["marks"], (math.prod(marked),), (1,), forward, forward or call["kept"] != 0)
    if forward:
        states("final", True, False)
    else:
        if call["d_output_column"] not in (0, 1):
            raise IllegalError("the column stride of d_output")
        sequence("d_output", width, call["d_output_column"], False, True)
        kept("d_hidden", L - 1, width, False, True)
        kept("d_kept", L * D, KEPT[cell] * H, False, True)
        if "d_kept" in found.read and not call["kept"]:
            found.illegal.append("d_kept without kept")
        states("d_final", False, True)
        sequence("d_x", I, 1, True, True)
        states("d_initial", True, True)
        fresh("d_fresh", True)
        _add_parameters(found, "d ", call)
    _forget_what_is_not_read(found.read, found.written, forward)
    return found.finish()


def _forget_what_is_not_read(read: Places, written: Places, forward: bool) -> None:
    """The states of rows without a step are read to be handed through, those that resets start from where there are resets."""
    for state in "hc":
        if not forward:
            read.pop(f"initial {state} idle", None)
            if f"d_initial {state}" not in written:
                read.pop(f"d_final {state} idle", None)
        if "resets" not in read:
            read.pop(f"fresh {state}", None)


def _by_state(call: Call, name: str) -> list[tuple[str, Any, int]]:
    """For each of the cell's states its name, the address given, and how wide it is."""
    addresses = call[name]
    if not isinstance(addresses, list | tuple) or len(addresses) != STATES[call["cell"]]:
        raise IllegalError(f"not one address for each state in {name}")
    return list(zip("hc", addresses, (call["P"] or call["H"], call["H"]), strict=False))


def mark_positions(call: Call) -> list[int]:
    """Before which steps of its way a direction's memory is marked: where the backward pass's chunks end, the last step first."""
    chunk = max(1, CHUNK // ((8 if call["number"] else 4) * GATES[call["cell"]] * call["H"] * max(1, call["B"])))
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


def ragged_steps(call: Call, arena: Arena) -> Steps | None:
    """The steps that batch sizes or lengths leave, these being checked; None where there are neither."""
    T, B = call["T"], call["B"]
    sizes = _counts("batch_sizes", T, call, arena)
    if sizes is not None and (sizes[0] != B or min(sizes) < 1 or sorted(sizes, reverse=True) != sizes):
        raise IllegalError("batch sizes that increase, end or do not begin with B")
    if sizes is not None and call["lengths"]:
        raise IllegalError("batch sizes and lengths")
    lengths = _counts("lengths", B, call, arena)
    if lengths is not None and not 0 <= min(lengths) <= max(lengths) <= T:
        raise IllegalError("lengths below 0 or beyond T")
    if lengths is not None and max(lengths) > MOST_ELEMENTS:
        raise UnknowableError("time")
    return Steps(sizes, list(range(B)), True) if sizes else Steps.of(lengths) if lengths else None


def _counts(name: str, count: int, call: Call, arena: Arena) -> list[int] | None:
    """The integers behind an address; None where there is none."""
    address = call[name]
    if address == 0:
        return None
    if not _is_address(address) or address % 8:
        raise IllegalError(f"no address of {name}")
    if not arena.base <= address <= arena.base + len(arena.bytes) - 8 * count:
        raise UnknowableError(name)
    numbers: list[int] = arena.read(address + 8 * np.arange(count), np.int64).tolist()
    return numbers
