"""What a step takes and gives: rows of any layout, without a batch axis, and memory that is the caller's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import elman
from allocated import forgets
from elman.backends import kernels
from kinds import KINDS, Kind, every_kind
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
    wide[::2, :4] = base.numpy()
    bytes_ = np.zeros(3 * 4 * 4 + 1, np.uint8)
    odd = bytes_[1:].view(np.float32).reshape(3, 4)
    odd[:] = base.numpy()
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


# --- Fresh memory -----------------------------------------------------------------------------------------------------


@every_view
@every_kind
def test_outputs_that_are_kept_stay_as_they_were(kind: Kind, view: Any) -> None:
    rnn, x = kind.build(elman, 3, 5, 2), torch.randn(6, 2, 3)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            stream = elman.stream(rnn, 2)
            outputs = [stream.step(view(x_t)) for x_t in x]
            assert torch.equal(torch.stack([tensor(y) for y in outputs]), rnn(x)[0])
            chunks = [stream.run(view(x)) for _ in range(3)]
            before = [tensor(y) for y in (*outputs, *chunks)]
            stream.step(view(x[0]))
            stream.reset()
            assert all(map(torch.equal, map(tensor, (*outputs, *chunks)), before))


@every_view
@torch.no_grad()
def test_an_output_shares_no_memory_with_the_state_or_another_output(view: Any) -> None:
    for has_kernels in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not has_kernels:
                patch.setattr(kernels, "available", lambda: False)
            for kind in KINDS[:4]:
                rnn, x = kind.build(elman, 3, 5), torch.randn(8, 1, 3)
                expected = rnn(x)[0]
                stream = elman.stream(rnn)
                for t in range(4):
                    y = stream.step(view(x[t]))
                    assert torch.equal(tensor(y), expected[t])
                    y[...] = 7
                y = stream.run(view(x[4:6]))
                assert torch.equal(tensor(y), expected[4:6])
                y[...] = 7
                assert torch.equal(tensor(stream.run(view(x[6:]))), expected[6:])


@pytest.mark.slow
@required
@every_view
@torch.no_grad()
def test_a_step_keeps_no_memory(view: Any) -> None:
    for kind in KINDS:
        stream, x = elman.stream(kind.build(elman, 10, 20, 2), 3), view(torch.ones(3, 10))
        out = view(torch.empty(3, kind.widths(20)[0]))
        assert not forgets(lambda stream=stream, x=x, out=out: (stream.step(x), stream.step(x, out)))
