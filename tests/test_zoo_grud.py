"""What GRUDInput fills in is the paper's equation, step by step; and import elman leaves the zoo alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from elman import zoo

T, B, I = 6, 3, 4  # noqa: E741


def filled_by_the_paper(values: np.ndarray, mask: np.ndarray, dt: np.ndarray, w: np.ndarray, b: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Che et al. (2018), equations 1, 9 and 11, one variable of one sequence at a time."""
    filled = np.empty_like(values)
    for sequence in range(values.shape[1]):
        for variable in range(values.shape[2]):
            delta, last = 0.0, mean[variable]
            for t in range(len(values)):
                if t:
                    delta = dt[t, sequence] + (0.0 if mask[t - 1, sequence, variable] else delta)
                decay = np.exp(-max(0.0, w[variable] * delta + b[variable]))
                x, m = values[t, sequence, variable], mask[t, sequence, variable]
                filled[t, sequence, variable] = x if m else decay * last + (1 - decay) * mean[variable]
                last = x if m else last
    return filled


@pytest.mark.parametrize("batch_first", [False, True])
def test_missing_values_are_filled_in_as_the_paper_does(batch_first: bool) -> None:
    torch.manual_seed(0)
    fill = zoo.GRUDInput(I, batch_first=batch_first).double()
    with torch.no_grad():
        fill.w.uniform_(-0.5, 1.0)
        fill.b.uniform_(-0.5, 1.0)
        fill.mean.uniform_(-1.0, 1.0)
    values, mask, dt = torch.randn(T, B, I, dtype=torch.float64), torch.rand(T, B, I) < 0.4, torch.rand(T, B, dtype=torch.float64)
    given = values.masked_fill(~mask, float("nan")), mask, torch.cat((torch.full((1, B), float("nan")), dt[1:]))  # dt[0] has no effect
    result = fill(*(each.transpose(0, 1) for each in given)).transpose(0, 1) if batch_first else fill(*given)
    numbers = [each.detach().numpy() for each in (values, mask, dt, fill.w, fill.b, fill.mean)]
    torch.testing.assert_close(result[..., :I].detach(), torch.from_numpy(filled_by_the_paper(*numbers)), rtol=0, atol=1e-12)
    assert torch.equal(result[..., I:], mask.double())


def test_a_short_time_is_right_after_a_long_sequence() -> None:
    """In float32 what is left of two times of day 36,500 is off by a hundredth."""
    fill = zoo.GRUDInput(1)
    with torch.no_grad():
        fill.w.fill_(1.0)
        fill.b.zero_()
    mask = torch.ones(100_001, 1, 1, dtype=torch.bool)
    mask[-1] = False
    last = fill(torch.ones(100_001, 1, 1), mask, torch.full((100_001, 1), 0.365))[-1, 0, 0]
    assert last.dtype is torch.float32
    assert last.item() == pytest.approx(np.exp(-0.365), rel=1e-6)


def test_its_gradients_pass_gradcheck() -> None:
    torch.manual_seed(0)
    fill = zoo.GRUDInput(I).double()
    values, dt = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True), torch.rand(T, B, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(T, B, I) < 0.4

    def run(values: Any, dt: Any, w: Any, b: Any) -> Any:
        return torch.func.functional_call(fill, {"w": w, "b": b}, (values, mask, dt))

    assert torch.autograd.gradcheck(run, (values, dt, fill.w, fill.b))
    assert fill.w.min() >= 0  # decays at first, so that it can learn to


X, M, D = torch.zeros(T, B, I), torch.ones(T, B, I, dtype=torch.bool), torch.zeros(T, B)
WRONG = {
    "values": ((X.numpy(), M, D), TypeError, "expected values to be a tensor, got ndarray"),
    "mask": ((X, M.float(), D), TypeError, "expected mask to have bools, got torch.float32: pass mask.bool()"),
    "variables": ((X[..., 1:], M, D), RuntimeError, "expected values of shape (T, B, 4), got (6, 3, 3)"),
    "shapes": ((X, M[1:], D), RuntimeError, "expected mask of shape (6, 3, 4) and dt of shape (6, 3), got (5, 3, 4) and (6, 3): "),
    "dt": ((X, M, D[0]), RuntimeError, "expected mask of shape (6, 3, 4) and dt of shape (6, 3), got (6, 3, 4) and (3,): "),
}


@pytest.mark.parametrize(("arguments", "error", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_refused_in_a_sentence(arguments: tuple[Any, ...], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        zoo.GRUDInput(I)(*arguments)
    assert str(caught.value).startswith(said)


def test_its_options_are_checked_and_shown() -> None:
    with pytest.raises(TypeError, match="expected batch_first to be True or False, got 'no'"):
        zoo.GRUDInput(I, batch_first="no")  # type: ignore[arg-type]
    assert (repr(zoo.GRUDInput(I)), repr(zoo.GRUDInput(I, batch_first=True))) == ("GRUDInput(4)", "GRUDInput(4, batch_first=True)")


def test_importing_elman_does_not_import_the_zoo() -> None:
    code = "import sys, elman; assert 'elman.zoo' not in sys.modules; elman.zoo.MGU(); assert 'elman.zoo' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
