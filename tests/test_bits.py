"""In float32 the same bits on any number of threads, whatever else is in the batch, and for a sequence run whole or in pieces.

So it is with lengths and resets, whatever the order of the sequences. So much is promised for results; gradients are the same over repeats
and over numbers of threads, but sums over a batch depend on the batch. All tests run on each instruction set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import elman
from kinds import GRU, LSTM, TANH, Kind, as_hx, projected
from native import assert_same_bits, chunk, evaluate, initial_states, named, native_alone, random_like, required, results, threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

pytestmark = [required, pytest.mark.usefixtures("every_isa", "poisoned", "native_alone")]
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


def _sequences(values: dict[str, torch.Tensor], which: slice | int) -> dict[str, torch.Tensor]:
    """Some sequences of a batch."""
    return {name: value[:, which] for name, value in values.items()}


@pytest.fixture(autouse=True)
def _seeded_and_on_one_thread() -> Iterator[None]:
    torch.manual_seed(0)
    with threads(1):
        yield


# Enough for threads: their sequences, columns, directions and layers, one ahead of another, with one chunk of gradients and with several.
LARGE = {
    "sequences": ((60, 13, 40), {"hidden_size": 70}),
    "sequences, deep, both ways": ((40, 7, 30), {"hidden_size": 65, "num_layers": 2, "bidirectional": True}),
    "columns": ((50, 1, 8), {"hidden_size": 350}),
    "columns, deep, both ways": ((30, 1, 8), {"hidden_size": 350, "num_layers": 2, "bidirectional": True}),
    "fewer sequences than threads": ((200, 2, 20), {"hidden_size": 90}),
    "one sequence ahead of the steps": ((400, 1, 40), {"hidden_size": 70}),
    "one sequence in a wave of layers": ((300, 1, 8), {"hidden_size": 60, "num_layers": 3}),
    "many chunks, both ways": ((None, 100, 5), {"hidden_size": 50, "bidirectional": True}),
    "one step": ((1, 40, 50), {"hidden_size": 250, "num_layers": 2}),
}


def _learning(kind: Kind, *sizes: int, **options: int) -> nn.Module:
    """A network whose resets start from some state of their own."""
    rnn = kind.build(elman, *sizes, **options, learn_initial_state=True)
    with torch.no_grad():
        for name in ("h_0", "c_0")[: len(kind.states)]:
            rnn.get_parameter(name).normal_()
    return rnn


def _ragged(steps: int, batch_size: int) -> dict[str, torch.Tensor]:
    """Sequences of all lengths in no order, one without a step where there are several, and resets here and there, past their ends too."""
    lengths = torch.linspace(steps, 0 if batch_size > 1 else steps, batch_size).long()[torch.randperm(batch_size)]
    return {"lengths": lengths, "reset": torch.rand(steps, batch_size) < 0.2}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, projected(40)], ids=str)
@pytest.mark.parametrize("form", ["padded", "packed", "ragged"])
@pytest.mark.parametrize(("shape", "options"), LARGE.values(), ids=LARGE)
def test_results_and_gradients_do_not_depend_on_the_number_of_threads(
    shape: tuple[int | None, ...], options: dict[str, int], form: str, kind: Kind
) -> None:
    if shape[0] is None:  # of an RNN two chunks, of others three
        steps = min(2, kind.gates) * chunk(kind, options["hidden_size"], shape[1], torch.float32) + 40
        shape = steps, *shape[1:]
    x, spans = torch.randn(shape), _ragged(*shape[:2]) if form == "ragged" else {}
    rnn = _learning(kind, shape[2], **options) if form == "ragged" else kind.build(elman, shape[2], **options)
    if form == "packed":
        x = pack_padded_sequence(x, torch.linspace(shape[0], 1, shape[1]).long())
    states = initial_states(rnn, shape[1])
    expected = evaluate(rnn, x, states, **spans)
    for count in (1, 2, 3, 4):
        with threads(count):
            assert_same_bits(evaluate(rnn, x, states, **spans), expected)
            alone = results(rnn, x, states, **spans)
        assert_same_bits(alone, {name: expected[name] for name in alone})


# Of several sequences one has steps, and so threads share what they share for one.
@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, projected(40)], ids=str)
@pytest.mark.parametrize("name", [name for name, (shape, _) in LARGE.items() if shape[1] == 1])
def test_nor_where_all_rows_but_one_are_without_a_step(name: str, kind: Kind) -> None:
    (steps, _, inputs), options = LARGE[name]
    rnn, x = _learning(kind, inputs, **options), torch.randn(steps, 3, inputs)
    states, spans = initial_states(rnn, 3), {"lengths": [0, steps, 0], "reset": torch.rand(steps, 3) < 0.2}
    expected = evaluate(rnn, x, states, **spans)
    for count in (2, 4):
        with threads(count):
            assert_same_bits(evaluate(rnn, x, states, **spans), expected)


def test_a_rows_results_do_not_depend_on_the_rest_of_the_batch(network: nn.Module) -> None:
    x, states = torch.randn(7, 20, network.input_size), initial_states(network, 20)
    whole = results(network, x, states)
    for B in range(1, 20):
        which = slice(20 - B, None)
        part = results(network, x[:, which], tuple(state[:, which].contiguous() for state in states))
        assert_same_bits(part, _sequences(whole, which))


def test_a_rows_results_do_not_depend_on_what_it_is_packed_with(network: nn.Module) -> None:
    lengths = [9, 9, 7, 4, 4, 3, 1]
    sequences = [torch.randn(length, network.input_size) for length in lengths]
    with torch.no_grad():
        output, hx = network(pack_sequence(sequences))
    whole = named(pad_packed_sequence(output)[0], hx)
    for b, sequence in enumerate(sequences):
        expected = _sequences(whole, b)
        assert_same_bits(results(network, sequence), expected | {"output": expected["output"][: lengths[b]]})


def _cut_batch(network: nn.Module, steps: int, lengths: list[int]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
    """Input, initial states, and resets; NaN where nobody has to look."""
    x = torch.randn(steps, len(lengths), network.input_size)
    for b, length in enumerate(lengths):
        x[length:, b] = float("nan")
    return x, initial_states(network, len(lengths)), torch.rand(steps, len(lengths)) < 0.3


LENGTHS = [9, 0, 7, 4, 4, 3, 9, 1]


def test_a_rows_results_do_not_depend_on_what_it_is_padded_and_cut_with(network: nn.Module) -> None:
    x, states, reset = _cut_batch(network, 9, LENGTHS)
    whole = results(network, x, states, lengths=LENGTHS, reset=reset)
    for b, length in enumerate(LENGTHS):
        own, expected = tuple(state[:, b].unsqueeze(1) for state in states), _sequences(whole, slice(b, b + 1))
        alone = results(network, x[:, b : b + 1], own, lengths=[length], reset=reset[:, b : b + 1])
        assert_same_bits(alone, expected)
        if length:
            ended = results(network, x[:length, b : b + 1], own, reset=reset[:length, b : b + 1])
            assert_same_bits(ended, expected | {"output": expected["output"][:length]})


def test_the_order_of_rows_changes_no_result(network: nn.Module) -> None:
    x, states, reset = _cut_batch(network, 9, LENGTHS)
    whole = results(network, x, states, lengths=LENGTHS, reset=reset)
    for _ in range(5):
        order = torch.randperm(len(LENGTHS))
        lengths = [LENGTHS[b] for b in order]
        some = results(network, x[:, order], tuple(state[:, order] for state in states), lengths=lengths, reset=reset[:, order])
        assert_same_bits(some, {name: value[:, order] for name, value in whole.items()})


def test_lengths_give_what_packing_gives(network: nn.Module) -> None:
    """Gradients too, where the sequences come in the order in which packing has them."""
    lengths = sorted(filter(None, LENGTHS), reverse=True)
    x, states, reset = _cut_batch(network, 9, lengths)
    x.requires_grad_()
    padded = named(*network(x, as_hx(states), lengths=lengths, reset=reset))
    packed = named(*network(pack_padded_sequence(x, lengths), as_hx(states), reset=reset))
    grad_outputs = {name: random_like(value) for name, value in padded.items()}
    ragged = grad_outputs | {"output": pack_padded_sequence(grad_outputs["output"], lengths).data}
    for values, given in ((padded, grad_outputs), (packed, ragged)):
        leaves = {"x": x, **dict(network.named_parameters())}
        gradients = torch.autograd.grad(list(values.values()), list(leaves.values()), list(given.values()))
        values |= {f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    padded["output"] = pack_padded_sequence(padded["output"], lengths).data
    assert_same_bits(padded, packed)


def test_a_cut_sequence_is_its_pieces(network: nn.Module) -> None:
    steps, cuts = 40, [0, 3, 4, 20, 33]
    x, reset = torch.randn(steps, 3, network.input_size), torch.zeros(steps, 3, dtype=torch.bool)
    reset[cuts] = True
    whole = results(network, x, reset=reset)["output"]
    for start, stop in zip(cuts, [*cuts[1:], steps], strict=True):
        assert_same_bits({"output": results(network, x[start:stop])["output"]}, {"output": whole[start:stop]})


def test_resets_that_cut_nowhere_change_nothing(network: nn.Module) -> None:
    x, states, reset = _cut_batch(network, 9, LENGTHS)
    packed, nowhere = pack_padded_sequence(torch.randn(9, 3, network.input_size), [9, 5, 2]), torch.zeros_like(reset)
    some = initial_states(network, 3)
    assert_same_bits(evaluate(network, packed, some, reset=nowhere[:, :3]), evaluate(network, packed, some))
    assert_same_bits(evaluate(network, x, states, lengths=LENGTHS, reset=nowhere), evaluate(network, x, states, lengths=LENGTHS))
    x = x.nan_to_num()
    assert_same_bits(evaluate(network, x, states, reset=nowhere), evaluate(network, x, states))
    assert_same_bits(evaluate(network, x, states, lengths=[9] * len(LENGTHS)), evaluate(network, x, states))


@torch.no_grad()
def test_tracing_changes_no_result(network: nn.Module) -> None:
    x, states, reset = _cut_batch(network, 9, LENGTHS)
    traced = network.trace(x, as_hx(states), lengths=LENGTHS, reset=reset)
    assert_same_bits(named(traced.output, traced.final), results(network, x, states, lengths=LENGTHS, reset=reset))


@pytest.mark.parametrize("kind", [*KINDS, projected(40)], ids=str)
def test_one_row_alone_is_the_same_on_threads_that_split_its_columns(kind: Kind) -> None:
    rnn, x = kind.build(elman, 8, 350, 2), torch.randn(40, 5, 8)
    whole = results(rnn, x)
    with threads(2):
        for b in range(5):
            assert_same_bits(results(rnn, x[:, b : b + 1]), _sequences(whole, slice(b, b + 1)))


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
    for spans in ({}, _ragged(50, 6)):
        with threads(4):
            first = evaluate(network, x, **spans)
            for _ in range(5):
                assert_same_bits(evaluate(network, x, **spans), first)


def test_the_comparison_sees_a_single_bit() -> None:
    value = torch.randn(5)
    other = value.clone()
    other[2] = torch.nextafter(other[2], torch.tensor(9.0))
    assert_same_bits({"value": value}, {"value": value.clone()})
    with pytest.raises(AssertionError):
        assert_same_bits({"value": other}, {"value": value})
    with pytest.raises(AssertionError):
        assert_same_bits({"value": torch.zeros(5)}, {"value": -torch.zeros(5)})
