"""A call that torch.fx records: one node that calls the module, as for torch.nn's."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx import Proxy, Tracer
from torch.fx._symbolic_trace import _orig_module_call
from torch.fx.experimental.proxy_tensor import PythonKeyTracer

from elman.layers.errors import wrong_kind

if TYPE_CHECKING:
    from types import FrameType


# torch.fx puts something else in its place while it records. Then ``recorded`` is asked though x is a tensor: it may be the model's.
MODULE_CALL = _orig_module_call


def recorded(module: nn.Module, x: object, hx: object, **named: object) -> Any:
    """The result of a call as torch.fx records it; None if it records none.

    Raises:
        TypeError: the module's class has a forward of its own: the node would run all of it, though its beginning is recorded already.
    """
    parts = [part for each in (x, hx, *named.values()) for part in (each if isinstance(each, tuple) else (each,))]
    tracer: Any = next((part.tracer for part in parts if isinstance(part, Proxy)), None)
    if tracer is None and not torch.compiler.is_dynamo_compiling() and nn.Module.__call__ is not MODULE_CALL:
        tracer = _tracer(module, x)
    if tracer is None or isinstance(tracer, PythonKeyTracer):  # make_fx's, which records operators
        return None
    if not type(module).forward.__module__.startswith("elman."):
        if isinstance(x, Proxy):
            raise wrong_kind("x", "a tensor", x)
        return None
    given = {name: value for name, value in named.items() if value is not None}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (x,) if hx is None else (x, hx), given)


def _tracer(module: nn.Module, x: object) -> Tracer | None:
    """What records a call of the module with x, a tensor of the model's; None if nothing does.

    torch.fx puts a function in the place of ``Module.__call__``. A call of ``forward`` is not recorded, as it is not of torch.nn's modules;
    nor is what a tracer calls to learn the shapes of a result, with other arguments or while it makes the node.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "module_call_wrapper" and frame.f_globals.get("__name__") == Tracer.__module__:
            called, tracer = frame.f_locals, frame.f_locals.get("self")
            given = (*called.get("args", ()), *called.get("kwargs", {}).values())
            is_this = called.get("mod") is module and any(each is x for each in given)
            return tracer if is_this and isinstance(tracer, Tracer) else None
        if code is recorded.__code__ and frame.f_locals.get("tracer") is not None:
            return None
        frame = frame.f_back
    return None
