"""Converts the recurrent modules inside a model, in place, between torch.nn's classes and Elman's."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from elman.conversion.classes import PAIRS, InconvertibleError, as_ours, as_theirs, check_names, torch_base
from elman.layers.layer import RecurrentLayer
from elman.layers.module import RecurrentModule
from elman.layers.torch_cell import TorchCell

if TYPE_CHECKING:
    from collections.abc import Callable

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")

# Elman's attributes that torch.nn's modules don't have.
_OURS = ("recompute", "learn_initial_state")


def convert(module: M) -> M:
    """Turn every ``torch.nn.RNN``, ``GRU``, ``LSTM``, ``RNNCell``, ``GRUCell`` and ``LSTMCell`` inside a model into Elman's, in place.

    >>> import elman, torch
    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(10, 20), "head": torch.nn.Linear(20, 2)})
    >>> elman.convert(model)["rnn"].__class__
    <class 'elman.layers.gru.GRU'>
    >>> isinstance(model["rnn"], torch.nn.GRU)
    True

    Each module stays the same object and only changes its class. Its parameters stay the same objects too, so optimizers, hooks,
    parametrizations, other attributes and shared modules keep working. Nothing is copied. Subclasses are converted too: their own methods
    stay, and ``super()`` reaches Elman's. Such a module gets a new class of the same name that inherits from both. A metaclass is
    called for it, ``__init_subclass__`` is not.

    Args:
        module: any module, including one loaded by ``torch.load``, or a recurrent layer itself.

    Returns:
        The same module.

    Raises:
        TypeError: it is not a module.

    Warns:
        UserWarning: a recurrent module stays as it is, for example because torch.jit.script has compiled it, or because its class overrides
            the bookkeeping of ``_flat_weights`` or defines a name that Elman's modules use, such as ``stack``. The warning names each one
            and says why. Or a subclass overrides forward: it is converted, but whatever it computes without ``super().forward`` does not
            run on Elman's kernels.
    """
    changed = _change(module, "convert", _plan_ours, _make_ours)
    own = [f"{path} ({type(each).__name__})" for path, each in changed if _overrides_forward(each)]
    if own:
        warnings.warn(
            f"these override forward; only what they call through super() runs on Elman's kernels: {', '.join(own)}", stacklevel=2
        )
    return module


def to_torch(module: M) -> M:
    """Turn every Elman module inside a model back into torch.nn's, in place: the inverse of ``convert``.

    >>> import elman, torch
    >>> elman.to_torch(torch.nn.Sequential(elman.LSTM(10, 20)))[0].__class__
    <class 'torch.nn.modules.rnn.LSTM'>

    Parameters, hooks and attributes stay the same objects. ``recompute`` is left out: it does not change results.

    Args:
        module: any module, or a recurrent layer itself.

    Returns:
        The same module.

    Raises:
        TypeError: it is not a module.

    Warns:
        UserWarning: an Elman module stays as it is, because it has a learned initial state, which torch.nn's layers do not have, or because
            its class was written for Elman. The warning names each one and says why.
    """
    _change(module, "to_torch", _plan_theirs, _make_theirs)
    return module


def _change(
    module: nn.Module, name: str, plan: Callable[[nn.Module], type[nn.Module] | None], make: Callable[[Any, type[nn.Module]], nn.Module]
) -> list[tuple[str, nn.Module]]:
    """Change the class of each module that has a plan, and report those that cannot have one.

    Returns those that were changed, with their names.
    """
    if not isinstance(module, nn.Module):
        got = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise TypeError(f"expected {name} to get a module, got {got}")
    left: list[str] = []

    def possible(path: str, act: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return act(*arguments)
        except InconvertibleError as error:
            left.append(f"{path} ({error})")
            return None

    modules = [(path or "the module itself", each) for path, each in module.named_modules()]
    planned = [(path, each, possible(path, plan, each)) for path, each in modules]  # all of them before one is changed
    changed = [(path, each) for path, each, kind in planned if kind is not None and possible(path, make, each, kind) is not None]
    if left:
        warnings.warn(f"{name} leaves these modules as they are: {'; '.join(left)}", stacklevel=3)
    return changed


def _plan_ours(module: nn.Module) -> type[nn.Module] | None:
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        if getattr(module, "original_name", None) in {theirs.__name__ for theirs in PAIRS}:
            raise InconvertibleError("torch.jit.script compiled it")
        return None
    if isinstance(module, RecurrentModule) or not isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return None
    if (base := torch_base(kind)) is not None:
        _check_forward(module)
        check_names(PAIRS[base], "it", (*vars(module), *module._modules, *module._buffers, *module._parameters))
    return as_ours(kind)


def _overrides_forward(module: nn.Module) -> bool:
    return not any(vars(ours).get("forward") is type(module).forward for ours in (RecurrentLayer, TorchCell))


def _plan_theirs(module: nn.Module) -> type[nn.Module] | None:
    if not isinstance(module, RecurrentModule):
        return None
    if module._learned:
        raise InconvertibleError("it has a learned initial state")
    _check_forward(module)
    return as_theirs(type(module))


def _check_forward(module: nn.Module) -> None:
    """Raise InconvertibleError if what runs is not the class's method, which would change with the class, but an attribute that has it."""
    if "forward" in vars(module):
        raise InconvertibleError("an attribute forward replaces its method")


def _make_ours(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    before, attributes = type(module), dict(vars(module))
    instead = _replaced_weights(module)
    try:
        object.__setattr__(module, "__class__", kind)
        module._derive(module._cell())  # type: ignore[operator]  # it is a RecurrentModule now
        if instead:
            module._take_instead(instead)  # type: ignore[operator]
    except Exception as error:
        object.__setattr__(module, "__class__", before)
        vars(module).update(attributes)
        raise InconvertibleError(str(error)) from error
    return module


def _replaced_weights(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that calls of a torch.nn layer take in place of its parameters: others in its list, as dropout leaves them.

    There are none if a parameter is another than when the list was made: then torch.nn makes it anew in the next call.
    """
    if not isinstance(module, nn.RNNBase) or module._weights_have_changed():  # type: ignore[no-untyped-call]
        return {}
    listed = zip(vars(module).get("_flat_weights_names", ()), vars(module).get("_flat_weights", ()), strict=False)
    return {
        name: weight
        for name, weight in listed
        if isinstance(weight, Tensor) and weight is not (parameter := module._parameters.get(name)) and parameter is not None
    }


def _make_theirs(module: RecurrentModule[Any], kind: type[nn.Module]) -> nn.Module:
    weights = None if module._weights_instead is None else list(module._weights())
    module._announce_change()
    attributes = {name: value for name, value in RecurrentModule.__getstate__(module).items() if name not in _OURS}
    if isinstance(module, nn.RNNBase):
        names = ("mode", "proj_size", "_flat_weights_names", "_all_weights")
        attributes |= {name: getattr(module, name) for name in names}
    object.__setattr__(module, "__class__", kind)
    vars(module).clear()
    vars(module).update(attributes)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
        if weights is not None:
            module._flat_weights = weights
    return module
