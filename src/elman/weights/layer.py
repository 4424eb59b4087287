"""A recurrent layer of another framework with its arrays in torch's order, and the module built of such layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from elman.cells import BY_NAME
from elman.layers import GRU, LSTM, RNN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.floating]

_MODULES: dict[str, Callable[..., RNN | GRU | LSTM]] = {
    "rnn_tanh": RNN,
    "rnn_relu": partial(RNN, nonlinearity="relu"),
    "gru": GRU,
    "lstm": LSTM,
}
WAYS = ("one direction", "both directions")  # by their number, in messages
_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


def reordered(array: Array, cell: str, gates: str) -> Array:
    """An array whose first axis holds a cell's gates one after the other, with the gates in torch's order.

    >>> reordered(np.arange(6.0), "gru", "zrn")
    array([2., 3., 0., 1., 4., 5.])

    Args:
        array: (G·H, ...).
        cell: the cell's name.
        gates: the letters of the gates in the order in which the array has them; none where there is one gate.

    An array that does not hold so many parts stays as it is: ``Layer`` refuses it.
    """
    if not gates or array.ndim == 0 or len(array) % len(gates):
        return array
    parts = np.split(array, len(gates))
    return np.concatenate([parts[gates.index(gate)] for gate in BY_NAME[cell].gates])


def ordered(array: Array, cell: str, gates: str) -> Array:
    """The way back from ``reordered``.

    >>> ordered(np.arange(6.0), "gru", "zrn")
    array([2., 3., 0., 1., 4., 5.])
    """
    if not gates:
        return array
    parts = np.split(array, len(gates))
    return np.concatenate([parts[BY_NAME[cell].gates.index(gate)] for gate in gates])


@dataclass(frozen=True)
class Direction:
    """The parameters of one direction, in torch's order; the biases None where there are none."""

    weight_ih: Array  # (G·H, I)
    weight_hh: Array  # (G·H, H)
    bias_ih: Array | None = None  # (G·H,)
    bias_hh: Array | None = None  # (G·H,)


@dataclass(frozen=True)
class Layer:
    """One layer. Raises a ValueError unless the arrays' shapes are those of its cell.

    Attributes:
        name: how messages call it.
        cell: the cell's name.
        directions: one, or the forward and the reverse one.
        initial: of each of the cell's states what a fresh sequence starts from, (D, H); None for zeros.
    """

    name: str
    cell: str
    directions: tuple[Direction, ...]
    initial: tuple[Array, ...] | None = None

    def __post_init__(self) -> None:
        gates, first = len(BY_NAME[self.cell].gates), self.directions[0]
        if first.weight_hh.ndim != 2 or first.weight_ih.ndim != 2 or not first.weight_hh.size:
            got = f"{first.weight_ih.shape} and {first.weight_hh.shape}"
            raise ValueError(f"expected two matrices of weights in {self.name}, got arrays of shapes {got}")
        rows = gates * self.hidden_size
        shapes = {"weight_ih": (rows, self.input_size), "weight_hh": (rows, self.hidden_size), "bias_ih": (rows,), "bias_hh": (rows,)}
        for direction in self.directions:
            for kind, shape in shapes.items():
                array = getattr(direction, kind)
                if array is not None and array.shape != shape:
                    raise ValueError(
                        f"expected {kind} of {self.name} to be {shape} for {gates} gates of {self.hidden_size} units, got {array.shape}"
                    )
                if array is not None and array.dtype != first.weight_ih.dtype:
                    raise ValueError(f"expected one dtype in {self.name}, got {first.weight_ih.dtype} and {array.dtype}")
        for state in self.initial or ():
            if state.shape != (len(self.directions), self.hidden_size):
                got = f"an initial state of shape {state.shape}"
                raise ValueError(f"expected {self.name} to start from {len(self.directions)} states of {self.hidden_size} units, got {got}")
        if first.weight_ih.dtype.name not in _DTYPES:
            raise ValueError(f"expected {self.name} to be float16, float32 or float64, got {first.weight_ih.dtype}")

    @property
    def input_size(self) -> int:
        return int(self.directions[0].weight_ih.shape[1])

    @property
    def hidden_size(self) -> int:
        return int(self.directions[0].weight_hh.shape[1])

    def __str__(self) -> str:
        ways = "both directions" if len(self.directions) == 2 else "one direction"
        return f"{self.name} ({self.cell}, {self.hidden_size} units, {ways})"


def build(layers: Sequence[Layer], batch_first: bool) -> RNN | GRU | LSTM:
    """One module of these layers, the first at the bottom. Draws no random number.

    Raises:
        ValueError: they differ in kind, units, directions or dtype, or one does not take what the one below puts out.
    """
    for below, layer in pairwise(layers):
        if any(kind(below) != kind(layer) for kind in (_kind, lambda each: each.directions[0].weight_ih.dtype)):
            raise ValueError(
                f"expected layers of one kind, size, dtype and number of directions for one module, got {below} and {layer}: "
                "take each by itself"
            )
        if layer.input_size != below.hidden_size * len(below.directions):
            width = below.hidden_size * len(below.directions)
            raise ValueError(f"expected {layer.name} to take the {width} outputs of {below.name}, got a layer of {layer.input_size} inputs")
    first = layers[0]
    directions = [direction for layer in layers for direction in layer.directions]
    bias = any(direction.bias_ih is not None for direction in directions)
    learned = any(layer.initial is not None for layer in layers)
    module = _MODULES[first.cell](
        first.input_size,
        first.hidden_size,
        len(layers),
        bias=bias,
        batch_first=batch_first,
        bidirectional=len(first.directions) == 2,
        device="meta",
        dtype=_DTYPES[first.directions[0].weight_ih.dtype.name],
        learn_initial_state=learned,
    )
    zeros = np.zeros(len(first.directions[0].weight_hh), first.directions[0].weight_hh.dtype)
    arrays = [
        array
        for each in directions
        for array in (each.weight_ih, each.weight_hh, *((_or(each.bias_ih, zeros), _or(each.bias_hh, zeros)) if bias else ()))
    ]
    for index in range(len(module._learned)):
        none = np.zeros((len(first.directions), first.hidden_size), zeros.dtype)
        arrays.append(np.concatenate([none if layer.initial is None else layer.initial[index] for layer in layers]))
    values = zip((*module._names, *module._learned), map(torch.tensor, arrays), strict=True)
    module.load_state_dict(dict(values), assign=True)
    return module


def _kind(layer: Layer) -> tuple[str, int, int]:
    return layer.cell, layer.hidden_size, len(layer.directions)


def _or(array: Array | None, zeros: Array) -> Array:
    return zeros if array is None else array
