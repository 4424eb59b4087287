"""Arbitrary arguments thrown at the binding: a call is refused and writes nothing, or leaves the right numbers and touches nothing else.

`make sanitize` runs this file on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, without torch in the process: then a
read outside the operands is an error too. ELMAN_FUZZ multiplies the number of examples.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz_check
import raw
import raw_contract
from fuzz_calls import FORMS, spoiled_calls, valid_calls
from fuzz_check import REFUSALS, call_it, check
from raw import Call, View
from raw_arena import Arena

if TYPE_CHECKING:
    from collections.abc import Iterator

_native = pytest.importorskip("elman._native", reason="the kernels are not built here", exc_type=ImportError)

EXAMPLES = int(os.environ.get("ELMAN_FUZZ", "1"))
ISAS = st.sampled_from(_native.isas())


@pytest.fixture(autouse=True, scope="module")
def _the_instruction_set_stays_as_it_was() -> Iterator[None]:
    isa = _native.isa()
    yield
    _native.use(isa)
    _native.assume_barrier(-1.0)


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


@pytest.mark.parametrize("name", ["I", "H", "L", "D", "threads"])
@pytest.mark.parametrize("kind", ["forward", "backward"])
@given(data=st.data())
@settings(max_examples=5 * EXAMPLES, deadline=None)
def test_a_size_of_true_is_one(kind: str, name: str, data: st.DataObject) -> None:
    """Python's bool is an integer, which the binding takes for one; the model of a call must take it for one too."""
    call, arena = data.draw(valid_calls(kind, raw.LSTM, {"T": 3, "B": 2, "I": 1, "H": 1, "L": 1, "D": 1, "threads": 1}))
    check(kind, call | {name: True}, arena, must_run=True)


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
    ("a negative stride of resets over steps", lambda call, arena: _apart(call, "reset", step=-1)),
    ("a negative stride of resets over sequences", lambda call, arena: _apart(call, "reset", sequence=-1)),
    ("a stride of resets over steps beyond memory", lambda call, arena: _apart(call, "reset", step=2**62)),
    ("a stride of resets over sequences beyond memory", lambda call, arena: _apart(call, "reset", sequence=2**62)),
    ("resets beyond memory", lambda call, arena: {"reset": call["reset"]._replace(at=2**64 - 1)}),
    ("resets of another type", lambda call, arena: {"reset": call["reset"]._replace(kind="int8")}),
    ("too few resets", lambda call, arena: {"reset": call["reset"]._replace(shape=(call["T"], call["B"] - 1))}),
    ("lengths that are no operand", lambda call, arena: {"lengths": 0}),
    ("resets that are no operand", lambda call, arena: {"reset": -1}),
    ("pad_saved that is no bool", lambda call, arena: {"pad_saved": 1}),
    ("another number of inputs", lambda call, arena: {"I": call["I"] + 1}),
    ("another number of units", lambda call, arena: {"H": call["H"] + 1}),
    ("fewer layers", lambda call, arena: {"L": call["L"] - 1}),
    ("one direction", lambda call, arena: {"D": 1}),
    ("no bias", lambda call, arena: {"bias": False}),
    ("another cell", lambda call, arena: {"cell": raw.CELLS.index("gru")}),
    ("an initial state of another batch", lambda call, arena: _narrowed(call, "initial")),
    ("fresh of another number of states", lambda call, arena: {"fresh": [*call["fresh"], None]}),
    ("fresh misaligned", lambda call, arena: {"fresh": [view._replace(at=view.at + 1) for view in call["fresh"]]}),
)
FORWARD_ONLY: tuple[Wrong, ...] = (
    ("output over resets", lambda call, arena: _over(call, "output", call["reset"])),
    ("output over fresh", lambda call, arena: _over(call, "output", call["fresh"][-1])),
    ("a final state over fresh", lambda call, arena: {"final": [*call["final"][:-1], call["final"][-1]._replace(at=call["fresh"][-1].at)]}),
    ("a final state of another batch", lambda call, arena: _narrowed(call, "final")),
    ("no final state", lambda call, arena: {"final": None}),
    ("an output whose padding overlaps", lambda call, arena: _apart(call, "output", step=0, sequence=0)),
    ("hidden over output", lambda call, arena: _over(call, "hidden", call["output"])),
)
BACKWARD_ONLY: tuple[Wrong, ...] = (
    ("grad_saved without saved", lambda call, arena: {"saved": None} if raw.SAVED[call["cell"]] else {"grad_saved": -1}),
    ("grad_hidden misaligned", lambda call, arena: _moved(call, "grad_hidden", 1)),
    ("grad_saved misaligned", lambda call, arena: _moved(call, "grad_saved", 1) if raw.SAVED[call["cell"]] else {"grad_saved": -1}),
    ("grad_hidden beyond memory", lambda call, arena: {"grad_hidden": call["grad_hidden"]._replace(at=2**64 - 64)}),
    ("grad_x over grad_hidden", lambda call, arena: _over(call, "grad_x", call["grad_hidden"])),
    ("grad_fresh over fresh", lambda call, arena: {"grad_fresh": call["fresh"]}),
    ("grad_fresh over grad_initial", lambda call, arena: _all_over(call, "grad_fresh", call["grad_initial"])),
    ("grad_fresh over resets", lambda call, arena: _all_over(call, "grad_fresh", [call["reset"], *call["grad_fresh"][1:]])),
    ("grad_fresh of another number of states", lambda call, arena: {"grad_fresh": call["grad_fresh"][1:]}),
)


def _moved(call: Call, name: str, by: int) -> Call:
    return {name: call[name]._replace(at=call[name].at + by)}


def _apart(call: Call, name: str, step: int | None = None, sequence: int | None = None) -> Call:
    """A sequence's or the resets' strides changed."""
    first, second, *column = call[name].strides
    turned = call["batch_first"] and name != "reset"
    old_step, old_sequence = (second, first) if turned else (first, second)
    new = [old_step if step is None else step, old_sequence if sequence is None else sequence]
    return {name: call[name]._replace(strides=(*(new[::-1] if turned else new), *column))}


def _over(call: Call, name: str, other: View) -> Call:
    return {name: call[name]._replace(at=other.at // 8 * 8)}


def _all_over(call: Call, name: str, others: list[View]) -> Call:
    return {name: [view._replace(at=other.at // 8 * 8) for view, other in zip(call[name], others, strict=True)]}


def _narrowed(call: Call, name: str) -> Call:
    """States with a sequence less."""
    first, *rest = call[name]
    return {name: [View.dense(first.at, (first.shape[0], first.shape[1] - 1, first.shape[2]), first.kind), *rest]}


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
    with pytest.raises(raw_contract.IllegalError):
        raw_contract.operands(kind, call, arena)
    check(kind, call, arena, must_run=False)


# What threads share: sequences, so that each has about as many steps; columns of each step, with a barrier; directions; layers in a wave.
LARGE: tuple[tuple[Call, tuple[str, ...]], ...] = (
    ({"T": 40, "B": 9, "I": 33, "H": 100, "L": 2, "D": 2}, FORMS[:3]),
    ({"T": 60, "B": 1, "I": 5, "H": 260, "L": 1, "D": 1}, ("padded", "packed")),
    ({"T": 60, "B": 3, "I": 5, "H": 260, "L": 1, "D": 1}, ("ragged", "one sequence alone")),
    ({"T": 100, "B": 3, "I": 7, "H": 70, "L": 2, "D": 1}, FORMS[:3]),
    ({"T": 150, "B": 1, "I": 8, "H": 60, "L": 3, "D": 1}, ("padded", "packed")),
    ({"T": 150, "B": 5, "I": 8, "H": 60, "L": 3, "D": 1}, ("one sequence alone",)),
    ({"T": 2, "B": 150, "I": 120, "H": 130, "L": 1, "D": 2}, FORMS[:3]),
)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "saves"), [("forward", True), ("backward", True), ("backward", False)])
@pytest.mark.parametrize("cell", [raw.CELLS.index("gru"), raw.LSTM], ids=["gru", "lstm"])
@pytest.mark.parametrize("form", FORMS[:3])
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_call_in_several_chunks_touches_its_operands_alone(kind: str, saves: bool, cell: int, form: str, data: st.DataObject) -> None:
    """In float64 these are two, for both ways of knowing what a step's gradient needs."""
    sizes = {"number": 1, "T": 150, "B": 40, "I": 7, "H": 60, "L": 1, "D": 2}
    call, arena = data.draw(valid_calls(kind, cell, sizes, (form,), saves=saves))
    assert len(raw.checkpoint_steps(call)) == 2
    check(kind, call, arena, must_run=True)


ANY = st.integers(-2, 4) | st.integers(-(2**63), 2**63 - 1)


PARAMETERS = st.lists(st.sampled_from([None, "x", np.zeros((3, 2), np.float32), np.zeros(3), b"12"]), max_size=4)


SHAPES = st.lists(st.lists(ANY, max_size=12).map(tuple) | st.just((3, 2)) | ANY | st.just("x"), max_size=4).map(tuple)


@given(SHAPES, PARAMETERS)
@settings(max_examples=100 * EXAMPLES, deadline=None)
def test_what_is_asked_of_any_shapes_is_answered_or_refused(shapes: tuple[Any, ...], params: list[Any]) -> None:
    with contextlib.suppress(*REFUSALS):
        assert _native.reads(shapes, params) is False


def test_the_table_of_cells_is_what_these_tests_count_on() -> None:
    """In the order of their numbers, and what the built-in ones' sizes are made of."""
    known = {"rnn_tanh": (1, 1, 0), "rnn_relu": (1, 1, 0), "gru": (3, 1, 4), "lstm": (4, 2, 5)}
    assert dict(list(_native.cells().items())[: len(known)]) == known


# --- That the check sees what it looks for ----------------------------------------------------------------------------


def _example() -> tuple[Call, Arena]:
    arena = Arena(256)
    arena.fill(np.float32, 0.5)
    places = {name: View.dense(arena.base + at, (5,), "float32") for name, at in (("source", 64), ("target", 128))}
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

    monkeypatch.setattr(fuzz_check, "call_it", kernel)
    if wrong == "accept":
        call["target"] = call["source"]._replace(at=call["source"].at + 4)
    with pytest.raises(AssertionError):
        check("activation", call, arena, must_run=wrong == "refuse")


FORGOTTEN = ("lengths", "reset", "fresh", "grad_fresh", "grad_hidden", "grad_saved", "pad_saved")


@pytest.mark.parametrize("forgotten", FORGOTTEN)
@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_a_kernel_that_leaves_something_out_is_caught(kind: str, forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = call_it
    tried = []

    @given(data=st.data())
    @settings(max_examples=1, deadline=None)
    def run(data: st.DataObject) -> None:
        sizes = {"T": 6, "B": 5, "I": 3, "H": 5, "L": 2, "D": 2, "pad_saved": True}
        call, arena = data.draw(valid_calls(kind, raw.LSTM, sizes, ("ragged",), everything=True))
        if forgotten not in call:
            return

        def kernel(kind: str, call: Call) -> None:
            arena.take_back()  # what is done wrong here is to be found by comparison
            right(kind, call | {forgotten: False if forgotten == "pad_saved" else None})

        check(kind, call, arena, must_run=True)
        monkeypatch.setattr(fuzz_check, "call_it", kernel)
        with pytest.raises(AssertionError):
            check(kind, call, arena, must_run=True)
        tried.append(forgotten)

    run()
    assert tried or (kind == "forward" and forgotten.startswith("grad_"))


def test_memory_that_is_not_lent_is_poisoned() -> None:
    call, arena = _example()
    if not hasattr(ctypes.CDLL(None), "__asan_region_is_poisoned"):
        pytest.skip("only AddressSanitizer poisons memory: make sanitize")
    places = call["source"].at + 4 * np.arange(5)
    arena.lend(arena.mask({"source": places}, 0))
    poisoned = [bool(_asan_poisons(arena.base + i)) for i in range(256)]
    arena.take_back()
    assert [i for i, bad in enumerate(poisoned) if not bad] == list(range(64, 84))


def _asan_poisons(address: int) -> int:
    find = ctypes.CDLL(None).__asan_region_is_poisoned
    find.restype = ctypes.c_void_p
    return find(ctypes.c_void_p(address), ctypes.c_size_t(1)) or 0
