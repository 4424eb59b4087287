"""Random numbers that a cell asks for: from torch's generator, in training only, for every step or once a sequence; and Zoneout."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import elman
import own_cells
from elman.backends import Operands
from elman.layers.step_inputs import with_draws

T, B, I, H = 6, 3, 2, 4  # noqa: E741


class Noisy(elman.Cell):
    """Puts out what it draws."""

    gates = ("g",)
    states = ("h", "v", "g")
    draws = {"u": "step", "w": "sequence"}  # noqa: RUF012

    def step(self, x, r, s, p, d):
        if d is None:
            return 0 * s.h - 1, s.v * 0, torch.tanh(x.g + r.g)
        return d.u, d.w, torch.tanh(x.g + r.g)


def seen(rnn: elman.Recurrent, **spans: Any) -> tuple[Tensor, Tensor]:
    """The numbers of the states h and v at every step, (L, D, T, B, H)."""
    traced = rnn.trace(torch.randn(T, B, I), **spans)
    return traced.states["h"], traced.states["v"]


def test_evaluation_draws_nothing() -> None:
    rnn = elman.Recurrent(Noisy(), I, H).eval()
    state = torch.get_rng_state()
    assert (rnn(torch.ones(T, B, I))[0] == -1).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_training_draws_uniform_numbers_for_every_step_layer_and_direction() -> None:
    rnn = elman.Recurrent(Noisy(), I, H, num_layers=2, bidirectional=True)
    h, v = seen(rnn)
    assert h.min() >= 0
    assert h.max() < 1
    assert len(h.unique()) == h.numel()
    assert len(v.unique()) == 2 * 2 * B * H
    assert torch.equal(v, v[:, :, :1].expand_as(v))


def test_the_same_seed_gives_the_same_numbers() -> None:
    rnn = elman.Recurrent(Noisy(), I, H)
    x, outputs = torch.randn(T, B, I), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(rnn(x)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_a_reset_begins_a_sequence_with_numbers_of_its_own() -> None:
    rnn = elman.Recurrent(Noisy(), I, H, bidirectional=True)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[[0, 2, 5], [0, 1, 1]] = True
    _, v = seen(rnn, reset=reset)
    for direction in range(2):
        assert len(v[0, direction, :, 0].unique(dim=0)) == 1
        assert [len(v[0, direction, a:b, 1].unique(dim=0)) for a, b in ((0, 2), (2, 5), (5, 6))] == [1, 1, 1]
        assert len(v[0, direction, :, 1].unique(dim=0)) == 3
    assert len(v.unique()) == 2 * H * (1 + 3 + 1)


def test_a_call_draws_as_many_numbers_whatever_the_lengths() -> None:
    rnn = elman.Recurrent(Noisy(), I, H)
    x = torch.randn(T, B, I)
    torch.manual_seed(0)
    whole, _ = rnn(x)
    torch.manual_seed(0)
    ragged, _ = rnn(x, lengths=[6, 2, 0])
    assert torch.equal(ragged[:2, 1], whole[:2, 1])
    assert torch.equal(ragged[:, 0], whole[:, 0])


def test_dropout_between_layers_leaves_each_layer_its_numbers() -> None:
    rnn = elman.Recurrent(Noisy(), I, H, num_layers=3, dropout=0.5)
    h, v = seen(rnn)
    assert len(h.unique()) == h.numel()
    assert len(v.unique()) == 3 * B * H


def test_a_cell_draws_at_every_call() -> None:
    cell = elman.RecurrentCell(Noisy(), I, H)
    x = torch.randn(B, I)
    first, second = cell(x), cell(x)
    assert not any(torch.equal(a, b) for a, b in zip(first[:2], second[:2], strict=True))
    assert cell.eval()(x)[0].eq(-1).all()


def test_a_cell_in_evaluation_draws_nothing_under_autocast() -> None:
    cell, x, h = elman.RecurrentCell(elman.Zoneout(own_cells.Gru(), h=0.5), I, H).eval(), torch.randn(B, I), torch.ones(B, H)
    expected, state = cell(x, h), torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(cell(x, h).float(), expected, rtol=0, atol=0.02)
    assert torch.equal(torch.get_rng_state(), state)


def test_asking_why_draws_nothing() -> None:
    rnn = elman.Recurrent(Noisy(), I, H)
    state = torch.get_rng_state()
    assert elman.why(rnn, torch.zeros(T, B, I)).startswith(("native", "reference"))
    assert torch.equal(torch.get_rng_state(), state)


class Scaled(elman.Cell):
    gates = ("h",)
    draws = {"u": "step"}  # noqa: RUF012

    def step(self, x, r, s, p, d=None):
        h = torch.tanh(x.h + r.h)
        return h if d is None else h * d.u


def test_what_is_drawn_may_decide_the_dtype_under_autocast() -> None:
    rnn, x = elman.Recurrent(Scaled(), I, H), torch.randn(T, B, I)
    with torch.autocast("cpu", torch.bfloat16):
        assert [rnn.train(mode)(x)[0].dtype for mode in (True, False, True)] == [torch.float32, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_numbers_are_of_xs_dtype_and_as_often_below_a_small_rate_as_it_says(dtype: torch.dtype) -> None:
    rnn, count = elman.Recurrent(Noisy(), I, 256, dtype=dtype), 2**20
    drawn = with_draws(rnn.stack, Operands(torch.zeros(count // 256, 1, I, dtype=dtype), None, ())).spans.draws
    assert drawn is not None
    first = drawn[0]
    assert first.dtype is dtype
    assert first.min() >= 0
    assert first.max() < 1
    for rate in (0.001, 0.01, 0.3):
        below = (first.double() < rate).double().mean().item()
        # Five deviations of the mean, and half a unit in the last of 8 or 11 digits.
        assert abs(below - rate) < 5 * (rate / count) ** 0.5 + rate * torch.finfo(dtype).eps / 2


# --- Zoneout ----------------------------------------------------------------------------------------------------------


def both(**rates: float) -> tuple[elman.Recurrent, elman.Recurrent]:
    """A network, and the same with zoneout."""
    torch.manual_seed(0)
    plain = elman.Recurrent(own_cells.Peephole(), I, H, dtype=torch.float64)
    zoned = elman.Recurrent(elman.Zoneout(own_cells.Peephole(), **rates), I, H, dtype=torch.float64)
    zoned.load_state_dict(plain.state_dict())
    return plain, zoned


def test_no_zoneout_is_the_cell_itself() -> None:
    plain, zoned = both(h=0.0, c=0.0)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for mode in (True, False):
        assert torch.equal(zoned.train(mode)(x)[0], plain(x)[0])


def test_full_zoneout_keeps_the_state() -> None:
    _, zoned = both(h=1.0, c=1.0)
    start = torch.randn(2, 1, B, H, dtype=torch.float64).unbind(0)
    for mode in (True, False):
        _, finals = zoned.train(mode)(torch.randn(T, B, I, dtype=torch.float64), start)
        torch.testing.assert_close(finals, start, rtol=0, atol=1e-14)


def test_training_keeps_units_at_random_and_evaluation_the_expectation() -> None:
    plain, zoned = both(h=0.25, c=0.5)
    x, start = torch.randn(1, B, I, dtype=torch.float64), torch.randn(2, 1, B, H, dtype=torch.float64).unbind(0)
    (h,), (c,) = plain(x, start)[1]
    (got_h,), (got_c,) = zoned.eval()(x, start)[1]
    torch.testing.assert_close(got_h, 0.25 * start[0][0] + 0.75 * h, rtol=0, atol=1e-14)
    torch.testing.assert_close(got_c, 0.5 * start[1][0] + 0.5 * c, rtol=0, atol=1e-14)
    kept = torch.zeros(2)
    for _ in range(400):
        (got_h,), (got_c,) = zoned.train()(x, start)[1]
        assert ((got_h == h) | (got_h == start[0][0])).all()
        kept += torch.stack([(got_h == start[0][0]).double().mean(), (got_c == start[1][0]).double().mean()])
    # 4800 units: the standard deviation of the mean is below 0.0073
    torch.testing.assert_close(kept / 400, torch.tensor([0.25, 0.5]), rtol=0, atol=0.03)


def test_a_wrapper_is_a_cell_that_holds_a_cell() -> None:
    cell = elman.Zoneout(elman.Zoneout(own_cells.Decay(0.2), h=0.1), h=0.2, m=0.3)
    assert repr(cell) == "Zoneout(Zoneout(Decay(floor=0.2), h=0.1), h=0.2, m=0.3)"
    assert cell.step_inputs == own_cells.Decay.step_inputs
    assert len(cell.draws) == 3
    assert pickle.loads(pickle.dumps(cell)) == cell  # noqa: S301
    assert cell != elman.Zoneout(elman.Zoneout(own_cells.Decay(), h=0.1), h=0.2, m=0.3)
    rnn = elman.Recurrent(cell, I, H)
    assert rnn.rate_l0.shape == (H,)
    assert elman.Recurrent(elman.Zoneout(own_cells.Independent(), h=0.5), I, H).u_l0.tolist() == [0.5] * H
    output, _ = rnn(torch.randn(T, B, I), dt=torch.rand(T, B), mask=torch.rand(T, B, H))
    assert output.shape == (T, B, H)


def test_a_wrapper_draws_numbers_of_its_own() -> None:
    with pytest.raises(ValueError, match="expected Wrapper to draw numbers of other names than Noisy, got 'u'"):
        elman.cells.Wrapper(Noisy(), {"u": "step"})
    assert list(elman.cells.Wrapper(Noisy(), {"a": "step"}).draws) == ["u", "w", "a"]


def test_the_built_in_cells_can_be_wrapped() -> None:
    lstm = elman.LSTM(I, H)
    zoned = elman.Recurrent(elman.Zoneout(lstm.stack.cell, h=0.1), I, H)
    zoned.load_state_dict(lstm.state_dict())
    assert not torch.equal(zoned(torch.ones(T, B, I))[0], lstm(torch.ones(T, B, I))[0])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: elman.Zoneout(own_cells.Peephole, h=0.1), TypeError, r"an elman.Cell, got the class Peephole: make one with Peephole\(\)"),
        (lambda: elman.Zoneout(elman.LSTM(3, 4), h=0.1), TypeError, "expected Zoneout to hold an elman.Cell, got LSTM"),
        (lambda: elman.Zoneout(own_cells.Peephole(), m=0.1), ValueError, "expected rates for states of Peephole, h, c, got m"),
        (lambda: elman.Zoneout(own_cells.Peephole(), h=1.5), ValueError, "expected the rate of h to be a probability.*, got 1.5"),
        (lambda: elman.Zoneout(own_cells.Peephole(), h="x"), ValueError, "expected the rate of h to be a probability.*, got 'x'"),
    ],
)
def test_what_is_wrong_with_zoneout_is_said(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


class Undeclared(elman.Cell):
    gates = ("n",)

    def step(self, x: Any, r: Any, s: Any, p: Any, d: Any) -> torch.Tensor:
        return s.h * d.u + x.n + r.n


class Forgotten(elman.Cell):
    gates = ("n",)
    draws = {"u": "step"}  # noqa: RUF012

    def step(self, x: Any, r: Any, s: Any, p: Any) -> torch.Tensor:
        return s.h + x.n + r.n


def test_a_step_takes_draws_if_its_cell_has_some() -> None:
    with pytest.raises(TypeError, match=r"expected Undeclared.step to take \(x, r, s, p\), got \(x, r, s, p, d\): name random"):
        elman.Recurrent(Undeclared(), 3, 4)
    with pytest.raises(TypeError, match=r"Forgotten.step to take \(x, r, s, p, d\), got \(x, r, s, p\): d has the draws"):
        elman.Recurrent(Forgotten(), 3, 4)
