"""A cell's step goes to the kernels as it comes, without axes of time and layers, and has the bits of a sequence of one step."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils.checkpoint import checkpoint

import elman
from elman import scan, zoo
from elman.backends import BACKENDS, kernels, registry
from kinds import GRU, LSTM, RELU, TANH, as_hx, as_states
from native import assert_same_bits, native_alone, random_like, required, tensors_asked, threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from elman.cells import Cell

pytestmark = [required, pytest.mark.usefixtures("poisoned", "native_alone")]
__all__ = ["native_alone"]

BUILT_IN = {kind.label: kind for kind in (TANH, RELU, GRU, LSTM)}
OWN: dict[str, Callable[[], Cell]] = {"MGU": zoo.MGU, "PeepholeLSTM": zoo.PeepholeLSTM, "LayerNormGRU": zoo.LayerNormGRU}
every_cell = pytest.mark.parametrize("name", [*BUILT_IN, *OWN])


def pair(name: str, *sizes: int, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A cell, and a layer with the same parameters."""
    torch.manual_seed(0)
    if name in BUILT_IN:
        kind = BUILT_IN[name]
        cell, rnn = kind.build_cell(elman, *sizes, **options), kind.build(elman, *sizes, **options)
    else:
        cell, rnn = elman.RecurrentCell(OWN[name](), *sizes, **options), elman.Recurrent(OWN[name](), *sizes, **options)
    for ours, theirs in zip(rnn.parameters(), cell.parameters(), strict=True):
        ours.data = theirs.data
    return cell, rnn


def operands(cell: nn.Module, B: int, dtype: torch.dtype, given_state: bool = True) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What a step takes: x and the states. With B = 0 they are unbatched."""
    batch = (B,) if B else ()
    x = torch.randn(*batch, cell.input_size, dtype=dtype)
    return x, tuple(torch.randn(*batch, cell.hidden_size, dtype=dtype) for _ in cell.stack.cell.states) if given_state else ()


def of_cell(cell: nn.Module, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return as_states(cell(x, as_hx(states)) if states else cell(x))


def of_layer(rnn: nn.Module, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The final states of a sequence of one step."""
    _, last = rnn(x[None], as_hx(tuple(state[None] for state in states))) if states else rnn(x[None])
    return tuple(state[0] for state in as_states(last))


def evaluate(run: Callable[..., tuple[Tensor, ...]], module: nn.Module, x: Tensor, states: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The states after the step, and the gradients of everything."""
    leaves = [t.detach().requires_grad_() for t in (x, *states)]
    after = run(module, leaves[0], tuple(leaves[1:]))
    grads = torch.autograd.grad(after, [*leaves, *module.parameters()], tuple(map(random_like, after)))
    return {str(i): t.detach() for i, t in enumerate((*after, *grads))}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each step was done unchecked."""
    seen: list[bool] = []
    run = scan.run_step_unchecked

    def spy(*given: Any) -> Any:
        done = run(*given)
        seen.append(done is not None)
        return done

    monkeypatch.setattr(scan, "run_step_unchecked", spy)
    return seen


@pytest.fixture(autouse=True)
def _on_one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.mark.parametrize("sizes", [(0, 3, 20), (1, 1, 1), (3, 5, 17), (65, 33, 40), (130, 8, 64)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@every_cell
@pytest.mark.usefixtures("every_isa")
def test_it_has_the_bits_of_a_sequence(name: str, dtype: torch.dtype, sizes: tuple[int, int, int], unchecked: list[bool]) -> None:
    """Up to 64 sequences and beyond, where the weights are packed by blocks and whole; results and all gradients."""
    B, I, H = sizes  # noqa: E741
    cell, rnn = pair(name, I, H, dtype=dtype)
    for given_state in (True, False):
        x, states = operands(cell, B, dtype, given_state)
        expected = evaluate(of_layer, rnn, x, states)
        assert_same_bits(evaluate(of_cell, cell, x, states), expected)
        with torch.no_grad():
            inferred = dict(zip(expected, of_cell(cell, x, states), strict=False))
        assert_same_bits(inferred, {key: expected[key] for key in inferred})
    with threads(2):
        assert_same_bits(evaluate(of_cell, cell, x, states), expected)
    runs_own = name in BUILT_IN or dtype in (torch.float32, torch.float64, torch.float16)
    assert unchecked == [runs_own] * 5


@every_cell
@pytest.mark.parametrize("asked", [False, True])
def test_operands_may_lie_anyhow(name: str, asked: bool, unchecked: list[bool]) -> None:
    lay: dict[str, Callable[[Tensor], Tensor]] = {
        "transposed": lambda t: t.t().contiguous().t(),
        "every other": lambda t: t.repeat_interleave(2, 0)[::2],
        "part of wider rows": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
        "spread": lambda t: t[:1].expand(*t.shape),
        "negated lazily": lambda t: torch._neg_view(-t),
        "a subclass of Tensor": nn.Parameter,
    }
    cell, rnn = pair(name, 4, 6)
    x, states = operands(cell, 3, torch.float32)
    for way in lay.values():
        placed = way(x), tuple(map(way, states))
        with tensors_asked(asked):
            after = of_cell(cell, *placed)
            grads = torch.autograd.grad(after, list(cell.parameters()), tuple(way(random_like(t)) for t in after))
        expected = of_layer(rnn, placed[0].clone(), tuple(state.clone() for state in placed[1]))
        expected_grads = torch.autograd.grad(expected, list(rnn.parameters()), tuple(way(random_like(t)).clone() for t in expected))
        for got, wanted in zip((*after, *grads), (*expected, *expected_grads), strict=True):
            assert torch.equal(got, wanted)
    assert unchecked == [True] * len(lay)


@every_cell
@pytest.mark.parametrize("B", [0, 3])
def test_a_state_may_be_written_into_and_gradients_stay(name: str, B: int) -> None:
    """Whoever writes into a state after the step changes what others see of it, not what the step's own gradient is computed from."""
    cell, _ = pair(name, 4, 6, dtype=torch.float64)
    x, states = operands(cell, B, torch.float64)
    grads = []
    for write in (False, True):
        after = of_cell(cell, x, states)
        halves = [state * 0.5 for state in after]  # whose own gradient does not read it
        if write:
            for state in after:
                state.data.fill_(torch.nan)  # not counted as a write, so that nothing is computed again
        grads.append(torch.autograd.grad(halves, list(cell.parameters()), tuple(map(random_like, halves))))
    for got, expected in zip(*grads, strict=True):
        assert torch.equal(got, expected)


@every_cell
def test_a_gradient_runs_nothing_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the states have been written into: what the gradient reads is nobody else's."""
    cell, _ = pair(name, 4, 6)
    after = of_cell(cell, *operands(cell, 3, torch.float32))
    halves = [state * 0.5 for state in after]
    with torch.no_grad():
        for state in after:
            state.detach().fill_(torch.nan)
    for runs in ("forward", "program_forward"):
        monkeypatch.delattr(kernels._native, runs)
    grads = torch.autograd.grad(halves, list(cell.parameters()), tuple(map(random_like, halves)))
    assert all(grad.isfinite().all() for grad in grads)


@every_cell
def test_what_a_gradient_needs_is_freed_with_its_graph(name: str) -> None:
    cell, _ = pair(name, 4, 6)
    x, states = operands(cell, 3, torch.float32)
    after = of_cell(cell, x.requires_grad_(), states)
    node = weakref.ref(after[0].grad_fn if len(after) == 1 else after[0].grad_fn.next_functions[0][0])
    assert node() is not None
    gc.disable()
    try:
        del after
        assert node() is None
    finally:
        gc.enable()


@every_cell
def test_another_backend_may_be_asked_first(name: str, monkeypatch: pytest.MonkeyPatch, unchecked: list[bool]) -> None:
    monkeypatch.setattr(registry, "BACKENDS", tuple(sorted(BACKENDS, key=lambda backend: backend.name == "native")))
    cell, rnn = pair(name, 4, 6)
    given = operands(cell, 3, torch.float32)
    assert_same_bits(evaluate(of_cell, cell, *given), evaluate(of_layer, rnn, *given))
    assert unchecked == [True]


@every_cell
@pytest.mark.parametrize("B", [0, 2])
def test_graphs_are_torchs(name: str, B: int) -> None:
    """Used twice, with hooks for saved tensors, by checkpoints, and differentiated again."""
    cell, _ = pair(name, 3, 4, dtype=torch.float64)
    x, states = operands(cell, B, torch.float64)
    leaves = [t.requires_grad_() for t in (x, *states)]

    def twice(x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return of_cell(cell, x, of_cell(cell, x, states))

    expected = torch.autograd.grad(sum(t.square().sum() for t in twice(*leaves)), [*leaves, *cell.parameters()])
    loss = sum(t.square().sum() for t in twice(*leaves))
    once, again = (torch.autograd.grad(loss, [*leaves, *cell.parameters()], retain_graph=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        hooked = sum(t.square().sum() for t in twice(*leaves))
    through_hooks = torch.autograd.grad(hooked, [*leaves, *cell.parameters()])
    kept = sum(t.square().sum() for t in checkpoint(twice, *leaves, use_reentrant=False))
    checkpointed = torch.autograd.grad(kept, [*leaves, *cell.parameters()])
    for each in (once, again, through_hooks, checkpointed):
        assert all(torch.equal(got, wanted) for got, wanted in zip(each, expected, strict=True))
    assert torch.autograd.gradgradcheck(lambda *given: twice(*given), leaves)


@pytest.mark.parametrize("B", [0, 3])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("to", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [*BUILT_IN, "MGU", "PeepholeLSTM"])  # of torch's layer norm, autocast leaves parameters as they are
def test_under_autocast_it_is_what_a_checked_step_is(
    name: str, to: torch.dtype, given: torch.dtype, B: int, unchecked: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits and dtypes, of results and gradients; torch's autocast leaves float64 alone, and no kernels run it then. Cells of one's own
    are checked: what dtypes they have depends on their steps.
    """
    cell, _ = pair(name, 4, 6, dtype=given)
    x, states = operands(cell, B, given)
    is_unchecked = given is not torch.float64 and name in BUILT_IN
    if not is_unchecked:
        monkeypatch.setattr(registry, "BACKENDS", BACKENDS)

    def run() -> dict[str, Tensor]:
        with torch.autocast("cpu", dtype=to):
            return evaluate(of_cell, cell, x, states)

    found = run()
    assert unchecked == [is_unchecked]
    monkeypatch.setattr(scan, "run_step_unchecked", lambda *_: None)
    expected = run()
    assert [t.dtype for t in found.values()] == [t.dtype for t in expected.values()]
    assert_same_bits(found, expected)


@every_cell
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_examples_of_vmap_are_steps(name: str, batch: tuple[int, ...]) -> None:
    cell, _ = pair(name, 3, 4)
    x, states = torch.randn(5, *batch, 3), tuple(torch.randn(5, *batch, 4) for _ in cell.stack.cell.states)
    got = vmap(lambda x, *states: of_cell(cell, x, states))(x, *states)
    expected = zip(*[of_cell(cell, x[i], tuple(state[i] for state in states)) for i in range(5)], strict=True)
    assert all(torch.equal(one, torch.stack(others)) for one, others in zip(got, expected, strict=True))


def test_what_does_not_fit_is_checked_in_words(unchecked: list[bool]) -> None:
    cell, x, h, c = elman.LSTMCell(3, 4), torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    wrong: list[tuple[type[Exception], Any, Any]] = [
        (RuntimeError, x[:, :2], (h, c)),
        (RuntimeError, x, (h[:1], c)),
        (RuntimeError, x, (h, c[:, :3])),
        (RuntimeError, x.double(), (h, c)),
        (ValueError, x[None], (h, c)),
        (RuntimeError, x[0], (h, c)),
        (RuntimeError, x[0], (h[0, :3], c[0])),
        (RuntimeError, x[0, :2], (h[0], c[0])),
        (ValueError, x, (h[None], c[None])),
        (TypeError, x, (h, None)),
        (TypeError, [1.0], (h, c)),
        (RuntimeError, x.to_sparse(), (h, c)),
        (RuntimeError, x, (h.to_sparse(), c)),
    ]
    for kind, given_x, hx in wrong:
        with pytest.raises(kind, match=r"[Ee]xpected|input has inconsistent"):
            cell(given_x, hx)
        with pytest.raises(kind, match=r"[Ee]xpected|input has inconsistent"):
            vmap(lambda _, given_x=given_x, hx=hx: cell(given_x, hx))(torch.zeros(2))
    assert not any(unchecked)


def test_a_state_whose_memory_was_freed_is_not_copied() -> None:
    cell, freed = elman.GRUCell(3, 4), torch.randn(4, 2).t()
    freed.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="out of bounds for storage of size 0"):
        cell(torch.randn(2, 3), freed)


def test_a_stack_of_a_step_knows_its_sequences() -> None:
    stack = elman.LSTMCell(3, 4).stack
    for left_out in (1, 2):
        step = replace(stack, left_out=left_out)
        assert (step.axes, stack.axes) == (3 - left_out, 3)
        assert step.sequence == stack
    assert stack.sequence is stack
