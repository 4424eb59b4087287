"""Measures on a GPU how long a step takes by each plan, and fits the model by which choice.py chooses plans to it.

    PYTHONPATH=tests python tests/cuda_plans.py measure plans.json
    PYTHONPATH=tests python tests/cuda_plans.py fit plans.json

What is measured are the launches of a recurrence alone, of sequences of one length. Kernels are kept in Elman's cache.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from inspect import unwrap
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch

from elman._files import write
from elman.backends import Operands
from elman.backends.cuda import choice, compiler, launcher, layer, run
from elman.backends.cuda.choice import MODEL, Step, candidates, cost, expected, parts_of, turns
from elman.backends.cuda.commands import Commands, Launch
from elman.backends.cuda.launcher import DeviceProperties
from elman.backends.cuda.plan import Number, Plan
from elman.backends.cuda.shape import CELLS
from elman.backends.stack import Stack
from elman.cells import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

STEPS = 64, 192  # what a launch takes beside its steps is in both
DTYPES = {Number.BFLOAT16: torch.bfloat16, Number.FLOAT16: torch.float16, Number.TF32: torch.float32}


class Network(NamedTuple):
    cell: str
    number: Number
    hidden: int
    sequences: int


@dataclass(frozen=True)
class Measured:
    """Microseconds of a step by a plan; ``local_bytes``: of a thread, what its registers have no room for."""

    network: Network
    plan: Plan
    microseconds: float
    local_bytes: int


# --- Measuring ----------------------------------------------------------------------------------------------------------


def plans_of(network: Network, is_backward: bool, device: DeviceProperties) -> list[Plan]:
    """All that choose() could choose from, and those that it leaves out since nobody has measured that they are faster: reduce-scatters
    wherever they exchange less, and weights in shared memory where registers have room for all.
    """
    arrangements = choice._arrangements
    ways: list[tuple[str, Callable[..., Any]]] = [
        ("_exchanges_less", lambda shape, number, *_: len(shape.products[0]) * number.size > 4),
        ("_arrangements", lambda *sizes: arrangements(*sizes) if sizes[-1] else iter(())),
    ]
    found: dict[Plan, None] = {}
    tiles = [tile for tile in (8, 16, 32) if tile == 8 or tile < 2 * network.sequences]
    for way in (None, *ways):
        with pytest.MonkeyPatch.context() as patch:
            if way:
                patch.setattr(choice, *way)
            for tile in tiles:
                given = CELLS[network.cell], is_backward, network.number, network.hidden, tile, device
                found |= dict.fromkeys(unwrap(candidates)(*given))
    return list(found)


class Launches:
    """Launches of a network's recurrence in one direction, over so many steps, by any plan: all of them on the same operands."""

    def __init__(self, network: Network, is_backward: bool, steps: int, device: str) -> None:
        stack = Stack(BY_NAME[network.cell](), network.hidden, network.hidden, 1, False, True, 0, False)
        dtype, ran = DTYPES[network.number], list[Any]()
        x = torch.randn(steps, network.sequences, network.hidden, dtype=dtype, device=device)
        params = [torch.randn(shape, dtype=dtype, device=device) * network.hidden**-0.5 for shape in stack.shapes]
        call = stack, Operands(x, None, params), False
        name = f"_{'backward' if is_backward else 'forward'}_commands"
        self._make, run_commands = unwrap(getattr(layer, name)), Commands.run

        def made(*form: Any) -> Commands:
            self._form = form
            return self._make(*form)

        def noted(each: Commands, *operands: Any) -> None:
            run_commands(each, *operands)
            ran.append(operands)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layer, "_projects", lambda *call: False)
            patch.setattr(layer, name, made)
            patch.setattr(Commands, "run", noted)
            output, finals, saved = run.forward(*call, save=True)
            if is_backward:
                run.backward(*call, output, saved, torch.randn_like(output), (None,) * len(finals), [True] * (1 + len(params)))
        self._operands = ran[is_backward]

    def by(self, plan: Plan) -> Callable[[], None]:
        """A call that puts those of a plan onto the stream."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layer, "choose", lambda *call: (plan,))
            patch.setattr(layer, "_projects", lambda *call: False)
            patch.setattr(layer, "_ready", unwrap(layer._ready))
            made = self._make(*self._form)
        launches = [each for each in made._commands if isinstance(each, Launch)]
        commands = Commands(launches, made._index, mailbox=made._mailbox, flags=made._flags)
        return lambda: commands.run(*self._operands)


def gpu_seconds(call: Callable[[], None], count: int) -> float:
    """How long the GPU takes for so many calls."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def measure(
    network: Network, is_backward: bool, device: str, rounds: int, seconds: Callable[[Callable[[], None], int], float] = gpu_seconds
) -> list[Measured]:
    """All plans that run: medians of rounds, in each of which they take another order. What a step takes is what more steps take more."""
    index = torch.cuda.current_device() if device == "cuda" else 0
    properties = launcher.device_properties(index)
    forward, backward = (plans_of(network, way, properties) for way in (False, True))
    if not forward or not backward:
        return []  # torch's layers run it
    launches = [Launches(network, is_backward, steps, device) for steps in STEPS]
    calls: dict[Plan, list[Callable[[], None]]] = {}
    for plan in backward if is_backward else forward:
        with reported(plan):
            if not layer.has_room(plan, index):
                continue
            calls[plan] = [each.by(plan) for each in launches]
    times = defaultdict[Plan, list[float]](list)
    for _ in range(rounds):
        for plan in random.sample(list(calls), len(calls)):
            with reported(plan):
                times[plan].append(_seconds_of_steps(calls[plan], seconds) / (STEPS[1] - STEPS[0]))
    found = ((plan, median(times[plan]) * 1e6) for plan in calls if times[plan])
    return [Measured(network, plan, time, launcher.kernel(plan, index).local_bytes) for plan, time in found]


def _seconds_of_steps(calls: Sequence[Callable[[], None]], seconds: Callable[[Callable[[], None], int], float]) -> float:
    """How much longer the second call takes than the first."""
    taken = []
    for call in calls:
        count = max(3, min(50, int(2e-3 / seconds(call, 1))))
        taken.append(seconds(call, count) / count)
    return taken[1] - taken[0]


@contextmanager
def reported(plan: Plan) -> Iterator[None]:
    """A plan that fails is left out: an error of its own says so, and ends nothing else."""
    try:
        yield
    except RuntimeError as error:
        print(f"{plan}: {error}", flush=True)


def compiled(plans: Sequence[Plan], arch: str) -> None:
    """Compile plans in processes, of which each has a processor, and keep them in the cache."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        tasks = [pool.submit(compiler.compile, plan.name, arch, plan.defines, plan.entry) for plan in plans]
        for count, task in enumerate(as_completed(tasks), 1):
            task.exception()  # which the launch will have, too
            if count % 200 == 0:
                print(f"{count} of {len(tasks)} plans are compiled", flush=True)


# --- The file -----------------------------------------------------------------------------------------------------------


def written(measured: Iterable[Measured], device: DeviceProperties) -> str:
    """As JSON."""
    names = [each.name for each in fields(Plan) if each.name != "shape"]
    rows = [
        {
            "network": each.network,
            "plan": {name: getattr(each.plan, name) for name in names},
            "microseconds": each.microseconds,
            "local_bytes": each.local_bytes,
        }
        for each in measured
    ]
    return json.dumps({"device": asdict(device), "plans": rows})


def read(text: str) -> tuple[list[Measured], DeviceProperties]:
    """What ``written`` wrote."""
    content = json.loads(text)
    device = DeviceProperties(**content["device"] | {"capability": tuple(content["device"]["capability"])})
    found = []
    for row in content["plans"]:
        cell, number, hidden, sequences = row["network"]
        plan = Plan(CELLS[cell], **row["plan"] | {"number": Number(number)})
        found.append(Measured(Network(cell, Number(number), hidden, sequences), plan, row["microseconds"], row["local_bytes"]))
    return found, device


# --- Fitting ------------------------------------------------------------------------------------------------------------


def fitted(measured: Sequence[Measured], device: DeviceProperties) -> Step:
    """The model with the least squares of relative errors, none of whose parts takes less than no time. What no plan has stays as it is."""
    rows = np.array(
        [turns(each.plan, each.network.sequences, 1, device) * np.array(parts_of(each.plan)) / each.microseconds for each in measured]
    )
    model, used = np.array(MODEL), rows.any(0)
    rest = 1.0 - rows[:, ~used] @ model[~used]
    while True:
        found, *_ = np.linalg.lstsq(rows[:, used], rest, rcond=None)
        model[used] = found
        if (found >= 0).all():
            return Step(*map(float, model))
        worst = np.flatnonzero(used)[found.argmin()]
        used[worst], model[worst] = False, 0.0


def usable(measured: Sequence[Measured]) -> list[Measured]:
    """Those that would run: the others lack registers."""
    return [each for each in measured if each.local_bytes <= layer.spill_allowed(each.plan)]


def errors(measured: Sequence[Measured], device: DeviceProperties, model: Step) -> list[float]:
    """By which part of what was measured the model is off, of each plan."""
    return [abs(expected(each.plan, each.network.sequences, 1, device, model) / each.microseconds - 1) for each in measured]


def losses(measured: Sequence[Measured], device: DeviceProperties, model: Step) -> dict[tuple[Network, bool], float]:
    """How much longer than the fastest plan that takes which the model expects to be it, of each network and direction."""
    groups = defaultdict[tuple[Network, bool], list[Measured]](list)
    for each in measured:
        groups[each.network, each.plan.is_backward].append(each)
    found = {}
    for which, plans in groups.items():
        first = min(plans, key=lambda each: cost(each.plan, each.network.sequences, 1, device, model))
        found[which] = first.microseconds / min(each.microseconds for each in plans) - 1
    return found


def report(measured: Sequence[Measured], device: DeviceProperties) -> str:
    """The model as it is and as it is fitted, how far each is off, and which networks lose most by the fitted one."""
    lines, measured = [f"{len(measured)} plans on {device.name}"], usable(measured)
    lines.append(f"{len(measured)} of them have the registers that they need")
    models = {"as it is": MODEL, "fitted": fitted(measured, device)}
    for name, model in models.items():
        lost = losses(measured, device, model)
        lines.append(f"{name}: {model}")
        lines.append(f"  off by {median(errors(measured, device, model)):.0%} (median)")
        lines.append(f"  the plan that it chooses takes {fmean(lost.values()):.1%} longer than the best")
    for (network, is_backward), loss in sorted(lost.items(), key=lambda each: -each[1])[:20]:
        cell, number, hidden, sequences = network
        lines.append(f"  {loss:6.1%}  {cell} {number.name} H={hidden} B={sequences} {'backward' if is_backward else 'forward'}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "fit"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=["rnn_tanh", "gru", "lstm"])
    parser.add_argument("--numbers", nargs="+", choices=[each.name for each in DTYPES], default=["BFLOAT16", "TF32"])
    parser.add_argument("--hidden", nargs="+", type=int, default=[32, 256, 512, 1024])
    parser.add_argument("--sequences", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.what == "fit":
        print(report(*read(given.file.read_text(encoding="utf-8"))))
        return
    device = launcher.device_properties(torch.cuda.current_device())
    networks = [Network(*each) for each in product(given.cells, map(Number.__getitem__, given.numbers), given.hidden, given.sequences)]
    ways = list(product(networks, (False, True)))
    random.shuffle(ways)  # a run that is cut short has some of all
    compiled(list(dict.fromkeys(plan for way in ways for plan in plans_of(*way, device))), device.arch)
    measured: list[Measured] = []
    for done, way in enumerate(ways, 1):
        measured += measure(*way, "cuda", given.rounds)
        write(given.file, written(measured, device).encode())
        print(f"{done} of {len(ways)} networks and directions are measured: {len(measured)} plans", flush=True)


if __name__ == "__main__":
    main()
