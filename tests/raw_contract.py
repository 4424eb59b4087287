"""Which memory a raw call may touch, and so which calls must be refused: told independently of the kernels, for test_fuzz."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raw import (
    CELLS,
    GATES,
    KINDS,
    LAST,
    LSTM,
    MOST_ELEMENTS,
    MOST_WORK,
    SAVED,
    SIZES,
    STATES,
    Steps,
    View,
    checkpoint_steps,
    dense,
    kind_of,
    shapes,
    size_of,
)

if TYPE_CHECKING:
    from raw import Call, Places
    from raw_arena import Arena


class IllegalError(Exception):
    """The call must be refused, and nothing written."""


class UnknowableError(Exception):
    """The call names memory that is not ours, as nobody but the caller can know; or it would take for ever."""


class _Operands:
    """Collects what a call touches; says at the end what is wrong with it."""

    def __init__(self, arena: Arena, number: int) -> None:
        self.arena, self.number = arena, number
        self.read: Places = {}
        self.written: Places = {}
        self.illegal: list[str] = []
        self.unknowable: list[str] = []

    def add(
        self,
        name: str,
        view: Any,
        shape: tuple[int, ...],
        write: bool,
        nullable: bool,
        touched: tuple[Any, ...] = (),
        kind: str | None = None,
        strides: str = "dense",
    ) -> None:
        """An operand, all of which must be there. Where ``touched`` indexes some of it, the rest is not read; it is written under its name
        and "padding". ``strides``: "dense"; "rows", of which each is contiguous; "spread", where one number may stand for a row; "any".
        """
        if view is None:
            if not nullable:
                self.illegal.append(f"no {name}")
        elif not isinstance(view, View) or view.shape != shape or view.kind != (kind or kind_of(name, self.number)):
            self.illegal.append(f"{name} is {view}")
        elif not _strides_fit(view, strides):
            self.illegal.append(f"strides of {name}")
        elif 0 not in shape:
            self._place(name, view, write, touched)

    def add_rows(self, name: str, view: Any, shape: tuple[int, ...], row: tuple[int, ...], write: bool, touched: tuple[Any, ...]) -> None:
        """An operand that holds what ``shape`` says, densely, in any number of axes before those of a ``row``. Checkpoints may be more."""
        if view is None:
            return
        if not isinstance(view, View) or view.kind != kind_of(name, self.number) or view.shape[len(view.shape) - len(row) :] != row:
            self.illegal.append(f"{name} is {view}")
        elif math.prod(view.shape) < math.prod(shape) or (name != "checkpoints" and math.prod(view.shape) > math.prod(shape)):
            self.illegal.append(f"rows of {name}")
        elif not _strides_fit(view, "dense"):
            self.illegal.append(f"strides of {name}")
        elif 0 not in shape:
            self._place(name, View.dense(view.at, shape, view.kind), write, touched)

    def _place(self, name: str, view: View, write: bool, touched: tuple[Any, ...]) -> None:
        size, shape = size_of(name, self.number), view.shape
        end = view.at + (sum((n - 1) * stride for n, stride in zip(shape, view.strides, strict=True)) + 1) * size
        if view.at == 0:
            self.illegal.append(f"{name} is null")
        elif view.at % size:
            self.illegal.append(f"{name} is misaligned")
        elif end > LAST:
            self.illegal.append(f"{name} ends beyond memory")
        elif view.at < self.arena.base or end > self.arena.base + len(self.arena.bytes) or math.prod(shape) > MOST_ELEMENTS:
            self.unknowable.append(name)
        else:
            places = np.full(shape, view.at, np.int64)
            for axis, (n, stride) in enumerate(zip(shape, view.strides, strict=True)):
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
        count = sum(places.size * size_of(name, self.number) for name, places in self.written.items())
        written = self.arena.mask(self.written, self.number)
        if written.sum() != count:
            raise IllegalError("written elements overlap")
        if (written & self.arena.mask(self.read, self.number)).any():
            raise IllegalError("written elements overlap read ones")
        return self.read, self.written


def operands(kind: str, call: Call, arena: Arena) -> tuple[Places, Places]:
    """What a call of "forward", "backward" or "activation" reads, and what it writes.

    Of padded sequences, and of what is saved, the steps that are run, in the order of packed ones: sequences have shape (steps, columns).
    States have shape (L·D, B, columns), the sequences in the order of ``Steps``; those of sequences without a step are apart, under their
    name and "idle".

    Raises:
        IllegalError: the kernels must refuse the call.
        UnknowableError: the call must not be made.
    """
    if kind == "activation":
        return _activation(call, arena)
    call = complete(kind, call, arena)
    T, B, I, H, P, L, D = (call[name] for name in ("T", "B", "I", "H", "P", "L", "D"))  # noqa: E741
    cell, number, packed, forward = call["cell"], call["number"], call["batch_sizes"] is not None, kind == "forward"
    width = D * (P or H)
    if any(value >= LAST for value in (T, B, I, H, L)) or max(T * B, L * B, L * H) * max(width, I) * GATES[cell] * SIZES[number] > LAST:
        raise IllegalError("sizes beyond memory")
    found = _Operands(arena, number)
    ragged = ragged_steps(call, arena)
    if max(T * B, 1) * L * width * GATES[cell] * (max(width, I) + H) > MOST_WORK or L * D > MOST_ELEMENTS:
        found.unknowable.append("time")
        return found.finish()
    steps = ragged or Steps([B] * T, list(range(B)), False)
    run = steps.each()
    padded = call["lengths"] is not None and call["pad_saved"]
    _add_parameters(found, "", call)

    def sequence(name: str, columns: int, write: bool, nullable: bool) -> None:
        strides = "spread" if name == "grad_output" else "rows"
        if packed:
            found.add(name, call[name], (steps.count, columns), write, nullable, strides=strides)
        elif call["batch_first"]:
            found.add(name, call[name], (B, T, columns), write, nullable, run[::-1], strides=strides)
        else:
            found.add(name, call[name], (T, B, columns), write, nullable, run, strides=strides)

    def saved(name: str, count: int, row: tuple[int, ...], write: bool) -> None:
        """Of each layer or direction."""
        columns = math.prod(row)
        if padded:
            found.add_rows(name, call[name], (count, T, B, columns), row, write, (slice(None), *run))
        else:
            found.add_rows(name, call[name], (count, steps.count, columns), row, write, ())

    def states(name: str, write: bool, nullable: bool) -> None:
        for state, view, columns in _by_state(call, name):
            own = f"{name} {state}"
            found.add(own, view, (L * D, B, columns), write, nullable)
            to = found.written if write else found.read
            if own in to:
                places = to.pop(own)
                to |= {own: places[:, steps.order[: steps.sequences]], f"{own} idle": places[:, steps.order[steps.sequences :]]}

    def fresh(name: str, write: bool) -> None:
        for state, view, columns in _by_state(call, name):
            found.add(f"{name} {state}", view, (L * D, columns), write, True)

    if call["reset"] is not None:
        shown = call["reset"].kind if isinstance(call["reset"], View) else ""
        found.add("reset", call["reset"], (T, B), False, False, run, kind="uint8" if shown == "uint8" else "bool", strides="any")
    sequence("x", I, False, False)
    states("initial", False, True)
    fresh("fresh", False)
    sequence("output", width, forward, False)
    saved("hidden", L - 1, (width,), forward)
    saved("saved", L * D, (SAVED[cell], H), forward)
    checkpointed = (L * D * len(checkpoint_steps(steps.seen(call))) * steps.sequences * (cell == LSTM), H)
    found.add_rows("checkpoints", call["checkpoints"], checkpointed, (H,), forward, ())
    if forward:
        states("final", True, False)
    else:
        if call["hidden"] is None and L > 1 and steps.count:
            found.illegal.append("no hidden")
        if call["saved"] is None and call["checkpoints"] is None and cell == LSTM and steps.count:
            found.illegal.append("neither saved nor checkpoints")
        sequence("grad_output", width, False, True)
        saved("grad_hidden", L - 1, (width,), False)
        saved("grad_saved", L * D, (SAVED[cell], H), False)
        if "grad_saved" in found.read and call["saved"] is None:
            found.illegal.append("grad_saved without saved")
        states("grad_final", False, True)
        sequence("grad_x", I, True, True)
        states("grad_initial", True, True)
        fresh("grad_fresh", True)
        _add_parameters(found, "d ", call)
    _forget_what_is_not_read(found.read, found.written, forward)
    read, written = found.finish()
    if call["batch_first"] and not packed:  # in the order of packed sequences all the same
        for places in (read, written):
            places |= {
                name: places[name].reshape(-1, places[name].shape[-1])
                for name in ("x", "output", "grad_output", "grad_x")
                if name in places
            }
    return read, written


def _activation(call: Call, arena: Arena) -> tuple[Places, Places]:
    source = call["source"]
    if not isinstance(call["function"], int) or not 0 <= call["function"] <= 2:  # True is 1
        raise IllegalError("an unknown function")
    if not isinstance(source, View) or source.kind not in KINDS[:2] or len(source.shape) != 1:
        raise IllegalError(f"source is {source}")
    found = _Operands(arena, KINDS.index(source.kind))
    found.add("source", source, source.shape, False, False)
    found.add("target", call["target"], source.shape, True, False)
    return found.finish()


def complete(kind: str, call: Call, arena: Arena) -> Call:
    """The call with its sizes as plain integers, and with what its operands say: T, B and the number type.

    Raises:
        IllegalError: what runs makes no sense, or x or the batch sizes do not say it.
        UnknowableError: the batch sizes are elsewhere.
    """
    types = dict.fromkeys(("cell", "I", "H", "P", "L", "D", "threads"), int) | dict.fromkeys(("bias", "batch_first", "pad_saved"), bool)
    if any(not isinstance(call[name], kind) for name, kind in types.items()):
        raise IllegalError("an argument is no integer, or no bool")
    call = call | {name: kind(call[name]) for name, kind in types.items()}  # True is an integer, too, but not to NumPy
    H, P, L, D = (call[name] for name in ("H", "P", "L", "D"))
    if not 0 <= call["cell"] < len(CELLS) or min(H, L) < 1 or call["I"] < 0 or D not in (1, 2) or not 1 <= call["threads"] < 2**31:
        raise IllegalError("a size out of range, or an unknown cell")
    if P and not (call["cell"] == LSTM and 0 < P < H):
        raise IllegalError("a projection where there is none")
    x, sizes = call["x"], call["batch_sizes"]
    if not isinstance(x, View) or len(x.shape) != (3 if sizes is None else 2) or x.shape[-1] != call["I"]:
        raise IllegalError(f"x is {x}")
    if x.kind not in KINDS:
        raise IllegalError(f"x is of {x.kind}")
    T, B = x.shape[:2][:: -1 if call["batch_first"] else 1] if sizes is None else (0, 0)
    if sizes is not None:
        alive = _counts("batch_sizes", None, call, arena)
        T, B = len(alive), (*alive, 0)[0]
        if T == 0 or B < 1 or min(alive) < 1 or sorted(alive, reverse=True) != alive or sum(alive) != x.shape[0]:
            raise IllegalError("batch sizes that increase, end or are not as many as the rows of x")
    if T < 1 or B < 1:
        raise IllegalError("no step or no sequence")
    return call | {"T": T, "B": B, "number": KINDS.index(x.kind)}


def _strides_fit(view: View, strides: str) -> bool:
    if 0 in view.shape:  # NumPy shows an empty array as contiguous
        return True
    given = [stride if n != 1 else usual for n, stride, usual in zip(view.shape, view.strides, dense(view.shape), strict=True)]
    if strides == "dense":
        return tuple(given) == dense(view.shape)
    row = given.pop() if strides != "any" else 1
    by_row = (0, 1) if strides == "spread" else (1,)
    return all(0 <= stride < LAST for stride in given) and (view.shape[-1] < 2 or row in by_row)


def _forget_what_is_not_read(read: Places, written: Places, forward: bool) -> None:
    """The states of sequences without a step are read to be handed through, those that resets start from where there are resets."""
    for state in "hc":
        if not forward:
            read.pop(f"initial {state} idle", None)
            if f"grad_initial {state}" not in written:
                read.pop(f"grad_final {state} idle", None)
        if "reset" not in read:
            read.pop(f"fresh {state}", None)


def _by_state(call: Call, name: str) -> list[tuple[str, Any, int]]:
    """For each of the cell's states its name, the operand given, and how wide it is."""
    given, count = call[name], STATES[call["cell"]]
    if given is None:
        given = [None] * count
    if not isinstance(given, list | tuple) or len(given) != count:
        raise IllegalError(f"not one operand for each state in {name}")
    return list(zip("hc", given, (call["P"] or call["H"], call["H"]), strict=False))


def _add_parameters(found: _Operands, prefix: str, call: Call) -> None:
    given = call["grad_params" if prefix else "params"]
    expected = [(i, *each) for i in range(call["L"] * call["D"]) for each in shapes(call, i).items()]
    if not isinstance(given, list | tuple) or len(given) != len(expected):
        raise IllegalError("not one operand for each parameter")
    for view, (i, name, shape) in zip(given, expected, strict=True):
        found.add(f"{prefix}{name} {i}", view, shape, bool(prefix), bool(prefix))


def ragged_steps(call: Call, arena: Arena) -> Steps | None:
    """The steps that batch sizes or lengths leave, these being checked; None where there are neither."""
    T, B = call["T"], call["B"]
    sizes = _counts("batch_sizes", None, call, arena)
    if sizes and call["lengths"] is not None:
        raise IllegalError("batch sizes and lengths")
    lengths = _counts("lengths", B, call, arena)
    if lengths and not 0 <= min(lengths) <= max(lengths) <= T:
        raise IllegalError("lengths below 0 or beyond T")
    if lengths and max(lengths) > MOST_ELEMENTS:
        raise UnknowableError("time")
    return Steps(sizes, list(range(B)), True) if sizes else Steps.of(lengths) if lengths else None


def _counts(name: str, count: int | None, call: Call, arena: Arena) -> list[int]:
    """The integers of an operand, of so many or of any number; empty where there is none."""
    view = call[name]
    if view is None:
        return []
    if not isinstance(view, View) or view.kind != "int64" or len(view.shape) != 1 or view.shape[0] != (count or view.shape[0]):
        raise IllegalError(f"{name} is {view}")
    if not _strides_fit(view, "dense") or (view.shape[0] and (view.at == 0 or view.at % 8)):
        raise IllegalError(f"{name} does not lie so")
    if view.shape[0] and not arena.base <= view.at <= arena.base + len(arena.bytes) - 8 * view.shape[0]:
        raise UnknowableError(name)
    numbers: list[int] = arena.read(view.at + 8 * np.arange(view.shape[0]), np.int64).tolist()
    return numbers
