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
    from collections.abc import Callable, Iterable, Sequence

    from torch.nn.utils.rnn import PackedSequence

    from elman.backends import Spans, Stack


# What the scan is given: x, states, params, spans; checked, time-major, with a batch axis.
Call: TypeAlias = "tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...], Spans]"


class RecurrentModule(nn.Module, ABC):
    """A module that owns the parameters of a stack.

    Attributes:
        stack: what is to be run.
    """

    stack: Stack
    _learned: tuple[str, ...] = ()  # the names of the learned initial states, which are parameters of the module but not of the stack

    def _own_parameters(self, names: Iterable[str], device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create a parameter for each name, in the order of the stack's parameters, and draw their values."""
        stack = self.stack
        names = tuple(names)
        for name, shape in zip(names, stack.shapes, strict=True):
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self._names = names
        self._state_names = ("hx",) if len(stack.cell.states) == 1 else tuple([f"{state}_0" for state in stack.cell.states])
        self._read: Callable[[dict[str, Any]], tuple[Tensor, ...]] = itemgetter(*names)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew from the uniform distribution over ±1/sqrt(H); learned initial states become zeros."""
        bound = 1.0 / math.sqrt(self.stack.hidden_size) if self.stack.hidden_size > 0 else 0.0
        for name, parameter in self.named_parameters():
            if name in self._learned:
                nn.init.zeros_(parameter)
            else:
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

    def _states(self, hx: Any) -> tuple[Tensor, ...] | None:
        """The states as a tuple, of what the caller gave as hx. Says no more than whether it is a tuple where one is due."""
        if hx is None:
            return None
        count = len(self._state_names)
        if count == 1:
            return (hx,)
        expected = f"a tuple ({', '.join(self._state_names)})"
        if not isinstance(hx, tuple | list):
            raise checks.wrong_kind("hx", expected, hx)
        if len(hx) != count:
            raise RuntimeError(f"expected hx to be {expected}, got {len(hx)} of them")
        return tuple(hx)

    def _check_states(
        self, states: tuple[Tensor, ...], x: Tensor, axes: str, before: tuple[int, ...], ranks: Sequence[int] | None = None
    ) -> None:
        """Raise what is wrong with the initial states, if anything is (``checks.check_state``). ``before``: their shape less the units."""
        for name, state, size in zip(self._state_names, states, self.stack.state_sizes, strict=True):
            units = axes if size == self.stack.hidden_size else axes.replace("H", "P")
            checks.check_state(name, state, x, (*before, size), units, ranks)

    @abstractmethod
    def _prepare(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> Call:
        """Check a call's arguments and bring them into the scan's form."""
