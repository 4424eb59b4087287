"""What layers and cells share: parameters in torch.nn's order, and the quick way to read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from elman.backends import kernels
from elman.layers import checks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch.nn.utils.rnn import PackedSequence

    from elman.backends import Spans, Stack
    from elman.cells import Cell
    from elman.layers.checks import Lengths, Reset

T = TypeVar("T")

# What the scan is given: x, states, params, spans; checked, time-major, with a batch axis.
Call: TypeAlias = "tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...], Spans]"


# What torch.nn's layers keep beside their parameters, the last in weak references, which cannot be pickled.
_TORCHS = frozenset(("_flat_weights", "_flat_weights_names", "_all_weights", "_flat_weight_refs", "mode"))


class _Derived(Generic[T]):
    """An attribute that follows from a module's sizes. It is among the module's own attributes, where reading costs nothing more; where it
    is missing, the module came by another way than its constructor (as torch.nn's, given Elman's class), and it is worked out now.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, module: RecurrentModule | None, owner: type) -> T:
        if module is None:
            return self  # type: ignore[return-value]
        module._derive(module._cell())
        found: T = vars(module)[self._name]
        return found


class RecurrentModule(nn.Module):
    """A module that owns the parameters of a stack. Abstract: a subclass says which, and how a call is checked.

    It is no ``abc.ABC``, so that a class may name ABC or a metaclass of its own beside it, in any order.

    Attributes:
        stack: what is to be run.
    """

    _fixed = frozenset(("input_size", "hidden_size", "bias", "stack"))  # what a built module stays: its parameters are made for it
    input_size: int
    hidden_size: int
    stack = _Derived["Stack"]()
    _names = _Derived[tuple[str, ...]]()  # of the stack's parameters, in its order
    _state_names = _Derived[tuple[str, ...]]()  # what is wrong with a state is said of these
    _read = _Derived[Callable[[dict[str, Any]], tuple[Tensor, ...]]]()  # those parameters, of a dict
    _learned: tuple[str, ...] = ()  # the names of the learned initial states, which are parameters of the module but not of the stack

    def _cell(self) -> Cell:
        """The equation, of a module that has its attributes but no stack yet."""
        raise NotImplementedError

    def _derive(self, cell: Cell) -> None:
        """Work out what follows from the sizes: ``_set_stack`` with a stack and its parameters' names."""
        raise NotImplementedError

    def _set_stack(self, stack: Stack, names: Iterable[str], learned: tuple[str, ...] = ()) -> None:
        """Set all that follows from the sizes."""
        own, names = vars(self), tuple(names)
        for name in _TORCHS:
            own.pop(name, None)
        own["stack"] = stack
        own["_names"] = names
        own["_state_names"] = ("hx",) if len(stack.cell.states) == 1 else tuple([f"{state}_0" for state in stack.cell.states])
        own["_read"] = itemgetter(*names)
        own["_learned"] = learned

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and "stack" in vars(self) and hasattr(self, name):
            self._refuse_change(name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._fixed:
            raise AttributeError(f"expected {name} to stay, got it deleted: the parameters of this {type(self).__name__} are made for it")
        super().__delattr__(name)

    def _refuse_change(self, name: str, value: object) -> None:
        """Raise an AttributeError unless the value is the one that the attribute has."""
        now = getattr(self, name)
        if value is now or (isinstance(value, int | str | Integral) and value == now):
            return
        kind = type(self).__name__
        raise AttributeError(
            f"expected {name} to stay {now!r}, for which this {kind} has its parameters, got {checks.brief(value)}: build another {kind}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """The attributes, as torch.nn's module of the same name has them: what follows from them is worked out again."""
        derived = {"stack", "_names", "_state_names", "_read", "_learned"} | _TORCHS
        return {name: value for name, value in vars(self).items() if name not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take attributes of ``__getstate__`` or of torch.nn's module of the same name."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._derive(self._cell())

    def __prepare_scriptable__(self) -> NoReturn:
        """What torch.jit.script asks a module for first."""
        raise RuntimeError(
            f"expected a module that torch.jit.script can compile, got elman's {type(self).__name__}, which calls its kernels from Python: "
            "use torch.compile or torch.export, or torch.jit.trace for a fixed number of steps"
        )

    def _slow_forward(self, *arguments: Any, **named: Any) -> Any:
        """What a call does under torch.jit.trace. torch's older ONNX exporter passes keyword-only arguments by position: their defaults."""
        if torch.onnx.is_in_onnx_export():
            while len(arguments) > 1 and arguments[-1] is None:
                arguments = arguments[:-1]
        return super()._slow_forward(*arguments, **named)  # type: ignore[no-untyped-call]

    def _own_parameters(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the stack's parameters and draw their values."""
        try:
            torch.empty(0, device=device, dtype=dtype)
        except TypeError:
            told = "expected device to be a torch.device, its name or None, and dtype to be a torch.dtype or None"
            raise TypeError(f"{told}, got {checks.brief(device)} and {checks.brief(dtype)}") from None
        for name, shape in zip(self._names, self.stack.shapes, strict=True):
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
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
            return checks.as_parameters(self._names, [getattr(self, name, None) for name in self._names], self.stack.shapes)
        params: tuple[Any, ...] = self._own_params() or tuple([getattr(self, name, None) for name in self._names])
        if not kernels.reads(self.stack, params):  # not what it nearly always is, so perhaps wrong
            return checks.as_parameters(self._names, params, self.stack.shapes)
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

    def _prepare(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
    ) -> Call:
        """Check a call's arguments and bring them into the scan's form."""
        raise NotImplementedError
