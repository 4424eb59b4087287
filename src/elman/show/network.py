"""Finds out what is true of a network: builds it, runs it, and holds it beside torch.nn's."""

from __future__ import annotations

import gc
import time
import warnings
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING

from elman.show.alone import layers_alone, run
from elman.show.by_hand import Which, work
from elman.show.equations import equations
from elman.show.facts import Agreement, Network, Quartiles, Speed
from elman.show.places import places, trap
from elman.show.tensors import costs, directions, gate_rows, outer_tensors, parameter_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from elman.bench.race import Timing
    from elman.show.spec import Spec

# Each block lasts this long (seconds); with so many rounds a small network's race takes some 80 ms.
BLOCK_S = 0.001
ROUNDS = 31
ROUNDS_OF_SLOW = 3
SLOW_S = 0.1
# Below so many multiply-adds a step, waking a second thread costs torch.nn more than it brings: both run on one.
ONE_THREAD = 100_000


def study(spec: Spec, *, name: str = "", timed: bool = True, which: Which | None = None) -> Network:
    """Build the network and its data from the seed, run it, and tell what is true of it.

    >>> from elman.show.spec import Spec
    >>> network = study(Spec("rnn", 10, 20), timed=False)
    >>> network.tensors[1].name, network.tensors[1].shape
    ('output', (5, 3, 20))
    >>> network.places[0].state, network.places[0].where, network.places[0].holds
    ('h_n[0]', 'output[-1]', True)

    Args:
        spec: the network and its data.
        name: what to call it.
        timed: whether to race it against torch.nn's.
        which: the number to work out by hand; None for none.

    Raises:
        ValueError: ``which`` names a number that the network does not have.
    """
    import torch

    import elman

    cost = costs(spec)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _few_threads(cost.multiply_adds_per_step * spec.batch), _quiet():
        torch.manual_seed(spec.seed)
        ours = spec.build(getattr(elman, spec.about.module))
        x = spec.data()
        torch.manual_seed(spec.seed)
        theirs = spec.build(getattr(torch.nn, spec.about.module))
        values = ours.state_dict()
        same_seed = all(torch.equal(values[key], value) for key, value in theirs.state_dict().items())
        theirs.load_state_dict(values)

        output, finals = run(ours, x)
        steps_first = x.transpose(0, 1) if spec.batch_first else x
        alone = layers_alone(spec, values, steps_first)
        return Network(
            name=name or spec.kind,
            spec=spec,
            code=spec.code,
            equations=tuple(line for direction in directions(spec) for line in equations(spec, direction)),
            tensors=outer_tensors(spec),
            parameters=parameter_tensors(spec, values),
            gates=gate_rows(spec),
            places=places(spec, output, finals[0], alone),
            trap=trap(spec, output, finals[0]),
            costs=cost,
            backend=elman.why(ours, x),
            agreement=_agreement(spec, same_seed, theirs, x, output, finals),
            speed=_speed(ours, theirs, x, spec.seed) if timed else None,
            worked=work(spec, which, values, steps_first, alone) if which else None,
        )


@contextmanager
def _few_threads(multiply_adds: int) -> Iterator[None]:
    """One thread for a network whose step is so many multiply-adds, if they are few; as many as are set otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if multiply_adds < ONE_THREAD else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that its own LSTM is slow where it projects: who reads this looks at the times. What it says of dropout
    in a single layer Elman's network has said.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "dropout option adds dropout", UserWarning)
        warnings.filterwarnings("ignore", "LSTM with projections", UserWarning)
        yield


def _agreement(spec: Spec, same_seed: bool, theirs: nn.Module, x: Tensor, output: Tensor, finals: tuple[Tensor, ...]) -> Agreement:
    their_output, their_finals = run(theirs, x)
    judge = None if spec.dtype == "float64" else run(deepcopy(theirs).double(), x.double())[0]
    return Agreement(
        same_seed=same_seed,
        output=_apart(output, their_output),
        state=max(map(_apart, finals, their_finals)),
        elman_from_float64=None if judge is None else _apart(output, judge),
        torch_from_float64=None if judge is None else _apart(their_output, judge),
    )


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def _speed(ours: nn.Module, theirs: nn.Module, x: Tensor, seed: int) -> Speed:
    import torch

    from elman.bench.race import race

    gc.freeze()  # what lives now is not looked through again: a collection before each round costs nothing
    try:
        start = time.perf_counter()
        theirs(x)
        rounds = ROUNDS_OF_SLOW if time.perf_counter() - start > SLOW_S else ROUNDS
        timings = race({"elman": lambda: ours(x), "torch": lambda: theirs(x)}, rounds=rounds, min_block_s=BLOCK_S, seed=seed)
    finally:
        gc.unfreeze()
    elman_, torch_ = timings["elman"], timings["torch"]
    return Speed(_quartiles(elman_), _quartiles(torch_), torch_.median / elman_.median, rounds, torch.get_num_threads())


def _quartiles(timing: Timing) -> Quartiles:
    return Quartiles(timing.median, timing.low, timing.high)
