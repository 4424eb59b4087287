"""What measures plans and fits their model (cuda_plans.py), with times that are known."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import cuda_host
from cuda_plans import Measured, Network, fitted, losses, measure, plans_of, read, report, written
from elman.backends.cuda.choice import MODEL, Step, choose, expected
from elman.backends.cuda.plan import Number
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
    measured = timed(MODEL)
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
    assert "takes 0.0% longer" in text


def test_what_may_be_chosen_is_measured() -> None:
    for network in NETWORKS:
        for is_backward in (False, True):
            plans = plans_of(network, is_backward, DEVICE)
            sizes = CELLS[network.cell], is_backward, network.number, network.hidden, network.sequences
            assert set(choose(*sizes, 1, False, DEVICE)) <= set(plans)
    assert any(plan.shared_eighths for plan in plans)
    assert any(plan.is_reduce_scatter and not plan.is_cluster for plan in plans)
    assert len(set(plans)) == len(plans)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_every_plan_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch, cuda_host.built(tmp_path))
    counts = Counter[int]()

    def seconds(call: Callable[[], None], count: int) -> float:
        for _ in range(count):
            call()
        counts[count] += 1
        return count * 256e-6

    network = Network("lstm", Number.BFLOAT16, 768, 16)
    plans = [plan for is_backward in (False, True) for plan in plans_of(network, is_backward, cuda_host.DEVICE)]
    assert list(measure([network], "cpu", 3, seconds)) == [Measured(network, plan, pytest.approx(2.0), 0) for plan in plans]
    assert counts == {1: 3 * len(plans), 7: 3 * len(plans)}
    too_large = Network("lstm", Number.TF32, 4096, 16)
    assert not plans_of(too_large, False, cuda_host.DEVICE)
    assert list(measure([too_large], "cpu", 3, seconds)) == []
