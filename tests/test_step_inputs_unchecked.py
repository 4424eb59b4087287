"""Step inputs of whole sequences go to the kernels without the checks in words, with the numbers and gradients of a checked call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import elman
from elman import scan, zoo
from elman.backends import kernels

pytestmark = pytest.mark.skipif(not kernels.available(), reason=f"the kernels are not built: {kernels.unavailable_reason()}")

T, B, I, H = 7, 3, 4, 8  # noqa: E741
CELLS = {"CfC": zoo.CfC, "GRUD": zoo.GRUD}


def step_inputs(cell: Any) -> dict[str, Tensor]:
    return {name: torch.rand((T, B, H) if size else (T, B)) + 0.1 for name, size in cell.step_inputs.items()}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call was done unchecked."""
    done: list[bool] = []
    run = scan.run_unchecked

    def spy(*args: Any) -> Any:
        result = run(*args)
        done.append(result is not None)
        return result

    monkeypatch.setattr(scan, "run_unchecked", spy)
    return done


def gradients(rnn: elman.Recurrent[Any], x: Tensor, beside: dict[str, Tensor], **more: Any) -> list[Tensor]:
    torch.manual_seed(1)
    output = rnn(x, **beside, **more)[0]
    wanted = [t for t in (x, *beside.values(), *rnn.parameters()) if t.requires_grad]
    return [output.detach(), *torch.autograd.grad(output, wanted, torch.randn_like(output))]


@pytest.mark.parametrize("needed", ["everything", "parameters", "x", "step inputs"])
@pytest.mark.parametrize("name", CELLS)
def test_numbers_and_gradients_are_the_checked_calls(name: str, needed: str, unchecked: list[bool]) -> None:
    torch.manual_seed(0)
    rnn = elman.Recurrent(CELLS[name](), I, H, num_layers=2, bidirectional=True)
    x, beside = torch.randn(T, B, I), step_inputs(rnn.stack.cell)
    rnn.requires_grad_(needed in ("everything", "parameters"))
    x.requires_grad_(needed in ("everything", "x"))
    for each in beside.values():
        each.requires_grad_(needed in ("everything", "step inputs"))
    found = gradients(rnn, x, beside)
    assert unchecked == [True]
    expected = gradients(rnn, x, beside, lengths=[T] * B)
    assert unchecked == [True]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_inference_too(name: str, unchecked: list[bool]) -> None:
    torch.manual_seed(0)
    rnn = elman.Recurrent(CELLS[name](), I, H).eval()
    x, beside = torch.randn(T, B, I), step_inputs(rnn.stack.cell)
    with torch.no_grad():
        torch.testing.assert_close(rnn(x, **beside)[0], rnn(x, **beside, lengths=[T] * B)[0], rtol=1e-5, atol=1e-6)
    assert unchecked == [True]


@pytest.mark.parametrize("how", ["another order", "batch first", "transposed", "a subclass", "unbatched"])
def test_however_they_come(how: str) -> None:
    torch.manual_seed(0)
    cell = zoo.GRUD()
    rnn = elman.Recurrent(cell, I, H)
    x, beside = torch.randn(T, B, I), step_inputs(cell)
    expected = rnn(x, **beside, lengths=[T] * B)[0]
    if how == "another order":
        beside = dict(reversed(beside.items()))
    elif how == "batch first":
        rnn.batch_first = True
        x, beside, expected = x.transpose(0, 1), {k: v.transpose(0, 1) for k, v in beside.items()}, expected.transpose(0, 1)
    elif how == "transposed":
        beside = {k: v.transpose(0, 1).contiguous().transpose(0, 1) for k, v in beside.items()}
    elif how == "a subclass":
        beside = {k: v.as_subclass(type("Own", (Tensor,), {})) for k, v in beside.items()}
    elif how == "unbatched":
        x, beside, expected = x[:, 0], {k: v[:, 0] for k, v in beside.items()}, expected[:, 0]
    torch.testing.assert_close(rnn(x, **beside)[0].as_subclass(Tensor), expected, rtol=1e-5, atol=1e-6)


def test_batch_first_counts_where_there_are_as_many_steps_as_sequences() -> None:
    rnn, x, dt = elman.Recurrent(zoo.CfC(), I, H), torch.randn(B, B, I), torch.rand(B, B)
    expected = rnn(x, dt=dt)[0]
    rnn.batch_first = True
    found = rnn(x.transpose(0, 1), dt=dt.t())[0]
    torch.testing.assert_close(found.transpose(0, 1), expected, rtol=1e-5, atol=1e-6)


def test_wrong_ones_are_refused_in_words(unchecked: list[bool]) -> None:
    rnn, x = elman.Recurrent(zoo.CfC(), I, H), torch.randn(T, B, I)
    for wrong, words in (
        (torch.rand(T, B + 1), r"dt of shape \(7, 3\)"),
        (torch.rand(B, T), "dt of shape"),
        (torch.rand(T, B).double(), "float32"),
    ):
        with pytest.raises(RuntimeError, match=words):
            rnn(x, dt=wrong)
    with pytest.raises(TypeError, match="expected dt to be a tensor"):
        rnn(x, dt=1.0)  # type: ignore[arg-type]
    assert not any(unchecked)
