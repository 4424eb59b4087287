"""Raw calls of a single step, whose operands lack their first axes: they are taken or refused, and computed, as a sequence of one step.

`make sanitize` runs this file too, on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import elman
from elman import zoo
from elman.backends import Stack, kernels
from elman.backends.program.call import kernel_of
from elman.backends.program.lookup import program_of
from kinds import GRU, LSTM, TANH
from native import random_like, required

pytestmark = required
BUILT_IN = {kind.label: kind for kind in (TANH, GRU, LSTM)}
OWN = {"MGU": zoo.MGU}


class Raw:
    """Raw calls of a step, and of the sequence of one step that it is."""

    def __init__(self, name: str) -> None:
        cell = OWN[name]() if name in OWN else BUILT_IN[name].build_cell(elman, 1, 1).stack.cell
        self.stack = Stack(cell, 3, 5, left_out=1)
        self.widths, self.is_own = self.stack.state_sizes, name in OWN
        self.handle = kernel_of(program_of(cell, torch.float64, units=5)).handle if self.is_own else None
        self.params = [random_like(torch.empty(shape, dtype=torch.float64)) for shape in self.stack.shapes]

    def run(self, numbers: tuple[object, ...], x: Any, states: Any, gradients: tuple[Any, ...] | None, **changes: Any) -> list[Any]:
        """All results, and the gradients where some arrive."""
        options = {"batch_sizes": None, "lengths": None, "reset": None, "batch_first": False} | changes
        batch_sizes, *spans, batch_first = options.values()
        if self.is_own:
            first = self.handle, numbers, self.params, x, states, None, *spans, (), (), batch_first, 1
            output, finals, hidden, kept = kernels._native.program_forward(*first, gradients is not None, False)
            if gradients is None:
                return [*finals]
            needs = (True,) * (1 + len(states or ()) + len(self.params))
            return [*finals, *kernels._native.program_backward(*first, output, hidden, kept, None, None, gradients, None, False, needs)]
        first = numbers, self.params, x, states, None, batch_sizes, *spans, batch_first, False, 1
        output, finals, *saved = kernels._native.forward(*first, save=gradients is not None)
        if gradients is None:
            return [*finals]
        needs = (True,) * (1 + len(states or ()) + len(self.params))
        return [*finals, *kernels._native.backward(*first, output, *saved, None, None, None, gradients, needs_grad=needs)]


shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@pytest.mark.parametrize("name", ["tanh", "gru", "lstm", "MGU"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_raw_step_is_taken_or_refused_as_its_sequence(name: str, data: st.DataObject) -> None:
    """Whatever shapes, strides and dtypes come."""
    raw = Raw(name)
    B, fits, left_out = data.draw(st.integers(1, 4)), data.draw(st.booleans()), data.draw(st.integers(1, 2))
    stack, batch = replace(raw.stack, left_out=left_out), (B,) if left_out == 1 else ()

    def tensor(shape: tuple[int, ...]) -> Tensor:
        if not fits and data.draw(st.booleans()):
            shape = data.draw(shapes)
        dtype = torch.float64 if fits else data.draw(st.sampled_from([torch.float64] * 6 + [torch.float32, torch.int64]))
        made = (random_like(torch.empty(shape, dtype=torch.float64)) * 3).to(dtype)
        return made.repeat_interleave(2, -1)[..., ::2] if not fits and data.draw(st.integers(0, 7)) == 0 else made

    x = tensor((*batch, 3))
    states = tuple(tensor((*batch, width)) for width in raw.widths) if data.draw(st.booleans()) else None
    gradients = tuple(tensor((*batch, width)) for width in raw.widths) if data.draw(st.booleans()) else None
    results = []
    for axes, numbers in (((), stack.numbers), ((None,) * left_out, stack.sequence.numbers)):
        of = [None if group is None else tuple([t[axes] for t in group]) for group in (states, gradients)]
        try:
            results.append(raw.run(numbers, x[axes], *of))
        except RuntimeError:
            results.append([])
    step, sequence = results
    assert len(step) == len(sequence)
    assert bool(step) or not fits
    for got, wanted in zip(step, sequence, strict=True):
        assert torch.equal(got, wanted.reshape(got.shape))
        assert got.dim() == wanted.dim() - (left_out if wanted.dim() == 3 else 0)


@pytest.mark.parametrize("name", ["lstm", "MGU"])
def test_a_raw_step_is_one_networks_in_one_direction_without_spans(name: str) -> None:
    raw = Raw(name)
    x = torch.randn(2, 3, dtype=torch.float64)
    layers, directions, members, left_out = 4, 5, 8, 9  # among the numbers
    for place, value in ((layers, 2), (directions, 2), (members, 2), (left_out, 3), (left_out, -1)):
        numbers = list(raw.stack.numbers)
        numbers[place] = value
        with pytest.raises(ValueError, match="one or two axes are left out"):
            raw.run(tuple(numbers), x, None, None)
    spans: list[dict[str, Any]] = [
        {"batch_first": True},
        {"lengths": torch.tensor([1, 0])},
        {"reset": torch.zeros(1, 2, dtype=torch.bool)},
    ]
    for change in spans + ([] if raw.is_own else [{"batch_sizes": torch.tensor([2])}]):
        with pytest.raises(RuntimeError, match="expected a single step with neither batch_first"):
            raw.run(raw.stack.numbers, x, None, None, **change)


def test_arrays_are_taken_with_room_for_the_states() -> None:
    """The output has no memory of its own where nothing is saved; where it is given, it is written."""
    raw = Raw("lstm")
    params, x = [p.numpy() for p in raw.params], np.random.default_rng(0).standard_normal((2, 3))
    finals, output = tuple(np.full((2, 5), np.nan) for _ in range(2)), np.full((2, 5), np.nan)
    first = raw.stack.numbers, params, x, None, None, None, None, None, False, False, 1
    assert kernels._native.forward(*first, final=finals)[0] is finals[0]
    kernels._native.forward(*first, output=output, final=(again := tuple(np.full((2, 5), np.nan) for _ in range(2))))
    expected = raw.run(raw.stack.numbers, torch.from_numpy(x), None, None)
    for got, wanted in zip((*finals, *again, output), (*expected, *expected, expected[0]), strict=True):
        assert np.array_equal(got, wanted.numpy())
    with pytest.raises(RuntimeError, match="apart from"):
        kernels._native.forward(*first, output=again[0], final=again)
