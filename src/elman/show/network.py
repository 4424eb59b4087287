"""All that is shown of a network: what it is, where its states are, and how it compares with torch.nn's."""

from __future__ import annotations

import inspect
import textwrap
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from elman.show.comparison import compared
from elman.show.ends import trap, unrolled
from elman.show.hand_worked import HandWorked, equations
from elman.show.specification import Run, Spec
from elman.show.tensors import TensorInfo, costs, gate_rows

if TYPE_CHECKING:
    from elman.cells import Cell


class Network(SimpleNamespace):
    """A network and its data, built from the seed and run, and what is true of it.

    >>> network = Network(Spec("rnn", 10, 20), timed=False)
    >>> network.tensors[1].name, network.tensors[1].shape
    ('output', (5, 3, 20))
    >>> end = network.unrolled[0].ends[0]
    >>> end.state, end.where, end.holds
    ('h_n[0]', 'output[-1]', True)

    ``unrolled`` has a layer or, given lengths or resets, a sequence for each of its places; ``trap`` is the mistake that it invites,
    ``cell`` somebody's own, ``agreement`` and ``speed`` are beside torch.nn's network, ``worked`` is the number ``which``, worked out by
    hand; None where there is none. There is a ValueError if ``which`` names what the network does not have.
    """

    @torch.no_grad()
    def __init__(self, spec: Spec, *, name: str = "", timed: bool = True, which: dict[str, Any] | None = None) -> None:
        run = Run(spec)
        self.name, self.spec, self.code = name or spec.kind, spec, spec.code
        self.cell = None if spec.own_cell is None else declared(spec.own_cell)
        self.equations = tuple(line for direction in spec.directions for line in equations(spec, direction))
        self.costs, self.gates = costs(spec), gate_rows(spec)
        shown = ("x", *spec.stack.cell.step_inputs, "output", *spec.finals)
        self.tensors = tuple(TensorInfo(spec, each, run[each]) for each in shown)
        self.parameters = tuple(TensorInfo(spec, *each, is_parameter=True) for each in run.network.state_dict().items())
        self.unrolled, self.trap = unrolled(spec, run), trap(spec, run)
        self.backend: str = run[f"elman.why({spec.name}, {spec.arguments})"]
        self.agreement, self.speed = compared(spec, run, timed, self.costs.multiply_adds_per_step)
        if which is not None and not self.equations:
            raise ValueError(f"--numbers is for rnn, gru and lstm only, got {spec.kind}; leave it out")
        self.worked = None if which is None else HandWorked(spec, run, **which)


def declared(cell: Cell) -> SimpleNamespace:
    """What a cell of somebody's own says of itself: the first line of its docstring, what it declares, and its step as it is written."""
    source = ""
    with suppress(OSError, TypeError):  # nobody can tell
        source = textwrap.dedent(inspect.getsource(type(cell).step)).rstrip()
    names = ("gates", "states", "parameters", "step_inputs", "draws")
    about = (inspect.getdoc(cell) or "").partition("\n")[0]
    return SimpleNamespace(name=repr(cell), about=about, source=source, **{name: tuple(getattr(cell, name)) for name in names})


def tour(kind: str = "rnn", seed: int = 0, device: str = "cpu") -> tuple[Network, ...]:
    """The three networks one meets first, at the sizes of a first notebook."""
    one = Spec(kind, 10, 20, seed=seed, device=device)
    both, two = replace(one, bidirectional=True), replace(one, input_size=5, hidden_size=10, num_layers=2, seq_len=4)
    return tuple(Network(spec, name=name) for name, spec in (("one_directional", one), ("bidirectional", both), ("multi_layer", two)))
