"""Checks the input of a stream, a tensor or an array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from elman.layers.arguments import check_input
from elman.layers.errors import check_memory, check_unmasked, wrong_kind

if TYPE_CHECKING:
    from elman.layers import Recurrent


def as_input(rnn: Recurrent[Any], batch: int, x: Any, axes: dict[int, str], batch_axis: int) -> Tensor:
    """X as a tensor, checked: itself, or a copy of the array where the parameters are.

    Args:
        rnn: the network.
        batch: B.
        x: as the caller gave it.
        axes: the names of its axes, by their number: with a batch axis, and without.
        batch_axis: which axis B is.
    """
    if batch > 1:
        axes = {rank: names for rank, names in axes.items() if "B" in names}
    weight = rnn._params()[0]
    given = x if isinstance(x, Tensor) else array_as_tensor("x", x, weight)
    check_input(given, weight, rnn.input_size, axes, ValueError)
    check_memory("x", given)
    shape = tuple(given.shape)
    if "B" in axes[len(shape)] and shape[batch_axis] != batch:
        raise RuntimeError(
            f"expected x of {batch} {'sequence' if batch == 1 else 'sequences'} (batch_size), got {shape[batch_axis]}: "
            f"x has shape {shape}; make the stream with elman.stream(rnn, batch_size={shape[batch_axis]})"
        )
    return given


def array_as_tensor(name: str, array: Any, weight: Tensor) -> Tensor:
    """A copy of an array, checked, as a tensor where the parameters are."""
    check_unmasked(name, array)
    if not isinstance(array, np.ndarray):
        raise wrong_kind(name, "a torch tensor or a NumPy array", array)
    expected = getattr(np, str(weight.dtype).removeprefix("torch."), None)
    if expected is None:
        raise ValueError(f"expected {name} to be a torch tensor: the parameters are {weight.dtype}, which NumPy does not have")
    if array.dtype != expected:
        raise ValueError(
            f"expected {name} of {np.dtype(expected)}, the parameters' dtype, got {array.dtype}: convert it with "
            f"{name}.astype(numpy.{np.dtype(expected)})"
        )
    return torch.from_numpy(np.array(array)).to(weight.device)
