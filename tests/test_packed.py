"""PackedSequence in and out, in the order of sequences that torch.nn's networks have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import elman
from cases import assert_same_numbers
from kinds import Kind, as_hx, as_states, every_kind

if TYPE_CHECKING:
    from elman.backends import Backend


@pytest.fixture
def rnn() -> elman.RNN:
    torch.manual_seed(0)
    return elman.RNN(3, 4, num_layers=2, bidirectional=True).double()


@every_kind
def test_each_sequence_is_run_as_if_it_were_alone(backend: Backend, kind: Kind) -> None:
    rnn = kind.build(elman, 3, 4, num_layers=2, bidirectional=True).double()
    sequences = [torch.randn(length, 3, dtype=torch.float64) for length in (2, 5, 1, 5, 3)]
    states = tuple(torch.randn(4, 5, width, dtype=torch.float64) for width in kind.widths(4))
    output, last = rnn(pack_sequence(sequences, enforce_sorted=False), as_hx(states))
    padded, _ = pad_packed_sequence(output)
    for b, sequence in enumerate(sequences):
        alone, ended = rnn(sequence, as_hx(tuple(state[:, b] for state in states)))
        torch.testing.assert_close(padded[: len(sequence), b], alone, rtol=0, atol=1e-12)
        for got, expected in zip(as_states(last), as_states(ended), strict=True):
            torch.testing.assert_close(got[:, b], expected, rtol=0, atol=1e-12)
        assert not padded[len(sequence) :, b].any()


def test_the_output_keeps_the_inputs_order_of_rows(backend: Backend, rnn: elman.RNN) -> None:
    packed = pack_padded_sequence(torch.randn(5, 3, 3, dtype=torch.float64), [2, 5, 1], enforce_sorted=False)
    output, _ = rnn(packed)
    assert isinstance(output, PackedSequence)
    assert torch.equal(output.batch_sizes, packed.batch_sizes)
    assert torch.equal(output.sorted_indices, packed.sorted_indices)
    assert torch.equal(output.unsorted_indices, packed.unsorted_indices)


def test_sorted_sequences_stay_without_indices(backend: Backend, rnn: elman.RNN) -> None:
    output, _ = rnn(pack_padded_sequence(torch.randn(5, 3, 3, dtype=torch.float64), [5, 2, 1]))
    assert output.sorted_indices is None
    assert output.unsorted_indices is None


@every_kind
@pytest.mark.parametrize("lengths", [[1], [7], [3, 3, 3], [4, 1, 1, 1], [6, 5, 4, 3, 2, 1]], ids=str)
def test_any_lengths_agree_with_torch(backend: Backend, kind: Kind, lengths: list[int]) -> None:
    theirs, ours = kind.pair(3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    packed = pack_sequence([torch.randn(length, 3, dtype=torch.float64) for length in lengths])
    (output, last), (expected, expected_last) = ours(packed), theirs(packed)
    torch.testing.assert_close(output.data, expected.data, rtol=0, atol=1e-12)
    torch.testing.assert_close(last, expected_last, rtol=0, atol=1e-12)


def test_packed_data_may_be_strided(backend: Backend, rnn: elman.RNN) -> None:
    packed = pack_sequence([torch.randn(4, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)])
    strided = PackedSequence(torch.stack([packed.data, packed.data], -1)[..., 1], packed.batch_sizes)
    assert_same_numbers(backend, [rnn(strided)[0].data], [rnn(packed)[0].data])


def test_batch_sizes_may_be_strided(backend: Backend, rnn: elman.RNN) -> None:
    data, batch_sizes = torch.randn(6, 3, dtype=torch.float64), torch.tensor([3, 9, 2, 9, 1, 9])[::2]
    expected, _ = rnn(PackedSequence(data, batch_sizes.clone()))
    assert_same_numbers(backend, [rnn(PackedSequence(data, batch_sizes))[0].data], [expected.data])


@pytest.mark.parametrize(
    ("batch_sizes", "message"),
    [
        (torch.tensor([3, 3]), "expected 6 packed steps, the sum of batch_sizes, got 5"),
        (torch.tensor([2, 2]), "expected 4 packed steps"),
        (torch.tensor([2, 3]), r"never grow nor fall below 0, got \[2, 3\]"),
        (torch.tensor([6, -1]), r"never grow nor fall below 0, got \[6, -1\]"),
        (torch.tensor([2**62, 2**62, 2**62, 2**62]), "expected 18446744073709551616 packed steps"),
        (torch.tensor([3, 2], dtype=torch.int32), "got torch.int32"),
        (torch.tensor([[3, 2]]), r"of shape \(1, 2\)"),
        (torch.tensor([], dtype=torch.int64), r"at least one step of a sequence, got none: batch_sizes is \[\]"),
        (torch.tensor([0, 0]), r"batch_sizes is \[0, 0\]"),
        (torch.tensor(5), r"of shape \(\)"),
    ],
    ids=str,
)
def test_batch_sizes_that_do_not_fit_are_an_error(backend: Backend, rnn: elman.RNN, batch_sizes: torch.Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        rnn(PackedSequence(torch.randn(5, 3, dtype=torch.float64), batch_sizes))


def test_steps_without_rows_are_let_through(backend: Backend, rnn: elman.RNN) -> None:
    data = torch.randn(5, 3, dtype=torch.float64)
    output, h_n = rnn(PackedSequence(data, torch.tensor([3, 2, 0])))
    expected, expected_h_n = rnn(PackedSequence(data, torch.tensor([3, 2])))
    torch.testing.assert_close(output.data, expected.data, rtol=0, atol=0)
    torch.testing.assert_close(h_n, expected_h_n, rtol=0, atol=0)


def _hand_made(sorted_indices: object, unsorted_indices: object) -> PackedSequence:
    """Three sequences of 3, 2 and 1 steps, in an order that is told by hand."""
    whole = PackedSequence(torch.randn(6, 10), torch.tensor([3, 2, 1]))
    return whole._replace(sorted_indices=sorted_indices, unsorted_indices=unsorted_indices)


def _order(*indices: int) -> torch.Tensor:
    return torch.tensor(indices)


@pytest.mark.parametrize("named", ["hx", "reset", "neither"])
@pytest.mark.parametrize("layer", ["RNN", "LSTM"])
@pytest.mark.parametrize(
    ("ordered", "back", "message"),
    [
        (
            _order(0),
            _order(0),
            r"expected sorted_indices of torch.int64 and shape \(3,\) on cpu, where x is, got torch.int64 of shape \(1,\)",
        ),
        (_order(0, 1, 2, 0), _order(0, 1, 2), r"expected sorted_indices .* got torch.int64 of shape \(4,\)"),
        (_order(0, 1, 2), _order(0, 1), r"expected unsorted_indices .* got torch.int64 of shape \(2,\)"),
        (_order(0, 0, 1), _order(0, 2, 1), "to hold each of 3 sequences once and to undo each other, got .0, 0, 1. and .0, 2, 1."),
        (_order(0, -1, 1), _order(0, 2, 1), "to hold each of 3 sequences once"),
        (_order(0, 3, 1), _order(0, 2, 1), "to hold each of 3 sequences once"),
        (_order(0, 2, 1), _order(0, 2, 3), "to hold each of 3 sequences once"),
        (_order(0, 2, 1), _order(0, -1, 1), "to hold each of 3 sequences once"),
        (_order(2**62, 2, 1), _order(0, 2, 1), "to hold each of 3 sequences once"),
        (_order(1, 2, 0), _order(1, 2, 0), "to undo each other"),
        (_order(0, 2, 1), None, "expected both sorted_indices and unsorted_indices or neither, got no unsorted_indices"),
        (None, _order(0, 2, 1), "got no sorted_indices: make PackedSequences with"),
        (_order(0, 2, 1).int(), _order(0, 2, 1), "expected sorted_indices of torch.int64 .* got torch.int32"),
        (_order(0, 2, 1), _order(0, 2, 1).float(), "expected unsorted_indices of torch.int64 .* got torch.float32"),
        (_order(0, 2, 1), _order(0, 2, 1).to("meta"), "on cpu, where x is, got torch.int64 of shape .* on meta"),
        ([0, 2, 1], _order(0, 2, 1), "expected sorted_indices to be a tensor, got list"),
    ],
)
def test_an_order_that_does_not_fit_is_an_error(
    backend: Backend, layer: str, named: str, ordered: torch.Tensor | None, back: torch.Tensor | None, message: str
) -> None:
    """States and resets are put in this order: it indexes memory."""
    module, state = getattr(elman, layer)(10, 20), torch.zeros(1, 3, 20)
    given: dict[str, object] = {}
    if named == "hx":
        given["hx"] = (state, state) if layer == "LSTM" else state
    elif named == "reset":
        given["reset"] = torch.zeros(3, 3, dtype=torch.bool)
    traced = {"state" if name == "hx" else name: value for name, value in given.items()}
    for call, arguments in ((module, given), (module.trace, traced), (lambda x, **given: elman.why(module, x, **given), given)):
        with pytest.raises((RuntimeError, TypeError), match=message):
            call(_hand_made(ordered, back), **arguments)


def test_a_right_order_by_hand_is_taken(backend: Backend) -> None:
    rnn, state = elman.RNN(10, 20, 2, bidirectional=True), torch.randn(4, 3, 20)
    packed = _hand_made(_order(1, 2, 0), _order(2, 0, 1))
    sequences = pad_packed_sequence(packed)
    output, h_n = rnn(packed, state)
    expected, h_n_expected = rnn(sequences[0], state, lengths=sequences[1])
    torch.testing.assert_close(pad_packed_sequence(output)[0], expected)
    torch.testing.assert_close(h_n, h_n_expected)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@torch.no_grad()  # torch warns where a graph goes on from a result that needs a gradient
def test_a_compiled_model_runs_them_as_it_is_written_and_without_a_warning(kind: str) -> None:
    """Warnings are errors here. The layer, which torch.compile cannot see through, is left out of the graphs as a whole."""
    rnn, graphs = getattr(elman, kind)(3, 5), list[torch.fx.GraphModule]()

    def note(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    def run(packed: PackedSequence) -> torch.Tensor:
        return rnn(packed)[0].data + 1

    packed = pack_padded_sequence(torch.randn(5, 2, 3), [5, 3])
    torch._dynamo.reset()
    assert torch.equal(torch.compile(run, backend=note)(packed), run(packed))
    assert not [node for graph in graphs for node in graph.graph.nodes if "elman" in str(node.target)]
