"""In float32 the same bits on any number of threads, whatever else is in the batch, and for a sequence run whole or in pieces.

So much is promised for results; gradients are the same over repeats and over numbers of threads, but sums over a batch depend on the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import elman
from native import assert_same_bits, evaluate, native_alone, required, threads

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [required, pytest.mark.usefixtures("poisoned", "native_alone")]
__all__ = ["native_alone"]

NETWORKS = {
    "one unit": {"input_size": 3, "hidden_size": 1},
    "a vector and a bit": {"input_size": 5, "hidden_size": 17, "nonlinearity": "relu"},
    "wide": {"input_size": 40, "hidden_size": 130},
    "deep, both ways": {"input_size": 9, "hidden_size": 33, "num_layers": 3, "bidirectional": True, "bias": False},
}
every_network = pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(autouse=True)
def _seeded_and_on_one_thread() -> Iterator[None]:
    torch.manual_seed(0)
    with threads(1):
        yield


@torch.no_grad()
def _run(rnn: elman.RNN, x: Tensor, hx: Tensor | None = None) -> dict[str, Tensor]:
    output, h_n = rnn(x, hx)
    return {"output": output, "h_n": h_n}


# Large enough for threads: their rows, their columns, their directions, with one chunk of gradients and with several.
LARGE = {
    "rows": ((60, 13, 40), {"hidden_size": 70}),
    "rows, deep, both ways": ((40, 7, 30), {"hidden_size": 65, "num_layers": 2, "bidirectional": True}),
    "columns": ((50, 1, 8), {"hidden_size": 350}),
    "columns, deep, both ways": ((30, 1, 8), {"hidden_size": 350, "num_layers": 2, "bidirectional": True}),
    "fewer rows than threads": ((200, 2, 20), {"hidden_size": 90}),
    "many chunks, both ways": ((400, 20, 5), {"hidden_size": 90, "bidirectional": True}),
}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(("shape", "options"), LARGE.values(), ids=LARGE)
def test_results_and_gradients_do_not_depend_on_the_number_of_threads(
    shape: tuple[int, ...], options: dict[str, int], packed: bool
) -> None:
    rnn, x = elman.RNN(shape[2], **options), torch.randn(shape)
    if packed:
        x = pack_padded_sequence(x, torch.linspace(shape[0], 1, shape[1]).long())
    hx = torch.randn(rnn.num_layers * (1 + rnn.bidirectional), shape[1], rnn.hidden_size)
    expected = evaluate(rnn, x, hx)
    for count in (1, 2, 3, 4):
        with threads(count):
            assert_same_bits(evaluate(rnn, x, hx), expected)
            with torch.no_grad():
                output, h_n = rnn(x, hx)
        output = output.data if isinstance(output, PackedSequence) else output
        assert_same_bits({"output": output, "h_n": h_n}, {name: expected[name] for name in ("output", "h_n")})


@every_network
def test_a_rows_results_do_not_depend_on_the_rest_of_the_batch(options: dict[str, object]) -> None:
    rnn = elman.RNN(**options)
    x, hx = torch.randn(7, 20, rnn.input_size), torch.randn(rnn.num_layers * (1 + rnn.bidirectional), 20, rnn.hidden_size)
    whole = _run(rnn, x, hx)
    for B in range(1, 20):
        first = 20 - B
        part = _run(rnn, x[:, first:], hx[:, first:].contiguous())
        assert_same_bits(part, {name: value[:, first:] for name, value in whole.items()})


@every_network
@torch.no_grad()
def test_a_rows_results_do_not_depend_on_what_it_is_packed_with(options: dict[str, object]) -> None:
    rnn, lengths = elman.RNN(**options), [9, 9, 7, 4, 4, 3, 1]
    sequences = [torch.randn(length, rnn.input_size) for length in lengths]
    output, h_n = rnn(pack_sequence(sequences))
    output, _ = pad_packed_sequence(output)
    for row, sequence in enumerate(sequences):
        alone = _run(rnn, sequence)
        assert_same_bits(alone, {"output": output[: lengths[row], row], "h_n": h_n[:, row]})


@torch.no_grad()
def test_one_row_alone_is_the_same_on_threads_that_split_its_columns() -> None:
    rnn, x = elman.RNN(8, 350, 2), torch.randn(40, 5, 8)
    whole = _run(rnn, x)
    with threads(2):
        for row in range(5):
            alone = _run(rnn, x[:, row : row + 1])
            assert_same_bits(alone, {name: value[:, row : row + 1] for name, value in whole.items()})


@every_network
@torch.no_grad()
def test_a_sequence_run_in_pieces_is_the_sequence_run_whole(options: dict[str, object]) -> None:
    rnn = elman.RNN(**{**options, "bidirectional": False})
    x, h = torch.randn(300, 3, rnn.input_size), torch.randn(rnn.num_layers, 3, rnn.hidden_size)
    whole = _run(rnn, x, h)
    for size in (1, 7, 100, 299):
        state, outputs = h, []
        for piece in x.split(size):
            output, state = rnn(piece, state)
            outputs.append(output)
        assert_same_bits({"output": torch.cat(outputs), "h_n": state}, whole)


@every_network
def test_recording_gradients_changes_no_result(options: dict[str, object]) -> None:
    rnn = elman.RNN(**options)
    x = torch.randn(30, 6, rnn.input_size)
    output, h_n = rnn(x.requires_grad_())
    assert_same_bits(_run(rnn, x), {"output": output.detach(), "h_n": h_n.detach()})


@every_network
def test_results_and_gradients_repeat(options: dict[str, object]) -> None:
    rnn = elman.RNN(**options)
    x = torch.randn(50, 6, rnn.input_size)
    with threads(4):
        first = evaluate(rnn, x)
        for _ in range(5):
            assert_same_bits(evaluate(rnn, x), first)


def test_the_comparison_sees_a_single_bit() -> None:
    value = torch.randn(5)
    other = value.clone()
    other[2] = torch.nextafter(other[2], torch.tensor(9.0))
    assert_same_bits({"value": value}, {"value": value.clone()})
    with pytest.raises(AssertionError):
        assert_same_bits({"value": other}, {"value": value})
