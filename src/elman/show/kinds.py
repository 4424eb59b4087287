"""What there is to show of each kind of network: its classes, its cells, its equations. A new kind is one entry here."""

from __future__ import annotations

from dataclasses import dataclass

from elman.cells import Cell, ElmanRelu, ElmanTanh

# By the cell's name. One line for each gate or state, in the order in which they are computed.
EQUATIONS: dict[str, tuple[str, ...]] = {
    "rnn_tanh": ("h[t] = tanh(W_ih x[t] + b_ih + W_hh h[t-1] + b_hh)",),
    "rnn_relu": ("h[t] = relu(W_ih x[t] + b_ih + W_hh h[t-1] + b_hh)",),
}


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        module: the name of its class, in ``elman`` and in ``torch.nn``.
        cells: by nonlinearity; a kind without that option has one cell, under "".
        state_code: what its call returns beside ``output``, as one writes it.
    """

    module: str
    cells: dict[str, Cell]
    state_code: str

    @property
    def nonlinearities(self) -> tuple[str, ...]:
        return tuple(name for name in self.cells if name)

    def cell(self, nonlinearity: str) -> Cell:
        return self.cells[nonlinearity] if self.nonlinearities else self.cells[""]


KINDS: dict[str, Kind] = {
    "rnn": Kind("RNN", {"tanh": ElmanTanh(), "relu": ElmanRelu()}, "h_n"),
}
