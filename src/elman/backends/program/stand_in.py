"""The stand-ins that a step is called with to record it: they have no values, and note every operation."""

from __future__ import annotations

import copy
import sys
import threading
import traceback
from dataclasses import dataclass, field
from inspect import unwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from elman.backends.program.graph import Expression, Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from elman.backends.program.program import Operand

_SKIPPED = str(Path(__file__).parent), str(Path(torch.__file__).parent), copy.__file__  # what is not the step's code

Shape = tuple["str | int", ...]  # of "B", "H" and 1


_MOST_OPERATIONS = 2048  # for which making a program takes seconds; the time grows with their square

# What gives of comparisons, which are bools, just what it gives of the numbers 0 and 1.
_OF_COMPARISONS = frozenset(
    "logical_and bitwise_and and logical_or bitwise_or or logical_xor bitwise_xor xor logical_not bitwise_not invert where to type_as "  # noqa: SIM905
    "float double lt less le less_equal gt greater ge greater_equal eq ne not_equal detach clone contiguous unsqueeze expand_as".split()
)


class NotRecordedError(Exception):
    """A step does something that cannot be recorded; the message says what and where, as the rest of a sentence.

    Attributes:
        asks_units: whether the step had asked for H, which the recording did not know: one that does may do.
    """

    asks_units = False


class UnlikeStepsError(RuntimeError):
    """A step is not the same at each call."""


@dataclass(eq=False)
class Recording:
    """One call of a step with stand-ins."""

    operations: Mapping[str, Callable[..., Any]]
    dtype: torch.dtype
    graph: Graph = field(default_factory=Graph)
    # Called with each operation's name, the stand-ins that it got and what it gave.
    listener: Callable[[str, list[Value], Value], None] = lambda name, operands, result: None
    units: int | None = None  # H, where it is known
    asks_sizes: bool = False  # whether the step has asked for a size that is not known
    asks_units: bool = False
    _inside: bool = False  # of an operation that is made of others
    said: torch.dtype | None = None  # what its tensors say that they are, if not ``dtype``
    _under_autocast: bool = field(default_factory=lambda: torch.is_autocast_enabled("cpu"))

    def call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        function = self.operations.get(name)
        if function is None:
            refuse(f"does not run the operation {name}")
        if not torch.is_grad_enabled():
            if _is_in_function():  # whose gradient is not that of its operations
                refuse("does not run a torch.autograd.Function")
            refuse("does not run a step that turns gradients off (v.detach() does)")
        if torch.is_autocast_enabled("cpu") and not self._under_autocast:
            refuse("does not run a step that turns autocast on")
        asked = {key: value for key, value in kwargs.items() if value is not None and key not in ("inplace", "_stacklevel")}
        if kwargs.get("inplace"):
            refuse(f"does not run {name} in place")
        if len(self.graph.nodes) > _MOST_OPERATIONS:
            refuse(f"does not run a step of more than {_MOST_OPERATIONS} operations")
        operands = [each for each in (*args, *asked.values()) if isinstance(each, Value)]
        if not self._inside and all(each.truth for each in operands) and name not in _OF_COMPARISONS:
            refuse(f"does not run {name} of comparisons alone (c.to(v.dtype) makes them numbers)")
        outermost, self._inside = not self._inside, True
        try:
            result = function(*(self.value(each) for each in args), **{key: self.value(each) for key, each in asked.items()})
        except TypeError as error:
            refuse(f"does not run {name} with these arguments", error)
        finally:
            self._inside = not outermost
        if outermost and isinstance(result, Value):
            self.listener(name, operands, result)
        return result

    def value(self, thing: Any) -> Any:
        """A stand-in as it is, a number as a stand-in; something else as it is."""
        if isinstance(thing, Value):
            if thing.recording is not self:
                raise UnlikeStepsError(
                    f"expected a step to use its arguments, got what an earlier call has computed (at {where()}): hand it on as a state"
                )
            return thing
        if isinstance(thing, torch.Tensor):
            if thing.numel() != 1 or thing.requires_grad:
                refuse(
                    "does not run a step with a tensor from outside that has more than one number or requires a gradient "
                    "(a parameter that init fills may hold a vector, a gate's recurrent rows a matrix)"
                )
            if thing.dim() and torch.promote_types(thing.dtype, self.dtype) is not self.dtype:
                refuse(f"does not run a step that changes the dtype to {thing.dtype}")
            return self.number(float(thing))
        return thing

    def size(self, name: str) -> UnknownSize | int:
        if name == "H" and self.units is not None:
            return self.units
        self.asks_sizes, self.asks_units = True, self.asks_units or name == "H"
        return UnknownSize(name)

    def leaf(self, operand: Operand, shape: Shape) -> Value:
        return Value(self, self.graph.leaf(operand), shape)

    def number(self, number: float) -> Value:
        return Value(self, self.graph.number(number), ())


class UnknownSize:
    """The number of sequences or of units, which a program must not depend on. It may be compared with itself, and printed in a shape."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        is_same = isinstance(other, UnknownSize) and self.name == other.name
        return True if is_same else _size_refuses(self)  # two sizes may be the same number


def shown(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"


def _is_in_function() -> bool:
    """Whether a torch.autograd.Function is running: its ``forward``, since what calls that has no frame from torch 2.14 on."""
    kinds: list[type[torch.autograd.Function]] = [torch.autograd.Function]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    forwards = {getattr(unwrap(kind.forward), "__code__", None) for kind in kinds}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in forwards:
        frame = frame.f_back
    return frame is not None


def _size_refuses(self: UnknownSize, *args: object) -> NoReturn:
    refuse(f"does not run a step that computes with the size {self.name}")


for _name in ("index", "int", "float", "bool", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "neg"):
    setattr(UnknownSize, f"__{_name}__", _size_refuses)
for _name in ("floordiv", "mod", "lt", "le", "gt", "ge", "hash", "str", "format"):
    setattr(UnknownSize, f"__{_name}__", _size_refuses)


def _operator(name: str, swapped: bool = False) -> Callable[[Value, Any], Value]:
    return lambda self, other: self.recording.call(name, (other, self) if swapped else (self, other), {})


def _operator_of_one(name: str) -> Callable[[Value], Value]:
    return lambda self: self.recording.call(name, (self,), {})


def _operator_in_place(name: str) -> Callable[[Value, Any], NoReturn]:
    return lambda self, other: self._in_place(f"__i{name}__")


def _refusing(what: str) -> Callable[..., NoReturn]:
    return lambda self, *args: refuse(what)


@dataclass(frozen=True, eq=False, repr=False)
class Value:
    """Stands for a tensor while a step is recorded.

    Attributes:
        shape_: of "B", "H" and 1.
        truth: whether it is a bool, a comparison's.
    """

    recording: Recording
    expression: Expression
    shape_: Shape
    truth: bool = False

    # The operators: Python looks for them in the class.
    __add__, __radd__ = _operator("add"), _operator("add", swapped=True)
    __sub__, __rsub__ = _operator("sub"), _operator("sub", swapped=True)
    __mul__, __rmul__ = _operator("mul"), _operator("mul", swapped=True)
    __truediv__, __rtruediv__ = _operator("truediv"), _operator("truediv", swapped=True)
    __pow__, __rpow__ = _operator("pow"), _operator("pow", swapped=True)
    __and__, __rand__ = _operator("and"), _operator("and", swapped=True)
    __or__, __ror__ = _operator("or"), _operator("or", swapped=True)
    __xor__, __rxor__ = _operator("xor"), _operator("xor", swapped=True)
    __lt__ = _operator("lt")
    __le__ = _operator("le")
    __gt__ = _operator("gt")
    __ge__ = _operator("ge")
    __eq__ = _operator("eq")  # type: ignore[assignment]
    __ne__ = _operator("ne")  # type: ignore[assignment]
    __neg__ = _operator_of_one("neg")
    __pos__ = _operator_of_one("pos")
    __abs__ = _operator_of_one("abs")
    __invert__ = _operator_of_one("invert")
    __iadd__ = _operator_in_place("add")
    __isub__ = _operator_in_place("sub")
    __imul__ = _operator_in_place("mul")
    __itruediv__ = _operator_in_place("truediv")
    __ipow__ = _operator_in_place("pow")
    __iand__ = _operator_in_place("and")
    __ior__ = _operator_in_place("or")
    __ixor__ = _operator_in_place("xor")
    __matmul__ = __rmatmul__ = _refusing("does not run matrix products other than r(...)")
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refusing("does not run rounding division")
    __bool__ = __float__ = __int__ = __index__ = _refusing("does not run a step that depends on the values of its tensors")
    __copy__ = __deepcopy__ = _refusing("does not run a copy other than clone()")
    __iter__ = __contains__ = _refusing("does not run indexing of tensors")
    __hash__ = object.__hash__
    __array_ufunc__ = None  # so that a NumPy number leaves the operation to this class

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        one = next((each for each in (*args, *(kwargs or {}).values()) if isinstance(each, Value)), None)
        name = getattr(function, "__name__", str(function))
        if one is None:
            refuse(f"does not run the operation {name}")
        return one.recording.call(name, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.endswith("_") and name[:-1] in self.recording.operations:
            self._in_place(name)
        if name in self.recording.operations:
            return lambda *args, **kwargs: self.recording.call(name, (self, *args), kwargs)
        return refuse(f"does not run the operation {name}")

    def where(self, condition: Any, other: Any) -> Any:
        """The method, which has other arguments than the function: the tensor where the condition holds."""
        return self.recording.call("where", (condition, self, other), {})

    def __getitem__(self, index: Any) -> Value:
        """Whole, with or without new axes: v[:, None], v[..., None]."""
        given = index if isinstance(index, tuple) else (index,)
        if not all(each is None or each is Ellipsis or (isinstance(each, slice) and each == slice(None)) for each in given):
            refuse("does not run indexing of tensors")
        rest = (slice(None),) * (len(self.shape_) - sum(isinstance(each, slice) for each in given))
        at = given.index(Ellipsis) if Ellipsis in given else len(given)
        value = self
        for axis, each in enumerate((*given[:at], *rest, *given[at + 1 :])):
            value = value if each is not None else self.recording.call("unsqueeze", (value, axis), {})
        return value

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        self._in_place("__setitem__")

    def __len__(self) -> int:
        size = self.shape[0] if self.shape_ else refuse("does not run len() of a number")
        return size if isinstance(size, int) else _size_refuses(size)

    def __repr__(self) -> str:
        return f"<{shown(self.shape_)}, no numbers: the step is being recorded>"

    @property
    def shape(self) -> tuple[UnknownSize | int, ...]:
        return tuple(self.recording.size(each) if isinstance(each, str) else each for each in self.shape_)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    @property
    def dtype(self) -> torch.dtype:
        return torch.bool if self.truth else self.recording.said or self.recording.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape_)

    def dim(self) -> int:
        return len(self.shape_)

    def _in_place(self, name: str) -> NoReturn:
        refuse(f"does not run an operation in place ({name})")


class _Refused(threading.local):
    """The latest refusal: a step may catch it, and go on with something else."""

    latest: NotRecordedError | None = None


_refused = _Refused()


def refuse(what: str, cause: Exception | None = None) -> NoReturn:
    _refused.latest = NotRecordedError(f"{what}, at {where()}")
    raise _refused.latest from cause


def take_refusal() -> NotRecordedError | None:
    """The latest refusal since this was asked the last time."""
    latest, _refused.latest = _refused.latest, None
    return latest


def where() -> str:
    """The line that is running outside of torch and the recorder, as file.py:12."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_SKIPPED):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def words_of(error: Exception) -> str:
    """The first line of what an error says; nothing if it says nothing, or raises one itself where it is asked."""
    try:
        return (str(error).strip().splitlines() or [""])[0]
    except Exception:  # somebody's __str__
        return ""


def where_raised(error: Exception) -> str:
    """The line of the step on which an error was raised, or that called what raised it."""
    ours = (*_SKIPPED, "<string>")  # where a dataclass has its methods
    lines = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(ours)]
    return f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else "its first line"
