"""Which steps a batch's sequences have, and the states before them, as plain loops say it. Needs no GPU."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from elman.backends.cuda.batch import Batch, BatchSizes
from elman.backends.spans import WHOLE, Spans

T, B, H = 5, 4, 3
LENGTHS = [3, 0, 5, 1]
SIZES = [4, 3, 3, 1, 1]  # of sequences of 5, 3, 3 and 1 steps
FORMS = ("whole", "lengths", "reset", "lengths and reset", "packed", "packed and reset")


def spans_of(form: str) -> Spans:
    reset = torch.rand((B, T), generator=torch.Generator().manual_seed(1)).gt(0.4).t() if "reset" in form else None  # not contiguous
    return Spans(torch.tensor(SIZES) if "packed" in form else None, torch.tensor(LENGTHS) if "lengths" in form else None, reset, None)


def lengths_of(form: str) -> list[int]:
    return [5, 3, 3, 1] if "packed" in form else LENGTHS if "lengths" in form else [T] * B


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def as_laid_out(padded: Tensor, form: str, batch_first: bool) -> Tensor:
    """(T, B, H) as the outputs lie: packed, or with batch_first transposed."""
    if "packed" in form:
        return torch.cat([padded[t, :size] for t, size in enumerate(SIZES)])
    return padded.transpose(0, 1).contiguous() if batch_first else padded


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_batch_says_what_steps_there_are(form: str, batch_first: bool) -> None:
    spans = spans_of(form)
    x = as_laid_out(numbers(T, B, 2), form, batch_first)
    batch = Batch.of(x, spans, batch_first)
    is_packed, expected = "packed" in form, lengths_of(form)
    assert (batch.steps, batch.sequences, batch.rows) == (T, B, sum(expected) if is_packed else T * B)
    assert batch.is_whole == (form == "whole")
    assert batch.batch_first == (batch_first and not is_packed)
    assert batch.reset is spans.reset
    assert (None if batch.lengths is None else batch.lengths.tolist()) == (None if form in ("whole", "reset") else expected)
    assert (None if batch.offsets is None else batch.offsets.tolist()) == ([0, 4, 7, 10, 11] if is_packed else None)
    for each in (batch.lengths, batch.offsets):  # as the kernels read them
        assert each is None or (each.dtype is torch.int32 and each.is_contiguous())


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_strides_lead_to_every_row(form: str, batch_first: bool) -> None:
    padded = numbers(T, B, H)
    data = as_laid_out(padded, form, batch_first)
    wide = torch.cat((data, data + 1), -1)[..., :H]  # rows with something between them
    batch = Batch.of(data, spans_of(form), batch_first)
    stride_t, stride_b = batch.strides(wide, batch.batch_first)
    for b, length in enumerate(lengths_of(form)):
        for t in range(length):
            at = (int(batch.offsets[t]) + b) * stride_b if batch.offsets is not None else t * stride_t + b * stride_b
            assert torch.equal(wide.as_strided((H,), (1,), wide.storage_offset() + at), padded[t, b])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("form", ["whole", "packed"])
def test_new_memory_and_step_order(form: str, batch_first: bool) -> None:
    padded = numbers(T, B, H)
    data = as_laid_out(padded, form, batch_first)
    batch = Batch.of(data, spans_of(form), batch_first)
    assert batch.new(data, 7, batch.batch_first).shape == (*data.shape[:-1], 7)
    assert torch.equal(batch.in_step_order(data, batch.batch_first), data if form == "packed" else padded)


def states_before(padded: Tensor, form: str, initial: Tensor | None, fresh: Tensor | None, reverse: bool) -> dict[tuple[int, int], Tensor]:
    """The state before each step (t, b) that there is."""
    reset, found = spans_of(form).reset, {}
    for b, length in enumerate(lengths_of(form)):
        state = torch.zeros(H) if initial is None else initial[b]
        for t in reversed(range(length)) if reverse else range(length):
            at = t + 1 if reverse else t
            if reset is not None and at < length and reset[at, b]:
                state = torch.zeros(H) if fresh is None else fresh
            found[t, b] = state
            state = padded[t, b]
    return found


@pytest.mark.parametrize(("given", "learned"), list(product((False, True), repeat=2)))
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_states_before_are_those_of_loops(form: str, batch_first: bool, reverse: bool, given: bool, learned: bool) -> None:
    padded = numbers(T, B, H)
    for b, length in enumerate(lengths_of(form)):
        padded[length:, b] = 0  # as outputs are
    initial, fresh = numbers(B, H) + 10 if given else None, numbers(H) + 20 if learned else None
    data = as_laid_out(padded, form, batch_first)
    batch = Batch.of(data, spans_of(form), batch_first)
    before = batch.states_before(data, initial, fresh, batch.batch_first, reverse)
    assert before.shape == (batch.rows, H)
    expected = states_before(padded, form, initial, fresh, reverse)
    rows = {(t, b): sum(SIZES[:t]) + b if "packed" in form else t * B + b for t, b in expected}
    for place, state in expected.items():
        assert torch.equal(before[rows[place]], state), place


def test_a_batchs_numbers() -> None:
    lengths, reset = torch.tensor(LENGTHS), torch.zeros(2 * T, B, dtype=torch.bool)[::2]
    batch = Batch.of(numbers(T, B, 2), Spans(None, lengths, reset, None), False)
    assert batch.sizes == BatchSizes(T, B, T * B, (2 * B, 1))
    assert Batch.of(numbers(T, B, 2), WHOLE, False).sizes == BatchSizes(T, B, T * B, (0, 0))


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_does_not_capture_what_is_read_on_the_cpu(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(Tensor):
        is_cuda = True

    x = as_laid_out(numbers(T, B, 2), form, False).as_subclass(OnGpu)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    if form in ("whole", "reset"):
        assert Batch.of(x, spans_of(form), False).steps == T
        return
    with pytest.raises(RuntimeError, match="a CUDA graph cannot capture lengths or a PackedSequence"):
        Batch.of(x, spans_of(form), False)
