"""What a step takes and gives: rows of any layout, without a batch axis, fresh memory or the caller's."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import torch
from torch import nn

import elman
from kinds import KINDS
from native import required
from streams import VIEWS, every_view, tensor


@every_view
@torch.no_grad()
def test_one_sequence_needs_no_batch_axis(view: Any) -> None:
    for batch_first in (False, True):
        rnn, x = elman.LSTM(3, 5, 2, batch_first=batch_first), torch.randn(6, 3)
        expected = rnn(x)[0]
        stream = elman.stream(rnn)
        assert torch.equal(torch.stack([tensor(stream.step(view(x_t))) for x_t in x[:2]]), expected[:2])
        assert torch.equal(tensor(stream.run(view(x[2:]))), expected[2:])


def test_every_layout_of_rows_is_read_right() -> None:
    rnn = elman.RNN(4, 5)
    base = torch.randn(3, 4)
    with torch.no_grad():
        expected = rnn(base[None])[0][0]
    wide = np.zeros((6, 8), np.float32)
    wide[::2, :4] = base
    bytes_ = np.zeros(3 * 4 * 4 + 1, np.uint8)
    odd = bytes_[1:].view(np.float32).reshape(3, 4)
    odd[:] = base
    frozen = base.numpy().copy()
    frozen.flags.writeable = False
    arrays = {
        "dense": base.numpy(),
        "rows apart": wide[::2, :4],
        "rows backwards": base.numpy()[::-1].copy()[::-1],
        "columns apart": np.repeat(base.numpy(), 2, axis=1)[:, ::2],
        "columns backwards": base.numpy()[:, ::-1].copy()[:, ::-1],
        "Fortran": np.asfortranarray(base.numpy()),
        "misaligned": odd,
        "read-only": frozen,
        "a subclass": base.numpy().view(np.matrix),
    }
    assert not odd.flags.aligned
    for name, array in arrays.items():
        stream = elman.stream(rnn, 3)
        for _ in range(2):  # as the first step, and as one that follows
            stream.reset()
            y = stream.step(array)
            assert type(y) is np.ndarray
            assert torch.equal(tensor(y), expected), name
    tensors = [base, torch.from_numpy(wide)[::2, :4], base.t().contiguous().t(), base.repeat_interleave(2, 1)[:, ::2], nn.Parameter(base)]
    tensors.append(torch._neg_view(-base))
    for x in tensors:
        stream = elman.stream(rnn, 3)
        with torch.no_grad():
            for _ in range(2):
                stream.reset()
                assert torch.equal(stream.step(x), expected)


@torch.no_grad()
def test_one_row_may_stand_for_all() -> None:
    rnn, x = elman.RNN(4, 5), torch.randn(1, 4).expand(3, 4)
    for view in VIEWS.values():
        stream = elman.stream(rnn, 3)
        assert torch.equal(tensor(stream.step(view(x))), rnn(x[None])[0][0])


@torch.no_grad()
def test_the_output_may_be_the_next_input() -> None:
    for kind in KINDS[:4]:
        rnn, x = kind.build(elman, 6, 6, 2), torch.randn(1, 6)
        for view in VIEWS.values():
            stream, y, expected = elman.stream(rnn), view(x), x
            hx = None
            for _ in range(4):
                y = stream.step(y)
                output, hx = rnn(expected[None], hx)
                expected = output[0]
            assert torch.equal(tensor(y), expected)


@required
def test_a_step_takes_no_memory_and_gives_the_same_object() -> None:
    for kind in KINDS:
        stream = elman.stream(kind.build(elman, 10, 20, 2), 3)
        x = np.ones((3, 10), np.float32)
        y = stream.step(x)
        gc.collect()
        tracemalloc.start()
        try:
            stream.step(x)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            same = all([stream.step(x) is y for _ in range(1000)])  # noqa: C419  # a list of Trues
            now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert same
        assert now - before < 1000  # of which the list above has nothing left
        assert peak - before < 12_000  # the list: 8 bytes an element
        with torch.no_grad():
            y = stream.step(torch.ones(3, 10))
            assert all(stream.step(torch.ones(3, 10)) is y for _ in range(10))


@torch.no_grad()
def test_what_is_written_into_an_output_does_not_reach_the_state() -> None:
    rnn, x = elman.RNN(3, 5, 2), torch.randn(4, 1, 3)
    for view in VIEWS.values():
        stream = elman.stream(rnn)
        for x_t, expected in zip(x, rnn(x)[0], strict=True):
            y = stream.step(view(x_t))
            assert torch.equal(tensor(y), expected)
            y[:] = 7


def test_what_a_run_gives_is_the_callers() -> None:
    stream = elman.stream(elman.RNN(3, 5))
    first = stream.run(np.ones((4, 1, 3), np.float32))
    before = first.copy()
    stream.run(np.zeros((4, 1, 3), np.float32))
    np.testing.assert_array_equal(first, before)


def test_nan_goes_through() -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    y = stream.step(np.array([[1, np.nan, 2], [1, 2, 3]], np.float32))
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()
