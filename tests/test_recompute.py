"""recompute=True keeps less for the gradient and runs steps again: the same bits, in little more memory than the outputs."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import elman
from cases import assert_same_numbers
from elman.backends import Operands, call, kernels, operator
from kinds import GRU, LSTM, TANH, Kind, every_kind, projected
from native import assert_same_bits, chunk, evaluate, initial_states, native_alone, on_every_isa, required, threads

if TYPE_CHECKING:
    from elman.backends import Backend

__all__ = ["native_alone"]

STEPS, ROWS, UNITS = 200, 188, 24  # two to four chunks of a backward pass, for all but an RNN
KINDS = (TANH, GRU, LSTM, projected(20))
with_kinds = pytest.mark.parametrize("kind", KINDS, ids=str)
OPTIONS = {
    "plain": {},
    "without bias": {"bias": False},
    "both ways": {"bidirectional": True},
    "all at once": {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.3},
}
ISAS = kernels.isas() if kernels.available() else ()
FORMS = ("padded", "packed")
NUMBERS = {  # and how many threads compute with them
    "float64 on one thread": (torch.float64, 1),
    "float64": (torch.float64, 2),
    "float32": (torch.float32, 2),
    "bfloat16": (torch.bfloat16, 2),
}


def sample() -> list[tuple[str, Kind, str, str, str]]:
    """Each instruction set with each kind, options and form. Numbers, of which none is particular to any of these, go round."""
    numbers = list(NUMBERS)
    return [
        (isa, kind, options, form, numbers[(h + i + j + k) % len(numbers)])
        for (h, isa), (i, kind), (j, options), (k, form) in product(*map(enumerate, (ISAS, KINDS, OPTIONS, FORMS)))
    ]


def _pair(kind: Kind, *sizes: int, **options: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    """With the same parameters, one that keeps what it needs and one that runs again."""
    keeps, again = kind.build(elman, *sizes, **options), kind.build(elman, *sizes, **options, recompute=True)
    again.load_state_dict(keeps.state_dict())
    return keeps, again


@required
def test_the_sample_has_every_pair() -> None:
    every = (ISAS, KINDS, OPTIONS, FORMS, NUMBERS)
    for one, other in combinations(range(5), 2):
        assert {(case[one], case[other]) for case in sample()} == set(product(every[one], every[other]))


@pytest.mark.slow
@pytest.mark.parametrize(("every_isa", "kind", "options", "form", "numbers"), sample(), ids=str, indirect=["every_isa"])
@pytest.mark.usefixtures("every_isa", "poisoned", "native_alone")
@required
def test_gradients_are_the_same_to_the_bit(kind: Kind, options: str, form: str, numbers: str) -> None:
    torch.manual_seed(0)
    dtype, count = NUMBERS[numbers]
    assert kind is TANH or chunk(kind, UNITS, ROWS, dtype) < STEPS
    keeps, again = _pair(kind, 3, UNITS, **OPTIONS[options], dtype=dtype)
    x, states = torch.randn(STEPS, ROWS, 3, dtype=dtype), initial_states(keeps, ROWS)
    if form == "packed":
        x = pack_padded_sequence(x, torch.linspace(STEPS, 1, ROWS).long())
    elif keeps.batch_first:
        x = x.transpose(0, 1)
    found = []
    with threads(count):
        for module in (keeps, again):
            torch.manual_seed(1)  # dropout's
            found.append(evaluate(module, x, states))
    assert_same_bits(*found)


@on_every_isa
@with_kinds
@pytest.mark.usefixtures("poisoned", "native_alone")
@required
def test_gradients_are_the_same_where_threads_share_the_layers(kind: Kind) -> None:
    keeps, again = _pair(kind, 3, 60, 3)
    x, states = torch.randn(300, 1, 3), initial_states(keeps, 1)
    with threads(2):
        assert_same_bits(evaluate(again, x, states), evaluate(keeps, x, states))


@pytest.mark.slow
@on_every_isa
@with_kinds
@pytest.mark.usefixtures("poisoned", "native_alone")
@required
def test_gradients_are_the_same_where_threads_split_the_columns_of_a_step(kind: Kind) -> None:
    keeps, again = _pair(kind, 3, 350, dtype=torch.float64)
    x, states = torch.randn(chunk(kind, 350, 1) + 7, 1, 3, dtype=torch.float64), initial_states(keeps, 1)
    with threads(2):
        assert_same_bits(evaluate(again, x, states), evaluate(keeps, x, states))


@pytest.mark.parametrize("steps", [1, 7, 8, 23])
@required
def test_the_kernels_walk_in_the_chunks_that_these_tests_count_on(steps: int) -> None:
    batch_size = chunk(LSTM, 64, 1) // 8
    stack = elman.LSTM(3, 64, recompute=True, dtype=torch.float64).stack
    checkpoints = operator._new_saved(stack, torch.empty(0, dtype=torch.float64), steps, batch_size, steps * batch_size).checkpoints
    assert checkpoints is not None
    assert checkpoints.shape == (1, -(-steps // chunk(LSTM, 64, batch_size)), batch_size, 64)


@pytest.mark.parametrize("batch_size", [1, 16])
@with_kinds
@pytest.mark.usefixtures("native_alone")
@required
def test_what_is_kept_is_little_more_than_the_outputs(kind: Kind, batch_size: int) -> None:
    """Of one layer over 10,000 steps, for each T·B·H: little more than a number, where otherwise there are one to six."""
    keeps, again = _pair(kind, 8, 64)
    x = torch.randn(10_000, batch_size, 8)
    assert _saved(again, x) / (10_000 * batch_size * 64) < 1.5
    assert _saved(keeps, x) / (10_000 * batch_size * 64) > {"RNN": 0.9, "GRU": 4.9, "LSTM": 5.2}[kind.layer]


def _saved(module: torch.nn.Module, x: torch.Tensor) -> int:
    """How many numbers a call leaves for its gradient, beyond x and the parameters."""
    output, _ = module(x)
    shared, _, saved = output.grad_fn.saved
    return sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in (shared, *saved) if tensor is not None)


@every_kind
def test_the_reference_gives_the_same_and_ignores_it(backend: Backend, kind: Kind) -> None:
    keeps, again = _pair(kind, 3, 4, 2, bidirectional=True, dtype=torch.float64)
    x, states = torch.randn(5, 2, 3, dtype=torch.float64), initial_states(keeps, 2)
    got, expected = evaluate(again, x, states), evaluate(keeps, x, states)
    assert got.keys() == expected.keys()
    assert_same_numbers(backend, got.values(), expected.values())
    assert elman.why(again, x) == elman.why(keeps, x)


@every_kind
def test_it_is_an_option_of_the_layer_and_no_part_of_its_state(kind: Kind) -> None:
    keeps, again = _pair(kind, 3, 4)
    assert (keeps.recompute, again.recompute) == (False, True)
    assert repr(again) == repr(keeps).replace(")", ", recompute=True)")
    assert list(again.state_dict()) == list(keeps.state_dict())
    with pytest.raises(TypeError, match="expected recompute to be True or False, got 1"):
        kind.build(elman, 3, 4, recompute=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@required
def test_what_a_compiler_expects_to_be_saved_is_what_the_kernels_save(dtype: torch.dtype) -> None:
    """Of an LSTM that runs again, whose checkpoints depend on all sizes: one before each chunk, of which the last may be short."""
    for units, batch, steps in ((1, 1, 3), (7, 3, 200), (64, 1000, 1), (64, 1000, 7), (64, 1000, 8), (64, 1000, 9), (2049, 300, 3)):
        stack = elman.LSTM(1, units, recompute=True, dtype=dtype).stack
        x, params = torch.zeros(steps, batch, 1, dtype=dtype), [torch.zeros(shape, dtype=dtype) for shape in stack.shapes]
        _, _, saved = call.forward(stack, Operands(x, None, params), False, save=True)
        expected = operator._new_saved(stack, x, steps, batch, steps * batch)
        assert saved.checkpoints is not None
        assert [None if t is None else (t.shape, t.dtype) for t in saved] == [None if t is None else (t.shape, t.dtype) for t in expected]
