"""Zoneout: units that keep their state at random.

Source: D. Krueger, T. Maharaj, J. Kramár, M. Pezeshki, N. Ballas, N. R. Ke, A. Goyal, Y. Bengio, A. Courville, C. Pal, "Zoneout:
Regularizing RNNs by Randomly Preserving Hidden Activations", ICLR (2017).
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import torch

from elman.cells.wrapper import Wrapper

if TYPE_CHECKING:
    from elman.cells.cell import Cell


class Zoneout(Wrapper):
    """A cell whose units keep their old state with some probability in training, and take the expected value in evaluation.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.Zoneout(elman.cells.Lstm(), h=0.05, c=0.5), 10, 20)
    >>> output, (h_n, c_n) = net(torch.randn(5, 3, 10))

    For a state h with the probability q, with h_{t-1} before the step and h' after the cell's step::

        training:    h_t = h_{t-1} if u < q else h', with u drawn for every unit and step from [0, 1)
        evaluation:  h_t = q h_{t-1} + (1 - q) h'

    Source: D. Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations", ICLR (2017).

    Args:
        cell: any cell.
        rates: by the name of a state, the probability with which a unit keeps it. States without one are left as they are.

    Raises:
        TypeError: cell is not a cell.
        ValueError: it has no state of such a name, or a rate is not a number from 0 to 1.
    """

    def __init__(self, cell: Cell, **rates: float) -> None:
        super().__init__(cell)
        for state, rate in rates.items():
            if state not in cell.states:
                raise ValueError(f"expected rates for states of {type(cell).__name__}, {', '.join(cell.states)}, got {state}")
            if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= rate <= 1:
                raise ValueError(f"expected the rate of {state} to be a probability, a number from 0 to 1, got {rate!r}")
        self.rates = {state: float(rate) for state, rate in rates.items()}
        self._names = {state: _unused(f"zoneout_{state}", cell.draws) for state in rates}
        self._draws = dict.fromkeys(self._names.values(), "step")

    def step(self, x: Any, r: Any, s: Any, p: Any, d: Any = None) -> tuple[Any, ...]:
        states = []
        for state, after in zip(self.states, self.step_inside(x, r, s, p, d), strict=False):
            if state not in self.rates:
                states.append(after)
                continue
            before, rate = getattr(s, state), self.rates[state]
            if d is None:
                states.append(after + rate * (before - after))
            else:
                states.append(torch.where(getattr(d, self._names[state]) < rate, before, after))
        return tuple(states)

    def __repr__(self) -> str:
        return f"Zoneout({', '.join([repr(self.cell), *(f'{state}={rate}' for state, rate in self.rates.items())])})"


def _unused(name: str, taken: dict[str, str]) -> str:
    """The name, or where another wrapper has it, a longer one."""
    while name in taken:
        name += "_again"
    return name
