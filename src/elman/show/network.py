"""All that is shown of a network: what it is, where its states lie, and how it compares with torch.nn's."""

from __future__ import annotations

import gc
import time
import warnings
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from elman.show.equations import equations
from elman.show.final_states import FinalState, final_states, trap
from elman.show.hand_worked import HandWorked, Which, work_by_hand
from elman.show.run import Run, apart
from elman.show.specification import Spec
from elman.show.tensors import Costs, GateRows, TensorInfo, costs, gate_rows, inputs_and_outputs, parameters

if TYPE_CHECKING:
    from collections.abc import Iterator


# Each block lasts this long (seconds); with so many rounds a small network's race takes some 80 ms.
BLOCK_S = 0.001
ROUNDS = 31
ROUNDS_OF_SLOW = 3
SLOW_S = 0.1
# Below so many multiply-adds a step, waking a second thread costs torch.nn more than it brings: both run on one.
ONE_THREAD = 100_000


@dataclass(frozen=True)
class Agreement:
    """Elman beside torch.nn with the same weights: largest absolute differences.

    Attributes:
        same_seed: the same seed gave both the very same parameters.
        output, state: between the two outputs, and between the final states.
        elman_from_float64, torch_from_float64: of each output from that of a float64 run (by torch.nn); None in a float64 network.
    """

    same_seed: bool
    output: float
    state: float
    elman_from_float64: float | None
    torch_from_float64: float | None


@dataclass(frozen=True)
class Quartiles:
    """Seconds per call over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """A call of each without gradients, raced in one process in shuffled order. ``ratio`` is torch's median over Elman's."""

    elman: Quartiles
    torch: Quartiles
    ratio: float
    rounds: int
    threads: int


@dataclass(frozen=True)
class Network:
    """All that is shown of a network; ``dataclasses.asdict`` of it is what ``--json`` prints.

    ``speed`` and ``worked`` are None where they were not asked for, ``trap`` where the network invites no mistake.
    """

    name: str
    spec: Spec
    code: tuple[str, ...]
    equations: tuple[str, ...]
    tensors: tuple[TensorInfo, ...]
    parameters: tuple[TensorInfo, ...]
    gates: tuple[GateRows, ...]
    places: tuple[FinalState, ...]
    trap: FinalState | None
    costs: Costs
    backend: str
    agreement: Agreement
    speed: Speed | None
    worked: HandWorked | None


def tour(kind: str = "rnn", seed: int = 0, device: str = "cpu") -> tuple[Network, ...]:
    """The three networks one meets first, at the sizes of a first notebook.

    >>> [network.name for network in tour()]
    ['one_directional', 'bidirectional', 'multi_layer']

    Raises:
        ValueError: an unknown kind, or a seed that torch does not take.
    """
    return tuple(study(spec, name=name) for name, spec in stops(kind, seed, device).items())


def stops(kind: str = "rnn", seed: int = 0, device: str = "cpu") -> dict[str, Spec]:
    """The tour's networks by name."""
    one = Spec(kind, 10, 20, seq_len=5, batch=3, seed=seed, device=device)
    return {
        "one_directional": one,
        "bidirectional": replace(one, bidirectional=True),
        "multi_layer": replace(one, input_size=5, hidden_size=10, num_layers=2, seq_len=4),
    }


def study(spec: Spec, *, name: str = "", timed: bool = True, which: Which | None = None) -> Network:
    """Build the network and its data from the seed, run it, and find out what is true of it.

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
    cost = costs(spec)
    with _undisturbed(cost.multiply_adds_per_step * spec.batch):
        run = Run(spec)
        theirs, same_seed = _torch_twin(spec, run.network)
        return Network(
            name=name or spec.kind,
            spec=spec,
            code=spec.code,
            equations=tuple(line for direction in spec.directions for line in equations(spec, direction)),
            tensors=inputs_and_outputs(spec),
            parameters=parameters(spec, run.network.state_dict()),
            gates=gate_rows(spec),
            places=final_states(spec, run),
            trap=trap(spec, run),
            costs=cost,
            backend=run[f"elman.why({spec.kind}, x)"],
            agreement=_agreement(spec, run, theirs, same_seed),
            speed=_speed(run.network, theirs, run["x"], spec) if timed else None,
            worked=work_by_hand(spec, which, run) if which else None,
        )


@contextmanager
def _undisturbed(multiply_adds: int) -> Iterator[None]:
    """Without gradients, on one thread if a step is so few multiply-adds, and without torch's remarks.

    That its own LSTM is slow where it projects the times show; what it says of dropout in a single layer Elman's network has said.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if multiply_adds < ONE_THREAD else before)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "dropout option adds dropout", UserWarning)
            warnings.filterwarnings("ignore", "LSTM with projections", UserWarning)
            yield
    finally:
        torch.set_num_threads(before)


def _torch_twin(spec: Spec, network: nn.Module) -> tuple[nn.Module, bool]:
    """torch.nn's network with the weights of Elman's, and whether the seed alone gave it these."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        twin: nn.Module = spec.build(getattr(torch.nn, spec.module)).to(spec.device)
    values = network.state_dict()
    same = all(torch.equal(values[name], value) for name, value in twin.state_dict().items())
    twin.load_state_dict(values)
    return twin, same


def _agreement(spec: Spec, run: Run, theirs: nn.Module, same_seed: bool) -> Agreement:
    x, output = run["x"], run["output"]
    their_output, finals = theirs(x)
    judge = None if spec.dtype == "float64" else deepcopy(theirs).double()(x.double())[0]
    return Agreement(
        same_seed=same_seed,
        output=apart(output, their_output),
        state=max(map(apart, (run[name] for name in spec.finals), finals if isinstance(finals, tuple) else (finals,))),
        elman_from_float64=None if judge is None else apart(output, judge),
        torch_from_float64=None if judge is None else apart(their_output, judge),
    )


def _speed(ours: nn.Module, theirs: nn.Module, x: Tensor, spec: Spec) -> Speed:
    from elman.bench.race import by_clock, race

    if spec.device == "cuda":
        from elman.bench.device import by_events as stopwatch
    else:
        stopwatch = by_clock()

    gc.freeze()  # what lives now is not looked through again: a collection before each round costs nothing
    try:
        start = time.perf_counter()
        theirs(x)
        rounds = ROUNDS_OF_SLOW if time.perf_counter() - start > SLOW_S else ROUNDS
        ways = {"elman": lambda: ours(x), "torch": lambda: theirs(x)}
        timings = race(ways, rounds=rounds, min_block_s=BLOCK_S, seed=spec.seed, stopwatch=stopwatch)
    finally:
        gc.unfreeze()
    ours_, theirs_ = (Quartiles(timings[name].median, timings[name].low, timings[name].high) for name in ("elman", "torch"))
    return Speed(ours_, theirs_, theirs_.median / ours_.median, rounds, torch.get_num_threads())
