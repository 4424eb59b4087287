"""Cells of one's own in the kernels: the numbers and gradients of the reference, with all that a call can have, on each instruction set.

In float64 to 1e-12, where a number that the step divides by may be small (sLSTM) to 1e-8; test_program_rounding has float32.
"""

from __future__ import annotations

import inspect
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

import elman
import own_cells
import program_cells
import random_cells
from elman.backends import kernels
from elman.backends.native import NativeBackend
from elman.backends.reference import ReferenceBackend
from native import instruction_set, required, threads
from program_runs import Call, Options, distance
from slow import slow

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [required, pytest.mark.usefixtures("poisoned")]

NATIVE, REFERENCE = NativeBackend(), ReferenceBackend()
CELLS = {
    f"{module.__name__.removesuffix('_cells')}-{name}": kind()
    for module in (own_cells, program_cells)
    for name, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, elman.Cell) and kind is not elman.Cell
}
# Own parameters; a product of a factor; step inputs and numbers; whole rows; several products; random numbers.
SOME = ("own-Peephole", "own-Gru2014", "own-Decay", "own-Layered", "program-TwoProducts", "program-Noisy")
SOME += ("program-LayerNormLSTM", "program-MinGRU", "program-SRU", "program-Ageing", "program-Normalized")  # without a product
PLAIN = Options(steps=4, batch=4, layers=1)
RAGGED = replace(PLAIN, lengths=(4, 0, 3, 1), reset=True, fresh=True)
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
some_cells = pytest.mark.parametrize("cell", [CELLS[name] for name in SOME], ids=SOME)
every_isa = pytest.mark.usefixtures("every_isa")


def _is_near(cell: elman.Cell, found: float) -> bool:
    return found < (1e-8 if "SLSTM" in type(cell).__name__ else 1e-12)


def _both(call: Call) -> tuple[float, float]:
    """How far results and gradients are from the reference's."""
    assert NATIVE.refuses(call.stack, call.operands) is None
    results, grads = call.differentiate(NATIVE)
    expected, expected_grads = call.differentiate(REFERENCE)
    return distance(results, expected), distance(grads, expected_grads)


@every_cell
def test_numbers_and_gradients_are_the_references(cell: elman.Cell) -> None:
    assert all(_is_near(cell, each) for each in _both(Call.of(cell, RAGGED)))


class Idle(elman.Cell):
    """Rows of weight_hh that the step does not use, though it uses the gate's input; and a product of which nothing comes."""

    gates = ("a", "b", "c")

    def step(self, x, r, s, p):
        r("c", torch.sin(s.h))
        return torch.tanh(x.a + r.a) * torch.sigmoid(x.b) + x.c


@pytest.mark.parametrize("traced", [False, True])
def test_rows_that_are_not_used_get_zeros_for_a_gradient(traced: bool) -> None:
    assert all(each < 1e-12 for each in _both(Call.of(Idle(), replace(RAGGED, traced=traced))))


@every_isa
@some_cells
def test_so_they_are_on_each_instruction_set(cell: elman.Cell) -> None:
    assert all(_is_near(cell, each) for each in _both(Call.of(cell, replace(RAGGED, layers=2, hidden=37))))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_call_has(seed: int) -> None:
    rng = random.Random(seed)
    cell, options = rng.choice(list(CELLS.values())), Options.drawn(rng)
    assert all(_is_near(cell, each) for each in _both(Call.of(cell, options, seed=seed)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_any_cell_has_the_references_numbers_and_the_same_bits_however_it_is_run(seed: int) -> None:
    """Whatever it declares, whatever its step does, whatever a call has, on any instruction set."""
    rng = random.Random(seed)
    cell, options = random_cells.drawn(rng), Options.drawn(rng)
    with instruction_set(rng.choice(kernels.isas())):
        call = Call.of(cell, options, seed=seed)
        found = _both(call)
        with threads(rng.choice([1, 2])):
            bits = _bits(call)
        with threads(3):
            again = _bits(replace(call, stack=replace(call.stack, recompute=not options.recompute)))
        with torch.no_grad():
            inferred = call.run(NATIVE)
    assert max(found) < 1e-12
    assert all(map(torch.equal, bits, again))
    assert all(map(torch.equal, inferred, bits[: len(inferred)]))


@some_cells
def test_bfloat16_is_float32_rounded(cell: elman.Cell) -> None:
    call = Call.of(cell, RAGGED, torch.bfloat16)
    wide = Call.of(cell, RAGGED, torch.bfloat16)
    wide.x, wide.params, wide.states = (
        call.x.float(),
        [each.float() for each in call.params],
        tuple(each.float() for each in call.states or ()),
    )
    lists = [None if each is None else tuple(t.float() for t in each) for each in call.spans[3:]]
    wide.spans = type(call.spans)(*call.spans[:3], *lists)
    for found, expected in zip(call.run(NATIVE), wide.run(NATIVE), strict=True):
        assert torch.equal(found, expected.bfloat16())


# --- The same bits ----------------------------------------------------------------------------------------------------


def _bits(call: Call, between: Callable[[], object] = lambda: None) -> list[torch.Tensor]:
    results, grads = call.differentiate(NATIVE, between=between)
    return [*results, *grads]


@every_isa
@some_cells
@pytest.mark.parametrize("recompute", [False, True])
def test_threads_and_running_again_change_no_bit(cell: elman.Cell, recompute: bool) -> None:
    options = replace(RAGGED, hidden=70, layers=2, recompute=recompute)
    with threads(1):
        alone = _bits(Call.of(cell, replace(options, recompute=False), torch.float32))
    for count in (1, 2, 3):
        with threads(count):
            assert all(map(torch.equal, _bits(Call.of(cell, options, torch.float32)), alone))


# Calls worth two threads, with sequences enough for parts: several chunks, and direction by direction; blocks of steps; a trace.
PARTS = replace(PLAIN, batch=13, inputs=1300, hidden=33, layers=2, reset=True, fresh=True)
IN_PARTS = {
    "one chunk": PARTS,
    "several chunks": replace(PARTS, steps=300, inputs=20, hidden=70, layers=1),
    "few numbers a step": replace(PARTS, steps=60, hidden=2),
    "a trace": replace(PARTS, traced=True),
    "the fewest sequences of two halves": replace(PARTS, batch=8, inputs=2200),
    "weights too large to read twice": replace(PARTS, steps=3, inputs=20, hidden=600, layers=1),
}


@some_cells
@pytest.mark.parametrize("way", ["one chunk", *slow(*(way for way in IN_PARTS if way != "one chunk"))])
@pytest.mark.parametrize("recompute", [False, *slow(True)])
@pytest.mark.parametrize(("forward", "backward"), [(1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2)])
def test_the_threads_of_forward_and_backward_may_differ(cell: elman.Cell, way: str, recompute: bool, forward: int, backward: int) -> None:
    """What forward keeps lies by the parts of the sequences that its threads had, and is read as it lies."""
    call = Call.of(cell, replace(IN_PARTS[way], recompute=recompute), torch.float32)
    with threads(1):
        expected = _bits(call)
    used = []

    def go_on_with_others() -> None:
        used.append(kernels._native.threads_used())
        torch.set_num_threads(backward)

    with threads(forward):
        found = _bits(call, go_on_with_others)
    used.append(kernels._native.threads_used())
    assert used == [min(each, kernels._native.usable_processors()) for each in (forward, backward)]
    assert all(map(torch.equal, found, expected))


@every_isa
@pytest.mark.parametrize("recompute", [False, True])
def test_nor_does_the_instruction_set_matter_to_it(recompute: bool) -> None:
    for name in ("program-TwoProducts", "own-Layered", "program-MinGRU"):
        test_the_threads_of_forward_and_backward_may_differ(CELLS[name], "one chunk", recompute, 2, 1)


@every_isa
@some_cells
def test_inference_gives_the_bits_of_training(cell: elman.Cell) -> None:
    call = Call.of(cell, RAGGED, torch.float32)
    trained, _ = call.differentiate(NATIVE)
    with torch.no_grad():
        assert all(map(torch.equal, call.run(NATIVE), trained))


@every_isa
@some_cells
def test_others_in_the_batch_change_no_bit(cell: elman.Cell) -> None:
    call = Call.of(cell, replace(PLAIN, batch=7, hidden=33), torch.float32)
    together = call.run(NATIVE)
    for b in range(7):
        one = slice(b, b + 1)
        beside = call.spans.step_inputs and tuple(each[:, one].contiguous() for each in call.spans.step_inputs)
        draws = call.spans.draws and tuple(each[..., one, :].contiguous() for each in call.spans.draws)
        spans = call.spans._replace(step_inputs=beside, draws=draws)
        states = tuple(each[:, one].contiguous() for each in call.states or ())
        alone = replace(call, x=call.x[:, one], states=states, spans=spans).run(NATIVE)
        assert all(torch.equal(a, t[:, one]) for a, t in zip(alone, together, strict=True))


@every_isa
@some_cells
def test_chunks_of_a_sequence_change_no_bit(cell: elman.Cell) -> None:
    call = Call.of(cell, replace(PLAIN, steps=11, bidirectional=False, draws=False), torch.float32)
    output, *finals = call.run(NATIVE)
    states, parts = call.states, []
    for part in (slice(0, 4), slice(4, 5), slice(5, 11)):
        beside = call.spans.step_inputs and tuple(each[part] for each in call.spans.step_inputs)
        piece, *states = replace(call, x=call.x[part], states=states, spans=call.spans._replace(step_inputs=beside)).run(NATIVE)
        parts.append(piece)
    assert torch.equal(torch.cat(parts), output)
    assert all(map(torch.equal, states, finals))


def test_an_lstm_as_a_program_is_the_built_in_one() -> None:
    """To four units of 1: what is fused with what differs."""
    x = torch.randn(7, 5, 10)
    built_in, own = elman.LSTM(10, 33, 2, bidirectional=True), elman.Recurrent(own_cells.Lstm(), 10, 33, 2, bidirectional=True)
    own.load_state_dict(built_in.state_dict())
    with torch.no_grad():
        (expected, finals), (output, own_finals) = [net(x, lengths=[7, 2, 0, 5, 7]) for net in (built_in, own)]
    assert distance([output, *own_finals], [expected, *finals]) < 4 * 2.0**-24


# --- Many steps, units and chunks -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [1, 600, 1100])
@pytest.mark.parametrize(
    "cell", [own_cells.Peephole(), own_cells.Layered(), own_cells.Gru2014(), own_cells.Decay()], ids=lambda c: type(c).__name__
)
def test_rows_wider_than_a_block(cell: elman.Cell, hidden: int) -> None:
    assert all(each < 1e-12 for each in _both(Call.of(cell, replace(RAGGED, hidden=hidden, layers=1))))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_backward_in_more_than_one_chunk(recompute: bool) -> None:
    """16 sequences of 512 units and three gates fill a chunk of gate gradients in 42 steps."""
    options = replace(RAGGED, steps=100, batch=16, hidden=512, layers=1, lengths=tuple(range(100, 20, -5)), recompute=recompute)
    assert all(each < 1e-11 for each in _both(Call.of(own_cells.Gru2014(), options)))


# --- As nodes of torch's graph ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", ["own-Peephole", "own-Decay"])
def test_a_gradient_can_be_differentiated_again(name: str, traced: bool) -> None:
    found = []
    for backend in (NATIVE, REFERENCE):
        call, leaves = Call.of(CELLS[name], replace(RAGGED, hidden=3, layers=1, traced=traced)).with_gradients()
        grads = torch.autograd.grad(sum(each.sin().sum() for each in call.run(backend)), leaves, create_graph=True)
        found.append([g for g in torch.autograd.grad(sum((g**2).sum() for g in grads), leaves, allow_unused=True) if g is not None])
    assert distance(*found) < 1e-10


def test_what_is_written_to_the_output_does_not_change_the_gradient() -> None:
    call = Call.of(own_cells.Peephole(), PLAIN)
    results, expected = call.differentiate(NATIVE)
    fresh, leaves = call.with_gradients()
    output, *finals = fresh.run(NATIVE)
    arriving = Call.arriving(tuple(results))
    target = (output * 1 * arriving[0]).sum() + sum((a * g).sum() for a, g in zip(finals, arriving[1:], strict=True))
    with torch.no_grad():
        output.zero_()
    grads = torch.autograd.grad(target, leaves)
    assert distance(list(grads), expected) < 1e-12


def test_a_saved_tensor_that_was_changed_is_an_error() -> None:
    call, leaves = Call.of(own_cells.Peephole(), PLAIN).with_gradients()
    output, *_ = call.run(NATIVE)
    with torch.no_grad():
        call.params[0].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(output.sum(), leaves, allow_unused=True)


def test_a_checkpointed_run_gives_the_same_gradients() -> None:
    net, x = elman.Recurrent(own_cells.Peephole(), 4, 20), torch.randn(6, 3, 4, requires_grad=True)
    expected = torch.autograd.grad(net(x)[0].sum(), [x, *net.parameters()])
    again = torch.utils.checkpoint.checkpoint(lambda x: net(x)[0], x, use_reentrant=False)
    assert all(map(torch.equal, torch.autograd.grad(again.sum(), [x, *net.parameters()]), expected))


def test_operands_that_lie_otherwise_are_copied() -> None:
    call = Call.of(own_cells.Decay(), replace(RAGGED, layers=1, bidirectional=False))
    scattered = replace(
        call,
        x=call.x.flip(-1).flip(-1)[..., :].transpose(0, 2).contiguous().transpose(0, 2),
        states=tuple(each.transpose(1, 2).contiguous().transpose(1, 2) for each in call.states or ()),
        spans=call.spans._replace(
            step_inputs=tuple(each.transpose(0, 1).contiguous().transpose(0, 1) for each in call.spans.step_inputs or ())
        ),
    )
    for found, expected in zip(scattered.differentiate(NATIVE), call.differentiate(NATIVE), strict=True):
        assert all(map(torch.equal, found, expected))


# --- What is refused --------------------------------------------------------------------------------------------------


def test_why_says_what_runs_it() -> None:
    net, x = elman.Recurrent(own_cells.Peephole(), 4, 20), torch.randn(6, 3, 4)
    assert elman.why(net, x).startswith("native (")
    net = elman.Recurrent(own_cells.Peephole(), 4, 20, dtype=torch.complex64)
    assert "complex64" in elman.why(net, x.to(torch.complex64))


def test_transforms_go_to_the_reference() -> None:
    net, x = elman.Recurrent(own_cells.Peephole(), 4, 20), torch.randn(2, 6, 3, 4)
    together = torch.func.vmap(lambda x: net(x)[0])(x)
    assert torch.allclose(together, torch.stack([net(each)[0] for each in x]), atol=1e-6)
