"""Weights of Keras's SimpleRNN, GRU and LSTM: from arrays, layers or files, and back to arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from elman.layers import GRU, LSTM, RNN
from elman.layers.errors import brief, brief_list, wrong_module
from elman.weights.choice import choose
from elman.weights.keras_file import read
from elman.weights.keras_layer import GATES, RECURRENT, KerasLayer, as_layer
from elman.weights.layer import build, ordered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.weights.layer import Array


def from_keras(
    source: Any,
    layer: str | Sequence[str] | None = None,
    *,
    activation: str | None = None,
    reset_after: bool | None = None,
    reverse_as_forward: bool = False,
    batch_first: bool = True,
) -> RNN | GRU | LSTM:
    """Build a module that computes what a recurrent layer of Keras does.

    >>> import elman, numpy, torch
    >>> arrays = [numpy.ones((3, 16)), numpy.ones((4, 16)), numpy.zeros(16)]  # of layer.get_weights(): LSTM(4) with 3 inputs
    >>> lstm = elman.from_keras(arrays)
    >>> lstm
    LSTM(3, 4, batch_first=True)
    >>> lstm(torch.ones(2, 5, 3, dtype=torch.float64))[0].shape
    torch.Size([2, 5, 4])

    A SimpleRNN becomes an ``elman.RNN``, a GRU an ``elman.GRU``, an LSTM an ``elman.LSTM``, a Bidirectional around one of them a
    bidirectional module, and several layers one module with that many layers. The weights are copied, in the arrays' dtype. The module
    returns every step's output and the final state, as torch.nn's modules do, whatever ``return_sequences`` is: a Keras layer without it
    returns ``h_n[-1]``, a Bidirectional one ``h_n[-2]`` and ``h_n[-1]``, concatenated. For Keras's masks, pass ``lengths``. Dropout, which
    applies in training only, is left out.

    Args:
        source: what the weights are read from:

            - a Keras file: ``.keras``, ``.weights.h5`` or ``.h5`` (with h5py: ``pip install h5py``; Keras is not
              needed). It is read as data: nothing in it is run.
            - a layer, or a model that has one.
            - the list of arrays that ``layer.get_weights()`` returns; or a list of such lists, the lowest layer's first.
        layer: the layer's name in a file or a model; or several, from the lowest up, to make one module of. Default: the only one there is.
        activation: a SimpleRNN's, "tanh" or "relu", where the source does not say: arrays and ``.weights.h5``. Default: "tanh".
        reset_after: whether a GRU's reset gate acts after the product, where neither the source nor the biases' shape says: a GRU without
            biases in arrays or ``.weights.h5``.
        reverse_as_forward: take a layer with go_backwards=True, too. The module runs forward: call it with the steps of x in reverse order.
        batch_first: whether the module takes (B, T, I), as Keras does, or (T, B, I).

    Returns:
        The module, in training mode.

    Raises:
        ImportError: h5py is not installed.
        OSError: the file cannot be read.
        TypeError: the source is none of these, or layer is neither a name nor a list of names.
        ValueError: the file is damaged; or the layer is not there, is not one of several, or computes what the module does not: another
            activation (hard_sigmoid, for example), ``reset_after=False``, a merge_mode other than "concat", a cell of another kind.
    """
    if not isinstance(batch_first, bool):
        raise TypeError(f"expected batch_first to be True or False, got {brief(batch_first)}")
    if isinstance(source, list | tuple):
        if layer is not None:
            raise ValueError(f"expected no layer with a list of arrays, which has no names, got {brief(layer)}")
        chosen = _of_arrays(source)
    else:
        layers = _named(source)
        chosen = _only(layers) if layer is None else choose(layers, layer, lambda each: (each.name, each.path), "layer")
    given = {"activation": activation, "reset_after": reset_after}
    stated = {name: value for name, value in given.items() if value is not None}
    if stated and (saying := [each.name for each in chosen if each.config is not None]):
        raise ValueError(f"expected no {' or '.join(stated)} for {saying[0]}, whose settings the source contains, got {brief(stated)}")
    return build([as_layer(each, stated, reverse_as_forward) for each in chosen], batch_first)


def to_keras(module: RNN | GRU | LSTM) -> list[list[Array]]:
    """The weights of a layer as Keras has them: for each layer, from the lowest up, the arrays that ``set_weights`` takes.

    >>> import elman
    >>> [[array.shape for array in layer] for layer in elman.to_keras(elman.GRU(3, 4))]
    [[(3, 12), (4, 12), (2, 12)]]

    They fit ``SimpleRNN(H)`` (with ``activation="relu"`` for an RNN with relu), ``GRU(H)`` or ``LSTM(H)``, with ``use_bias=False`` if there
    are no biases, and a ``Bidirectional`` around one for a bidirectional module. An RNN's and an LSTM's two biases become their sum.

    Args:
        module: one of Elman's RNN, GRU or LSTM (``elman.convert`` turns torch.nn's into these).

    Returns:
        A list for each layer.

    Raises:
        TypeError: it is another module.
        ValueError: it has a projection or a learned initial state, which Keras's layers do not; or its
            dtype is one that NumPy does not have (bfloat16), or it is on the meta device.
    """
    if not isinstance(module, RNN | GRU | LSTM):
        raise wrong_module("module", "layers (RNN, GRU, LSTM)", module)
    if module.proj_size or module.learn_initial_state:
        unsupported = "proj_size" if module.proj_size else "learn_initial_state"
        raise ValueError(f"expected a module that Keras has a layer for, got one with {unsupported}, which Keras's layers do not have")
    cell, own = module.stack.cell.name, module._params()
    if own[0].is_meta:
        raise ValueError("expected a module with numbers, got one on the meta device, which has none: load its weights first")
    if own[0].dtype not in (torch.float16, torch.float32, torch.float64):
        raise ValueError(f"expected a module of float16, float32 or float64, which NumPy has, got {own[0].dtype}: pass rnn.float()")
    params = [param.detach().cpu().numpy() for param in own]
    per_layer = len(params) // module.num_layers
    each = module.stack.tensors_per_direction
    return [
        [array for at in range(start, start + per_layer, each) for array in _to_keras(cell, *params[at : at + each])]
        for start in range(0, len(params), per_layer)
    ]


def _to_keras(cell: str, weight_ih: Array, weight_hh: Array, *biases: Array) -> list[Array]:
    """The arrays of one direction, in Keras's order."""
    gates = GATES[cell]
    arrays = [ordered(array, cell, gates) for array in (weight_ih, weight_hh, *biases)]
    kernels = [np.array(array.T, order="C") for array in arrays[:2]]
    if biases:
        kernels.append(np.stack(arrays[2:]) if cell == "gru" else arrays[2] + arrays[3])
    return kernels


# --- Where the weights come from --------------------------------------------------------------------------------------


def _of_arrays(source: Sequence[Any]) -> list[KerasLayer]:
    """The layers of a list of arrays, or of a list of such lists."""
    layers = source if source and all(isinstance(each, list | tuple) for each in source) else [source]
    names = ["the layer"] if len(layers) == 1 else [f"layer {index}" for index in range(len(layers))]
    return [KerasLayer(name, name, None, tuple(map(_as_array, arrays))) for name, arrays in zip(names, layers, strict=True)]


def _named(source: Any) -> list[KerasLayer]:
    """The recurrent layers of a file, a layer or a model."""
    if isinstance(source, str | os.PathLike):
        return read(Path(source))
    if hasattr(source, "get_weights") and hasattr(source, "get_config"):
        return _of_object(source)
    raise TypeError(f"expected a file's path, a layer of Keras or its list of arrays, got {brief(source)}")


def _of_object(source: Any) -> list[KerasLayer]:
    """A layer of Keras, or the recurrent layers of a model, those of models inside it too."""
    if isinstance(inside := getattr(source, "layers", None), list):
        return [one for each in inside for one in _of_object(each)]
    kind = type(source).__name__
    if kind not in RECURRENT:
        return []
    config = {"class_name": kind, "config": source.get_config()}
    return [KerasLayer(source.name, source.name, config, tuple(map(_as_array, source.get_weights())))]


def _as_array(value: Any) -> Array:
    """An array in the machine's byte order. Raises a TypeError if it is not one."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected the list of arrays of layer.get_weights(), got {brief(value)} in it")
    return np.asarray(array, array.dtype.newbyteorder("="))


def _only(layers: list[KerasLayer]) -> list[KerasLayer]:
    """The only layer, where the caller names none."""
    if len(layers) != 1:
        raise ValueError(
            f"expected one recurrent layer, got {len(layers)}, {brief_list([each.name for each in layers])}"
            + (": choose with layer=, by a name, or by a list of names from the lowest up" if layers else "")
        )
    return layers
