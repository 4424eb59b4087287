"""The kernels' raw interface: a call as a dict of the arguments by name, in the order of elman._native, and what its sizes make of it.

For test_fuzz. Imports no torch: under the sanitizers it is not wanted in the process.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

Call = dict[str, Any]
Places = dict[str, np.ndarray]  # for each operand the addresses of its elements, in the operand's shape

STACK = ("cell", "I", "H", "P", "L", "D", "bias")
INPUTS = ("params", "x", "initial", "fresh", "batch_sizes", "lengths", "reset", "batch_first", "pad_saved", "threads")
FOR_BACKWARD = ("hidden", "saved", "checkpoints")
FORWARD = (*INPUTS, "output", "final", *FOR_BACKWARD)
BACKWARD = (
    *INPUTS,
    "output",
    *FOR_BACKWARD,
    "grad_output",
    "grad_hidden",
    "grad_saved",
    "grad_final",
    "grad_x",
    "grad_initial",
    "grad_fresh",
    "grad_params",
)
ACTIVATION = ("function", "source", "target")
ARGUMENTS = {"forward": FORWARD, "backward": BACKWARD, "activation": ACTIVATION}
LISTS = ("params", "grad_params", "initial", "fresh", "final", "grad_initial", "grad_fresh", "grad_final")  # of operands
KINDS = ("float32", "float64", "uint16")  # of numbers; bfloat16 is shown as uint16
SIZES = (4, 8, 2)  # their bytes
BFLOAT16 = 2
WIDE = ("saved", "checkpoints", "grad_saved")  # in bfloat16 these are float32
_native = pytest.importorskip("elman._native", reason="the kernels are not built here", exc_type=ImportError)
CELLS = tuple(_native.cells())  # by number
GATES, STATES, SAVED = (tuple(numbers) for numbers in zip(*_native.cells().values(), strict=True))
LSTM = CELLS.index("lstm")

MOST_ELEMENTS, MOST_WORK = 4_000_000, 600_000_000  # elements of an operand, and multiply-adds, up to which these tests run a call
SECOND_LEVEL, THIRD_LEVEL = 2**20, 2**23  # bytes of caches, as the backward pass counts on them
LAST = 2**63  # no process has memory beyond
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")


class View(NamedTuple):
    """Where an operand lies, and what it claims to be. Strides count elements."""

    at: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    kind: str  # NumPy's name

    @staticmethod
    def dense(at: int, shape: tuple[int, ...], kind: str) -> View:
        return View(at, shape, dense(shape), kind)

    def array(self) -> np.ndarray:
        """An array that claims so, whatever is there."""
        kind = np.dtype(self.kind)
        shown = {"data": (self.at, False), "typestr": kind.str, "shape": self.shape, "version": 3}
        shown["strides"] = tuple(stride * kind.itemsize for stride in self.strides)
        return np.asarray(type("Shown", (), {"__array_interface__": shown})())


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of what is contiguous."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def arguments(kind: str, call: Call) -> list[Any]:
    """A call as the kernels take it."""

    def shown(value: Any) -> Any:
        if isinstance(value, View):
            return value.array()
        return type(value)(map(shown, value)) if type(value) in (list, tuple) else value

    return ([] if kind == "activation" else [stack_of(call)]) + [shown(call[name]) for name in ARGUMENTS[kind]]


def stack_of(call: Call) -> tuple[Any, ...]:
    """What runs, as the kernels are told."""
    cell, *sizes = (call[name] for name in STACK)
    return CELLS[cell] if 0 <= cell < len(CELLS) else f"cell {cell}", *sizes, False, 0, 0


class Steps(NamedTuple):
    """The steps that are run. Sequences are counted in falling order of length, those of the same length as they come."""

    alive: list[int]  # how many sequences have each step; empty where none has any
    order: list[int]  # which of the caller's sequences they are; then those without a step
    packed: bool  # whether sequences hold these steps one after another, and nothing else

    @staticmethod
    def of(lengths: list[int]) -> Steps:
        """Those of sequences of these lengths, padded."""
        ended = np.cumsum(np.bincount(lengths))[:-1]
        return Steps((len(lengths) - ended).tolist(), sorted(range(len(lengths)), key=lambda b: -lengths[b]), False)

    @property
    def sequences(self) -> int:
        """How many have a step."""
        return self.alive[0] if self.alive else 0

    @property
    def count(self) -> int:
        """The steps of all sequences."""
        return sum(self.alive)

    def each(self) -> tuple[np.ndarray, np.ndarray]:
        """The step and the caller's sequence of each, in the order of packed sequences."""
        alive = np.array(self.alive, int)
        sequences = np.arange(self.count) - np.repeat(np.cumsum(alive) - alive, alive)
        return np.repeat(np.arange(len(alive)), alive), np.array(self.order)[sequences]

    def seen(self, call: Call) -> Call:
        """The call as the kernels see it: with no more steps and sequences than there are."""
        return call | {"T": len(self.alive), "B": self.sequences}


def kind_of(name: str, number: int) -> str:
    """What an operand is of, or a part of it, in NumPy's words."""
    if name == "reset":
        return "uint8"
    return KINDS[0 if number == BFLOAT16 and name.removesuffix(" padding") in WIDE else number]


def size_of(name: str, number: int) -> int:
    """How many bytes an element of it has."""
    return np.dtype(kind_of(name, number)).itemsize


def chunk_steps(cell: int, size: int, hidden: int, batch: int, directions: int, steps: int) -> int:
    """How many steps the backward pass takes at once (csrc/kernels.h), of numbers of so many bytes."""
    gates, is_split = GATES[cell], CELLS[cell] == "gru"
    step = size * (gates + is_split) * hidden * batch
    if step == 0:
        return 1
    most = max(1, THIRD_LEVEL // step)
    if directions == 1 and 2 * size * gates * hidden**2 <= SECOND_LEVEL:
        most = min(most, max(2 * SECOND_LEVEL // step, 512 // batch, 8))
    chunks = -(-steps // most)
    return -(-steps // chunks)


def checkpoint_steps(call: Call) -> list[int]:
    """Before which steps of its way a direction has a checkpoint of c: where the backward pass's chunks end, the last step first."""
    size = 8 if call["number"] == 1 else 4
    chunk = chunk_steps(call["cell"], size, call["H"], call["B"], call["D"], max(1, call["T"]))
    return [max(0, end - chunk) for end in range(call["T"], 0, -chunk)]


def shapes(call: Call, direction: int) -> dict[str, tuple[int, ...]]:
    """Those of the parameters of a direction, counted through all layers, which there are."""
    rows, h = GATES[call["cell"]] * call["H"], call["P"] or call["H"]
    columns = call["I"] if direction < call["D"] else call["D"] * h
    found: dict[str, tuple[int, ...]] = {"w_ih": (rows, columns), "w_hh": (rows, h)}
    found |= {"b_ih": (rows,), "b_hh": (rows,)} if call["bias"] else {}
    return found | ({"w_hr": (call["P"], call["H"])} if call["P"] else {})
