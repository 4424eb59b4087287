"""The phrases that all checks share: what was expected, what came. The error types are torch.nn's."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from elman.backends.call import has_memory
from elman.backends.spans import flat_list, unwrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

# Where the code is that calls a cell's, or that it calls.
_ROOM = os.path.dirname(__file__)
_NOT_OF_CELLS = (
    os.path.join(os.path.dirname(torch.__file__), ""),
    os.path.join(_ROOM, ""),
    os.path.join(os.path.dirname(_ROOM), "cells", "values.py"),
)

ARRAYS = (Tensor, np.ndarray)


def and_torchs(sentence: str, words: str) -> str:
    """A sentence, and the words in which torch.nn says it: those are what people search for, and what programs match."""
    return f"{sentence} (torch.nn: {words})"


def wrong_kind(name: str, expected: str, got: object) -> TypeError:
    """The error for an argument of a type that cannot be used."""
    hint = f": convert it with torch.from_numpy({name})" if isinstance(got, np.ndarray) and expected.startswith("a tensor") else ""
    return TypeError(f"expected {name} to be {expected}, got {type(got).__name__}{hint}")


def wrong_input(expected: str, got: object, batch_first: bool | None = None) -> TypeError:
    """The error for an x of a type that cannot be used. ``batch_first``: of a layer, how a batch is laid out; None if x is one step."""
    hint, tensors = "", [isinstance(each, Tensor) for each in got] if isinstance(got, (list, tuple)) else []
    if tensors and all(tensors):
        pad, steps = ("pad_sequence(x, batch_first=True)", "torch.stack(x, 1)") if batch_first else ("pad_sequence(x)", "torch.stack(x)")
        hint = f": make one of sequences with torch.nn.utils.rnn.{pad} and pass lengths=[len(each) for each in x], of steps with {steps}"
        if batch_first is None:
            hint = ": make one with torch.stack(x)"
    elif tensors and not any(tensors):
        hint = ": convert it with torch.tensor(x)"
    return TypeError(f"{wrong_kind('x', expected, got)}{hint}")


def wrong_module(name: str, expected: str, got: object) -> TypeError:
    """The error for an argument of this name that is not one of Elman's modules. Names its package: torch.nn's go by the same names."""
    kind = type(got)
    module = "torch.nn" if kind.__module__.startswith("torch.nn.") else kind.__module__
    hint = ""
    if isinstance(got, nn.RNNBase) or (isinstance(got, nn.RNNCellBase) and "cells" in expected):
        hint = f": elman.convert({name}) makes it one"
    elif isinstance(got, nn.RNNCellBase):
        hint = ": a cell runs one step, and its layer a sequence"
    elif isinstance(got, nn.Module) and any(isinstance(inside, nn.RNNBase) for inside in got.modules()):
        hint = ": pass the layer that is inside it"
    return TypeError(
        f"expected {name} to be one of Elman's {expected}, got {'' if module == 'builtins' else f'{module}.'}{kind.__name__}{hint}"
    )


def place_of_error(error: Exception) -> str:
    """The line of a cell on which an error was raised, or that called what raised it; nothing if there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_NOT_OF_CELLS)]
    return f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def check_unmasked(name: str, array: object) -> None:
    """Raise a TypeError if an array is masked: torch would read what is below the mask."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"expected {name} without a mask, got a masked array: pass {name}.filled(...), with a value for the masked numbers")


def check_layout(name: str, tensor: Tensor) -> None:
    """Raise a RuntimeError if a tensor is not a plain array of numbers: nested, sparse or in oneDNN's layout."""
    if tensor.is_nested:
        raise RuntimeError(
            f"expected {name} to be a tensor with one size for each axis, got a nested tensor: "
            "pad it with torch.nested.to_padded_tensor and pass lengths=, or pack its parts with torch.nn.utils.rnn.pack_sequence"
        )
    if tensor.layout is not torch.strided:
        raise RuntimeError(f"expected {name} to be dense, torch.strided, got {tensor.layout}: convert it with {name}.to_dense()")


def check_memory(name: str, tensor: Tensor) -> None:
    """Raise a RuntimeError if a tensor's memory has been freed: torch's own copies of it crash."""
    if not torch.compiler.is_compiling() and not has_memory(unwrapped(tensor)):
        raise RuntimeError(f"expected {name} to lie in memory, got a null pointer: was its storage freed?")


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on where a tensor is, so that its dtype may be another one: integers and complex numbers stay what they are."""
    kind = tensor.device.type
    return tensor.is_floating_point() and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def conversion(name: str, tensor: Tensor, dtype: torch.dtype) -> str:
    """How a tensor is brought to a dtype."""
    return f"{name}.dequantize()" if tensor.is_quantized else f"{name}.to({dtype})"


def check_device(name: str, tensor: Tensor, x: Tensor) -> None:
    """Raise a RuntimeError unless a tensor is where x is."""
    if tensor.device != x.device:
        raise RuntimeError(f"expected {name} on {x.device}, where x is, got {tensor.device}: move it with {name}.to({str(x.device)!r})")


def check_like(name: str, tensor: Tensor, x: Tensor) -> None:
    """Raise a RuntimeError unless a tensor is where x is and, but under autocast, of x's dtype."""
    check_device(name, tensor, x)
    if tensor.dtype is not x.dtype and not autocasts(tensor):
        raise RuntimeError(
            f"expected {name} of {x.dtype}, the dtype of x, got {tensor.dtype}: convert it with {conversion(name, tensor, x.dtype)}"
        )


def brief(value: object) -> str:
    """A value in one line: its repr, or its type if the repr is longer."""
    text = repr(value)
    return text if "\n" not in text and len(text) <= 100 else f"a value of type {type(value).__name__}"


def brief_numbers(numbers: object) -> str:
    """Lengths or indices, of whatever type they are, in one line."""
    if isinstance(numbers, ARRAYS):
        kind = "an array"
        if isinstance(numbers, Tensor):
            kind = "a tensor"
            if torch.compiler.is_compiling():  # whose numbers come later
                return f"{kind} of shape {tuple(numbers.shape)}"
            numbers = unwrapped(numbers)
            if numbers.is_nested or numbers.layout is not torch.strided or numbers.is_meta:
                return kind
        if numbers.ndim != 1:
            return f"{kind} of shape {tuple(numbers.shape)}"
        return brief_list(flat_list(numbers) if isinstance(numbers, Tensor) else numbers.tolist())
    return brief_list(list(numbers)) if isinstance(numbers, (list, tuple)) else brief(numbers)


def brief_list(values: Sequence[object]) -> str:
    """The first eight of a list's values."""
    return f"[{', '.join([*map(brief, values[:8]), *(['...'] if len(values) > 8 else [])])}]"
