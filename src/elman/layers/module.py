"""What layers and cells share: parameters in torch.nn's order, and the quick way to read them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from elman.backends import kernels
from elman.layers import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch.nn.utils.rnn import PackedSequence

    from elman.backends import Stack


# What the scan is given: x, states, params, batch_sizes; checked, time-major, with a batch axis.
Call: TypeAlias = "tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...], Tensor | None]"


class RecurrentModule(nn.Module, ABC):
    """A module that owns the parameters of a stack.

    Attributes:
        stack: what is to be run.
    """

    stack: Stack

    def _own_parameters(self, names: Iterable[str], device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create a parameter for each name, in the order of the stack's parameters, and draw their values."""
        stack = self.stack
        names = tuple(names)
        for name, shape in zip(names, stack.shapes, strict=True):
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self._names = names
        self._read: Callable[[dict[str, Any]], tuple[Tensor, ...]] = itemgetter(*names)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew from the uniform distribution over ±1/sqrt(H)."""
        bound = 1.0 / math.sqrt(self.stack.hidden_size) if self.stack.hidden_size > 0 else 0.0
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def _own_params(self) -> tuple[Tensor, ...] | None:
        """The same unchecked; None if a parametrisation, weight_norm or pruning took one out: it is a property or an attribute then."""
        try:
            # Past nn.Module.__getattr__, which costs more than a small kernel. functional_call swaps the entries of this very dict.
            return self._read(self._parameters)
        except KeyError:
            return None

    def _params(self) -> tuple[Tensor, ...]:
        """The parameters as they are now, in the stack's order. Never a list from an earlier call, which would go stale."""
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():  # who records this follows plain attributes
            params = tuple([getattr(self, name) for name in self._names])
            checks.check_parameters(self._names, params, self.stack.shapes)
            return params
        params = self._own_params() or tuple([getattr(self, name) for name in self._names])
        if kernels.dense_addresses(params, self.stack.shapes) is None:  # not what it nearly always is, so perhaps wrong
            checks.check_parameters(self._names, params, self.stack.shapes)
        return params

    @abstractmethod
    def _prepare(self, x: Tensor | PackedSequence, states: tuple[Tensor, ...] | None) -> Call:
        """Check a call's arguments and bring them into the scan's form."""
