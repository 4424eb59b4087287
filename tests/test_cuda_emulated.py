"""The CUDA kernels' own sources, run on the CPU (cuda_emulator.py), against the reference in float64.

ELMAN_CUDA_EMULATED=20 runs twenty times as many.
"""

from __future__ import annotations

import os
from dataclasses import MISSING, dataclass, fields, replace
from itertools import product
from random import Random
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import cuda_emulator
import program_cells
from cuda_runs import FORMS, KEPT, Given, moved
from elman.backends import Operands
from elman.backends.call import Saved
from elman.backends.cuda import layer, run
from elman.backends.cuda.plan import Number, Plan
from elman.backends.spans import Spans
from elman.backends.stack import Stack
from elman.cells import BY_NAME
from slow import slow

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    cuda_emulator.required,
    pytest.mark.usefixtures("poisoned"),
]

DTYPES = {Number.FLOAT32: torch.float32, Number.TF32: torch.float32, Number.FLOAT16: torch.float16, Number.BFLOAT16: torch.bfloat16}
# What one rounding of an operand may cost, and how many may add up: in float32 those of sums are as large as those of operands.
ROUNDING = {Number.FLOAT32: 2.0**-24, Number.TF32: 2.0**-12, Number.FLOAT16: 2.0**-12, Number.BFLOAT16: 2.0**-9}
ROUNDINGS = {Number.FLOAT32: 30, Number.TF32: 6, Number.FLOAT16: 6, Number.BFLOAT16: 6}

CELLS = {**{name: BY_NAME[name] for name in KEPT}, **{cell.__name__: cell for cell in program_cells.CELLS}}
EXCHANGES: dict[str, Callable[[Plan], bool]] = {
    "alone": lambda plan: plan.blocks == 1,
    "cluster": lambda plan: plan.blocks > 1 and plan.is_cluster,
    "global": lambda plan: plan.blocks > 1 and not plan.is_cluster,
}
SUMS: dict[str, Callable[[Plan], bool]] = {
    "in registers": lambda plan: plan.in_registers,
    "shared": lambda plan: not plan.in_registers and plan.split == 1 and not plan.is_reduce_scatter,
    "split": lambda plan: plan.split > 1,
    "scattered": lambda plan: plan.is_reduce_scatter or not plan.is_backward,
}
SIZES = {"alone": (20, 37, 96), "cluster": (20, 37, 96, 300), "global": (37, 60, 96, 300)}


@dataclass(frozen=True)
class Network:
    cell: str
    number: Number
    exchange: str
    sums: str
    tile: int
    hidden: int
    sequences: int
    form: str
    bidirectional: bool = False
    given_state: bool = False
    learned: bool = False
    is_traced: bool = False
    is_padded: bool = False  # half of the blocks have no unit
    is_old: bool = False  # the device has no clusters
    projects: bool = False  # the kernel makes the projections itself
    is_batch_first: bool = False
    is_unbiased: bool = False
    inputs: int = 3
    shared_eighths: int = 0  # how much of the weights lies in shared memory
    steps: int = 5
    seed: int = 0

    def __str__(self) -> str:
        named = []
        for field in fields(self)[:-2]:
            value = getattr(self, field.name)
            if field.default is MISSING:
                named.append(str(getattr(value, "name", value)))
            elif value != field.default:
                named.append(field.name if value is True else f"{field.name} {value}")
        return "-".join(named).lower().replace(" ", "_")

    @property
    def wishes(self) -> list[Callable[[Plan], bool]]:
        """What its plans are to be like; if there are none, the next of these."""
        exchange, sums = EXCHANGES[self.exchange], SUMS[self.sums]
        is_scattered = self.sums == "scattered"
        return [
            lambda plan: exchange(plan) and sums(plan) and plan.tile == self.tile,
            lambda plan: exchange(plan) and plan.is_reduce_scatter == (is_scattered and plan.is_backward) and plan.tile == self.tile,
            lambda plan: exchange(plan) and plan.is_reduce_scatter == (is_scattered and plan.is_backward),
            exchange,
            lambda plan: True,
        ]

    def install(self, monkeypatch: pytest.MonkeyPatch, **options: object) -> list[cuda_emulator.Kernel]:
        def change(plan: Plan) -> Plan:
            wider = replace(plan, blocks=2 * plan.blocks)
            if self.is_padded and wider.shared_bytes <= cuda_emulator.DEVICE.shared_bytes:
                plan = wider
            shared = replace(plan, shared_eighths=self.shared_eighths)
            return shared if shared.shared_bytes <= cuda_emulator.DEVICE.shared_bytes else plan

        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", self.number is Number.TF32)
        monkeypatch.setattr(layer, "_projects", lambda *call: self.projects)
        device = replace(cuda_emulator.DEVICE, capability=(8, 0)) if self.is_old else cuda_emulator.DEVICE
        options = {"seed": self.seed, "device": device, **options}
        return cuda_emulator.install(monkeypatch, self.wishes, change, **options)  # type: ignore[arg-type]


class Sample(Given):
    """Numbers for a run, in float64, each one that the kernel's dtype has too."""

    def __init__(self, network: Network) -> None:
        self.network, self.dtype = network, DTYPES[network.number]
        hidden, B, T = network.hidden, network.sequences, network.steps
        cell = CELLS[network.cell]()
        stack = self.stack = Stack(cell, network.inputs, hidden, 1, network.bidirectional, not network.is_unbiased)
        generator = torch.Generator().manual_seed(network.seed)
        self.batch_first = False

        def draw(*shape: int) -> Tensor:
            return self.rounded(torch.randn(shape, generator=generator, dtype=torch.float64))

        lengths = torch.randint(0, T + 1, (B,), generator=generator)
        lengths[0] = T
        batch_sizes = (lengths.clamp_min(1) > torch.arange(T).unsqueeze(1)).sum(1) if "packed" in network.form else None
        reset = (draw(B, 2 * T) > 0.6)[:, ::2].t() if "reset" in network.form else None
        self.x = draw(*((T, B) if batch_sizes is None else (int(batch_sizes.sum()),)), network.inputs)
        count = stack.num_directions
        self.states = tuple(draw(count, B, hidden) for _ in stack.cell.states) if network.given_state else None
        scales = [hidden**-0.5 if len(shape) > 1 else 0.5 for shape in stack.shapes]
        self.params = [self.rounded(scale * draw(*shape)) for shape, scale in zip(stack.shapes, scales, strict=True)]
        if network.cell == "rnn_relu":  # no sum is near zero, where a rounding decides whether a gradient passes
            for w_hh, bias in zip(self.params[1::4], self.params[2::4], strict=True):
                w_hh.mul_(0.25)
                bias.copy_(4 * draw(hidden).sign())
        fresh = tuple(draw(count, hidden) for _ in stack.cell.states) if network.learned and reset is not None else None
        beside = tuple(draw(T, B, *((hidden,) if kind else ())) for kind in cell.step_inputs.values()) or None
        draws = tuple(draw(count, *((T,) if kind == "step" else ()), B, hidden).sigmoid() for kind in cell.draws.values()) or None
        self.spans = Spans(batch_sizes, lengths if "lengths" in network.form else None, reset, fresh, beside, draws).with_numbers(
            self.rounded
        )
        self.grad_output = draw(*self.x.shape[:-1], stack.output_size)
        self.grad_finals = tuple(draw(count, B, hidden) for _ in stack.cell.states)
        self.grad_hidden = draw(1, T, B, stack.output_size)
        self.grad_steps = {name: draw(count, T, B, hidden) for name in KEPT.get(network.cell, ())}

    @property
    def inputs(self) -> list[Tensor]:
        return [self.x, *(self.states or ()), *(self.spans.fresh or ()), *(self.spans.step_inputs or ()), *self.params]

    def names(self) -> list[str]:
        parts = {"initial": self.states, "fresh": self.spans.fresh, "step input": self.spans.step_inputs, "parameter": self.params}
        return ["x", *(f"{name} {i}" for name, part in parts.items() for i, _ in enumerate(part or ()))]

    def run(self) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs and final states, and the gradients of all inputs, by the kernels."""
        to = self.to
        states = None if self.states is None else tuple(map(to, self.states))
        is_turned = self.network.is_batch_first
        call = self.stack, Operands(self.turned(to(self.x)), states, tuple(map(to, self.params)), self.spans.with_numbers(to))
        grad_saved = None
        if self.network.is_traced:
            hidden, finals, saved = run.trace(*call)
            output, grad_output = hidden[-1], to(self.grad_hidden[-1])
            if saved.steps is not None:  # the last of a GRU's has no name, and so no gradient
                named = list(self.grad_steps.values())
                zeros = [torch.zeros_like(named[0])] * (saved.steps.shape[-2] - len(named))
                grad_saved = Saved(None, to(torch.stack([*named, *zeros], -2)), None)
        else:
            output, finals, saved = run.forward(*call, is_turned, save=True)
            grad_output = self.turned(to(self.grad_output))
        needs = [True] * len(self.inputs)
        grads = run.backward(*call, is_turned, output, saved, grad_output, tuple(map(to, self.grad_finals)), needs, grad_saved)
        found = [grad for grad in grads if grad is not None]
        assert len(found) == len(needs)
        return [self.turned(output), *finals], [self.turned(found[0]), *found[1:]]

    def turned(self, numbers: Tensor) -> Tensor:
        """Steps and sequences change places where the call has the sequences first."""
        return numbers.transpose(0, 1).contiguous() if self.network.is_batch_first else numbers

    def to(self, numbers: Tensor) -> Tensor:
        return numbers.to(self.dtype)

    def rounded(self, numbers: Tensor) -> Tensor:
        return self.to(numbers).double()

    def errors(self) -> dict[str, float]:
        """How far the kernels are from the reference: the norm of the difference over that of what is expected, in roundings."""
        if self.network.is_traced:
            results, gradients = self.expected_trace()
            results = [results[0][-1], *results[1 : 1 + len(self.grad_finals)]]
        else:
            results, gradients = self.expected(self.grad_output, self.grad_finals)
        found, found_gradients = self.run()
        names = ["output", *(f"final {i}" for i, _ in enumerate(results[1:])), *self.names()]
        pairs = zip(names, [*found, *found_gradients], [*results, *gradients], strict=True)
        return {name: error(one, other) / ROUNDING[self.network.number] for name, one, other in pairs}


def error(found: Tensor, expected: Tensor | None) -> float:
    assert expected is not None
    assert found.shape == expected.shape
    # Of a single number, which is a sum over everything, that may be next to nothing.
    return float((found.double() - expected).norm() / expected.norm().clamp_min(1e-30 if expected.dim() else 1.0))


def check(network: Network, factor: float = 1.0) -> None:
    errors = Sample(network).errors()
    wrong = {name: value for name, value in errors.items() if not value <= factor * ROUNDINGS[network.number]}
    assert not wrong, f"in roundings: {wrong}"


def sample(count: int, seed: int) -> list[Network]:
    """Networks of all cells and types of numbers; what else they are is drawn, the same each time."""
    random = Random(seed)
    pairs, kinds, found = list(product(KEPT, Number)), [kind for kind in product(EXCHANGES, SUMS) if kind != ("alone", "scattered")], []
    random.shuffle(pairs)
    for turn in range(count):
        if turn % len(kinds) == 0:
            random.shuffle(kinds)
        (cell, number), (exchange, sums), form = pairs[turn % len(pairs)], kinds[turn % len(kinds)], FORMS[turn % len(FORMS)]
        tile, sequences = random.choice(((8, 3), (8, 10), (8, 20), (16, 10), (16, 20), (32, 20)))
        hidden, steps = random.choice(SIZES[exchange]), random.choice((1, 4, 5, 6, 9))  # of steps more than a ring has, too
        drawn = {
            name: random.random() < 0.5
            for name in ("bidirectional", "given_state", "learned", "is_traced", "is_padded", "is_old", "projects")
        }
        drawn["is_traced"] &= "packed" not in form
        drawn["is_padded"] &= exchange != "alone" and hidden < 300
        drawn["is_old"] &= exchange != "cluster"
        drawn["is_batch_first"] = random.random() < 0.5 and "packed" not in form and not drawn["is_traced"]
        drawn |= {"is_unbiased": random.random() >= 0.7 and cell != "rnn_relu", "inputs": random.choice((1, 3, 19))}
        drawn["shared_eighths"] = random.choice((0, 0, 3, 5, 8))
        if sums == "scattered":  # of these cells and numbers
            cell, drawn["is_old"] = random.choice(("gru", "lstm")), False
            number = number if exchange == "cluster" else random.choice((Number.FLOAT32, Number.TF32))
            hidden = max(hidden, 37)
        found.append(Network(cell, number, exchange, sums, tile, hidden, sequences, form, **drawn, steps=steps, seed=turn))
    return found


ROUNDS = int(os.environ.get("ELMAN_CUDA_EMULATED", "1"))
NETWORKS = [
    Network("rnn_tanh", Number.FLOAT32, "alone", "shared", 8, 20, 10, "lengths and reset", True, True, True),
    Network("gru", Number.BFLOAT16, "cluster", "in registers", 8, 37, 10, "packed and reset", True, True, True, projects=True),
    Network("gru", Number.FLOAT32, "global", "split", 16, 37, 20, "whole", projects=True, is_batch_first=True, is_unbiased=True, inputs=19),
    Network("lstm", Number.TF32, "alone", "shared", 8, 20, 10, "lengths", projects=True, inputs=9),
    *slow(
        Network("gru", Number.BFLOAT16, "cluster", "split", 8, 96, 10, "whole", steps=9),
        Network("lstm", Number.TF32, "global", "split", 8, 60, 10, "lengths", True, True),
        Network("lstm", Number.BFLOAT16, "cluster", "in registers", 16, 37, 20, "packed and reset", True, True, True, is_padded=True),
    ),
    Network("lstm", Number.BFLOAT16, "cluster", "scattered", 8, 96, 10, "lengths and reset", True, True, True, steps=9),
    Network("GRU2014", Number.TF32, "alone", "shared", 8, 20, 3, "lengths", True, True),
]
# Whose weights lie in shared memory, some of them or all.
IN_SHARED_MEMORY = [
    Network("gru", Number.FLOAT32, "cluster", "split", 16, 300, 10, "whole", steps=2, shared_eighths=5),
    Network("GRU2014", Number.BFLOAT16, "cluster", "shared", 8, 96, 10, "lengths", True, True, steps=2, shared_eighths=5),
    Network("LayerNormLSTM", Number.FLOAT32, "alone", "shared", 16, 37, 10, "whole", steps=3, shared_eighths=6),
    *slow(
        Network("lstm", Number.BFLOAT16, "cluster", "scattered", 16, 96, 20, "lengths and reset", True, True, True, shared_eighths=4),
        Network("rnn_relu", Number.FLOAT16, "alone", "shared", 8, 96, 3, "reset", True, True, True, shared_eighths=3),
        Network("lstm", Number.BFLOAT16, "cluster", "in registers", 8, 96, 10, "packed", True, True, shared_eighths=8),
        Network("lstm", Number.TF32, "global", "split", 32, 60, 20, "lengths", True, True, is_padded=True, shared_eighths=8),
        Network("gru", Number.TF32, "global", "scattered", 16, 96, 20, "whole", True, shared_eighths=4),
    ),
]
# Whose blocks exchange parts of the state's gradient: more of a warp's tiles, of its sequences, of blocks, and of products.
SCATTERED = [
    Network("gru", Number.FLOAT32, "global", "scattered", 16, 60, 20, "lengths", True, True, steps=9),
    Network("lstm", Number.TF32, "global", "scattered", 32, 96, 20, "whole", steps=6),
    Network("lstm", Number.FLOAT16, "cluster", "scattered", 16, 300, 20, "packed and reset", True, True, True),
    Network("lstm", Number.FLOAT32, "cluster", "scattered", 32, 96, 20, "reset", False, True, True, is_padded=True),
    Network("lstm", Number.TF32, "cluster", "scattered", 8, 37, 10, "whole", is_traced=True),
    Network("GRU2014", Number.TF32, "cluster", "scattered", 8, 37, 10, "whole", steps=9),
    Network("GRU2014", Number.FLOAT32, "global", "scattered", 16, 60, 10, "lengths and reset", True, True, True),
    Network("LayerNormLSTM", Number.FLOAT32, "cluster", "scattered", 8, 37, 10, "lengths", True, True, steps=2),
]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_network_is_the_references(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = network.install(monkeypatch)
    check(network, 1 if network.cell in KEPT else 8)  # as test_cuda_emulated_cells.py
    assert [kernel.plan.is_reduce_scatter for kernel in kernels] == [False, network.sums == "scattered"]


@pytest.mark.parametrize("network", SCATTERED, ids=str)
@pytest.mark.slow
def test_parts_of_the_gradient_add_up(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = network.install(monkeypatch)
    check(network, 1 if network.cell in KEPT else 8)
    plan = next(kernel.plan for kernel in kernels if kernel.plan.is_backward)
    assert plan.is_reduce_scatter
    assert plan.tile == network.tile


@pytest.mark.parametrize("network", IN_SHARED_MEMORY, ids=str)
def test_weights_may_lie_in_shared_memory(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = network.install(monkeypatch)
    check(network, 1 if network.cell in KEPT else 8)
    assert all(kernel.plan.shared_weight_bytes for kernel in kernels)
    assert len(kernels) == 2


def test_what_somebody_else_kept_may_lie_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook of saved tensors, or a call of the operator, may give views into one flat tensor; the kernels copy 16 bytes at once."""
    network = Network("lstm", Number.BFLOAT16, "alone", "shared", 8, 96, 3, "whole", steps=4)
    network.install(monkeypatch)
    sample = Sample(network)
    to = sample.to
    call = sample.stack, Operands(to(sample.x), None, tuple(map(to, sample.params)), sample.spans), False
    output, _, saved = run.forward(*call, save=True)
    assert saved.steps is not None
    ends = to(sample.grad_output), tuple(map(to, sample.grad_finals)), [True] * len(sample.inputs)
    expected = run.backward(*call, output, saved, *ends)
    found = run.backward(*call, moved(output, 1), saved._replace(steps=moved(saved.steps, 1)), *ends)
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize("network", sample(60 * ROUNDS, 0), ids=str)
@pytest.mark.slow
def test_networks_are_the_references(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = network.install(monkeypatch)
    check(network)
    if network.sums == "scattered":
        assert all(kernel.plan.is_reduce_scatter for kernel in kernels if kernel.plan.is_backward)
