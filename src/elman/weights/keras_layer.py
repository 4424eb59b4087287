"""Translates a recurrent layer of Keras, its config and its arrays, to torch's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from elman.layers.errors import brief
from elman.weights.layer import WAYS, Direction, Layer, reordered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from elman.weights.layer import Array

# By cell, the letters that torch has for the gates, in Keras's order: i, f, c, o and z, r, h.
GATES = {"rnn_tanh": "", "rnn_relu": "", "gru": "zrn", "lstm": "ifgo"}
_CELL_BY_CLASS = {"SimpleRNN": "rnn_tanh", "GRU": "gru", "LSTM": "lstm"}
_CELL_BY_GATES = {1: "rnn_tanh", 3: "gru", 4: "lstm"}
# Keras's layers whose weights are a recurrent cell's: those that are read, and those that are refused by name.
RECURRENT = (*_CELL_BY_CLASS, "Bidirectional", "RNN")


class KerasLayer(NamedTuple):
    """A recurrent layer of Keras.

    Attributes:
        name: what it is called; not always by this name alone.
        path: where it stands in its source.
        config: ``{"class_name": ..., "config": {...}}`` as Keras writes it, not looked into yet; None where the source has only arrays.
        arrays: of each direction the kernel (I, G·H), the recurrent kernel (H, G·H), and perhaps the bias: (G·H,), or (2, G·H) of a GRU.
    """

    name: str
    path: str
    config: object
    arrays: tuple[Array, ...]


class _Settings(NamedTuple):
    """What a config says, where it matters."""

    cell: str
    reset_after: object
    backwards: bool


def as_layer(source: KerasLayer, stated: Mapping[str, object], reverse_as_forward: bool) -> Layer:
    """The layer in torch's terms.

    Args:
        source: the layer.
        stated: ``activation`` and ``reset_after``, where the caller says it.
        reverse_as_forward: whether to take a layer that runs backwards, as if it ran forward.

    Raises:
        ValueError: it computes what no module of Elman's does, or its arrays do not fit.
    """
    name, count = source.name, len(source.arrays)
    if count not in (2, 3, 4, 6):
        raise ValueError(
            f"expected 2 or 3 arrays in {name}, kernel, recurrent kernel and bias, or twice as many for both directions, got {count}"
        )
    directions = 2 if count in (4, 6) else 1
    settings = _of_shapes(source, stated) if source.config is None else _of_config(source, directions)
    if settings.backwards and not reverse_as_forward:
        raise ValueError(
            f"expected {name} to run forward, got go_backwards=True: with reverse_as_forward=True its module runs forward, and you call it "
            "with the steps of x in reverse order"
        )
    each = count // directions
    parts = [source.arrays[at : at + each] for at in range(0, count, each)]
    return Layer(name, settings.cell, tuple([_direction(name, settings, arrays) for arrays in parts]))


def _direction(name: str, settings: _Settings, arrays: Sequence[Array]) -> Direction:
    """One direction's arrays in torch's order, transposed, and with two biases."""
    cell, (kernel, recurrent) = settings.cell, arrays[:2]
    bias = arrays[2] if len(arrays) == 3 else None
    gates = len(GATES[cell]) or 1
    if recurrent.ndim != 2 or recurrent.shape[1] != gates * len(recurrent):
        raise ValueError(f"expected a recurrent kernel (units, {gates}·units) second in {name}, got an array of shape {recurrent.shape}")
    if cell == "gru":
        _check_reset(name, settings.reset_after, bias)
    if bias is None:
        biases: tuple[Array, ...] = ()
    elif cell == "gru" and len(bias) == 2:
        biases = bias[0], bias[1]
    else:
        biases = bias, np.zeros_like(bias)
    return Direction(*[reordered(array, cell, GATES[cell]) for array in (kernel.T, recurrent.T, *biases)])


def _check_reset(name: str, reset_after: object, bias: Array | None) -> None:
    """Raise a ValueError unless a GRU's reset gate acts after the product: two biases say so, or else its settings."""
    after = reset_after if bias is None else bias.ndim == 2
    if reset_after not in (None, after):
        raise ValueError(f"expected reset_after={after} for {name}, a GRU whose bias says so, got {brief(reset_after)}")
    if after is None:
        raise ValueError(
            f"expected reset_after=True or False for {name}, a GRU without biases, whose arrays look the same in both forms: pass what the "
            "Keras layer has, by default True"
        )
    if after is not True:
        raise ValueError(
            f"expected {name} to be a GRU with reset_after=True, got reset_after={brief(after)}: its reset gate multiplies the state "
            "before the product with the weights, Elman's and torch.nn's multiplies the product, and no weights turn one into the other; "
            "run it in Keras, or train it with reset_after=True"
        )


def _of_shapes(source: KerasLayer, stated: Mapping[str, object]) -> _Settings:
    """The settings of a layer of which there are only arrays: what their shapes and the caller say."""
    kernel, recurrent = source.arrays[:2]
    if kernel.ndim != 2 or recurrent.ndim != 2 or not recurrent.size or not kernel.shape[1] == recurrent.shape[1]:
        raise ValueError(
            f"expected a kernel (inputs, gates·units) and a recurrent kernel (units, gates·units) first in {source.name}, got arrays of "
            f"shapes {kernel.shape} and {recurrent.shape}"
        )
    units, columns = recurrent.shape
    cell = _CELL_BY_GATES.get(columns // units) if columns % units == 0 else None
    if cell is None:
        raise ValueError(
            f"expected 1, 3 or 4 gates of {units} units in {source.name}, a SimpleRNN, a GRU or an LSTM, got a recurrent kernel of shape "
            f"{recurrent.shape}"
        )
    own = {"activation": "tanh", "recurrent_activation": "sigmoid", **stated}
    return _Settings(_activated(source.name, cell, own), stated.get("reset_after"), backwards=False)


def _of_config(source: KerasLayer, directions: int) -> _Settings:
    """The settings that a config says, of both directions where there are two."""
    kind, own = _parsed(source.name, source.config)
    if kind != "Bidirectional":
        settings = _of_one(source.name, kind, own)
        expected = 1
    else:
        if own.get("merge_mode") != "concat":
            raise ValueError(
                f"expected {source.name} to have merge_mode='concat', as Elman's modules put both directions out, got "
                f"{brief(own.get('merge_mode'))}: pass its arrays, layer.get_weights(), and merge the halves of the output yourself"
            )
        settings = _of_one(source.name, *_parsed(source.name, own.get("layer")))
        reverse = own.get("backward_layer")  # which older files have only where it was given
        other = settings._replace(backwards=True) if reverse is None else _of_one(source.name, *_parsed(source.name, reverse))
        if settings.backwards or other != settings._replace(backwards=True):
            raise ValueError(
                f"expected the directions of {source.name} to be alike, one forward and one backward, got {settings} and {other}"
            )
        expected = 2
    if directions != expected:
        raise ValueError(f"expected arrays for {WAYS[expected - 1]} in {source.name}, got them for {WAYS[directions - 1]}")
    return settings


def _parsed(name: str, config: object) -> tuple[str, Mapping[str, Any]]:
    """The class and the settings of a layer's config."""
    kind, own = (config.get("class_name"), config.get("config")) if isinstance(config, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(own, dict):
        raise ValueError(f"expected a class_name and a config of {name}, got {brief(config)}")
    return kind, own


def _of_one(name: str, kind: str, own: Mapping[str, Any]) -> _Settings:
    """The settings of a SimpleRNN, a GRU or an LSTM."""
    if kind not in _CELL_BY_CLASS:
        raise ValueError(f"expected {name} to be a SimpleRNN, a GRU or an LSTM, or a Bidirectional around one, got {brief(kind)}")
    return _Settings(_activated(name, _CELL_BY_CLASS[kind], own), own.get("reset_after"), own.get("go_backwards") is True)


def _activated(name: str, cell: str, own: Mapping[str, Any]) -> str:
    """The cell with its activations. Raises a ValueError if there is none with these."""
    activation = own.get("activation")
    if cell == "rnn_tanh":
        if activation not in ("tanh", "relu"):
            raise ValueError(f"expected {name} to have activation='tanh' or 'relu', as Elman's RNN does, got {brief(activation)}")
        return f"rnn_{activation}"
    for option, expected in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        if own.get(option) != expected:
            raise ValueError(f"expected {name} to have {option}={expected!r}, as Elman's {cell.upper()} does, got {brief(own.get(option))}")
    return cell
