"""Arbitrary arguments thrown at the kernels that run a step at a time: they are refused, or only states and the output are written.

`make sanitize` runs this file too, on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, without torch in the process:
then a read outside the arrays is an error.
"""

from __future__ import annotations

import array
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

_native = pytest.importorskip("elman._native", reason="the kernels are not built here", exc_type=ImportError)

CELLS = tuple(_native.cells())  # by number
GATES, STATES, _ = (tuple(numbers) for numbers in zip(*_native.cells().values(), strict=True))
LSTM = CELLS.index("lstm")
GUARD = 40  # numbers before and after memory that is written


@pytest.fixture(autouse=True, scope="module")
def _the_kernels_settings_stay_as_they_were() -> Iterator[None]:
    """Arrays are asked for their attributes: torch shows none but its tensors."""
    isa = _native.isa()
    _native.offer_exchange(object())
    yield
    _native.use(isa)
    if "torch" in sys.modules:
        _native.offer_exchange(getattr(sys.modules["torch"].Tensor, "__dlpack_c_exchange_api__", object()))


class Parameter(np.ndarray):
    """What a stream watches: an array that counts writes, and says where it lies."""

    _version = 0
    is_cpu = True

    @property
    def dtype(self) -> str:
        return f"torch.{np.asarray(self).dtype}"

    def data_ptr(self) -> int:
        return self.ctypes.data

    def stride(self) -> tuple[int, ...]:
        return tuple([step // self.itemsize for step in self.strides])


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
        self.shape, self.kind = (B, out), np.dtype(kind)
        self.fresh: Any = ((np.empty, (out,), kind), (np.empty, (B, out), kind), (np.empty, 0), (np.empty, 0))
        self.entries = {str(i): param for i, param in enumerate(self.params)}
        self.call = [CELLS[cell], I, H, P, L, bias, B]

    def _guard(self, shape: tuple[int, ...], kind: Any) -> np.ndarray:
        size = int(np.prod(shape))
        whole = np.full(size + 2 * GUARD, 7, kind)
        whole[GUARD:-GUARD] = 0
        self.guarded.append(whole)
        return whole[GUARD:-GUARD].reshape(shape)

    def open(self, watched: bool = True) -> Any:
        names = tuple(self.entries) if watched else ()
        *stack, batch = self.call
        cell, *sizes, bias = stack
        return _native.Stream((cell, *sizes, 1, bias, False, 0, 0), batch, self.params, self.states, self.fresh, self.entries, names)

    def out(self, layout: str) -> np.ndarray:
        """Memory for an output, between guards."""
        B, width = self.shape
        if layout == "one row":
            return self._guard((width,), self.kind)
        if layout == "rows apart":
            return self._guard((B, width + 3), self.kind)[:, 1 : width + 1]
        return self._guard((B, width), self.kind)[:: -1 if layout == "backwards" else 1]

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
    _, I, *_, B = memory.call  # noqa: E741
    kind = memory.kind
    for _ in range(3):
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
        layout = data.draw(st.sampled_from([None, "dense", "rows apart", "backwards", "one row"]))
        out = None if layout is None else memory.out(layout)
        taken = stream.step(x, out)
        if (x.ndim == 2 or B == 1) and (out is None or out.ndim == x.ndim):
            assert taken is out if out is not None else taken.shape == memory.shape[2 - x.ndim :]
            np.testing.assert_array_equal(taken.reshape(memory.shape), memory.states[0][-1])
            assert not any(np.may_share_memory(taken, state) for state in memory.states)
        else:
            assert taken is None
            assert out is None or not out.any()
        if layout == "rows apart":
            assert not out.base[GUARD:-GUARD].reshape(B, -1)[:, [0, -2, -1]].any()
        assert all(np.isfinite(state).all() for state in memory.states)
        memory.assert_guards_stand()


ODD = {
    "nothing": None,
    "a number": 3,
    "text": "x",
    "bytes": b"0123456789ab",
    "an empty array": np.zeros((0, 3), np.float32),
    "no axis": np.zeros((), np.float32),
    "too few sequences": np.zeros((1, 3), np.float32),
    "too many sequences": np.zeros((3, 3), np.float32),
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
    out = memory.out("dense")
    assert stream.step(np.ones((2, 3), np.float32), out) is out
    before = [whole.copy() for whole in memory.guarded]
    assert stream.step(ODD[odd], None) is None
    assert stream.step(ODD[odd], out) is None
    assert all(map(np.array_equal, memory.guarded, before))


def _frozen(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


ODD_OUT = {name: odd for name, odd in ODD.items() if name not in ("nothing", "too few columns")} | {
    "read-only": _frozen(np.zeros((2, 2), np.float32)),
    "too many columns": np.zeros((2, 3), np.float32),
    "columns apart": np.zeros((2, 4), np.float32)[:, ::2],
    "columns backwards": np.zeros((2, 2), np.float32)[:, ::-1],
    "one column for all": np.lib.stride_tricks.as_strided(np.zeros((2, 1), np.float32), (2, 2), (4, 0), writeable=True),
    "one row for all": np.lib.stride_tricks.as_strided(np.zeros(2, np.float32), (2, 2), (0, 4), writeable=True),
    "rows over one another": np.lib.stride_tricks.as_strided(np.zeros(3, np.float32), (2, 2), (4, 4), writeable=True),
    "rows over one another, backwards": np.lib.stride_tricks.as_strided(np.zeros(3, np.float32)[1:], (2, 2), (-4, 4), writeable=True),
    "float64": np.zeros((2, 2)),
    "integers": np.zeros((2, 2), np.int32),
    "byte order": np.zeros((2, 2), ">f4"),
    "misaligned": np.zeros(17, np.uint8)[1:].view(np.float32).reshape(2, 2),
    "bytes that may be written": bytearray(16),
}


@pytest.mark.parametrize("odd", ODD_OUT)
def test_an_output_that_does_not_fit_is_declined_and_nothing_written(odd: str) -> None:
    memory, x = Memory(LSTM, 3, 5, 2, 2, True, 2, np.float32), np.ones((2, 3), np.float32)
    stream = memory.open()
    stream.step(x, None)
    before = [whole.copy() for whole in memory.guarded]
    out = ODD_OUT[odd]
    out_before = bytes(out) if isinstance(out, bytes | bytearray) else np.array(out)
    assert stream.step(x, out) is None
    assert (
        np.array_equal(np.asarray(out), np.asarray(out_before))
        if isinstance(out, np.ndarray)
        else bytes(out) == out_before
        if isinstance(out, bytearray)
        else True
    )
    assert all(map(np.array_equal, memory.guarded, before))


def test_an_output_may_lie_over_the_input() -> None:
    for shift in (0, 1, 2, 3):  # the output over the input, and partly over it
        memory, other = (Memory(LSTM, 2, 5, 2, 1, True, 2, np.float32) for _ in range(2))
        shared = np.random.default_rng(0).uniform(-1, 1, 8).astype(np.float32)
        expected = other.open().step(shared[:4].reshape(2, 2).copy(), None)
        out = shared[shift : shift + 4].reshape(2, 2)
        assert memory.open().step(shared[:4].reshape(2, 2), out) is out
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("part", ["a state", "the other state", "a parameter"])
def test_an_output_in_the_streams_memory_is_declined(part: str) -> None:
    memory, x = Memory(LSTM, 3, 5, 0, 1, True, 2, np.float32), np.ones((2, 3), np.float32)
    stream = memory.open()
    own = memory.params[1].view(np.ndarray) if part == "a parameter" else memory.states[part == "the other state"]
    own = own.reshape(-1)
    before = [whole.copy() for whole in (*memory.guarded, memory.params[1])]
    assert stream.step(x, own[:10].reshape(2, 5)) is None
    assert stream.step(x, own[-10:].reshape(2, 5)) is None
    if part != "a parameter":  # the last number, and what lies behind it
        whole = memory.guarded[part == "the other state"]
        assert stream.step(x, whole[GUARD + 9 : GUARD + 19].reshape(2, 5)) is None
        assert stream.step(x, whole[GUARD - 9 : GUARD + 1].reshape(2, 5)) is None
    assert all(map(np.array_equal, (*memory.guarded, memory.params[1]), before))


def _fail() -> None:
    raise ArithmeticError


MADE = {
    "nothing": lambda: None,
    "too many columns": lambda: np.zeros((2, 3), np.float32),
    "float64": lambda: np.zeros((2, 2)),
    "an error": _fail,
}


@pytest.mark.parametrize("made", MADE)
def test_what_is_made_for_an_output_is_looked_at_too(made: str) -> None:
    memory, x = Memory(LSTM, 3, 5, 2, 1, True, 2, np.float32), np.ones((2, 3), np.float32)
    memory.fresh = ((MADE[made],),) * 4
    stream = memory.open()
    before = [whole.copy() for whole in memory.guarded]
    if made == "an error":
        with pytest.raises(ArithmeticError):
            stream.step(x, None)
    else:
        assert stream.step(x, None) is None
    assert all(map(np.array_equal, memory.guarded, before))


def _change(memory: Memory, part: str, value: Any) -> None:
    if part.isdigit():
        memory.call[int(part)] = value
    elif part == "param":
        memory.params[1] = value
    elif part == "state":
        memory.states[1] = value
    else:
        setattr(memory, part, value)


WRONG = {
    "cell": ("0", "x", f"expected a cell that has kernels, {', '.join(CELLS)}, got x"),
    "no inputs": ("1", 0, "I and B must be at least 1"),
    "inputs": ("1", 4, r"expected parameter 0 of shape \(20, 4\)"),
    "huge": ("2", 2**62, "too large"),
    "units": ("2", 6, r"expected parameter 0 of shape \(24, 3\)"),
    "projection": ("3", 5, "a projection is an LSTM's, and smaller than H"),
    "negative projection": ("3", -1, "a projection is an LSTM's"),
    "layers": ("4", 3, "expected 15 parameters, got 10"),
    "bias": ("5", False, "expected 6 parameters, got 10"),
    "batch": ("6", 3, r"expected state 0 of shape \(2, 3, 2\)"),
    "no batch": ("6", 0, "I and B must be at least 1"),
    "parameter's shape": ("param", np.zeros((20, 3), np.float32), r"expected parameter 1 of shape \(20, 2\) and float32, got \(20, 3\)"),
    "parameter's type": ("param", np.zeros((20, 2)), r"expected parameter 1 of shape \(20, 2\) and float32, got \(20, 2\) and float64"),
    "parameter's layout": ("param", np.zeros((2, 20), np.float32).T, "expected parameter 1 to be contiguous"),
    "parameter's kind": ("param", None, "expected parameter 1 to be a plain tensor or an array, got NoneType"),
    "state's shape": ("state", np.zeros((2, 2, 2), np.float32), r"expected state 1 of shape \(2, 2, 5\)"),
    "state's access": ("state", _frozen(np.zeros((2, 2, 5), np.float32)), "expected state 1 to be memory that can be written to"),
    "state's kind": ("state", b"", "expected state 1 to be memory that can be written to"),
    "ways to make an output": ("fresh", (), "an output is made in four ways"),
    "a way to make an output": ("fresh", (np.empty,) * 4, "an output is made by a function, with its arguments in a tuple"),
    "no way to make an output": ("fresh", ((),) * 4, "an output is made by a function, with its arguments in a tuple"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_a_stream_is_refused(wrong: str) -> None:
    part, value, message = WRONG[wrong]
    memory = Memory(LSTM, 3, 5, 2, 2, True, 2, np.float32)
    _change(memory, part, value)
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        memory.open()
    memory.assert_guards_stand()


def test_memory_that_is_written_may_not_overlap() -> None:
    for overlapping in ("states", "parameter"):
        memory = Memory(LSTM, 3, 5, 0, 1, False, 2, np.float32)
        shared = np.zeros(20 * 5, np.float32)
        if overlapping == "states":
            memory.states = [shared[:10].reshape(1, 2, 5), shared[9:19].reshape(1, 2, 5)]
        else:
            memory.params[1], memory.states[1] = shared.reshape(20, 5).view(Parameter), shared[-10:].reshape(1, 2, 5)
        with pytest.raises(RuntimeError, match="got memory that overlaps"):
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
        assert (stream.step(x, None) is not None) == (change == "nothing")


def test_what_was_packed_outlives_the_arrays() -> None:
    memory = Memory(LSTM, 3, 5, 2, 2, True, 2, np.float32)
    stream = memory.open(watched=False)
    x = np.ones((2, 3), np.float32)
    once = stream.step(x, None)
    other = Memory(LSTM, 3, 5, 2, 2, True, 2, np.float32)
    again = other.open(watched=False)
    other.params.clear()
    other.states.clear()
    other.entries.clear()
    other.guarded.clear()
    np.testing.assert_array_equal(again.step(x, None), once)
