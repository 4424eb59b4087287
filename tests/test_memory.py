"""What a call keeps for backward, and that nothing stays behind."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import weakref
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import elman
from allocated import allocated_bytes, forgets
from elman.backends import BACKENDS, registry
from elman.backends.program.lookup import outside_modes
from kinds import GRU, LSTM, PROJECTED, TANH, Kind, every_kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends import Backend

pytestmark = pytest.mark.slow

T, B, I, H = 200, 32, 16, 100  # noqa: E741  # 2.6 MB of outputs: the objects around them are nothing beside it


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native backend alone: what the reference keeps is autograd's business."""
    backend = BACKENDS[0]
    rnn = elman.RNN(1, 1)
    if not elman.why(rnn, torch.zeros(1, 1, 1)).startswith("native"):
        pytest.skip(elman.why(rnn, torch.zeros(1, 1, 1)))
    monkeypatch.setattr(registry, "BACKENDS", (backend,))


def _saved(call: Callable[[], Tensor]) -> int:
    """Bytes more that are allocated while a result with its graph lives; the result itself counts. What threads allocate once does not."""
    call()
    found = []
    for _ in range(3):
        before = allocated_bytes()
        result = call()
        found.append(allocated_bytes() - before)
        assert result.requires_grad
        del result
    return min(found)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("kind", "most"), [(TANH, 1.1), (GRU, 5.1), (LSTM, 6.1)], ids=str)
def test_a_layer_keeps_its_outputs_and_what_its_cell_needs_and_no_more(kind: Kind, most: float) -> None:
    rnn, x = kind.build(elman, I, H), torch.randn(T, B, I)
    assert _saved(lambda: rnn(x)[0]) / (4 * T * B * H) <= most


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "run again"])
@pytest.mark.parametrize(("kind", "kept"), [(TANH, 0), (GRU, 4), (LSTM, 5)], ids=str)
def test_in_bfloat16_outputs_take_two_bytes_and_what_the_cell_needs_four(kind: Kind, kept: int, recompute: bool) -> None:
    rnn, x = kind.build(elman, I, H, dtype=torch.bfloat16, recompute=recompute), torch.randn(T, B, I).bfloat16()
    expected = 2 if recompute else 2 + 4 * kept
    assert abs(_saved(lambda: rnn(x)[0]) / (T * B * H) - expected) <= 0.4


@pytest.mark.usefixtures("native")
def test_each_layer_and_direction_keeps_as_much() -> None:
    rnn, x = elman.RNN(I, H, 2, bidirectional=True), torch.randn(T, B, I)
    assert _saved(lambda: rnn(x)[0]) / (4 * 4 * T * B * H) <= 1.1


LENGTHS = [T * b // (4 * B) for b in range(B)]  # an eighth of all steps, and one sequence without any


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("kind", "saved"), [(TANH, 0), (GRU, 4), (LSTM, 5)], ids=str)
def test_of_sequences_with_lengths_only_the_steps_they_have_are_kept(kind: Kind, saved: int) -> None:
    """Of the layers below the last the outputs too; the last layer's are padded, as the caller gets them."""
    rnn, x = kind.build(elman, I, H, 2), torch.randn(T, B, I)
    reset = torch.rand(T, B) < 0.01
    whole, some = T * B, sum(LENGTHS)
    assert _saved(lambda: rnn(x, lengths=LENGTHS, reset=reset)[0]) / (4 * H * (whole + some * (1 + 2 * saved))) <= 1.1


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("kind", "numbers"), [(TANH, 1), (GRU, 5), (LSTM, 6)], ids=str)
def test_a_trace_takes_its_results_and_keeps_no_more(kind: Kind, numbers: int) -> None:
    """Every layer's outputs, and per unit and step what the cell keeps for the gradient, of which the gates and c are views."""
    rnn, x = kind.build(elman, I, H, 2), torch.randn(T, B, I)
    assert _saved(lambda: rnn.trace(x, lengths=LENGTHS).output) / (4 * 2 * T * B * H * numbers) <= 1.1


def test_the_count_sees_what_autograd_keeps() -> None:
    x = torch.randn(T, B, H, requires_grad=True)
    assert _saved(lambda: (x + 1).square()) / (4 * x.numel()) > 1.9


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("kind", [TANH, GRU, LSTM, PROJECTED], ids=str)
def test_many_calls_forget_no_memory(kind: Kind) -> None:
    rnn, x = kind.build(elman, 4, 8), torch.randn(3, 2, 4)
    assert not forgets(lambda: rnn(x)[0].sum().backward())


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("kind", [TANH, GRU, PROJECTED], ids=str)
def test_nor_do_calls_with_lengths_and_resets(kind: Kind) -> None:
    """Of ever other lengths, none at all now and then; in turn run, run with recompute, and traced."""
    options = {"num_layers": 2, "bidirectional": True, "learn_initial_state": True}
    keeps, again = kind.build(elman, 4, 64, **options), kind.build(elman, 4, 64, **options, recompute=True)
    x, reset, calls = torch.randn(5, 9, 4), torch.rand(5, 9) < 0.3, 0

    def call() -> None:
        nonlocal calls
        calls += 1
        run = (keeps, again, keeps.trace)[calls % 3]
        lengths = [calls * factor % 6 * (calls % 10 > 0) for factor in range(9)]
        run(x, lengths=lengths, reset=reset)[0].sum().backward()

    assert not forgets(call)


def test_nor_do_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", BACKENDS[-1:])
    rnn, x = elman.RNN(4, 8), torch.randn(3, 2, 4)
    assert not forgets(lambda: rnn(x)[0].sum().backward())


@pytest.mark.parametrize(
    "what", [lambda: torch.empty(0), lambda: torch.empty(2), object, lambda: bytearray(1000)], ids=["empty", "tensor", "object", "bytes"]
)
def test_a_leak_is_seen(what: Callable[[], object]) -> None:
    kept: list[object] = []
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            kept.append(what())

    assert forgets(call)


@every_kind
def test_a_call_leaves_no_cycle_behind(backend: Backend, kind: Kind) -> None:
    rnn, x = kind.build(elman, 4, 8), torch.randn(3, 2, 4)
    for _ in range(10):  # what is set up once leaves garbage once
        rnn(x)[0].sum().backward()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            rnn(x)[0].sum().backward()
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("hooked", [False, True])
def test_what_is_computed_to_record_a_step_is_freed(hooked: bool) -> None:
    """An operation saves its result: hooks that gave back the very tensor would keep both for good."""
    x = torch.randn(3, requires_grad=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True), torch.from_numpy) if hooked else nullcontext()
    with hooks, outside_modes():
        y = x.tanh()
        kept = weakref.ref(y)
        (gradient,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.testing.assert_close(gradient, 1 - y.detach().square())
    del y
    gc.collect()
    assert kept() is None


_FREED_AND_TAKEN_AGAIN = """
import resource, torch, elman

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

NETWORK(torch.zeros(1, 1, 1, requires_grad=True))[0].sum().backward()
for _ in range(3):
    before = faults()
    blocks = [torch.empty(2**20).fill_(1) for _ in range(8)]  # 32 MiB
    print(faults() - before)
    del blocks
"""


@pytest.mark.parametrize("network", ["RNN(1, 1)", "RNN(1, 1).requires_grad_(False)", "Recurrent(elman.zoo.MGU(), 1, 1)"])
def test_memory_that_a_step_of_training_frees_is_not_faulted_in_again_by_the_next(network: str) -> None:
    """By glibc, which otherwise keeps no more than twice the largest block, here 8 of 32 MiB."""
    if platform.libc_ver()[0] != "glibc" or os.environ.get("ELMAN_NATIVE") == "0":
        pytest.skip("the kernels change this of glibc alone")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
    command = [sys.executable, "-c", _FREED_AND_TAKEN_AGAIN.replace("NETWORK", f"elman.{network}")]
    first, second, third = map(int, subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split())
    assert 4 * second < first
    assert 4 * third < first
