"""What measures plans and fits their model (cuda_plans.py), with times that are known."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest

import cuda_host
from cuda_plans import Measured, Network, fitted, losses, measure, plans_of, read, report, usable, written
from cuda_prepared import forget
from elman.backends.cuda import commands, launcher
from elman.backends.cuda.choice import MODEL, Step, choose, expected, parts_of, turns
from elman.backends.cuda.plan import Number, Plan
from elman.backends.cuda.shape import CELLS
from test_cuda_kernels import DEVICES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEVICE = DEVICES["sm_90a"]
NETWORKS = [Network("rnn_tanh", Number.TF32, 256, 16), Network("gru", Number.BFLOAT16, 512, 64), Network("lstm", Number.BFLOAT16, 768, 64)]
OTHER = Step(*(part * (0.5 + 0.1 * place) for place, part in enumerate(MODEL)))


def timed(model: Step) -> list[Measured]:
    """Plans that take as long as a model says."""
    found = []
    for network in NETWORKS:
        for is_backward in (False, True):
            times = {plan: expected(plan, network.sequences, 1, DEVICE, model) for plan in plans_of(network, is_backward, DEVICE)}
            found += [Measured(network, plan, time, 0) for plan, time in times.items()]
    return found


@pytest.mark.parametrize("model", [MODEL, OTHER], ids=["as it is", "other"])
def test_a_fit_finds_the_model_that_made_the_times(model: Step) -> None:
    assert fitted(timed(model), DEVICE) == pytest.approx(model)


def test_a_part_that_would_take_less_than_no_time_takes_none() -> None:
    model = fitted(timed(MODEL._replace(item=-0.01)), DEVICE)
    assert model.item == 0
    assert min(model) >= 0


def test_a_part_that_no_plan_has_stays_as_it_is() -> None:
    measured = [each for each in timed(OTHER) if each.plan.is_cluster and not each.plan.shared_eighths]
    kept = {"through_memory", "memory_kb", "shared_kb"}
    assert fitted(measured, DEVICE)._asdict() == pytest.approx(
        {name: (MODEL if name in kept else OTHER)._asdict()[name] for name in MODEL._fields}
    )


def test_a_loss_is_what_the_chosen_plan_takes_longer() -> None:
    measured = [each for each in timed(MODEL) if not each.plan.shared_eighths]
    assert set(losses(measured, DEVICE, MODEL).values()) == {0.0}
    best = min(measured[:5], key=lambda each: each.microseconds)
    slower = [replace(each, microseconds=1.25 * each.microseconds) if each is best else each for each in measured[:5]]
    second = sorted(each.microseconds for each in slower)[0]
    assert losses(slower, DEVICE, MODEL) == {(best.network, False): pytest.approx(1.25 * best.microseconds / second - 1)}


def test_a_file_has_it_all() -> None:
    measured = timed(OTHER)
    assert read(written(measured, DEVICE)) == (measured, DEVICE)
    text = report(measured, DEVICE)
    assert text.count("Step(") == 2
    assert f"{len(measured)} of them have the registers" in text
    spilled = [replace(each, local_bytes=8) for each in measured]
    assert usable([*measured, *spilled]) == [*measured, *(each for each in spilled if each.plan.shared_eighths)]


def test_what_may_be_chosen_is_measured() -> None:
    for network in NETWORKS:
        for is_backward in (False, True):
            plans = plans_of(network, is_backward, DEVICE)
            sizes = CELLS[network.cell], is_backward, network.number, network.hidden, network.sequences
            assert set(choose(*sizes, 1, False, DEVICE)) <= set(plans)
    assert any(plan.shared_eighths for plan in plans)
    assert any(plan.is_reduce_scatter and not plan.is_cluster for plan in plans)
    assert len(set(plans)) == len(plans)


class Noted(cuda_host.Kernel):
    """A plan's kernel, which notes what it is launched with."""

    launched: ClassVar[list[tuple[Plan, tuple[float, ...]]]] = []

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan, self.local_bytes = plan, plan.units

    def launch(self, grid: int, block: int, shared_bytes: int, stream: int, params: bytes, together: bool = False) -> None:
        if self.plan.units == 48 and self.plan.is_backward:
            raise RuntimeError("it fails")
        assert together == (self.plan.mailbox_numbers > 0)
        self.launched.append((self.plan, self.plan.parameter.unpack(params)))

    def resident_clusters(self, cluster: int, block: int, shared_bytes: int) -> int:
        return 0


@pytest.mark.parametrize("is_backward", [False, True])
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_every_plan_is_measured(
    is_backward: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda_host.install(monkeypatch, cuda_host.built(tmp_path))
    monkeypatch.setattr(commands, "_compiled", lambda each, index: None)
    kernels = {}
    monkeypatch.setattr(launcher, "kernel", lambda plan, index: kernels.setdefault(plan, Noted(plan)))
    forget(monkeypatch)
    network = Network("lstm", Number.BFLOAT16, 768, 16)
    plans = plans_of(network, is_backward, cuda_host.DEVICE)
    fitting = [plan for plan in plans if not (plan.is_cluster and plan.blocks == 16) and not (is_backward and plan.units == 48)]
    assert 20 < len(fitting) < len(plans)
    rounds, mailbox = Counter[tuple[Plan, float]](), 13 if is_backward else 16

    def seconds(call: Callable[[], None], count: int) -> float:
        Noted.launched.clear()
        for _ in range(count):
            call()
        ((plan, steps),) = {(plan, values[0]) for plan, values in Noted.launched}
        assert len(Noted.launched) % count == 0
        assert all(bool(values[at]) == (plan.mailbox_numbers > 0) for _, values in Noted.launched for at in (mailbox, mailbox + 1))
        rounds[plan, steps] += count > 1
        return count * (3e-6 + steps * 1e-6 * (1 + plans.index(plan)) * (1, 1, 7, 2)[rounds[plan, steps]])

    found = measure(network, is_backward, "cpu", 3, seconds)
    assert [(each.network, each.plan, each.local_bytes) for each in found] == [(network, plan, plan.units) for plan in fitting]
    assert [each.microseconds for each in found] == pytest.approx([2 * (1 + plans.index(plan)) for plan in fitting])
    assert capsys.readouterr().out.count("it fails") == 3 * is_backward * sum(plan.units == 48 for plan in plans)


def test_what_torchs_layers_run_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "device_properties", lambda index: DEVICE)
    assert measure(Network("lstm", Number.TF32, 4096, 16), False, "cpu", 3) == []


# By hand, from what kernels/product.cuh and exchange.cuh do: rows, columns and sequences of a block's product, and what it is sent.
BY_HAND = {
    "a cluster": (
        Plan(CELLS["lstm"], False, Number.BFLOAT16, 256, 8, 32, 16, 2, 4, False, is_cluster=True),
        Step(exchange=1, through_memory=0, cluster_kb=8, memory_kb=0, product=256, sums=2, shared_kb=0, item=0, cell=2.5, wide_cluster=0),
        {64: 1, 512: 3},
    ),
    "a reduce-scatter through memory": (
        Plan(CELLS["gru"], True, Number.TF32, 512, 32, 16, 8, 8, 1, False, is_cluster=False, is_reduce_scatter=True),
        Step(exchange=1, through_memory=1, cluster_kb=0, memory_kb=32, product=192, sums=1, shared_kb=0, item=0, cell=3, wide_cluster=0),
        {32: 1, 33: 2},
    ),
    "a block alone": (
        Plan(CELLS["lstm"], False, Number.FLOAT32, 20, 1, 32, 32, 2, 1, False, is_cluster=True),
        Step(exchange=1, through_memory=0, cluster_kb=0, memory_kb=0, product=384, sums=1, shared_kb=0, item=7.5, cell=2.5, wide_cluster=0),
        {32: 1, 132 * 32: 1, 132 * 32 + 1: 2},
    ),
    "weights in shared memory": (
        Plan(CELLS["rnn_tanh"], False, Number.BFLOAT16, 1024, 16, 64, 8, 4, 2, False, is_cluster=True, shared_eighths=4),
        Step(
            exchange=1, through_memory=0, cluster_kb=16, memory_kb=0, product=256, sums=0.25, shared_kb=64, item=1, cell=1, wide_cluster=1
        ),
        {56: 1, 57: 2},
    ),
    "two blocks of a multiprocessor": (
        Plan(CELLS["rnn_tanh"], False, Number.BFLOAT16, 128, 2, 64, 8, 1, 1, False, is_cluster=True),
        Step(exchange=1, through_memory=0, cluster_kb=2, memory_kb=0, product=32, sums=0.125, shared_kb=0, item=1, cell=1, wide_cluster=0),
        {8 * 66: 1, 8 * 67: 1.25, 8 * 133: 2.5},
    ),
}


@pytest.mark.parametrize(("plan", "parts", "of_sequences"), BY_HAND.values(), ids=BY_HAND)
def test_the_parts_of_a_step(plan: Plan, parts: Step, of_sequences: dict[int, float]) -> None:
    assert parts_of(plan) == pytest.approx(parts)
    for sequences, count in of_sequences.items():
        assert turns(plan, sequences, 1, DEVICE) == count
        assert expected(plan, sequences, 1, DEVICE) == pytest.approx(count * sum(a * b for a, b in zip(parts, MODEL, strict=True)))
