"""What leads to the CUDA kernels' launches and away from them, in float64 against the reference: a model stands in for the kernels."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import cublaslt_model
import cuda_compiled
import cuda_model
import elman
import native
from cases import Case, assert_same, build, evaluate, expect, selection
from cuda_runs import KEPT, Given, Run, check_run, moved, reference, runs
from elman.backends import Operands, registry
from elman.backends.call import Saved
from elman.backends.cuda import backend, commands, layer, products, run
from elman.backends.cuda.choice import candidates
from elman.backends.cuda.plan import Number
from elman.backends.stack import Stack
from elman.cells import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends import Backend
    from elman.backends.cuda.backend import CudaBackend
    from elman.backends.cuda.shape import CellShape


@pytest.fixture(autouse=True)
def modelled(monkeypatch: pytest.MonkeyPatch) -> Backend:
    return cuda_model.install(monkeypatch)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", runs(), ids=str)
def test_a_run_and_its_gradients_are_the_references(case: Run) -> None:
    check_run(case)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", runs(), ids=str)
def test_so_they_are_with_products_by_cublaslt(case: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    library = cublaslt_model.install(monkeypatch, torch.float64)
    check_run(case)
    assert library.products > 0


@native.required
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", runs(), ids=str)
def test_so_they_are_with_compiled_commands(case: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = cuda_compiled.install(monkeypatch, cublaslt_model.install(monkeypatch, torch.float64), cuda_model.Kernel)
    for way in (commands.Copy, commands.Launch, products.Product):
        monkeypatch.setattr(way, "run", lambda *call: pytest.fail("Python has done it"))
    for _ in range(2):  # with commands that are made, and with those that are there
        check_run(case)
    assert compiled.errors == []
    assert compiled.launches > 0 < compiled.products
    assert (compiled.copies > 0) == case.bias


@native.required
@pytest.mark.parametrize("compiles", [False, True])
def test_calls_do_not_take_each_others_commands(compiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sizes, forms and operands that differ in one thing, in any order, twice."""
    library = cublaslt_model.install(monkeypatch, torch.float64)
    if compiles:
        compiled = cuda_compiled.install(monkeypatch, library, cuda_model.Kernel)
    monkeypatch.setattr(layer, "_MOST_PROJECTED", 1000)  # some project in the launch, others before it
    random = Random(0)
    every = [run for run in runs() if run.num_layers == 1]
    cases = random.sample(every, 20)
    changes: list[dict[str, object]] = [{"steps": 4}, {"sequences": 9}, {"hidden": 24}, {"num_layers": 2}]
    changes += [{"bias": False}, {"bias": True}, {"given_state": False}, {"given_state": True}, {"batch_first": True}, {"recompute": True}]
    cases += [replace(case, **change) for case in cases for change in random.sample(changes, 3)]  # type: ignore[arg-type]
    # Of the same operands, which are of others: of initial states and of fresh ones.
    cases += [Run("gru", form="reset", given_state=given, learned=not given) for given in (False, True)]
    for case in random.sample(2 * cases, 2 * len(cases)):
        check_run(case)
    if compiles:
        assert compiled.errors == []


@pytest.mark.parametrize(("most", "launches"), [(1 << 20, 1), (10, 2)])
@pytest.mark.parametrize("cell", KEPT)
def test_a_small_inference_is_one_launch(cell: str, most: int, launches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "_MOST_PROJECTED", most)
    made: list[object] = []
    for kind in (layer.Product, layer.Launch):
        counted = type(kind.__name__, (kind,), {"__new__": lambda which, *of, **more: made.append(which) or object.__new__(which)})
        monkeypatch.setattr(layer, kind.__name__, counted)
    given = Given(Run(cell))
    expected, _ = given.expected(given.grad_output, given.grad_finals)
    output, _, _ = run.forward(*given.call(), False, save=False)
    assert_same({"output": output}, {"output": expected[0]}, 1e-12)
    assert len(made) == launches


@pytest.mark.parametrize("shifted", ["x", "parameters", "grad_output"])
def test_operands_may_lie_elsewhere_the_next_time(shifted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An algorithm that was chosen for aligned operands does not do for others; nor does anything that was prepared for their addresses."""
    library = cublaslt_model.install(monkeypatch, torch.float64)
    given = Given(Run("lstm", bidirectional=True))
    expected, gradients = given.expected(given.grad_output, given.grad_finals)
    needs = [True] * len(given.inputs)
    for at in (2, 1, 2):  # in numbers of 8 bytes
        if shifted == "parameters":
            given.params = [moved(param, at) for param in given.params]
        else:
            setattr(given, shifted, moved(getattr(given, shifted), at))
        library.alignments.clear()
        output, finals, saved = run.forward(*given.call(), False, save=True)
        assert_same({"output": output, "c_n": finals[1]}, {"output": expected[0], "c_n": expected[2]}, 1e-12)
        given.compare(run.backward(*given.call(), False, output, saved, given.grad_output, given.grad_finals, needs), gradients)
        assert (8 in library.alignments) == (at == 1 and shifted != "grad_output")


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", KEPT)
def test_a_single_step_is_a_run_too(cell: str, bidirectional: bool) -> None:
    for given_state, batch_first in product((False, True), repeat=2):
        check_run(Run(cell, 2, bidirectional, given_state=given_state, batch_first=batch_first, steps=1))


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("given_state", [False, True])
@pytest.mark.parametrize("needed", ["everything", "x", "parameters", "nothing"])
def test_unchecked_calls_are_the_references(
    cell: str, batch_first: bool, given_state: bool, needed: str, modelled: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(backend, "_DTYPES", (torch.float64,))
    monkeypatch.setattr(backend, "_refuses_network", lambda *network: None)
    given = Given(Run(cell, 2, True, batch_first=batch_first, given_state=given_state))
    params = [torch.nn.Parameter(param, requires_grad=needed in ("everything", "parameters")) for param in given.params]
    states = None if given.states is None else tuple([state.requires_grad_(needed == "everything") for state in given.states])
    given.x.requires_grad_(needed in ("everything", "x"))
    wanted = [t for t in (given.x, *(states or ()), *params) if t.requires_grad]
    done = modelled.run_unchecked(given.stack, given.x, states, params, batch_first)
    assert done is not None
    x = given.x.transpose(0, 1) if batch_first else given.x
    output, finals = reference.run(given.stack, Operands(x, states, params))
    expected = (output.transpose(0, 1) if batch_first else output, *finals)
    results = (done[0], *done[1])
    for found, right in zip(results, expected, strict=True):
        assert_same({"result": found.detach()}, {"result": right.detach()}, 1e-12)
        assert found.requires_grad == bool(wanted)
    if wanted:
        grads = [torch.randn_like(result) for result in results]
        pairs = zip(*(torch.autograd.grad(each, wanted, grads) for each in (results, expected)), strict=True)
        for found, right in pairs:
            assert_same({"gradient": found}, {"gradient": right}, 1e-12)


@pytest.mark.parametrize("form", ["whole", "reset"])
@pytest.mark.parametrize("needed", range(4))
def test_gradients_of_starts_are_made_where_they_are_needed(form: str, needed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given(Run("gru", form=form, given_state=True, learned=True))
    backward, made = layer.backward, []

    def noted(*call: Any) -> Any:
        made.append(call[10])  # grad_starts
        return backward(*call)

    monkeypatch.setattr(layer, "backward", noted)
    output, _, saved = run.forward(*given.call(), False, save=True)
    needs = [False] * len(given.inputs)
    needs[needed] = True  # x, the initial state, the fresh one or W_ih; without resets there is no fresh one
    run.backward(*given.call(), False, output, saved, given.grad_output, given.grad_finals, needs)
    assert (made[0] is not None) == (given.names()[needed].startswith(("initial", "fresh")))


@pytest.mark.parametrize("behind", [0, 64])
@pytest.mark.parametrize("place", range(6))
def test_freed_memory_is_refused(place: int, behind: int) -> None:
    """Without the check a freed bias would count as zeros; of all else the kernels would read what is not theirs."""
    given = Given(Run("gru", 1, False, given_state=True))
    operands = [given.x, *(given.states or ()), *given.params]
    part = torch.randn(behind + operands[place].numel(), dtype=torch.float64)[behind:].view(operands[place].shape)
    part.untyped_storage().resize_(0)
    operands[place].data = part
    # Of a state torch takes a part first, and refuses that itself.
    with pytest.raises(
        RuntimeError, match=r"expected all tensors to lie in memory, got one of shape \(.*\) whose storage was freed|storage of size 0"
    ):
        run.forward(*given.call(), False, save=False)


@pytest.mark.parametrize("change", [Tensor.float, lambda t: t.to("meta")], ids=["dtype", "device"])
@pytest.mark.parametrize("place", range(7), ids=["state", "W_ih", "W_hh", "b_ih", "b_hh", "gradient", "gradient of the state"])
def test_what_changed_between_a_run_and_its_gradient_is_refused(place: int, change: Callable[[Tensor], Tensor]) -> None:
    given = Given(Run("gru", 1, False, given_state=True))
    stack, operands = given.call()
    output, _, saved = run.forward(stack, operands, False, save=True)
    every = [*(operands.states or ()), *operands.params, given.grad_output, *given.grad_finals]
    every[place] = change(every[place])
    state, *params, grad_output, grad_final = every
    changed = operands.replaced(states=(state,), params=params)
    with pytest.raises(RuntimeError, match=r"expected all tensors .* was x changed after the forward pass\?"):
        run.backward(stack, changed, False, output, saved, grad_output, (grad_final,), [True] * (2 + len(params)))


@pytest.mark.parametrize("cell", KEPT)
def test_no_inputs_leave_their_bias(cell: str) -> None:
    """A layer refuses them, an operator does not."""
    kind = BY_NAME[cell]()
    stack, x = Stack(kind, 0, 20, 1, True, True), torch.zeros(5, 3, 0, dtype=torch.float64)
    params = [torch.randn(shape, dtype=torch.float64) for shape in stack.shapes]
    output, finals, _ = run.forward(stack, Operands(x, None, tuple(params)), False, save=False)
    right, lasts = reference.run(stack, Operands(x, None, params))
    assert_same({"output": output}, {"output": right}, 1e-12)
    for found, last in zip(finals, lasts, strict=True):
        assert_same({"final": found}, {"final": last}, 1e-12)


def test_what_does_not_fit_an_unchecked_call_is_left(modelled: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(backend, "_DTYPES", (torch.float64,))
    given = Given(Run("gru", 1, False))
    for params in ([*given.params[:-1], None], given.params[:-1], [*given.params[:-1], 3.0]):
        assert modelled.run_unchecked(given.stack, given.x, None, params, False) is None  # type: ignore[arg-type]
    assert modelled.run_unchecked(given.stack, given.x, (given.x,), given.params, False) is None
    assert modelled.run_unchecked(given.stack, given.x, (given.x, given.x), given.params, False) is None
    nothing = elman.GRUCell(4, 0, dtype=torch.float64)
    assert (
        modelled.run_unchecked(nothing.stack, torch.zeros(1, 2, 4, dtype=torch.float64), None, tuple(nothing.parameters()), False) is None
    )


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", [case for case in runs() if not case.batch_first and "packed" not in case.form], ids=str)
@pytest.mark.slow
def test_a_trace_and_the_gradients_that_arrive_at_its_gates_are_the_references(case: Run) -> None:
    given = Given(case)
    expected, gradients = given.expected_trace()
    hidden, finals, saved = run.trace(*given.call())
    steps = () if saved.steps is None else saved.steps.unbind(-2)[: len(given.grad_steps)]
    for got, each in zip((hidden, *finals, *steps), expected, strict=True):
        assert_same({"traced": got}, {"traced": each}, 1e-12)
    grad_steps = None
    if saved.steps is not None:  # the last of a GRU's has no name, and so no gradient
        named = list(given.grad_steps.values())
        grad_steps = torch.stack([*named, *([torch.zeros_like(named[0])] * (saved.steps.shape[-2] - len(named)))], -2)
    grad_saved = Saved(given.grad_hidden[:-1] if case.num_layers > 1 else None, grad_steps, None)
    needs = [True] * len(given.inputs)
    got_all = run.backward(*given.call(), False, hidden[-1], saved, given.grad_hidden[-1], given.grad_finals, needs, grad_saved)
    given.compare(got_all, gradients)


FULL = Run("lstm", 2, True, "lengths and reset", given_state=True, learned=True)


@pytest.mark.parametrize("cell", KEPT)
def test_recomputed_gradients_are_the_same_to_the_bit(cell: str) -> None:
    found = []
    for recompute in (False, True):
        given = Given(Run(cell, 2, True, "lengths and reset", given_state=True, learned=True, recompute=recompute))
        output, _, saved = run.forward(*given.call(), False, save=True)
        assert (saved.steps is None) == (recompute or cell.startswith("rnn"))
        found.append(run.backward(*given.call(), False, output, saved, given.grad_output, given.grad_finals, [True] * len(given.inputs)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("needed", ["x", "initial", "fresh", "parameter"])
def test_only_what_is_needed_is_given(needed: str) -> None:
    given = Given(FULL)
    _, gradients = given.expected(given.grad_output, given.grad_finals)
    output, _, saved = run.forward(*given.call(), False, save=True)
    needs = [name.startswith(needed) for name in given.names()]
    got = run.backward(*given.call(), False, output, saved, given.grad_output, given.grad_finals, needs)
    assert [each is not None for each in got] == needs
    given.compare([mine if need else each for mine, each, need in zip(got, gradients, needs, strict=True)], gradients)


@pytest.mark.parametrize("grad_name", ["output", "h_n", "c_n"])
def test_a_gradient_that_does_not_arrive_is_zeros(grad_name: str) -> None:
    given = Given(FULL)
    grad_output = given.grad_output if grad_name == "output" else None
    grad_finals = tuple(grad if grad_name == name else None for name, grad in zip(("h_n", "c_n"), given.grad_finals, strict=True))
    _, gradients = given.expected(grad_output, grad_finals)
    output, _, saved = run.forward(*given.call(), False, save=True)
    got = run.backward(*given.call(), False, output, saved, grad_output, grad_finals, [True] * len(given.inputs))
    given.compare(got, gradients)


FOREIGN = {
    "spread": lambda grad: grad[:1, :1, :1].expand_as(grad),
    "transposed": lambda grad: grad.transpose(0, 1).contiguous().transpose(0, 1),
    "strided": lambda grad: torch.stack((grad, grad), -1)[..., 0],
    "off by one": lambda grad: torch.cat((grad.new_zeros(1), grad.flatten()))[1:].view_as(grad),
    "negative": lambda grad: torch._neg_view(-grad),
    "zeros": lambda grad: torch._efficientzerotensor(grad.shape, dtype=grad.dtype),
}


@pytest.mark.parametrize("layout", FOREIGN)
def test_gradients_and_inputs_may_lie_in_memory_in_any_way(layout: str) -> None:
    given = Given(FULL)
    given.grad_output = FOREIGN[layout](given.grad_output)
    given.grad_finals = tuple(FOREIGN[layout](grad) for grad in given.grad_finals)
    if layout not in ("zeros", "spread"):
        given.x, given.params[1] = FOREIGN[layout](given.x), FOREIGN[layout](given.params[1].unsqueeze(0)).squeeze(0)
    expected, gradients = given.expected(given.grad_output + 0, [grad + 0 for grad in given.grad_finals])
    output, _, saved = run.forward(*given.call(), False, save=True)
    assert_same({"output": output}, {"output": expected[0]}, 1e-12)
    got = run.backward(*given.call(), False, output, saved, given.grad_output, given.grad_finals, [True] * len(given.inputs))
    given.compare(got, gradients)


def test_groups_that_exchange_through_global_memory_are_launched_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two directions of two tiles of four blocks, on a device of eight multiprocessors."""
    launches: list[int] = []
    launch = cuda_model.Kernel.launch

    def through_memory(shape: CellShape, is_backward: bool, number: Number, *sizes: int) -> layer.Ready:
        hidden, sequences, directions, *_ = sizes
        plans = candidates(shape, is_backward, number, hidden, 8, cuda_model.DEVICE)
        plan = next(plan for plan in plans if plan.mailbox_numbers and plan.blocks == 4)
        return cuda_model.ready(replace(plan, has_spans=True), sequences, directions)

    def counted(self: cuda_model.Kernel, grid: int, *call: object, **more: object) -> None:
        launches.append(grid)
        launch(self, grid, *call, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(layer, "_ready", through_memory)
    monkeypatch.setattr(cuda_model.Kernel, "launch", counted)
    given = Given(replace(FULL, num_layers=1, hidden=60))
    expected, gradients = given.expected(given.grad_output, given.grad_finals)
    output, _, saved = run.forward(*given.call(), False, save=True)
    assert launches == [8, 8]
    assert_same({"output": output}, {"output": expected[0]}, 1e-12)
    given.compare(
        run.backward(*given.call(), False, output, saved, given.grad_output, given.grad_finals, [True] * len(given.inputs)), gradients
    )
    assert launches == [8, 8, 8, 8]


@pytest.mark.parametrize("cell", KEPT)
def test_blocks_without_units_change_nothing(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """36 units on eight blocks of 16: two hold all 32, one has 4, five have none."""

    def spread(shape: CellShape, is_backward: bool, number: Number, *sizes: int) -> layer.Ready:
        hidden, sequences, directions, *_ = sizes
        wide = candidates(shape, is_backward, Number.TF32, 16 * 8, 8, cuda_model.DEVICE)
        plan = next(plan for plan in wide if (plan.blocks, plan.is_cluster) == (8, True))
        return cuda_model.ready(replace(plan, hidden=hidden, has_spans=True), sequences, directions)

    monkeypatch.setattr(layer, "_ready", spread)
    given = Given(replace(FULL, cell=cell, hidden=36))
    expected, gradients = given.expected(given.grad_output, given.grad_finals)
    output, _, saved = run.forward(*given.call(), given.batch_first, save=True)
    assert_same({"output": output}, {"output": expected[0]}, 1e-12)
    call = given.call()
    given.compare(
        run.backward(*call, given.batch_first, output, saved, given.grad_output, given.grad_finals, [True] * len(given.inputs)), gradients
    )


@pytest.mark.parametrize("case", selection(), ids=str)
@pytest.mark.slow
def test_whole_networks_are_what_the_loops_say(case: Case, modelled: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (modelled,))
    module = build(elman, case, torch.float64)
    assert_same(evaluate(module, case, torch.float64), expect(case, torch.float64), 1e-12)
