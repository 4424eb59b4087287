"""Makes a raw call of the kernels, and says whether it did what it must: refused, it wrote nothing; answered, it left the right numbers
and touched nothing else. For test_fuzz.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import raw
import raw_contract
import raw_numbers
from raw import Call, View

if TYPE_CHECKING:
    from collections.abc import Callable

    from raw_arena import Arena

_native = pytest.importorskip("elman._native", reason="the kernels are not built here", exc_type=ImportError)

REFUSALS = (RuntimeError, ValueError, TypeError, MemoryError)


def call_it(kind: str, call: Call) -> None:
    getattr(_native, kind)(*raw.arguments(kind, call))


def check(kind: str, call: Call, arena: Arena, must_run: bool) -> None:
    """Make the call, and raise unless it does what it must."""
    drawn = call
    if not must_run and not _can_be_made(kind, call):
        return
    if kind == "activation":
        call = call | {"number": raw.KINDS.index(call["source"].kind) if _is_of_numbers(call["source"]) else 0}
    try:
        read, written = raw_contract.operands(kind, call, arena)
    except raw_contract.UnknowableError:
        assert not must_run
        return
    except raw_contract.IllegalError:
        assert not must_run
        read, written = {}, {}
        legal = False
    else:
        legal = True
        call = call if kind == "activation" else raw_contract.complete(kind, call, arena)
    number = call["number"]
    steps = (
        (raw_contract.ragged_steps(call, arena) or raw.Steps([call["B"]] * call["T"], [], False))
        if legal and kind != "activation"
        else None
    )
    with np.errstate(invalid="ignore"):  # an address that was changed may lead to bytes that are no numbers
        values = {name: arena.read(places, raw.kind_of(name, number)).astype(np.float64) for name, places in read.items()}
    mask = arena.mask(written, number)
    readable = arena.mask(read, number) | _counts_mask(call, arena)
    arena.spoil(readable)
    before = arena.bytes.copy()
    arena.lend(mask | readable)
    try:
        call_it(kind, drawn)
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
        with np.errstate(invalid="ignore"):  # nor are the numbers those of this type, in bfloat16
            got = {name: arena.read(places, raw.kind_of(name, number)).astype(np.float64) for name, places in written.items()}
        _check_sequences_without_a_step(got, values)
        if number != raw.BFLOAT16:  # whose numbers test_bfloat16 checks; here it is where they lie
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
    return isinstance(value, View) and value.kind in raw.KINDS[:2]


def _counts_mask(call: Call, arena: Arena) -> np.ndarray:
    """Batch sizes and lengths are read before all else is known to be right."""
    mask = np.zeros(len(arena.bytes), bool)
    for name in ("batch_sizes", "lengths"):
        view = call.get(name)
        if isinstance(view, View) and len(view.shape) == 1:
            start = view.at - arena.base
            mask[max(0, start) : max(0, start + 8 * view.shape[0])] = True
    return mask


def _check_sequences_without_a_step(got: raw.Places, values: raw.Places) -> None:
    """Padding is zeros; a sequence without a step ends as it began, and its gradient is handed back."""
    for name, value in got.items():
        if name.endswith("padding"):
            assert not value.any(), f"{name} is not zero"
        elif name.endswith("idle"):
            source = name.replace("final", "initial") if name.startswith("final") else name.replace("grad_initial", "grad_final")
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
        rows = {name: value.reshape(steps.count, -1) if name in ("x", "output", "grad_output") else value for name, value in values.items()}
        expected, errors = expect(steps.seen(call), {"x": np.zeros((steps.count, 0))} | rows, steps.alive)
    for name, value in got.items():
        error = np.abs(value.reshape(expected[name].shape) - expected[name])
        assert (error <= errors[name]).all(), f"{name}: off by up to {error.max():.3g}"
