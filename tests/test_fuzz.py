"""Arbitrary arguments thrown at the binding: a call is refused and writes nothing, or leaves the right numbers and touches nothing else.

`make sanitize` runs this file on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, without torch in the process: then a
read outside the operands is an error too. ELMAN_FUZZ multiplies the number of examples.
"""

from __future__ import annotations

import ctypes
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raw
import raw_numbers
from raw import Arena, Call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_native = pytest.importorskip("elman._native", reason="the kernels are not built here", exc_type=ImportError)

EXAMPLES = int(os.environ.get("ELMAN_FUZZ", "1"))
ARGUMENTS = {"forward": raw.FORWARD, "backward": raw.BACKWARD, "activation": raw.ACTIVATION}
ISAS = st.sampled_from(_native.isas())
REFUSALS = (ValueError, TypeError, MemoryError)


@pytest.fixture(autouse=True, scope="module")
def _the_instruction_set_stays_as_it_was() -> Iterator[None]:
    isa = _native.isa()
    yield
    _native.use(isa)


def call_it(kind: str, call: Call) -> None:
    none = [0] * raw.STATES[call["cell"]] if type(call.get("cell")) is int and 0 <= call["cell"] < len(raw.STATES) else []
    defaults = dict.fromkeys(("lengths", "resets", "resets_step", "resets_row", "d_hidden", "d_kept"), 0)
    defaults |= {"fresh": none, "d_fresh": none, "kept_padded": False}
    getattr(_native, kind)(*((defaults | call)[name] for name in ARGUMENTS[kind]))


class Layout:
    """Hands out places in memory that is yet to be allocated, with guard zones between them."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng, self.size, self.used = np.random.default_rng(seed), size, 64

    def place(self, elements: int) -> int:
        at = self.used + self.size * int(self.rng.integers(0, 40))
        self.used = at + -(-elements * self.size // 8) * 8 + 64
        return at


@st.composite
def valid_calls(draw: st.DrawFn, kind: str, cell: int = 0, sizes: Call | None = None) -> tuple[Call, Arena]:
    """A call that must be answered, and its memory. Small, unless sizes are given."""
    call: Call = {"number": draw(st.integers(0, 2 if kind == "forward" else 1))}
    lay = Layout(draw(st.integers(0, 2**32 - 1)), raw.SIZES[call["number"]])
    alive: list[int] | None = None
    if kind == "activation":
        call |= {"function": draw(st.integers(0, 2)), "count": draw(st.integers(0, 70))}
        places = {name: lay.place(call["count"]) for name in ("source", "target")}
    else:
        call |= {"cell": cell, "threads": draw(st.integers(1, 4))}
        call |= sizes or {
            name: draw(st.integers(*limits))
            for name, limits in {"T": (1, 6), "B": (1, 7), "I": (0, 20), "H": (1, 20), "L": (1, 3), "D": (1, 2)}.items()
        }
        call["P"] = draw(st.integers(0, call["H"] - 1)) if call["cell"] == raw.LSTM else 0
        if draw(st.booleans()):
            alive = [call["B"], *sorted(lay.rng.integers(1, call["B"] + 1, call["T"] - 1).tolist(), reverse=True)]
        places = _place_network(draw, kind, call, alive, lay)
    arena = Arena(lay.used)
    for name, place in places.items():
        call[name] = [p + arena.base if p else 0 for p in place] if isinstance(place, list) else place + arena.base if place else 0
    # In large networks 1/H, so that what is bounded by a matrix of magnitudes does not grow from step to step.
    arena.fill(np.float64 if call["number"] == 1 else np.float32, 1 / sizes["H"] if sizes else 0.5)
    if alive:
        write_batch_sizes(call["batch_sizes"] - arena.base, arena, alive)
    return call, arena


def _place_network(draw: st.DrawFn, kind: str, call: Call, alive: list[int] | None, lay: Layout) -> dict[str, Any]:
    cell, T, B, I, H, L, D = (call[name] for name in ("cell", "T", "B", "I", "H", "L", "D"))  # noqa: E741
    h = call["P"] or H
    rows, width, bias = sum(alive) if alive else T * B, D * h, draw(st.booleans())
    optional, always = st.booleans(), st.just(True)

    def sequence(name: str, columns: int, written: bool) -> int:
        """Steps and rows in either order, with gaps; what is only read may also repeat."""
        gap, inner, outer = (draw(st.integers(0, 3)) for _ in range(3))
        if alive:
            step, row = 0, columns + gap
            elements = rows * row
        elif draw(st.booleans()):
            row = columns + gap if written or inner else 0
            step = B * row + outer if written or outer else 0
            elements = T * step + B * row + columns
        else:
            step = columns + gap if written or inner else 0
            row = T * step + outer if written or outer else 0
            elements = T * step + B * row + columns
        call[f"{name}_step"], call[f"{name}_row"] = step, row
        return lay.place(elements)

    def parameters(own: st.SearchStrategy[bool]) -> list[int]:
        every_shape = (shape for i in range(L * D) for shape in raw.shapes(call, i))
        return [lay.place(math.prod(shape)) if shape and draw(own) else 0 for shape in every_shape]

    def states(own: st.SearchStrategy[bool]) -> list[int]:
        return [lay.place(L * D * B * columns) if draw(own) else 0 for columns in (h, H)[: raw.STATES[cell]]]

    places: dict[str, Any] = {"batch_sizes": (lay.place(2 * T) + 7) // 8 * 8 if alive else 0, "params": parameters(always)}
    if not bias:
        places["params"] = [0 if i % len(raw.WEIGHTS) in (2, 3) else place for i, place in enumerate(places["params"])]
    places["x"] = sequence("x", I, False)
    places["initial"] = states(optional)
    places["output"] = sequence("output", width, kind == "forward")
    places["hidden"] = lay.place((L - 1) * rows * width) if kind == "backward" or draw(optional) else 0
    places["kept"] = lay.place(L * D * rows * raw.KEPT[cell] * H) if draw(optional) else 0
    marked = kind == "backward" and not places["kept"]
    marks = L * D * len(raw.mark_positions(call)) * B * H if cell == raw.LSTM else 0
    places["marks"] = lay.place(marks) if marked or draw(optional) else 0
    if call["number"] == raw.BFLOAT16:
        places |= {"hidden": 0, "kept": 0, "marks": 0}
    if kind == "forward":
        places["final"] = states(always)
    else:
        call["d_output_column"] = draw(st.integers(0, 1))
        places["d_output"] = sequence("d_output", width if call["d_output_column"] else 1, False)
        places["d_final"] = states(optional)
        places["d_x"] = sequence("d_x", I, True)
        places |= {name: 0 for name in ("d_output", "d_x") if draw(optional)}
        places["d_initial"] = states(optional)
        places["d_params"] = parameters(optional)
    return places


def write_batch_sizes(at: int, arena: Arena, sizes: list[int]) -> None:
    arena.bytes[at : at + 8 * len(sizes)] = np.array(sizes, np.int64).view(np.uint8)


@st.composite
def spoiled_calls(draw: st.DrawFn, kind: str, cell: int) -> tuple[Call, Arena]:
    """A valid call in which up to three things were changed, to something that is wrong, or right by chance."""
    call, arena = draw(valid_calls(kind, cell))
    size = raw.SIZES[call["number"]]
    sizes = raw.batch_sizes(call, arena) if call.get("batch_sizes") else None
    sizes_at = call["batch_sizes"] - arena.base if sizes else 0
    addresses = [v for name, v in call.items() if name != "function" and type(v) is int and v >= arena.base]
    anywhere = (
        st.integers(-8, len(arena.bytes) // size).map(lambda i: arena.base + i * size)
        | st.integers(0, len(arena.bytes)).map(lambda i: arena.base + i)
        | st.sampled_from([0, 2**64 - size, 2**64 - 8 * size, *addresses])
    )
    numbers = st.integers(-1, 9) | st.integers(0, 64).map(lambda k: 2**k) | st.integers(0, 64).map(lambda k: 2**k - 1)
    nonsense = st.sampled_from([None, "x", 1.5, -(2**63), 2**70])
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(call)))
        if name in raw.LISTS:
            call[name] = draw(_spoiled_list(call[name], anywhere | nonsense))
        elif name == "batch_sizes" and sizes and draw(st.booleans()):
            sizes = draw(st.lists(numbers.filter(lambda n: n < 2**63), min_size=1, max_size=6))
        else:
            call[name] = draw(anywhere | numbers | nonsense)
    arena.fill(np.float64 if call["number"] == 1 else np.float32, 0.5)  # again: it may be another type now
    if sizes:
        write_batch_sizes(sizes_at, arena, sizes)
    return call, arena


@st.composite
def _spoiled_list(draw: st.DrawFn, addresses: Any, others: st.SearchStrategy[Any]) -> Any:
    if not isinstance(addresses, list) or not draw(st.integers(0, 5)):
        return draw(st.sampled_from([None, [], 0, "five", tuple(addresses or ())]))
    changed = list(addresses)
    place = draw(st.integers(0, max(0, len(changed) - 1)))
    changed[place : place + draw(st.integers(0, 1))] = draw(st.lists(others, min_size=1, max_size=1) | st.just([]))
    return changed


def check(kind: str, call: Call, arena: Arena, must_run: bool) -> None:
    """Make the call, and raise unless it does what it must."""
    kinds = {1: np.float64, raw.BFLOAT16: np.uint16}.get(call["number"], np.float32)
    try:
        read, written = raw.operands(kind, call, arena)
    except raw.UnknowableError:
        assert not must_run
        return
    except raw.IllegalError:
        assert not must_run
        read, written = {}, {}
        legal = False
    else:
        legal = True
    size = np.dtype(kinds).itemsize
    alive = (raw.batch_sizes(call, arena) or [call["B"]] * call["T"]) if legal and kind != "activation" else []
    with np.errstate(invalid="ignore"):  # an address that was changed may lead to bytes that are no numbers
        values = {name: arena.read(places, kinds).astype(np.float64) for name, places in read.items()}
    before = arena.bytes.copy()
    mask = arena.mask(list(written.values()), size)
    arena.lend(mask | arena.mask(list(read.values()), size) | _batch_sizes_mask(kind, call, arena))
    try:
        call_it(kind, call)
    except REFUSALS:
        assert not must_run, "refused a call that is right"
        mask[:] = False
        refused = True
    else:
        refused = False
    finally:
        arena.take_back()
    assert (arena.bytes == before)[~mask].all(), "wrote where it must not"
    assert legal or refused, "took a call that is wrong"
    if not refused and call["number"] != raw.BFLOAT16:  # whose numbers test_bfloat16 checks; here it is where they lie
        _check_numbers(kind, call, {name: arena.read(places, kinds) for name, places in written.items()}, values, alive)


def _batch_sizes_mask(kind: str, call: Call, arena: Arena) -> np.ndarray:
    """Batch sizes are read before anything is known to be right."""
    mask = np.zeros(len(arena.bytes), bool)
    if kind != "activation" and type(call["batch_sizes"]) is int and type(call["T"]) is int:
        start = call["batch_sizes"] - arena.base
        mask[max(0, start) : max(0, start + 8 * max(0, call["T"]))] = True
    return mask


def _check_numbers(kind: str, call: Call, got: raw.Places, values: raw.Places, alive: list[int]) -> None:
    if not all((np.abs(value) <= 1).all() for value in values.values()):
        return  # an operand lies over batch sizes, whose bits may be any number or none
    expect: Callable[..., tuple[raw.Places, raw.Places]] = getattr(raw_numbers, kind)
    rows = {name: value.reshape(sum(alive), -1) if value.ndim == 3 else value for name, value in values.items()}
    if kind != "activation" and "x" not in rows:
        rows["x"] = np.zeros((sum(alive), 0))
    if kind == "backward" and "d_output" in rows:
        rows["d_output"] = np.broadcast_to(rows["d_output"], rows["output"].shape)
    expected, errors = expect(call, rows) if kind == "activation" else expect(call, rows, alive)
    for name, value in got.items():
        error = np.abs(value.reshape(expected[name].shape).astype(np.float64) - expected[name])
        assert (error <= errors[name]).all(), f"{name}: off by up to {error.max():.3g}"


# What is called, and for which cell, which an activation has not.
every_call = pytest.mark.parametrize(
    ("kind", "cell"),
    [("activation", 0), *((kind, cell) for kind in ("forward", "backward") for cell in range(len(raw.CELLS)))],
    ids=lambda value: value if isinstance(value, str) else raw.CELLS[value],
)


@every_call
@given(data=st.data())
@settings(max_examples=60 * EXAMPLES, deadline=None)
def test_a_right_call_is_answered_and_touches_its_operands_alone(kind: str, cell: int, data: st.DataObject) -> None:
    _native.use(data.draw(ISAS, label="instruction set"))
    call, arena = data.draw(valid_calls(kind, cell))
    check(kind, call, arena, must_run=True)


@every_call
@given(data=st.data())
@settings(max_examples=100 * EXAMPLES, deadline=None)
def test_a_wrong_call_is_refused_and_writes_nothing(kind: str, cell: int, data: st.DataObject) -> None:
    _native.use(data.draw(ISAS, label="instruction set"))
    call, arena = data.draw(spoiled_calls(kind, cell))
    check(kind, call, arena, must_run=False)


# What threads share: rows, columns of each step with a barrier, directions, layers in a wave; and several chunks of steps.
LARGE = (
    {"T": 40, "B": 9, "I": 33, "H": 100, "L": 2, "D": 2},
    {"T": 60, "B": 1, "I": 5, "H": 260, "L": 1, "D": 1},
    {"T": 400, "B": 3, "I": 7, "H": 70, "L": 2, "D": 1},
    {"T": 150, "B": 1, "I": 8, "H": 60, "L": 3, "D": 1},
    {"T": 400, "B": 60, "I": 7, "H": 16, "L": 1, "D": 2},
    {"T": 2, "B": 150, "I": 120, "H": 130, "L": 1, "D": 2},
)


@pytest.mark.parametrize("sizes", LARGE, ids=str)
@pytest.mark.parametrize("cell", range(len(raw.CELLS)), ids=raw.CELLS)
@pytest.mark.parametrize("kind", ["forward", "backward"])
@given(data=st.data())
@settings(max_examples=3 * EXAMPLES, deadline=None)
def test_a_call_large_enough_for_threads_touches_its_operands_alone(kind: str, cell: int, sizes: Call, data: st.DataObject) -> None:
    _native.use(data.draw(ISAS, label="instruction set"))
    call, arena = data.draw(valid_calls(kind, cell, sizes))
    check(kind, call, arena, must_run=True)


# --- That the check sees what it looks for ----------------------------------------------------------------------------


def _example() -> tuple[Call, Arena]:
    call: Call = {"function": 1, "number": 0, "count": 5, "source": 64, "target": 128}
    arena = Arena(256)
    arena.fill(np.float32, 0.5)
    return call | {name: call[name] + arena.base for name in ("source", "target")}, arena


@pytest.mark.parametrize("wrong", ["nothing", "a guard", "its source", "accept", "refuse"])
def test_a_kernel_that_does_wrong_is_caught(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, arena = _example()
    right = call_it

    def kernel(kind: str, call: Call) -> None:
        arena.take_back()  # what is done wrong here is to be found by comparison
        if wrong == "refuse":
            raise ValueError
        if wrong != "nothing":
            right(kind, call | {"target": arena.base + 128})
        if wrong in ("a guard", "its source"):
            arena.bytes[150 if wrong == "a guard" else 64] ^= 1

    monkeypatch.setitem(globals(), "call_it", kernel)
    if wrong == "accept":
        call["target"] = call["source"] + 4
    with pytest.raises(AssertionError):
        check("activation", call, arena, must_run=wrong == "refuse")


def test_memory_that_is_not_lent_is_poisoned() -> None:
    call, arena = _example()
    if not hasattr(ctypes.CDLL(None), "__asan_region_is_poisoned"):
        pytest.skip("only AddressSanitizer poisons memory: make sanitize")
    places = call["source"] + 4 * np.arange(5)
    arena.lend(arena.mask([places], 4))
    poisoned = [bool(_asan_poisons(arena.base + i)) for i in range(256)]
    arena.take_back()
    assert [i for i, bad in enumerate(poisoned) if not bad] == list(range(64, 84))


def _asan_poisons(address: int) -> int:
    find = ctypes.CDLL(None).__asan_region_is_poisoned
    find.restype = ctypes.c_void_p
    return find(ctypes.c_void_p(address), ctypes.c_size_t(1)) or 0
