"""What is asked of every client's model: Elman's modules in place of torch.nn's give the same numbers, gradients and state_dict."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import elman
from elman.layers.module import RecurrentModule

if TYPE_CHECKING:
    from collections.abc import Callable


def recurrent(model: nn.Module) -> list[nn.Module]:
    """The recurrent layers and cells inside, torch.nn's and Elman's."""
    return [module for module in model.modules() if isinstance(module, nn.RNNBase | nn.RNNCellBase)]


def check(name: str, build: Callable[[], nn.Module], run: Callable[[nn.Module], Any], *, convertible: bool = True) -> None:
    """Raise an AssertionError unless a model works as well with Elman's modules, built inside ``patched`` or converted.

    Args:
        name: what to call it.
        build: makes the model; with the same seed it makes the same.
        run: calls the model and returns a tensor or a tuple of tensors; with the same seed it draws the same.
        convertible: whether ``convert`` reaches its modules.
    """
    torch.manual_seed(0)
    theirs = build()
    assert recurrent(theirs), f"{name}: no recurrent module"
    assert not any(isinstance(module, RecurrentModule) for module in theirs.modules())
    torch.manual_seed(0)
    with elman.patched():
        inside = build()
    swapped = {"patched": inside}
    if convertible:
        swapped["convert"] = elman.convert(copy.deepcopy(theirs))
        swapped["and back"] = elman.to_torch(copy.deepcopy(swapped["convert"]))
    expected = _evaluate(theirs, run)
    for how, model in swapped.items():
        assert all(isinstance(module, RecurrentModule) == (how != "and back") for module in recurrent(model)), f"{name}, {how}: not swapped"
        assert [type(module).__name__ for module in recurrent(model)] == [type(module).__name__ for module in recurrent(theirs)]
        for one, two in zip(_evaluate(model, run), expected, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        theirs.load_state_dict(model.state_dict())
    print(f"{name}: {len(recurrent(theirs))} recurrent modules, {', '.join(swapped)}: the same")


def _evaluate(model: nn.Module, run: Callable[[nn.Module], Any]) -> list[Tensor]:
    """The results, and the gradients of all parameters that they depend on."""
    torch.manual_seed(1)
    results = run(model)
    results = (results,) if isinstance(results, Tensor) else tuple(results)
    loss = sum(result.square().sum() for result in results)
    gradients = torch.autograd.grad(loss, [parameter for parameter in model.parameters() if parameter.requires_grad], allow_unused=True)
    return [*[result.detach() for result in results], *[gradient for gradient in gradients if gradient is not None]]
