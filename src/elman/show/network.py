"""All that is shown of a network: what it is, where its states are, and how it compares with torch.nn's."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from elman.show.comparison import Agreement, Speed, torch_network
from elman.show.costs import Costs
from elman.show.equations import equations
from elman.show.facts import Facts
from elman.show.final_states import final_states, trap
from elman.show.hand_worked import HandWorked, Which
from elman.show.specification import Run, Spec
from elman.show.tensors import TensorInfo, gate_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

# Below so many multiply-adds a step, waking a second thread costs torch.nn more than it brings: both run on one.
ONE_THREAD = 100_000


class Network(Facts):
    """A network and its data, built from the seed and run, and what is true of it.

    >>> network = Network(Spec("rnn", 10, 20), timed=False)
    >>> network.tensors[1].name, network.tensors[1].shape
    ('output', (5, 3, 20))
    >>> network.places[0].state, network.places[0].where, network.places[0].holds
    ('h_n[0]', 'output[-1]', True)

    ``trap`` is None where the network invites no mistake.

    Args:
        spec: the network and its data.
        name: what to call it.
        timed: whether to race it against torch.nn's; if not, ``speed`` is None.
        which: the number to work out by hand; None for none.

    Raises:
        ValueError: ``which`` names a number that the network does not have.
    """

    def __init__(self, spec: Spec, *, name: str = "", timed: bool = True, which: Which | None = None) -> None:
        self.name, self.spec, self.code = name or spec.kind, spec, spec.code
        self.equations = tuple(line for direction in spec.directions for line in equations(spec, direction))
        self.costs = Costs(spec)
        self.tensors = tuple(TensorInfo(spec, each) for each in ("x", "output", *spec.finals))
        self.gates = gate_rows(spec)
        with _undisturbed(self.costs.multiply_adds_per_step * spec.batch):
            run, theirs = Run(spec), torch_network(spec)
            self.parameters = tuple(TensorInfo(spec, *each) for each in run.network.state_dict().items())
            self.places = final_states(spec, run)
            self.trap = trap(spec, run)
            self.backend: str = run[f"elman.why({spec.kind}, x)"]
            self.agreement = Agreement(spec, run, theirs)
            self.speed = Speed(spec, run, theirs) if timed else None
            self.worked = HandWorked(spec, which, run) if which else None


def tour(kind: str = "rnn", seed: int = 0, device: str = "cpu") -> tuple[Network, ...]:
    """The three networks one meets first, at the sizes of a first notebook.

    >>> [network.name for network in tour()]
    ['one_directional', 'bidirectional', 'multi_layer']

    Raises:
        ValueError: an unknown kind, or a seed that torch does not take.
    """
    return tuple(Network(spec, name=name) for name, spec in stops(kind, seed, device).items())


def stops(kind: str = "rnn", seed: int = 0, device: str = "cpu") -> dict[str, Spec]:
    """The tour's networks by name."""
    one = Spec(kind, 10, 20, seq_len=5, batch=3, seed=seed, device=device)
    return {
        "one_directional": one,
        "bidirectional": replace(one, bidirectional=True),
        "multi_layer": replace(one, input_size=5, hidden_size=10, num_layers=2, seq_len=4),
    }


@contextmanager
def _undisturbed(multiply_adds: int) -> Iterator[None]:
    """Without gradients, on one thread if a step is so few multiply-adds, and without torch's warnings.

    The times show that its LSTM with a projection is slow; of dropout in a single layer Elman's network has warned already.
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
