"""Hypothesis strategies for raw calls of the kernels: right ones, and ones in which something was spoiled. For test_fuzz."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

import raw
from raw import Call, View
from raw_arena import Arena


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

    def dense(self, *shape: int, kind: str | None = None) -> View:
        return View.dense(self.place(math.prod(shape), kind), shape, kind or self.kind)


def _shifted(value: Any, base: int) -> Any:
    """An operand, or a list of them, in memory that begins there."""
    if isinstance(value, list):
        return [_shifted(each, base) for each in value]
    return value._replace(at=value.at + base) if isinstance(value, View) else value


FORMS = ("ragged", "padded", "packed", "one sequence alone", "no steps")  # the last two are ragged, too
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
    saves: bool | None = None,
) -> tuple[Call, Arena]:
    """A call that must be answered, and its memory. Small, unless sizes are given; with ``everything`` no operand is null; ``saves`` says
    whether ``saved`` is not.
    """
    most, numbers = 0.5, (0, 1) if kind == "activation" or everything else (0, 1, raw.BFLOAT16)
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
        call.setdefault("pad_saved", draw(st.booleans()))
        call["P"] = draw(st.integers(int(everything and call["H"] > 1), call["H"] - 1)) if call["cell"] == raw.LSTM else 0
        most = min(most, 1 / call["H"])  # so that what is bounded by a matrix of magnitudes does not grow from step to step
        form = draw(st.sampled_from(forms))
        steps = raw.Steps([call["B"]] * call["T"], list(range(call["B"])), False)
        if form == "packed":
            notes["batch_sizes"] = np.array([call["B"], *sorted(lay.rng.integers(1, call["B"] + 1, call["T"] - 1), reverse=True)])
            steps = raw.Steps(notes["batch_sizes"].tolist(), steps.order, True)
        elif form != "padded":
            notes["lengths"] = lay.rng.integers(0, call["T"] + 1, call["B"]) * (form == "ragged")
            if form == "one sequence alone" or sizes:
                notes["lengths"][lay.rng.integers(0, call["B"])] = call["T"]
            steps = raw.Steps.of(notes["lengths"].tolist())
        for name in ("batch_sizes", "lengths"):
            at = (lay.place(notes[name].size + 1, "int64") + 7) // 8 * 8 if name in notes else 0
            call[name] = View.dense(at, notes[name].shape, "int64") if name in notes else None
        call |= _place_network(draw, kind, call, steps, lay, everything, saves)
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


def _place_network(draw: st.DrawFn, kind: str, call: Call, steps: raw.Steps, lay: Layout, everything: bool, saves: bool | None) -> Call:
    cell, T, B, I, H, L, D = (call[name] for name in ("cell", "T", "B", "I", "H", "L", "D"))  # noqa: E741
    h = call["P"] or H
    width = D * h
    rows = T * B if call["pad_saved"] and not steps.packed else steps.count
    if call["pad_saved"] and call["lengths"] is None:
        rows = steps.count
    always = st.just(True)
    optional = always if everything else EITHER

    def grid(columns: int, written: bool) -> tuple[int, int, int]:
        """Where steps and sequences lie, in either order, with gaps; what is only read may also repeat."""
        gap, inner, outer = (draw(st.sampled_from([1, 2, 3, 0])) for _ in range(3))
        if draw(EITHER):
            sequence_stride = columns + gap if written or inner else 0
            step = B * sequence_stride + outer if written or outer else 0
        else:
            step = columns + gap if written or inner else 0
            sequence_stride = T * step + outer if written or outer else 0
        return T * step + B * sequence_stride + columns, step, sequence_stride

    def sequence(columns: int, written: bool, column: int = 1) -> View:
        between = columns if column else 1
        if steps.packed:
            sequence_stride = between + draw(st.integers(0, 3))
            return View(lay.place(steps.count * sequence_stride), (steps.count, columns), (sequence_stride, column), lay.kind)
        extent, step, sequence_stride = grid(between, written)
        shape, strides = ((B, T), (sequence_stride, step)) if call["batch_first"] else ((T, B), (step, sequence_stride))
        return View(lay.place(extent), (*shape, columns), (*strides, column), lay.kind)

    def parameters(own: st.SearchStrategy[bool]) -> list[View | None]:
        every_shape = (shape for i in range(L * D) for shape in raw.shapes(call, i).values())
        return [lay.dense(*shape) if draw(own) else None for shape in every_shape]

    def states(own: st.SearchStrategy[bool], *batch: int) -> list[View | None]:
        return [lay.dense(L * D, *batch, columns) if draw(own) else None for columns in (h, H)[: raw.STATES[cell]]]

    wide = raw.kind_of("saved", call["number"])

    def saved(*row: int) -> View:
        layers, kind = (L * D, wide) if len(row) == 2 else (L - 1, lay.kind)
        return lay.dense(layers, *((T, B) if rows == T * B and draw(EITHER) else (rows,)), *row, kind=kind)

    placed: Call = {"params": parameters(always)}
    extent, *strides = grid(1, False)
    placed["reset"] = View(lay.place(extent, "uint8"), (T, B), tuple(strides), draw(st.sampled_from(["uint8", "bool"])))
    placed["x"] = sequence(I, False)
    placed["initial"], placed["fresh"] = states(optional, B), states(optional)
    placed["output"] = sequence(width, kind == "forward")
    placed["hidden"] = saved(width) if (kind == "backward" and L > 1) or draw(optional) else None
    placed["saved"] = saved(raw.SAVED[cell], H) if draw(optional if saves is None else st.just(saves)) else None
    needs_checkpoints = kind == "backward" and not placed["saved"]
    checkpoints = len(raw.checkpoint_steps(steps.seen(call))) * steps.sequences if cell == raw.LSTM else 0
    placed["checkpoints"] = (
        lay.dense(L * D, checkpoints + draw(st.sampled_from([0, 1])), H, kind=wide) if needs_checkpoints or draw(optional) else None
    )
    if kind == "forward":
        placed["final"] = states(always, B)
    else:
        placed["grad_output"] = sequence(width, False, draw(st.integers(0, 1)))
        placed["grad_hidden"] = saved(width)
        placed["grad_saved"] = saved(raw.SAVED[cell], H)
        placed["grad_final"] = states(optional, B)
        placed["grad_x"] = sequence(I, True)
        placed["grad_initial"], placed["grad_fresh"] = states(optional, B), states(optional)
        placed["grad_params"] = parameters(optional)
    placed |= {
        name: None for name in ("reset", "grad_output", "grad_hidden", "grad_saved", "grad_x") if name in placed and not draw(optional)
    }
    if not placed["saved"] and "grad_saved" in placed:
        placed["grad_saved"] = None
    for name in ("initial", "fresh", "grad_final", "grad_initial", "grad_fresh"):
        if name in placed and not any(placed[name]) and draw(EITHER):
            placed[name] = None
    return placed


@st.composite
def spoiled_calls(draw: st.DrawFn, kind: str, cell: int) -> tuple[Call, Arena]:
    """A valid call in which up to three things were changed, to something that is wrong, or right by chance."""
    call, arena = draw(valid_calls(kind, cell))
    size = raw.SIZES[call["number"]]
    counts = {name: call[name] for name in ("batch_sizes", "lengths") if call.get(name)}
    listed = [view for name in raw.LISTS for view in call.get(name) or () if view]
    operands = [value for value in call.values() if isinstance(value, View)] + listed
    anywhere = (
        st.integers(-8, len(arena.bytes) // size).map(lambda i: arena.base + i * size)
        | st.integers(0, len(arena.bytes)).map(lambda i: arena.base + i)
        | st.sampled_from([0, LAST_BYTE + 1 - size, LAST_BYTE + 1 - 8 * size, *(view.at for view in operands)])
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
        elif isinstance(call[name], View) and draw(st.integers(0, 3)):
            call[name] = draw(_spoiled(call[name], anywhere, numbers))
        else:
            call[name] = draw(numbers | others)
    arena.fill(np.float64 if call["number"] == 1 else np.float32, arena.most)  # again: it may be another type now
    return call, arena


LAST_BYTE = 2**64 - 1
AXES = st.integers(0, 3)


@st.composite
def _spoiled(draw: st.DrawFn, view: View, anywhere: st.SearchStrategy[int], numbers: st.SearchStrategy[int]) -> View:
    """An operand in which one thing was changed."""
    at, shape, strides, kind = view
    axis = draw(AXES)
    part = draw(st.sampled_from(["at", "shape", "strides", "kind", "rank", "both"]))
    if part == "at" or not shape:
        return view._replace(at=draw(anywhere))
    axis %= len(shape)
    size = max(0, draw(numbers | st.sampled_from([shape[axis] - 1, shape[axis] + 1, 2 * shape[axis]])))
    stride = draw(numbers | st.sampled_from([-strides[axis], strides[axis] - 1, strides[axis] + 1, 2 * strides[axis]]))
    if part == "kind":
        return view._replace(
            kind=draw(st.sampled_from(["float32", "float64", "uint16", "float16", "int64", "int32", "uint8", "bool", ">f4", "V3"]))
        )
    if part == "rank":
        keep = slice(1, None) if draw(st.booleans()) else slice(0, -1)
        more = draw(st.booleans())
        return View(at, (*shape, size) if more else shape[keep], (*strides, stride) if more else strides[keep], kind)
    if part in ("shape", "both"):
        shape = (*shape[:axis], size, *shape[axis + 1 :])
    if part in ("strides", "both"):
        strides = (*strides[:axis], stride, *strides[axis + 1 :])
    return View(at, shape, strides, kind)


@st.composite
def _spoiled_list(
    draw: st.DrawFn, given: Any, anywhere: st.SearchStrategy[int], numbers: st.SearchStrategy[int], others: st.SearchStrategy[Any]
) -> Any:
    if not isinstance(given, list) or not draw(st.integers(0, 5)):
        return draw(st.sampled_from([None, [], 0, "five", tuple(given or ())]))
    changed = list(given)
    place = draw(st.integers(0, max(0, len(changed) - 1)))
    if changed and isinstance(changed[place], View) and draw(st.booleans()):  # it may have been spoiled before
        changed[place] = draw(_spoiled(changed[place], anywhere, numbers))
    else:
        changed[place : place + draw(st.integers(0, 1))] = draw(st.lists(others, min_size=1, max_size=1) | st.just([]))
    return changed
