"""Elman: recurrent networks with the interface of torch.nn, on kernels of their own.

>>> import elman, torch
>>> output, h_n = elman.RNN(10, 20)(torch.randn(5, 3, 10))
>>> output.shape, h_n.shape
(torch.Size([5, 3, 20]), torch.Size([1, 3, 20]))
"""

from sys import modules
from typing import TYPE_CHECKING

from elman import init
from elman._version import __version__
from elman.backends import show_config
from elman.cells import Cell, Zoneout
from elman.conversion import convert, patched, to_torch
from elman.layers import GRU, LSTM, RNN, GRUCell, LSTMCell, Recurrent, RecurrentCell, RNNCell, why
from elman.streaming import Stream, chunks, stream
from elman.weights import from_keras, from_onnx, to_keras

if TYPE_CHECKING:
    from elman import zoo

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Recurrent",
    "RecurrentCell",
    "Stream",
    "Zoneout",
    "__version__",
    "chunks",
    "convert",
    "from_keras",
    "from_onnx",
    "init",
    "patched",
    "show_config",
    "stream",
    "to_keras",
    "to_torch",
    "why",
    "zoo",
]


def __getattr__(name: str) -> object:
    """The zoo is imported when it is first asked for: most programs have no use for it."""
    if name == "zoo":
        from importlib import import_module

        return import_module("elman.zoo")
    # With its name and object, Python suggests a name that is like it.
    raise AttributeError(f"module 'elman' has no attribute {name!r}", name=name, obj=modules[__name__])
