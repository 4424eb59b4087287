"""The kinds of network there are to show. A new kind is one entry here, and what to call its gates and states in ``text``."""

from __future__ import annotations

from dataclasses import dataclass

from elman.cells import Cell, ElmanRelu, ElmanTanh, Gru, Lstm


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        module: the name of its class, in ``elman`` and in ``torch.nn``.
        cells: by nonlinearity; a kind without that option has one cell, under "".
        projects: whether it has the option ``proj_size``.
    """

    module: str
    cells: dict[str, Cell]
    projects: bool = False

    @property
    def nonlinearities(self) -> tuple[str, ...]:
        return tuple(name for name in self.cells if name)

    def cell(self, nonlinearity: str) -> Cell:
        return self.cells[nonlinearity] if self.nonlinearities else self.cells[""]


KINDS: dict[str, Kind] = {
    "rnn": Kind("RNN", {"tanh": ElmanTanh(), "relu": ElmanRelu()}),
    "gru": Kind("GRU", {"": Gru()}),
    "lstm": Kind("LSTM", {"": Lstm()}, projects=True),
}
