"""Checks the parameters at a call: anything may have been assigned to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from elman.layers.errors import autocasts, check_layout

if TYPE_CHECKING:
    from collections.abc import Container, Sequence


def as_parameters(
    names: Sequence[str], params: Sequence[object], shapes: Sequence[tuple[int, ...]], may_lack: Container[str] = ()
) -> tuple[Tensor, ...]:
    """The parameters, checked.

    Args:
        names: their names.
        params: whatever the module has under these names.
        shapes: the shapes that they should have.
        may_lack: the names of those that may be None, for zeros.

    Raises:
        TypeError: one is not a tensor.
        RuntimeError: one has the wrong shape or layout, or they differ in dtype or device.
    """
    first: Tensor | None = None
    checked = []
    for name, param, shape in zip(names, params, shapes, strict=True):
        if param is None and name in may_lack and first is not None:
            checked.append(first.new_zeros(shape))
            continue
        if not isinstance(param, Tensor):
            got = "None" if param is None else type(param).__name__
            hint = ": it was deleted or set to None" if param is None else ""
            if name.startswith("bias"):
                hint = ": for a network without biases, build one with bias=False"
            raise TypeError(f"expected {name} to be a tensor of shape {shape}, got {got}{hint}")
        first = param if first is None else first
        check_layout(name, param)
        if param.shape != shape:
            raise RuntimeError(f"expected {name} of shape {shape}, got {tuple(param.shape)}: it does not fit the module's class and sizes")
        if param.device != first.device:
            raise RuntimeError(
                f"expected {name} on {first.device}, where {names[0]} is, got {param.device}: move the whole module with .to()"
            )
        if param.dtype is not first.dtype and not autocasts(param):
            raise RuntimeError(
                f"expected {name} of {first.dtype}, as {names[0]} is, got {param.dtype}: convert the whole module with .to()"
            )
        checked.append(param)
    return tuple(checked)
