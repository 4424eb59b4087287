"""In float32 the same bits on any number of threads, whatever else is in the batch, and for a sequence run whole or in pieces.

So much is promised for results; gradients are the same over repeats and over numbers of threads, but sums over a batch depend on the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import elman
from kinds import GRU, LSTM, TANH, Kind, as_hx, projected
from native import assert_same_bits, evaluate, initial_states, named, native_alone, required, results, threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

pytestmark = [required, pytest.mark.usefixtures("poisoned", "native_alone")]
__all__ = ["native_alone"]

NETWORKS = {
    "one unit": {"input_size": 3, "hidden_size": 1},
    "a vector and a bit": {"input_size": 5, "hidden_size": 17},
    "wide": {"input_size": 40, "hidden_size": 130},
    "deep, both ways": {"input_size": 9, "hidden_size": 33, "num_layers": 3, "bidirectional": True, "bias": False},
}
KINDS = (TANH, GRU, LSTM)


EVERY_NETWORK = [(kind, name) for kind in KINDS for name in NETWORKS]
EVERY_NETWORK += [(projected(1), "a vector and a bit"), (projected(17), "deep, both ways")]


def _name(param: tuple[Kind, str]) -> str:
    return f"{param[0]}, {param[1]}"


@pytest.fixture(params=EVERY_NETWORK, ids=_name)
def network(request: pytest.FixtureRequest) -> nn.Module:
    kind, name = request.param
    return kind.build(elman, **NETWORKS[name])


@pytest.fixture(params=EVERY_NETWORK, ids=_name)
def one_way_network(request: pytest.FixtureRequest) -> nn.Module:
    """The same, but that none runs backwards."""
    kind, name = request.param
    return kind.build(elman, **NETWORKS[name] | {"bidirectional": False})


def _rows(values: dict[str, torch.Tensor], rows: slice | int) -> dict[str, torch.Tensor]:
    """Some rows of a batch's results."""
    return {name: value[:, rows] for name, value in values.items()}


@pytest.fixture(autouse=True)
def _seeded_and_on_one_thread() -> Iterator[None]:
    torch.manual_seed(0)
    with threads(1):
        yield


# Large enough for threads: their rows, their columns, their directions, with one chunk of gradients and with several.
LARGE = {
    "rows": ((60, 13, 40), {"hidden_size": 70}),
    "rows, deep, both ways": ((40, 7, 30), {"hidden_size": 65, "num_layers": 2, "bidirectional": True}),
    "columns": ((50, 1, 8), {"hidden_size": 350}),
    "columns, deep, both ways": ((30, 1, 8), {"hidden_size": 350, "num_layers": 2, "bidirectional": True}),
    "fewer rows than threads": ((200, 2, 20), {"hidden_size": 90}),
    "many chunks, both ways": ((400, 20, 5), {"hidden_size": 90, "bidirectional": True}),
    "one step": ((1, 40, 50), {"hidden_size": 250, "num_layers": 2}),
}


@pytest.mark.parametrize("kind", [*KINDS, projected(40)], ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(("shape", "options"), LARGE.values(), ids=LARGE)
def test_results_and_gradients_do_not_depend_on_the_number_of_threads(
    shape: tuple[int, ...], options: dict[str, int], packed: bool, kind: Kind
) -> None:
    rnn, x = kind.build(elman, shape[2], **options), torch.randn(shape)
    if packed:
        x = pack_padded_sequence(x, torch.linspace(shape[0], 1, shape[1]).long())
    states = initial_states(rnn, shape[1])
    expected = evaluate(rnn, x, states)
    for count in (1, 2, 3, 4):
        with threads(count):
            assert_same_bits(evaluate(rnn, x, states), expected)
            alone = results(rnn, x, states)
        assert_same_bits(alone, {name: expected[name] for name in alone})


def test_a_rows_results_do_not_depend_on_the_rest_of_the_batch(network: nn.Module) -> None:
    x, states = torch.randn(7, 20, network.input_size), initial_states(network, 20)
    whole = results(network, x, states)
    for B in range(1, 20):
        rows = slice(20 - B, None)
        part = results(network, x[:, rows], tuple(state[:, rows].contiguous() for state in states))
        assert_same_bits(part, _rows(whole, rows))


def test_a_rows_results_do_not_depend_on_what_it_is_packed_with(network: nn.Module) -> None:
    lengths = [9, 9, 7, 4, 4, 3, 1]
    sequences = [torch.randn(length, network.input_size) for length in lengths]
    with torch.no_grad():
        output, hx = network(pack_sequence(sequences))
    whole = named(pad_packed_sequence(output)[0], hx)
    for row, sequence in enumerate(sequences):
        expected = _rows(whole, row)
        assert_same_bits(results(network, sequence), expected | {"output": expected["output"][: lengths[row]]})


@pytest.mark.parametrize("kind", [*KINDS, projected(40)], ids=str)
def test_one_row_alone_is_the_same_on_threads_that_split_its_columns(kind: Kind) -> None:
    rnn, x = kind.build(elman, 8, 350, 2), torch.randn(40, 5, 8)
    whole = results(rnn, x)
    with threads(2):
        for row in range(5):
            assert_same_bits(results(rnn, x[:, row : row + 1]), _rows(whole, slice(row, row + 1)))


@torch.no_grad()
def test_a_sequence_run_in_pieces_is_the_sequence_run_whole(one_way_network: nn.Module) -> None:
    x, states = torch.randn(300, 3, one_way_network.input_size), initial_states(one_way_network, 3)
    whole = results(one_way_network, x, states)
    for size in (1, 7, 100, 299):
        hx, outputs = as_hx(states), []
        for piece in x.split(size):
            output, hx = one_way_network(piece, hx)
            outputs.append(output)
        assert_same_bits(named(torch.cat(outputs), hx), whole)


def test_recording_gradients_changes_no_result(network: nn.Module) -> None:
    x = torch.randn(30, 6, network.input_size)
    recorded = evaluate(network, x)
    alone = results(network, x)
    assert_same_bits(alone, {name: recorded[name] for name in alone})


def test_results_and_gradients_repeat(network: nn.Module) -> None:
    x = torch.randn(50, 6, network.input_size)
    with threads(4):
        first = evaluate(network, x)
        for _ in range(5):
            assert_same_bits(evaluate(network, x), first)


def test_the_comparison_sees_a_single_bit() -> None:
    value = torch.randn(5)
    other = value.clone()
    other[2] = torch.nextafter(other[2], torch.tensor(9.0))
    assert_same_bits({"value": value}, {"value": value.clone()})
    with pytest.raises(AssertionError):
        assert_same_bits({"value": other}, {"value": value})
