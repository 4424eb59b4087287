"""A stand-in for tensors, with which JAX runs a cell's step although it is written in torch's operators."""

from __future__ import annotations

import operator
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class JaxTensor:
    """A JAX array that accepts the torch functions that cells use. ``jax.jit`` compiles it away."""

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def __neg__(self) -> JaxTensor:
        return JaxTensor(-self.array)

    def chunk(self, count: int, dim: int = 0) -> tuple[JaxTensor, ...]:
        return tuple(map(JaxTensor, import_module("jax.numpy").split(self.array, count, dim)))

    def mean(self, dim: int, keepdim: bool = False) -> JaxTensor:
        return JaxTensor(self.array.mean(dim, keepdims=keepdim))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> JaxTensor:
        name = func.__name__
        found = _BY_NAME.get(name) or getattr(import_module("jax.nn" if name in _ACTIVATIONS else "jax.numpy"), name, None)
        if found is None:
            raise NotImplementedError(name)
        return cls(found(*map(_array, args), **{key: _array(value) for key, value in (kwargs or {}).items()}))


_ACTIVATIONS = ("sigmoid", "relu", "softplus", "silu", "elu", "leaky_relu", "gelu", "softmax")


def _array(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_array, value))
    return value.array if isinstance(value, JaxTensor) else value


def _linear(v: Any, weight: Any, bias: Any) -> Any:
    return v @ weight.T + bias


def _rsqrt(v: Any) -> Any:
    return import_module("jax.lax").rsqrt(v)


def _layer_norm(v: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    centred = v - v.mean(-1, keepdims=True)
    return centred * _rsqrt((centred * centred).mean(-1, keepdims=True) + eps) * weight + bias


def _cat(arrays: Any) -> Any:
    return import_module("jax.numpy").concatenate(arrays)


_BY_NAME: dict[str, Callable[..., Any]] = {"linear": _linear, "cat": _cat, "layer_norm": _layer_norm, "rsqrt": _rsqrt}


def _binary(name: str, swapped: bool) -> Callable[[JaxTensor, Any], JaxTensor]:
    apply = getattr(operator, name)
    if swapped:
        return lambda self, other: JaxTensor(apply(_array(other), self.array))
    return lambda self, other: JaxTensor(apply(self.array, _array(other)))


for _name in ("add", "sub", "mul", "truediv", "and_", "lt", "le", "gt", "ge"):
    setattr(JaxTensor, f"__{_name.strip('_')}__", _binary(_name, swapped=False))
for _name in ("add", "sub", "mul", "truediv"):
    setattr(JaxTensor, f"__r{_name}__", _binary(_name, swapped=True))
