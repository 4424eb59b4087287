"""A call that torch.fx records: one node that calls the module, as for torch.nn's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.fx import Proxy

from elman.layers.errors import wrong_kind

if TYPE_CHECKING:
    from torch import nn


def recorded(module: nn.Module, x: object, hx: object, **named: object) -> Any:
    """The result of a call as torch.fx records it; None if ``x`` is not what torch.fx puts in the place of a tensor.

    Raises:
        TypeError: the module's class has a forward of its own: the node would run all of it, though its beginning is recorded already.
    """
    if not isinstance(x, Proxy):
        return None
    if not type(module).forward.__module__.startswith("elman."):
        raise wrong_kind("x", "a tensor", x)
    given = {name: value for name, value in named.items() if value is not None}
    tracer: Any = x.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (x,) if hx is None else (x, hx), given)
