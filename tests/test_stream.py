"""A stream gives what the layer gives, to the bit, however a sequence is cut, and with whatever runs its steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import elman
from elman.backends import kernels
from kinds import GRU, LSTM, TANH, Kind, as_hx, every_kind, projected
from native import initial_states, instruction_set, required, tensors_asked
from streams import VIEWS, assert_same_state, every_view, follow, tensor

ISAS = kernels.isas() if kernels.available() else ()


@required
@every_kind
@pytest.mark.parametrize("isa", ISAS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_every_cut_gives_the_bits_of_the_whole_run(isa: str, kind: Kind, data: st.DataObject) -> None:
    draw = data.draw
    B, hidden = draw(st.integers(1, 9), label="B"), draw(st.integers(3, 70), label="H")
    options = {"num_layers": draw(st.integers(1, 3)), "bias": draw(st.booleans()), "batch_first": draw(st.booleans())}
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    cuts = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 7]), min_size=1, max_size=9), label="cuts")
    torch.manual_seed(0)
    rnn = kind.build(elman, draw(st.integers(1, 40), label="I"), hidden, **options).to(dtype)
    x = torch.randn(sum(max(1, cut) for cut in cuts), B, rnn.input_size, dtype=dtype)
    with instruction_set(isa):
        output, hx = rnn(x.transpose(0, 1) if rnn.batch_first else x)
        for view in VIEWS.values():
            stream = elman.stream(rnn, B)
            assert torch.equal(follow(stream, x, cuts, view), output.transpose(0, 1) if rnn.batch_first else output)
            assert_same_state(stream, hx)


@required
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", [TANH, GRU, LSTM, projected(1), projected(17)], ids=str)
@torch.no_grad()
def test_widths_around_a_vectors_and_tall_batches_give_the_bits_of_the_whole_run(isa: str, kind: Kind) -> None:
    with instruction_set(isa):
        for sizes, B in [((5, 18), 1), ((16, 31), 1), ((1, 33), 2), ((64, 64), 1), ((300, 130), 1), ((40, 65), 33), ((2, 250), 70)]:
            rnn, x = kind.build(elman, *sizes), torch.randn(3, B, sizes[0])
            states = initial_states(rnn, B)
            stream = elman.stream(rnn, B)
            stream.state = as_hx(states)
            assert torch.equal(follow(stream, x, [0, 0, 0], VIEWS["arrays"]), rnn(x, as_hx(states))[0])


@required
@every_kind
def test_a_step_is_run_by_the_kernels(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    rnn = kind.build(elman, 3, 5, 2)
    stream = elman.stream(rnn)
    monkeypatch.setattr(stream, "_call", None)  # which calls the layer
    stream.step(np.zeros((1, 3), np.float32))
    with torch.no_grad():
        stream.step(torch.zeros(1, 3))


@pytest.mark.skipif(not kernels.sees_tensors(), reason="torch does not show its tensors to the kernels here")
@every_view
@torch.no_grad()
def test_torch_that_does_not_show_its_tensors_gives_the_same(view: Any) -> None:
    rnn, x = elman.GRU(3, 5), torch.randn(4, 1, 3)
    expected = rnn(x)[0]
    with tensors_asked():
        stream = elman.stream(rnn)
        assert torch.equal(follow(stream, x, [0] * 4, view), expected)
        rnn.bias_hh_l0.add_(1)
        assert not torch.equal(tensor(stream.step(view(x[0]))), expected[0])


@required
@every_view
@pytest.mark.parametrize("kind", [TANH, GRU], ids=str)
@torch.no_grad()
def test_bfloat16_gives_the_bits_of_the_whole_run_where_all_that_is_kept_is_rounded(kind: Kind, view: Any) -> None:
    rnn, x = kind.build(elman, 6, 20, 2).bfloat16(), torch.randn(7, 2, 6, dtype=torch.bfloat16)
    stream = elman.stream(rnn, 2)
    if view is VIEWS["arrays"]:
        with pytest.raises(
            ValueError, match=r"expected x to be a torch tensor: the parameters are torch.bfloat16, which NumPy does not have"
        ):
            stream.step(np.zeros((2, 6), np.float32))
    else:
        assert torch.equal(follow(stream, x, [0, 3, 0, 2], view), rnn(x)[0])


@torch.no_grad()
def test_an_lstms_c_in_bfloat16_is_rounded_where_a_call_ends() -> None:
    rnn, x = elman.LSTM(6, 20).bfloat16(), torch.randn(6, 2, 6, dtype=torch.bfloat16)
    hx, outputs = None, []
    for x_t in x:
        output, hx = rnn(x_t[None], hx)
        outputs.append(output)
    assert torch.equal(follow(elman.stream(rnn, 2), x, [0] * 6, VIEWS["tensors"]), torch.cat(outputs))


@every_view
@every_kind
@torch.no_grad()
def test_without_kernels_the_layer_runs_the_steps(kind: Kind, view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rnn, x = kind.build(elman, 3, 5, 2).double(), torch.randn(6, 2, 3, dtype=torch.float64)
    theirs = kind.build(nn, 3, 5, 2).double()
    theirs.load_state_dict(rnn.state_dict())
    expected = theirs(x)[0]
    torch.testing.assert_close(follow(elman.stream(rnn, 2), x, [0, 3, 0, 0], view), expected, rtol=0, atol=1e-12)
    monkeypatch.setattr(kernels, "available", lambda: False)
    torch.testing.assert_close(follow(elman.stream(rnn, 2), x, [0, 3, 0, 0], view), expected, rtol=0, atol=1e-12)


@every_view
@torch.no_grad()
def test_in_half_precision_the_state_is_rounded_between_pieces(view: Any) -> None:
    rnn, x = elman.GRU(3, 5).half(), torch.randn(4, 1, 3).half()
    stream = elman.stream(rnn)
    # h, below 1, by at most 2**-12 after each of two pieces, and the output: five units of weights below 1/sqrt(5) let it grow 2.3-fold.
    torch.testing.assert_close(follow(stream, x, [0, 2, 0], view), rnn(x)[0], rtol=0, atol=(2.3**2 + 2.3 + 1) * 2**-12)
    assert stream.state_dict()["h"].dtype == np.float16


@torch.no_grad()
def test_arrays_know_of_no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (GRU, LSTM):
        rnn, x = kind.build(elman, 3, 5), torch.randn(6, 2, 3)
        expected = rnn(x)[0]
        for cuts in ([0] * 6, [2, 0, 3]):
            for has_kernels in (True, False):
                with monkeypatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
                    if not has_kernels:
                        patch.setattr(kernels, "available", lambda: False)
                    y = follow(elman.stream(rnn, 2), x, cuts, VIEWS["arrays"])
                assert y.dtype is torch.float32
                torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


@every_view
@torch.no_grad()
def test_another_default_device_changes_nothing(view: Any) -> None:
    rnn, x = elman.LSTM(3, 5), torch.randn(6, 2, 3)
    expected = rnn(x)[0]
    with torch.device("meta"):
        stream = elman.stream(rnn, 2)
        y = [tensor(stream.step(view(x_t))) for x_t in x[:3]]
        stream.reset()
        y += [tensor(stream.step(view(x_t))) for x_t in x[:2]]
        stream.reset([1])
        stream.reset(np.array([True, False]))
        stream.load_state_dict(stream.state_dict())
        y += [tensor(stream.step(view(x[0])))]
    assert torch.equal(torch.stack(y), expected[[0, 1, 2, 0, 1, 0]])
