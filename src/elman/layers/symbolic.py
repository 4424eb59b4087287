"""A call that torch.fx records: one node that calls the module, as for torch.nn's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy, Tracer
from torch.fx._symbolic_trace import _orig_module_call
from torch.fx.experimental.proxy_tensor import PythonKeyTracer

from elman.layers.errors import wrong_kind

if TYPE_CHECKING:
    from collections.abc import Iterable


def may_be_recorded(x: object) -> bool:
    """Whether ``recorded`` is to be asked: x is no tensor; or it is one, a buffer of the model's, while torch.fx records a call."""
    return not isinstance(x, Tensor) or not (torch.compiler.is_dynamo_compiling() or nn.Module.__call__ is _orig_module_call)


def recorded(module: nn.Module, x: object, hx: object, **named: object) -> Any:
    """The result of a call as torch.fx records it; None if it records none.

    Raises:
        TypeError: the module's class has a forward of its own: the node would run all of it, though its beginning is recorded already.
    """
    tracer = _tracer((x, hx, *named.values()))
    if tracer is None:
        return None
    if not type(module).forward.__module__.startswith("elman."):
        if isinstance(x, Proxy):
            raise wrong_kind("x", "a tensor", x)
        return None
    given = {name: value for name, value in named.items() if value is not None}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (x,) if hx is None else (x, hx), given)


def _tracer(given: Iterable[object]) -> Any:
    """What records a call, whose arguments may all be the model's: torch.fx binds it in what it puts in place of Module.__call__."""
    held = [cell.cell_contents for cell in getattr(nn.Module.__call__, "__closure__", None) or ()]
    proxies = [part for each in given for part in (each if isinstance(each, tuple) else (each,)) if isinstance(part, Proxy)]
    tracers = [each for each in (*held, *(proxy.tracer for proxy in proxies)) if isinstance(each, Tracer)]
    return tracers[0] if tracers and not isinstance(tracers[0], PythonKeyTracer) else None  # make_fx, which records operators
