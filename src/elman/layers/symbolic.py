"""A call that torch.fx records: one node that calls the module, as for torch.nn's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.fx import Proxy

if TYPE_CHECKING:
    from torch import nn


def recorded(module: nn.Module, x: object, hx: object, **named: object) -> Any:
    """The result of a call as torch.fx records it; None if ``x`` is not what torch.fx puts in the place of a tensor."""
    if not isinstance(x, Proxy):
        return None
    given = {name: value for name, value in named.items() if value is not None}
    tracer: Any = x.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (x,) if hx is None else (x, hx), given)
