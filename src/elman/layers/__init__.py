"""The modules: parameters, shapes, errors."""

from elman.layers.cell import RNNCell
from elman.layers.rnn import RNN
from elman.layers.why import why

__all__ = ["RNN", "RNNCell", "why"]
