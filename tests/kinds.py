"""The kinds of network that torch.nn and elman both have, and one way to deal with one state or several."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from torch import Tensor, nn

import elman

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True)
class Kind:
    """A class of both libraries, with the options that make it another kind of network."""

    label: str
    layer: str  # the name of the class
    cell: str  # what the equation is called
    options: dict[str, object] = field(default_factory=dict, hash=False)
    states: tuple[str, ...] = ("h",)
    gates: int = 1

    def __str__(self) -> str:
        return self.label

    def widths(self, hidden_size: int) -> tuple[int, ...]:
        """How wide each of the states is; the first is the output."""
        return (self.options.get("proj_size") or hidden_size, hidden_size)[: len(self.states)]

    def build(self, library: ModuleType, *sizes: int, **options: object) -> nn.Module:
        """The network of ``library``, torch.nn or elman."""
        module: nn.Module = getattr(library, self.layer)(*sizes, **self.options, **options)
        return module

    def build_cell(self, library: ModuleType, *sizes: int, **options: object) -> nn.Module:
        """The same for one step."""
        module: nn.Module = getattr(library, f"{self.layer}Cell")(*sizes, **self.options, **options)
        return module

    def pair(self, *sizes: int, **options: object) -> tuple[nn.Module, nn.Module]:
        """torch.nn's and elman's, with the same parameters."""
        theirs, ours = self.build(nn, *sizes, **options), self.build(elman, *sizes, **options)
        ours.load_state_dict(theirs.state_dict())
        return theirs, ours


TANH = Kind("tanh", "RNN", "rnn_tanh", {"nonlinearity": "tanh"})
RELU = Kind("relu", "RNN", "rnn_relu", {"nonlinearity": "relu"})
GRU = Kind("gru", "GRU", "gru", gates=3)
LSTM = Kind("lstm", "LSTM", "lstm", states=("h", "c"), gates=4)


def projected(width: int) -> Kind:
    """An LSTM whose output is projected to so many units."""
    return Kind("lstm projected", "LSTM", "lstm", {"proj_size": width}, ("h", "c"), gates=4)


PROJECTED = projected(2)

KINDS = (TANH, RELU, GRU, LSTM, PROJECTED)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
every_cell = pytest.mark.parametrize("kind", [TANH, RELU, GRU, LSTM], ids=str)


def as_states(hx: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One state or several, as a module takes and gives them, as a tuple."""
    return (hx,) if isinstance(hx, Tensor) else tuple(hx)


def as_hx(states: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """And back."""
    return states[0] if len(states) == 1 else states
