"""Arbitrary arguments thrown at the binding: a call is refused and writes nothing, or leaves the right numbers and touches nothing else.

`make sanitize` runs this file on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, without torch in the process: then a
read outside the operands is an error too. ELMAN_FUZZ multiplies the number of examples.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raw
import raw_numbers
from raw import Arena, Call, Lies

if TYPE_CHECKING:
    from collections.abc import Iterator

_native = pytest.importorskip("elman._native", reason="the kernels are not built here", exc_type=ImportError)

EXAMPLES = int(os.environ.get("ELMAN_FUZZ", "1"))
ISAS = st.sampled_from(_native.isas())
REFUSALS = (RuntimeError, ValueError, TypeError, MemoryError)


@pytest.fixture(autouse=True, scope="module")
def _the_instruction_set_stays_as_it_was() -> Iterator[None]:
    isa = _native.isa()
    yield
    _native.use(isa)
    _native.assume_barrier(-1.0)


def call_it(kind: str, call: Call) -> None:
    getattr(_native, kind)(*raw.arguments(kind, call))


class Layout:
    """Hands out places in memory that is yet to be allocated, with guard zones between them."""

    def __init__(self, seed: int, number: int) -> None:
        self.rng, self.used = np.random.default_rng(seed), 64
        self.kind, self.size = raw.KINDS[number], raw.SIZES[number]

    def place(self, elements: int, kind: str | None = None) -> int:
        size = np.dtype(kind or self.kind).itemsize
        at = self.used + size * int(self.rng.integers(0, 40))
        self.used = -(-(at + elements * size) // 8) * 8 + 64
        return at

    def dense(self, *shape: int, kind: str | None = None) -> Lies:
        return Lies.dense(self.place(math.prod(shape), kind), shape, kind or self.kind)


def _shifted(value: Any, base: int) -> Any:
    """An operand, or a list of them, in memory that begins there."""
    if isinstance(value, list):
        return [_shifted(each, base) for each in value]
    return value._replace(at=value.at + base) if isinstance(value, Lies) else value


FORMS = ("ragged", "padded", "packed", "one row alone", "no steps")  # the last two are ragged, too
SMALL = {"T": (1, 6), "B": (1, 7), "I": (0, 20), "H": (1, 20), "L": (1, 3), "D": (1, 2)}
EITHER = st.sampled_from([True, False])  # of arbitrary examples the first is the fullest, and so has the fullest call


@st.composite
def valid_calls(
    draw: st.DrawFn,
    kind: str,
    cell: int = 0,
    sizes: Call | None = None,
    forms: tuple[str, ...] = FORMS,
    everything: bool = False,
    keeps: bool | None = None,
) -> tuple[Call, Arena]:
    """A call that must be answered, and its memory. Small, unless sizes are given; with ``everything`` no operand is null; ``keeps`` says
    whether ``kept`` is not.
    """
    most, numbers = 0.5, (0, 1, raw.BFLOAT16) if kind == "forward" and not everything else (0, 1)
    call: Call = {"number": draw(st.sampled_from(numbers))} | (sizes or {})
    lay = Layout(draw(st.integers(0, 2**32 - 1)), call["number"])
    notes: dict[str, np.ndarray] = {}
    if kind == "activation":
        count = draw(st.integers(0, 70))
        call |= {"function": draw(st.integers(0, 2)), "source": lay.dense(count), "target": lay.dense(count)}
    else:
        call |= {"cell": cell, "threads": draw(st.sampled_from([4, 3, 2, 1]))}
        call |= {name: draw(st.integers(*limits)) for name, limits in SMALL.items() if name not in call}
        call |= {"batch_first": draw(st.booleans()), "bias": everything or draw(EITHER)}
        call.setdefault("kept_padded", draw(st.booleans()))
        call["P"] = draw(st.integers(int(everything and call["H"] > 1), call["H"] - 1)) if call["cell"] == raw.LSTM else 0
        most = min(most, 1 / call["H"])  # so that what is bounded by a matrix of magnitudes does not grow from step to step
        form = draw(st.sampled_from(forms))
        steps = raw.Steps([call["B"]] * call["T"], list(range(call["B"])), False)
        if form == "packed":
            notes["batch_sizes"] = np.array([call["B"], *sorted(lay.rng.integers(1, call["B"] + 1, call["T"] - 1), reverse=True)])
            steps = raw.Steps(notes["batch_sizes"].tolist(), steps.order, True)
        elif form != "padded":
            notes["lengths"] = lay.rng.integers(0, call["T"] + 1, call["B"]) * (form == "ragged")
            if form == "one row alone" or sizes:
                notes["lengths"][lay.rng.integers(0, call["B"])] = call["T"]
            steps = raw.Steps.of(notes["lengths"].tolist())
        for name in ("batch_sizes", "lengths"):
            at = (lay.place(notes[name].size + 1, "int64") + 7) // 8 * 8 if name in notes else 0
            call[name] = Lies.dense(at, notes[name].shape, "int64") if name in notes else None
        call |= _place_network(draw, kind, call, steps, lay, everything, keeps)
        if call["reset"]:
            often = draw(st.sampled_from([0.3, 0.0, 1.0]))
            last = sum((n - 1) * stride for n, stride in zip(call["reset"].shape, call["reset"].strides, strict=True))
            notes["reset"] = (lay.rng.random(last + 1) < often) * lay.rng.integers(1, 256, last + 1, np.uint8)
    arena = Arena(lay.used)
    call = {name: _shifted(value, arena.base) for name, value in call.items()}
    for name, what in notes.items():
        arena.note(call[name].at, what)
    arena.fill(np.float64 if call["number"] == 1 else np.float32, most)
    return call, arena


def _place_network(draw: st.DrawFn, kind: str, call: Call, steps: raw.Steps, lay: Layout, everything: bool, keeps: bool | None) -> Call:
    cell, T, B, I, H, L, D = (call[name] for name in ("cell", "T", "B", "I", "H", "L", "D"))  # noqa: E741
    h = call["P"] or H
    width = D * h
    rows = T * B if call["kept_padded"] and not steps.packed else steps.count
    if call["kept_padded"] and call["lengths"] is None:
        rows = steps.count
    always = st.just(True)
    optional = always if everything else EITHER

    def grid(columns: int, written: bool) -> tuple[int, int, int]:
        """Where steps and rows lie, in either order, with gaps; what is only read may also repeat."""
        gap, inner, outer = (draw(st.sampled_from([1, 2, 3, 0])) for _ in range(3))
        if draw(EITHER):
            row = columns + gap if written or inner else 0
            step = B * row + outer if written or outer else 0
        else:
            step = columns + gap if written or inner else 0
            row = T * step + outer if written or outer else 0
        return T * step + B * row + columns, step, row

    def sequence(columns: int, written: bool, column: int = 1) -> Lies:
        between = columns if column else 1
        if steps.packed:
            row = between + draw(st.integers(0, 3))
            return Lies(lay.place(steps.count * row), (steps.count, columns), (row, column), lay.kind)
        extent, step, row = grid(between, written)
        shape, strides = ((B, T), (row, step)) if call["batch_first"] else ((T, B), (step, row))
        return Lies(lay.place(extent), (*shape, columns), (*strides, column), lay.kind)

    def parameters(own: st.SearchStrategy[bool]) -> list[Lies | None]:
        every_shape = (shape for i in range(L * D) for shape in raw.shapes(call, i).values())
        return [lay.dense(*shape) if draw(own) else None for shape in every_shape]

    def states(own: st.SearchStrategy[bool], *rows: int) -> list[Lies | None]:
        return [lay.dense(L * D, *rows, columns) if draw(own) else None for columns in (h, H)[: raw.STATES[cell]]]

    def kept(*row: int) -> Lies:
        return lay.dense(*((L * D,) if len(row) == 2 else (L - 1,)), *((T, B) if rows == T * B and draw(EITHER) else (rows,)), *row)

    placed: Call = {"params": parameters(always)}
    extent, *strides = grid(1, False)
    placed["reset"] = Lies(lay.place(extent, "uint8"), (T, B), tuple(strides), draw(st.sampled_from(["uint8", "bool"])))
    placed["x"] = sequence(I, False)
    placed["initial"], placed["fresh"] = states(optional, B), states(optional)
    placed["output"] = sequence(width, kind == "forward")
    placed["hidden"] = kept(width) if (kind == "backward" and L > 1) or draw(optional) else None
    placed["kept"] = kept(raw.KEPT[cell], H) if draw(optional if keeps is None else st.just(keeps)) else None
    marked = kind == "backward" and not placed["kept"]
    marks = len(raw.mark_positions(steps.seen(call))) * steps.rows if cell == raw.LSTM else 0
    placed["marks"] = lay.dense(L * D, marks + draw(st.sampled_from([0, 1])), H) if marked or draw(optional) else None
    if call["number"] == raw.BFLOAT16:
        placed |= dict.fromkeys(raw.KEEPS)
    if kind == "forward":
        placed["final"] = states(always, B)
    else:
        placed["d_output"] = sequence(width, False, draw(st.integers(0, 1)))
        placed["d_hidden"] = kept(width)
        placed["d_kept"] = kept(raw.KEPT[cell], H)
        placed["d_final"] = states(optional, B)
        placed["d_x"] = sequence(I, True)
        placed["d_initial"], placed["d_fresh"] = states(optional, B), states(optional)
        placed["d_params"] = parameters(optional)
    placed |= {name: None for name in ("reset", "d_output", "d_hidden", "d_kept", "d_x") if name in placed and not draw(optional)}
    if not placed["kept"] and "d_kept" in placed:
        placed["d_kept"] = None
    for name in ("initial", "fresh", "d_final", "d_initial", "d_fresh"):
        if name in placed and not any(placed[name]) and draw(EITHER):
            placed[name] = None
    return placed


@st.composite
def spoiled_calls(draw: st.DrawFn, kind: str, cell: int) -> tuple[Call, Arena]:
    """A valid call in which up to three things were changed, to something that is wrong, or right by chance."""
    call, arena = draw(valid_calls(kind, cell))
    size = raw.SIZES[call["number"]]
    counts = {name: call[name] for name in ("batch_sizes", "lengths") if call.get(name)}
    listed = [lies for name in raw.LISTS for lies in call.get(name) or () if lies]
    operands = [value for value in call.values() if isinstance(value, Lies)] + listed
    anywhere = (
        st.integers(-8, len(arena.bytes) // size).map(lambda i: arena.base + i * size)
        | st.integers(0, len(arena.bytes)).map(lambda i: arena.base + i)
        | st.sampled_from([0, LAST_BYTE + 1 - size, LAST_BYTE + 1 - 8 * size, *(lies.at for lies in operands)])
    )
    numbers = st.integers(-1, 9) | st.integers(0, 62).map(lambda k: 2**k) | st.integers(0, 62).map(lambda k: 2**k - 1)
    nonsense = st.sampled_from([None, "x", 1.5, -(2**63), 2**70, object(), np.zeros((2, 3), object), np.zeros(3, "V0"), b"", True])
    others = st.sampled_from(operands) | nonsense
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(call.keys() - {"T", "B", "number"})))
        if name in raw.LISTS:
            call[name] = draw(_spoiled_list(call[name], anywhere, numbers, others))
        elif name in counts and draw(st.booleans()):
            found = draw(st.lists(numbers, min_size=1, max_size=len(arena.noted[counts[name].at])))
            arena.note(counts[name].at, np.array(found, np.int64))
        elif isinstance(call[name], Lies) and draw(st.integers(0, 3)):
            call[name] = draw(_spoiled(call[name], anywhere, numbers))
        else:
            call[name] = draw(numbers | others)
    arena.fill(np.float64 if call["number"] == 1 else np.float32, arena.most)  # again: it may be another type now
    return call, arena


LAST_BYTE = 2**64 - 1
AXES = st.integers(0, 3)


@st.composite
def _spoiled(draw: st.DrawFn, lies: Lies, anywhere: st.SearchStrategy[int], numbers: st.SearchStrategy[int]) -> Lies:
    """An operand in which one thing was changed."""
    at, shape, strides, kind = lies
    axis = draw(AXES)
    part = draw(st.sampled_from(["at", "shape", "strides", "kind", "rank", "both"]))
    if part == "at" or not shape:
        return lies._replace(at=draw(anywhere))
    axis %= len(shape)
    size = max(0, draw(numbers | st.sampled_from([shape[axis] - 1, shape[axis] + 1, 2 * shape[axis]])))
    stride = draw(numbers | st.sampled_from([-strides[axis], strides[axis] - 1, strides[axis] + 1, 2 * strides[axis]]))
    if part == "kind":
        return lies._replace(
            kind=draw(st.sampled_from(["float32", "float64", "uint16", "float16", "int64", "int32", "uint8", "bool", ">f4", "V3"]))
        )
    if part == "rank":
        keep = slice(1, None) if draw(st.booleans()) else slice(0, -1)
        more = draw(st.booleans())
        return Lies(at, (*shape, size) if more else shape[keep], (*strides, stride) if more else strides[keep], kind)
    if part in ("shape", "both"):
        shape = (*shape[:axis], size, *shape[axis + 1 :])
    if part in ("strides", "both"):
        strides = (*strides[:axis], stride, *strides[axis + 1 :])
    return Lies(at, shape, strides, kind)


@st.composite
def _spoiled_list(
    draw: st.DrawFn, given: Any, anywhere: st.SearchStrategy[int], numbers: st.SearchStrategy[int], others: st.SearchStrategy[Any]
) -> Any:
    if not isinstance(given, list) or not draw(st.integers(0, 5)):
        return draw(st.sampled_from([None, [], 0, "five", tuple(given or ())]))
    changed = list(given)
    place = draw(st.integers(0, max(0, len(changed) - 1)))
    if changed[place : place + 1] and changed[place] and draw(st.booleans()):
        changed[place] = draw(_spoiled(changed[place], anywhere, numbers))
    else:
        changed[place : place + draw(st.integers(0, 1))] = draw(st.lists(others, min_size=1, max_size=1) | st.just([]))
    return changed


def check(kind: str, call: Call, arena: Arena, must_run: bool) -> None:
    """Make the call, and raise unless it does what it must."""
    if not must_run and not _can_be_made(kind, call):
        return
    if kind == "activation":
        call = call | {"number": raw.KINDS.index(call["source"].kind) if _is_of_numbers(call["source"]) else 0}
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
        call = call if kind == "activation" else raw.complete(kind, call, arena)
    kinds = (np.float32, np.float64, np.uint16)[call["number"]]
    size = np.dtype(kinds).itemsize
    steps = (raw.ragged_steps(call, arena) or raw.Steps([call["B"]] * call["T"], [], False)) if legal and kind != "activation" else None
    with np.errstate(invalid="ignore"):  # an address that was changed may lead to bytes that are no numbers
        values = {name: arena.read(places, np.uint8 if name == "reset" else kinds).astype(np.float64) for name, places in read.items()}
    mask = arena.mask(written, size)
    readable = arena.mask(read, size) | _counts_mask(call, arena)
    arena.spoil(readable)
    before = arena.bytes.copy()
    arena.lend(mask | readable)
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
    if not refused:
        got = {name: arena.read(places, kinds).astype(np.float64) for name, places in written.items()}
        _check_rows_without_a_step(got, values)
        if call["number"] != raw.BFLOAT16:  # whose numbers test_bfloat16 checks; here it is where they lie
            _check_numbers(
                kind, call, {name: value for name, value in got.items() if name.split()[-1] not in ("padding", "idle")}, values, steps
            )


def _can_be_made(kind: str, call: Call) -> bool:
    """Whether NumPy has arrays that claim what the operands do."""
    try:
        raw.arguments(kind, call)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _is_of_numbers(value: Any) -> bool:
    return isinstance(value, Lies) and value.kind in raw.KINDS[:2]


def _counts_mask(call: Call, arena: Arena) -> np.ndarray:
    """Batch sizes and lengths are read before all else is known to be right."""
    mask = np.zeros(len(arena.bytes), bool)
    for name in ("batch_sizes", "lengths"):
        lies = call.get(name)
        if isinstance(lies, Lies) and len(lies.shape) == 1:
            start = lies.at - arena.base
            mask[max(0, start) : max(0, start + 8 * lies.shape[0])] = True
    return mask


def _check_rows_without_a_step(got: raw.Places, values: raw.Places) -> None:
    """Padding is zeros; a row without a step ends as it began, and its gradient is handed back."""
    for name, value in got.items():
        if name.endswith("padding"):
            assert not value.any(), f"{name} is not zero"
        elif name.endswith("idle"):
            source = name.replace("final", "initial") if name.startswith("final") else name.replace("d_initial", "d_final")
            assert (value == values.get(source, 0.0)).all(), f"{name} is not {source}"


def _check_numbers(kind: str, call: Call, got: raw.Places, values: raw.Places, steps: raw.Steps | None) -> None:
    if not all((np.abs(value) <= 1).all() for name, value in values.items() if name != "reset"):
        return  # an operand lies over batch sizes or lengths, whose bits may be any number or none
    if steps is None:
        expected, errors = raw_numbers.activation(call, values)
    elif not steps.alive:  # nothing is run
        expected = errors = {name: np.zeros(value.shape) for name, value in got.items()}
    else:
        expect: Callable[..., tuple[raw.Places, raw.Places]] = getattr(raw_numbers, kind)
        rows = {name: value.reshape(steps.count, -1) if name in ("x", "output", "d_output") else value for name, value in values.items()}
        expected, errors = expect(steps.seen(call), {"x": np.zeros((steps.count, 0))} | rows, steps.alive)
    for name, value in got.items():
        error = np.abs(value.reshape(expected[name].shape) - expected[name])
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


# Wrong in one thing, which is about lengths, resets, or what goes with them. Each takes a call with lengths in which no operand is null.
Wrong = tuple[str, Callable[[Call, Arena], Call]]
EITHER_WAY: tuple[Wrong, ...] = (
    ("batch sizes and lengths", lambda call, arena: {"batch_sizes": call["lengths"]}),
    ("a negative length", lambda call, arena: _lengths(call, arena, -1)),
    ("a length beyond T", lambda call, arena: _lengths(call, arena, call["T"] + 1)),
    ("a length beyond everything", lambda call, arena: _lengths(call, arena, 2**63 - 1)),
    ("lengths misaligned", lambda call, arena: _moved(call, "lengths", 4)),
    ("too few lengths", lambda call, arena: {"lengths": call["lengths"]._replace(shape=(call["B"] - 1,))}),
    ("lengths apart", lambda call, arena: {"lengths": call["lengths"]._replace(strides=(2,))}),
    ("lengths of another type", lambda call, arena: {"lengths": call["lengths"]._replace(kind="float64")}),
    ("a negative step of resets", lambda call, arena: _apart(call, "reset", step=-1)),
    ("a negative row of resets", lambda call, arena: _apart(call, "reset", row=-1)),
    ("a step of resets beyond memory", lambda call, arena: _apart(call, "reset", step=2**62)),
    ("a row of resets beyond memory", lambda call, arena: _apart(call, "reset", row=2**62)),
    ("resets beyond memory", lambda call, arena: {"reset": call["reset"]._replace(at=2**64 - 1)}),
    ("resets of another type", lambda call, arena: {"reset": call["reset"]._replace(kind="int8")}),
    ("too few resets", lambda call, arena: {"reset": call["reset"]._replace(shape=(call["T"], call["B"] - 1))}),
    ("lengths that are no operand", lambda call, arena: {"lengths": 0}),
    ("resets that are no operand", lambda call, arena: {"reset": -1}),
    ("kept_padded that is no bool", lambda call, arena: {"kept_padded": 1}),
    ("another number of inputs", lambda call, arena: {"I": call["I"] + 1}),
    ("another number of units", lambda call, arena: {"H": call["H"] + 1}),
    ("fewer layers", lambda call, arena: {"L": call["L"] - 1}),
    ("one direction", lambda call, arena: {"D": 1}),
    ("no bias", lambda call, arena: {"bias": False}),
    ("another cell", lambda call, arena: {"cell": raw.CELLS.index("gru")}),
    ("an initial state of another batch", lambda call, arena: _narrowed(call, "initial")),
    ("fresh of another number of states", lambda call, arena: {"fresh": [*call["fresh"], None]}),
    ("fresh misaligned", lambda call, arena: {"fresh": [lies._replace(at=lies.at + 1) for lies in call["fresh"]]}),
)
FORWARD_ONLY: tuple[Wrong, ...] = (
    ("output over resets", lambda call, arena: _over(call, "output", call["reset"])),
    ("output over fresh", lambda call, arena: _over(call, "output", call["fresh"][-1])),
    ("a final state over fresh", lambda call, arena: {"final": [*call["final"][:-1], call["final"][-1]._replace(at=call["fresh"][-1].at)]}),
    ("a final state of another batch", lambda call, arena: _narrowed(call, "final")),
    ("no final state", lambda call, arena: {"final": None}),
    ("an output whose padding overlaps", lambda call, arena: _apart(call, "output", step=0, row=0)),
    ("kept over hidden", lambda call, arena: _over(call, "hidden", call["output"])),
)
BACKWARD_ONLY: tuple[Wrong, ...] = (
    ("d_kept without kept", lambda call, arena: {"kept": None} if raw.KEPT[call["cell"]] else {"d_kept": -1}),
    ("d_hidden misaligned", lambda call, arena: _moved(call, "d_hidden", 1)),
    ("d_kept misaligned", lambda call, arena: _moved(call, "d_kept", 1) if raw.KEPT[call["cell"]] else {"d_kept": -1}),
    ("d_hidden beyond memory", lambda call, arena: {"d_hidden": call["d_hidden"]._replace(at=2**64 - 64)}),
    ("d_x over d_hidden", lambda call, arena: _over(call, "d_x", call["d_hidden"])),
    ("d_fresh over fresh", lambda call, arena: {"d_fresh": call["fresh"]}),
    ("d_fresh over d_initial", lambda call, arena: _all_over(call, "d_fresh", call["d_initial"])),
    ("d_fresh over resets", lambda call, arena: _all_over(call, "d_fresh", [call["reset"], *call["d_fresh"][1:]])),
    ("d_fresh of another number of states", lambda call, arena: {"d_fresh": call["d_fresh"][1:]}),
)


def _moved(call: Call, name: str, by: int) -> Call:
    return {name: call[name]._replace(at=call[name].at + by)}


def _apart(call: Call, name: str, step: int | None = None, row: int | None = None) -> Call:
    """A sequence's or the resets' strides changed."""
    first, second, *column = call[name].strides
    turned = call["batch_first"] and name != "reset"
    old_step, old_row = (second, first) if turned else (first, second)
    new = [old_step if step is None else step, old_row if row is None else row]
    return {name: call[name]._replace(strides=(*(new[::-1] if turned else new), *column))}


def _over(call: Call, name: str, other: Lies) -> Call:
    return {name: call[name]._replace(at=other.at // 8 * 8)}


def _all_over(call: Call, name: str, others: list[Lies]) -> Call:
    return {name: [lies._replace(at=other.at // 8 * 8) for lies, other in zip(call[name], others, strict=True)]}


def _narrowed(call: Call, name: str) -> Call:
    """States with a row less."""
    first, *rest = call[name]
    return {name: [Lies.dense(first.at, (first.shape[0], first.shape[1] - 1, first.shape[2]), first.kind), *rest]}


def _lengths(call: Call, arena: Arena, last: int) -> Call:
    arena.note(call["lengths"].at, np.append(arena.noted[call["lengths"].at][:-1], last))
    return {}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [("forward", wrong) for wrong in EITHER_WAY + FORWARD_ONLY] + [("backward", wrong) for wrong in EITHER_WAY + BACKWARD_ONLY],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
@pytest.mark.parametrize("cell", [0, raw.LSTM], ids=["rnn_tanh", "lstm"])
@given(data=st.data())
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_wrong_lengths_and_resets_are_refused_and_nothing_is_written(kind: str, wrong: Wrong, cell: int, data: st.DataObject) -> None:
    sizes = {"T": 3, "B": 3, "I": 2, "H": 4, "L": 2, "D": 2}
    call, arena = data.draw(valid_calls(kind, cell, sizes, ("ragged",), everything=True))
    call |= wrong[1](call, arena)
    with pytest.raises(raw.IllegalError):
        raw.operands(kind, call, arena)
    check(kind, call, arena, must_run=False)


# What threads share: rows, so that each has about as many steps; columns of each step, with a barrier; directions; layers in a wave.
LARGE: tuple[tuple[Call, tuple[str, ...]], ...] = (
    ({"T": 40, "B": 9, "I": 33, "H": 100, "L": 2, "D": 2}, FORMS[:3]),
    ({"T": 60, "B": 1, "I": 5, "H": 260, "L": 1, "D": 1}, ("padded", "packed")),
    ({"T": 60, "B": 3, "I": 5, "H": 260, "L": 1, "D": 1}, ("ragged", "one row alone")),
    ({"T": 100, "B": 3, "I": 7, "H": 70, "L": 2, "D": 1}, FORMS[:3]),
    ({"T": 150, "B": 1, "I": 8, "H": 60, "L": 3, "D": 1}, ("padded", "packed")),
    ({"T": 150, "B": 5, "I": 8, "H": 60, "L": 3, "D": 1}, ("one row alone",)),
    ({"T": 2, "B": 150, "I": 120, "H": 130, "L": 1, "D": 2}, FORMS[:3]),
)


@pytest.mark.parametrize(("sizes", "form"), [(sizes, form) for sizes, forms in LARGE for form in forms], ids=str)
@pytest.mark.parametrize("cell", range(len(raw.CELLS)), ids=raw.CELLS)
@pytest.mark.parametrize("kind", ["forward", "backward"])
@given(data=st.data())
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_a_call_large_enough_for_threads_touches_its_operands_alone(
    kind: str, cell: int, sizes: Call, form: str, data: st.DataObject
) -> None:
    _native.use(data.draw(ISAS, label="instruction set"))
    _native.assume_barrier(data.draw(st.sampled_from([0.0, 1.0]), label="how long a barrier takes"))  # columns are split, or are not
    call, arena = data.draw(valid_calls(kind, cell, sizes, (form,)))
    check(kind, call, arena, must_run=True)


@pytest.mark.parametrize(("kind", "keeps"), [("forward", True), ("backward", True), ("backward", False)])
@pytest.mark.parametrize("cell", [raw.CELLS.index("gru"), raw.LSTM], ids=["gru", "lstm"])
@pytest.mark.parametrize("form", FORMS[:3])
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_call_in_several_chunks_touches_its_operands_alone(kind: str, keeps: bool, cell: int, form: str, data: st.DataObject) -> None:
    """In float64 these are two, for both ways of knowing what a step's gradient needs."""
    sizes = {"number": 1, "T": 150, "B": 40, "I": 7, "H": 60, "L": 1, "D": 2}
    call, arena = data.draw(valid_calls(kind, cell, sizes, (form,), keeps=keeps))
    assert len(raw.mark_positions(call)) == 2
    check(kind, call, arena, must_run=True)


ANY = st.integers(-2, 4) | st.integers(-(2**63), 2**63 - 1)


@given(st.tuples(*[ANY] * 7), st.lists(st.sampled_from([None, "x", np.zeros((3, 2), np.float32), np.zeros(3), b"12"]), max_size=4))
@settings(max_examples=100 * EXAMPLES, deadline=None)
def test_what_is_asked_of_any_numbers_is_answered_or_refused(numbers: tuple[int, ...], params: list[Any]) -> None:
    cell, number, steps, rows, units, *_ = numbers
    with contextlib.suppress(*REFUSALS):
        assert 1 <= _native.number_of_marks(cell, number, steps, rows, units) <= steps
    with contextlib.suppress(*REFUSALS):
        assert _native.kept_numbers(cell) == raw.KEPT[cell]
    with contextlib.suppress(*REFUSALS):
        assert _native.reads((*numbers[:6], bool(numbers[6] % 2)), params) is False


# --- That the check sees what it looks for ----------------------------------------------------------------------------


def _example() -> tuple[Call, Arena]:
    arena = Arena(256)
    arena.fill(np.float32, 0.5)
    places = {name: Lies.dense(arena.base + at, (5,), "float32") for name, at in (("source", 64), ("target", 128))}
    return {"function": 1, "number": 0, **places}, arena


@pytest.mark.parametrize("wrong", ["nothing", "a guard", "its source", "accept", "refuse"])
def test_a_kernel_that_does_wrong_is_caught(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, arena = _example()
    right = call_it

    def kernel(kind: str, call: Call) -> None:
        arena.take_back()  # what is done wrong here is to be found by comparison
        if wrong == "refuse":
            raise ValueError
        if wrong != "nothing":
            right(kind, call | _over({"target": call["target"]}, "target", call["target"]._replace(at=arena.base + 128)))
        if wrong in ("a guard", "its source"):
            arena.bytes[150 if wrong == "a guard" else 64] ^= 1

    monkeypatch.setitem(globals(), "call_it", kernel)
    if wrong == "accept":
        call["target"] = call["source"]._replace(at=call["source"].at + 4)
    with pytest.raises(AssertionError):
        check("activation", call, arena, must_run=wrong == "refuse")


FORGOTTEN = ("lengths", "reset", "fresh", "d_fresh", "d_hidden", "d_kept", "kept_padded")


@pytest.mark.parametrize("forgotten", FORGOTTEN)
@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_a_kernel_that_leaves_something_out_is_caught(kind: str, forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = call_it
    tried = []

    @given(data=st.data())
    @settings(max_examples=1, deadline=None)
    def run(data: st.DataObject) -> None:
        sizes = {"T": 6, "B": 5, "I": 3, "H": 5, "L": 2, "D": 2, "kept_padded": True}
        call, arena = data.draw(valid_calls(kind, raw.LSTM, sizes, ("ragged",), everything=True))
        if forgotten not in call:
            return

        def kernel(kind: str, call: Call) -> None:
            arena.take_back()  # what is done wrong here is to be found by comparison
            right(kind, call | {forgotten: False if forgotten == "kept_padded" else None})

        check(kind, call, arena, must_run=True)
        monkeypatch.setitem(globals(), "call_it", kernel)
        with pytest.raises(AssertionError):
            check(kind, call, arena, must_run=True)
        tried.append(forgotten)

    run()
    assert tried or (kind == "forward" and forgotten.startswith("d_"))


def test_memory_that_is_not_lent_is_poisoned() -> None:
    call, arena = _example()
    if not hasattr(ctypes.CDLL(None), "__asan_region_is_poisoned"):
        pytest.skip("only AddressSanitizer poisons memory: make sanitize")
    places = call["source"].at + 4 * np.arange(5)
    arena.lend(arena.mask({"source": places}, 4))
    poisoned = [bool(_asan_poisons(arena.base + i)) for i in range(256)]
    arena.take_back()
    assert [i for i, bad in enumerate(poisoned) if not bad] == list(range(64, 84))


def _asan_poisons(address: int) -> int:
    find = ctypes.CDLL(None).__asan_region_is_poisoned
    find.restype = ctypes.c_void_p
    return find(ctypes.c_void_p(address), ctypes.c_size_t(1)) or 0
