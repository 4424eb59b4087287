"""What layers and cells share: they own a stack's parameters, in torch.nn's order, with quick access to them."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from numbers import Integral
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from elman.backends import kernels
from elman.backends.program.stand_in import words_of
from elman.cells import Cell
from elman.layers.errors import brief, place_of_error
from elman.layers.options import check_placement
from elman.layers.parameters import as_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch.nn.utils.rnn import PackedSequence

    from elman.backends import Operands, Stack
    from elman.layers.spans import Lengths, Reset

T = TypeVar("T")
State = TypeVar("State")  # what hx and the final state are: a tensor, or for a cell of several states a tuple of tensors

# What torch.nn's layers have beside their parameters, the last in weak references, which cannot be pickled.
_TORCHS = ("_flat_weights", "_flat_weights_names", "_all_weights", "_flat_weight_refs", "mode")  # no set: torch.compile of 2.8 fails on it


# What a module works out from its sizes.
_DERIVED = ("stack", "_single_steps", "_names", "_state_names", "_read", "_learned", "_run", "_weights_instead")


class Derived(Generic[T]):
    """An attribute that follows from a module's sizes. It is one of the module's own attributes, which are quick to read. If it is missing,
    the module was not built by its constructor (its ``__class__`` was assigned, for example), and it is worked out now.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, module: RecurrentModule[Any] | None, owner: type) -> T:
        if module is None:
            return self  # type: ignore[return-value]
        try:
            module._derive(module._cell())
        except AttributeError as error:  # which nn.Module would take for its own
            kind = type(module).__name__
            message = f"expected a module with the attributes of elman's {kind}, got one without {error.name}: build a new {kind}"
            raise TypeError(message) from None
        value: T = vars(module)[self._name]
        return value


if TYPE_CHECKING:

    class _WithState(nn.Module, Generic[State]):
        """A module whose calls take and return such a state."""

else:

    class _WithState(nn.Module):
        """A module whose calls take and return a state of some kind. It is no ``Generic``, so that a class may name that in any order."""

        def __class_getitem__(cls, kinds):
            return super().__class_getitem__(kinds) if issubclass(cls, Generic) else cls


@torch.no_grad()
def _fill(cell: Cell, name: str, parameter: Tensor) -> bool:
    """Let a cell fill a parameter with its initial values. Returns whether it did; raises a RuntimeError if it says otherwise."""
    if type(cell).init is Cell.init:
        return False
    kind = type(cell).__name__
    parameter.fill_(math.nan)
    try:
        returned = cell.init(name, parameter)
    except Exception as error:
        got = f"{type(error).__name__}: {words_of(error) or 'no words'}"
        shape, place = tuple(parameter.shape), place_of_error(error)
        raise RuntimeError(f"expected {kind}.init to fill {name}, of shape {shape}, in place, got {got}{place}") from error
    if not isinstance(returned, (bool, type(None))):
        raise RuntimeError(
            f"expected {kind}.init to return whether it filled {name}, got {brief(returned)}: fill it in place and return True"
        )
    filled = bool(returned)
    if parameter.is_meta or torch._C._len_torch_dispatch_stack() or torch.compiler.is_compiling():  # its numbers may be unknown
        return filled
    left = parameter.isnan()
    if not (~left if filled else left).all():
        if filled:
            raise RuntimeError(f"expected {kind}.init to fill all of {name}, got numbers that are NaN: return True only for what it fills")
        raise RuntimeError(
            f"expected {kind}.init to return True for {name}, which it fills, got {brief(returned)}: "
            "return True after filling it, and False for all other names"
        )
    return filled


def _read_nothing(parameters: dict[str, Any]) -> tuple[Tensor, ...]:
    """Say, as for a parameter that is not there, that the module is to be asked."""
    raise KeyError


def users_classes(kind: type) -> list[type]:
    """The classes that make up a class, but for torch's, Elman's and Python's."""
    return [each for each in kind.__mro__ if each.__module__.split(".")[0] not in ("abc", "builtins", "elman", "torch", "typing")]


def taken_names(kind: type, names: Iterable[str], options: Iterable[str] = ()) -> list[str]:
    """Those of the names that the modules of one of Elman's classes, or of a subclass of it, use for themselves. ``options``: others that
    are taken, too.
    """
    bases = {origin: [vars(base) for base in kind.__mro__ if base.__module__.startswith(origin)] for origin in ("elman.", "torch.nn.")}
    own = {name for base in bases["elman."] for name in base if name == "stack" or (name.startswith("_") and not name.startswith("__"))}
    return sorted(own.union(options).difference(_TORCHS, *bases["torch.nn."]).intersection(names))


def _reader_of_one(name: str) -> Callable[[dict[str, Any]], tuple[Tensor, ...]]:
    return lambda parameters: (parameters[name],)


class RecurrentModule(_WithState[State]):
    """A module that owns the parameters of a stack. Abstract: a subclass says which, and how a call is checked.

    It is not an ``abc.ABC``, so that a class may name ABC or a metaclass of its own beside it, in any order.

    Attributes:
        stack: what is to be run.
    """

    _fixed = frozenset(("input_size", "hidden_size", "bias", "stack"))  # what a built module stays: its parameters are made for it
    _may_lack: tuple[str, ...] = ()  # the parameters that may be set to None, as zeros; torch 2.8 compiles no frozenset here
    input_size: int
    hidden_size: int
    stack = Derived["Stack"]()
    _names = Derived[tuple[str, ...]]()  # of the parameters, in the stack's order
    _state_names = Derived[tuple[str, ...]]()  # by which messages call the states
    _read = Derived[Callable[[dict[str, Any]], tuple[Tensor, ...]]]()  # takes the parameters out of a dict
    # What calls take instead of parameters, by name, as long as the module's parameters are those beside it.
    _weights_instead: tuple[tuple[Any, ...], dict[str, Tensor]] | None = None
    _learned: tuple[str, ...] = ()  # the names of the learned initial states, which are parameters of the module but not of the stack

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if not cls.__module__.startswith("elman.") and "_converted_from" not in vars(cls):
            own = [each for each in users_classes(cls) if each is cls or not issubclass(each, RecurrentModule)]
            if names := taken_names(cls, (name for each in own for name in vars(each))):
                raise TypeError(f"expected {cls.__name__} not to define {', '.join(names)}, which Elman's modules use: choose other names")
        super().__init_subclass__(**kwargs)

    def _cell(self) -> Cell:
        """The equation, of a module that has its attributes but no stack yet."""
        raise NotImplementedError

    def _derive(self, cell: Cell) -> None:
        """Work out what follows from the sizes: ``_set_stack`` with a stack and its parameters' names."""
        raise NotImplementedError

    def _set_stack(self, stack: Stack, names: Iterable[str], learned: tuple[str, ...] = ()) -> None:
        """Set all that follows from the sizes."""
        own, names = vars(self), tuple(names)
        for name in (*_TORCHS, "_weights_instead"):
            own.pop(name, None)
        own["stack"] = stack
        own["_names"] = names
        own["_state_names"] = ("hx",) if len(stack.cell.states) == 1 else tuple([f"{state}_0" for state in stack.cell.states])
        own["_read"] = itemgetter(*names) if len(names) > 1 else _reader_of_one(names[0])
        own["_learned"] = learned

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":
            super().__setattr__(name, value)
            for derived in _DERIVED:  # another class may read the parameters in another way
                vars(self).pop(derived, None)
            self._announce_change()
        elif name in self._fixed and "stack" in vars(self) and hasattr(self, name):
            self._refuse_change(name, value)
        elif name in _DERIVED:
            raise AttributeError(f"expected another name than {name}, which Elman's {type(self).__name__} uses: choose one of your own")
        else:
            if name == "qconfig":  # torch's quantization sets it on every module, and replaces those of torch.nn's classes
                kind = type(self).__name__
                warnings.warn(
                    f"quantization leaves elman's {kind} as it is: convert the model first, quantize_dynamic(elman.to_torch(model))",
                    stacklevel=2,
                )
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._fixed:
            raise AttributeError(f"expected {name} to stay, got it deleted: the parameters of this {type(self).__name__} require it")
        super().__delattr__(name)

    def _announce_change(self) -> None:
        """Replace the dict of parameters, by which a stream notices that its packed weights may be out of date."""
        vars(self)["_parameters"] = self._parameters.copy()

    def _refuse_change(self, name: str, value: object) -> None:
        """Raise an AttributeError unless the value is the one that the attribute has."""
        now = getattr(self, name)
        if value is now or (isinstance(value, (int, str, Integral)) and value == now):
            return
        kind = type(self).__name__
        raise AttributeError(
            f"expected {name} to stay {now!r}, as the parameters of this {kind} require, got {brief(value)}: build another {kind}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """The attributes that torch.nn's module of the same name has; the rest is worked out again, or compiled again."""
        left_out = {*_DERIVED, *_TORCHS, "_compiled_call_impl"}
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take attributes of ``__getstate__`` or of torch.nn's module of the same name."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._derive(self._cell())

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse torch.jit.script, which calls this first."""
        raise RuntimeError(
            f"expected a module that torch.jit.script can compile, got elman's {type(self).__name__}, which calls its kernels from Python: "
            "use torch.export, torch.onnx.export or torch.jit.trace, or compile elman.to_torch(model)"
        )

    def _slow_forward(self, *arguments: Any, **named: Any) -> Any:
        """Run a call under torch.jit.trace. torch's older ONNX exporter passes the defaults of keyword-only arguments by position."""
        if torch.onnx.is_in_onnx_export():
            while len(arguments) > 1 and arguments[-1] is None:
                arguments = arguments[:-1]
        return super()._slow_forward(*arguments, **named)  # type: ignore[no-untyped-call]

    def _own_parameters(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the stack's parameters and draw their values."""
        check_placement(device, dtype)
        for name, shape in zip(self._names, self.stack.shapes, strict=True):
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters again, from the uniform distribution over ±1/sqrt(H) where the cell's ``init`` does not fill them, and set
        learned initial states to zero.
        """
        bound = 1.0 / math.sqrt(self.stack.hidden_size) if self.stack.hidden_size > 0 else 0.0
        kinds = dict(zip(self._names, itertools.cycle(self.stack.kinds)))
        for name, parameter in self.named_parameters():
            if name in self._learned:
                nn.init.zeros_(parameter)
                continue
            if not (name in kinds and _fill(self.stack.cell, kinds[name], parameter)):
                nn.init.uniform_(parameter, -bound, bound)

    def _own_params(self) -> tuple[Tensor, ...] | None:
        """The parameters as they are now, unchecked; None if one is computed, by a parametrisation, weight_norm or pruning."""
        try:
            # Past nn.Module.__getattr__, which costs more than a small kernel. functional_call swaps the entries of this very dict.
            return self._read(self._parameters)
        except KeyError:
            return None

    def _params(self) -> tuple[Tensor, ...]:
        """The parameters as they are now, checked, in the stack's order."""
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():  # who records this follows plain attributes
            return self._checked(self._weights())
        params: tuple[Any, ...] = self._own_params() or self._weights()
        if not kernels.reads(self.stack, params):  # not what it nearly always is, so perhaps wrong
            return self._checked(params)
        return params

    def _take_instead(self, tensors: dict[str, Tensor]) -> None:
        """Let calls take these tensors instead of the parameters of their names, as long as the module has its present parameters."""
        own = vars(self)
        if tensors:
            own["_weights_instead"] = tuple([getattr(self, name, None) for name in self._names]), tensors
            own["_read"] = _read_nothing
        elif own.pop("_weights_instead", None) is not None:
            own.pop("_read", None)
        else:
            return
        self._announce_change()

    def _weights(self) -> tuple[Any, ...]:
        """The parameters, None for one that there is not; or what calls take instead."""
        weights = tuple([getattr(self, name, None) for name in self._names])
        if self._weights_instead is None:
            return weights
        replaced, tensors = self._weights_instead
        if any(now is not then for now, then in zip(weights, replaced, strict=True)):
            if not torch.compiler.is_compiling():
                self._take_instead({})  # for good, as torch.nn makes its list anew
            return weights
        return tuple([tensors.get(name, weight) for name, weight in zip(self._names, weights, strict=True)])

    def _checked(self, params: Sequence[object]) -> tuple[Tensor, ...]:
        may_lack = [name for name in self._may_lack if hasattr(self, name)]  # and was not deleted
        return as_parameters(self._names, params, self.stack.shapes, may_lack)

    def _prepare(
        self,
        x: Tensor | PackedSequence,
        states: tuple[Tensor, ...] | None,
        lengths: Lengths | None,
        reset: Reset | None,
        beside: dict[str, Tensor] | None = None,
    ) -> Operands:
        """Check a call's arguments and bring them into the form that the scan takes. See ``arguments``."""
        raise NotImplementedError
