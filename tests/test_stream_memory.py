"""Arbitrary arguments thrown at the kernels that run a step at a time: they are refused, or only the stream's own memory is written.

`make sanitize` runs this file too, on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, without torch in the process:
then a read outside the arrays is an error.
"""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

_native = pytest.importorskip("elman._native", reason="the kernels are not built here", exc_type=ImportError)

LSTM, GATES, STATES = 3, (1, 1, 3, 4), (1, 1, 1, 2)
GUARD = 40  # numbers before and after memory that is written


@pytest.fixture(autouse=True, scope="module")
def _the_instruction_set_stays_as_it_was() -> Iterator[None]:
    isa = _native.isa()
    yield
    _native.use(isa)


class Parameter(np.ndarray):
    """What a stream watches: an array that counts writes, and says where it lies."""

    _version = 0

    def data_ptr(self) -> int:
        return self.ctypes.data


class Memory:
    """The arguments of a stream, and guards around what it writes."""

    def __init__(self, cell: int, I: int, H: int, P: int, L: int, bias: bool, B: int, kind: type) -> None:  # noqa: E741
        rng, out, rows = np.random.default_rng(0), P or H, GATES[cell] * H
        shapes = [
            shape
            for layer in range(L)
            for shape in ((rows, out if layer else I), (rows, out), *(((rows,),) * 2 if bias else ()), *(((P, H),) if P else ()))
        ]
        self.params = [rng.uniform(-1, 1, shape).astype(kind).view(Parameter) for shape in shapes]
        self.guarded: list[np.ndarray] = []
        self.states = [self._guard((L, B, width), kind) for width in (out, H)[: STATES[cell]]]
        self.output = self._guard((B, out), kind)
        self.results: Any = ("row", "rows", None, None)
        self.entries = {str(i): param for i, param in enumerate(self.params)}
        self.call = [cell, I, H, P, L, bias, B]

    def _guard(self, shape: tuple[int, ...], kind: type) -> np.ndarray:
        size = int(np.prod(shape))
        whole = np.full(size + 2 * GUARD, 7, kind)
        whole[GUARD:-GUARD] = 0
        self.guarded.append(whole)
        return whole[GUARD:-GUARD].reshape(shape)

    def open(self, watched: bool = True) -> Any:
        names = tuple(self.entries) if watched else ()
        return _native.Stream(*self.call, self.params, self.states, self.output, self.results, (), self.entries, names)

    def assert_guards_stand(self) -> None:
        for whole in self.guarded:
            assert (whole[:GUARD] == 7).all()
            assert (whole[-GUARD:] == 7).all()


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    cell, H = draw(st.integers(0, 3)), draw(st.integers(1, 40))
    P = draw(st.integers(0, H - 1)) if cell == LSTM else 0
    sizes = draw(st.integers(1, 20)), H, P, draw(st.integers(1, 3)), draw(st.booleans()), draw(st.integers(1, 9))
    return Memory(cell, *sizes, draw(st.sampled_from([np.float32, np.float64])))


@given(memories(), st.sampled_from(_native.isas()), st.data())
@settings(max_examples=100, deadline=None)
def test_only_states_and_output_are_written_and_only_x_is_read(memory: Memory, isa: str, data: st.DataObject) -> None:
    _native.use(isa)
    stream = memory.open()
    _, I, _, _, _, _, B = memory.call  # noqa: E741
    kind = memory.output.dtype
    for _ in range(2):
        layout = data.draw(st.sampled_from(["dense", "rows apart", "backwards", "one for all", "one row"]))
        x = np.random.default_rng(0).uniform(-1, 1, (B, I)).astype(kind)  # its last number is memory's last
        if layout == "rows apart":
            x = np.concatenate([x, x], axis=1)[:, I:]
        elif layout == "backwards":
            x = x[::-1]
        elif layout == "one for all":
            x = np.broadcast_to(x[0], (B, I))
        elif layout == "one row":
            x = x[0]
        taken = stream.step(x)
        assert taken == ("row" if x.ndim == 1 else "rows") if x.ndim == 2 or B == 1 else taken is None
        assert np.isfinite(memory.output).all()
        memory.assert_guards_stand()


ODD = {
    "nothing": None,
    "a number": 3,
    "text": "x",
    "bytes": b"0123456789ab",
    "an empty array": np.zeros((0, 3), np.float32),
    "no axis": np.zeros((), np.float32),
    "too few rows": np.zeros((1, 3), np.float32),
    "too many rows": np.zeros((3, 3), np.float32),
    "too few columns": np.zeros((2, 2), np.float32),
    "another axis": np.zeros((2, 3, 1), np.float32),
    "one row": np.zeros(3, np.float32),
    "columns apart": np.zeros((2, 6), np.float32)[:, ::2],
    "columns backwards": np.zeros((2, 3), np.float32)[:, ::-1],
    "one column for all": np.broadcast_to(np.zeros((2, 1), np.float32), (2, 3)),
    "misaligned": np.zeros(25, np.uint8)[1:].view(np.float32).reshape(2, 3),
    "float64": np.zeros((2, 3)),
    "integers": np.zeros((2, 3), np.int32),
    "byte order": np.zeros((2, 3), ">f4"),
    "objects": np.full((2, 3), None),
    "a list": [[0.0] * 3] * 2,
    "an array of another library": array.array("f", [0.0] * 6),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_does_not_fit_is_declined_and_nothing_written(odd: str) -> None:
    memory = Memory(LSTM, 3, 5, 2, 2, True, 2, np.float32)
    stream = memory.open()
    assert stream.step(np.ones((2, 3), np.float32)) == "rows"
    before = [whole.copy() for whole in memory.guarded]
    assert stream.step(ODD[odd]) is None
    assert all(map(np.array_equal, memory.guarded, before))


def _change(memory: Memory, part: str, value: Any) -> None:
    if part.isdigit():
        memory.call[int(part)] = value
    elif part == "param":
        memory.params[1] = value
    elif part == "state":
        memory.states[1] = value
    elif part == "output":
        memory.output = value
    else:
        setattr(memory, part, value)


def _frozen(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


WRONG = {
    "cell": ("0", 4, "the cell must be 0"),
    "no inputs": ("1", 0, "must be at least 1"),
    "inputs": ("1", 4, "a parameter must be dense"),
    "huge": ("2", 2**62, "too large"),
    "units": ("2", 6, "a parameter must be dense"),
    "projection": ("3", 5, "a projection is an LSTM's, and smaller than H"),
    "negative projection": ("3", -1, "a projection is an LSTM's"),
    "layers": ("4", 3, "too few or too many"),
    "bias": ("5", False, "too few or too many"),
    "batch": ("6", 3, "a state must be dense"),
    "no batch": ("6", 0, "must be at least 1"),
    "parameter's shape": ("param", np.zeros((20, 3), np.float32), "a parameter must be dense"),
    "parameter's type": ("param", np.zeros((20, 2)), "a parameter must be dense"),
    "parameter's layout": ("param", np.zeros((2, 20), np.float32).T, "a parameter must be dense"),
    "parameter's kind": ("param", None, "a parameter must be dense"),
    "state's shape": ("state", np.zeros((2, 2, 2), np.float32), "a state must be dense"),
    "state's access": ("state", _frozen(np.zeros((2, 2, 5), np.float32)), "a state must be dense, writable"),
    "state's kind": ("state", b"", "a state must be dense"),
    "output's shape": ("output", np.zeros((2, 5), np.float32), "the output must be dense"),
    "output's access": ("output", _frozen(np.zeros((2, 2), np.float32)), "the output must be dense, writable"),
    "results": ("results", (), "there are four results"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_a_stream_is_refused(wrong: str) -> None:
    part, value, message = WRONG[wrong]
    memory = Memory(LSTM, 3, 5, 2, 2, True, 2, np.float32)
    _change(memory, part, value)
    with pytest.raises(ValueError, match=message):
        memory.open()
    memory.assert_guards_stand()


def test_memory_that_is_written_may_not_overlap() -> None:
    for overlapping in ("states", "output", "parameter"):
        memory = Memory(LSTM, 3, 5, 0, 1, False, 2, np.float32)
        shared = np.zeros(20 * 5, np.float32)
        if overlapping == "states":
            memory.states = [shared[:10].reshape(1, 2, 5), shared[9:19].reshape(1, 2, 5)]
        elif overlapping == "output":
            memory.states[0], memory.output = shared[:10].reshape(1, 2, 5), shared[:10].reshape(2, 5)
        else:
            memory.params[1], memory.output = shared.reshape(20, 5).view(Parameter), shared[-10:].reshape(2, 5)
        with pytest.raises(ValueError, match="must not overlap"):
            memory.open(watched=False)


def test_a_parameter_that_changes_is_noticed() -> None:
    x = np.ones((2, 3), np.float32)
    for change in ("another", "gone", "written", "written, not counted", "moved", "nothing"):
        memory = Memory(2, 3, 5, 0, 1, True, 2, np.float32)
        stream = memory.open()
        assert stream.is_current()
        first = memory.params[0]
        if change == "another":
            memory.entries["0"] = first.copy()
        elif change == "gone":
            del memory.entries["0"]
        elif change == "written":
            first._version = 1
        elif change == "written, not counted":
            first *= 2
        elif change == "moved":
            elsewhere = first.copy()
            first.data_ptr = lambda at=elsewhere.ctypes.data: at
        assert stream.is_current() == (change == "nothing")
        assert stream.step(x) == ("rows" if change == "nothing" else None)


def test_what_was_packed_outlives_the_arrays() -> None:
    memory = Memory(LSTM, 3, 5, 2, 2, True, 2, np.float32)
    stream = memory.open(watched=False)
    x = np.ones((2, 3), np.float32)
    stream.step(x)
    once = memory.output.copy()
    other = Memory(LSTM, 3, 5, 2, 2, True, 2, np.float32)
    again = other.open(watched=False)
    output = other.output
    other.params.clear()
    other.states.clear()
    other.entries.clear()
    other.guarded.clear()
    again.step(x)
    np.testing.assert_array_equal(output, once)
