"""For a class of torch.nn's recurrent modules the class of Elman's that does the same, and back. Subclasses have one too.

Elman's classes inherit from torch.nn's. So a class of both, ``class Converted(Theirs, elman.LSTM)``, has in its order of resolution first
what ``Theirs`` adds to ``torch.nn.LSTM``, then Elman's LSTM, and only then torch.nn's: what ``Theirs`` calls by ``super()`` is Elman's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

from torch import nn

from elman import layers
from elman.layers.module import RecurrentModule
from elman.layers.torch_layer import bookkeeping_overridden

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = type[nn.Module]

PAIRS: Mapping[Kind, Kind] = {getattr(nn, name): getattr(layers, name) for name in ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")}
_THEIRS = {ours: theirs for theirs, ours in PAIRS.items()}
_converted: WeakValueDictionary[Kind, Kind] = WeakValueDictionary()  # of subclasses, while somebody uses them


class InconvertibleError(TypeError):
    """There is no such class. Its message is a clause that says why."""


def torch_base(kind: Kind) -> Kind | None:
    """The one of torch.nn's six classes that a class inherits from."""
    return next((base for base in kind.__mro__ if base in PAIRS), None)


def as_ours(kind: Kind) -> Kind:
    """Elman's class for one of torch.nn's, or for a subclass of one. Raises InconvertibleError if there is none."""
    if issubclass(kind, RecurrentModule):
        return kind
    base = torch_base(kind)
    if base is None:
        raise InconvertibleError(f"{kind.__name__} is none of torch.nn's RNN, GRU, LSTM and their cells")
    if kind is base:
        return PAIRS[base]
    if _is_parametrized(kind):
        return _rebased(kind, as_ours(kind.__base__))  # type: ignore[arg-type]
    if issubclass(base, nn.RNNBase) and (names := bookkeeping_overridden(kind)):
        raise InconvertibleError(f"{kind.__name__} overrides {', '.join(names)}")
    ours = _converted.get(kind)
    if ours is None:
        ours = _converted[kind] = _of_both(kind, PAIRS[base])
    return ours


def as_theirs(kind: Kind) -> Kind:
    """The class that ``as_ours`` made this one from. Raises InconvertibleError if it is a subclass of Elman's."""
    if kind in _THEIRS:
        return _THEIRS[kind]
    if "_converted_from" in vars(kind):
        return cast("Kind", vars(kind)["_converted_from"])
    if _is_parametrized(kind):
        return _rebased(kind, as_theirs(kind.__base__))  # type: ignore[arg-type]
    raise InconvertibleError(f"{kind.__name__} is a class of its own, not one of torch.nn's")


def _of_both(kind: Kind, ours: Kind) -> Kind:
    """A class that is ``kind``, with Elman's module below it."""
    names: dict[str, Any] = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    names["_converted_from"] = kind
    if kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__:
        names["__reduce_ex__"] = _reduce
    try:
        return _make(kind, kind.__name__, (kind, ours), names)
    except TypeError as error:  # of a metaclass, or __init_subclass__
        raise InconvertibleError(f"{kind.__name__} has no subclass: {error}") from error


def _reduce(module: nn.Module, protocol: object) -> tuple[object, ...]:
    """A pickle names the class that is in a file, and makes Elman's of it again."""
    kind = type(module)
    return _new, (vars(kind).get("_converted_from", kind),), module.__getstate__()  # type: ignore[no-untyped-call]


def _new(kind: Kind) -> nn.Module:
    """A module without attributes, which the pickle brings."""
    ours = as_ours(kind)
    return ours.__new__(ours)


def _is_parametrized(kind: Kind) -> bool:
    """Whether torch.nn.utils.parametrize made this class, for a single module."""
    return getattr(vars(kind).get("__getstate__"), "__module__", None) == "torch.nn.utils.parametrize"


def _rebased(kind: Kind, base: Kind) -> Kind:
    """A class whose functions don't use ``super()``, with another base. A new one each time: its properties are one module's."""
    names = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return _make(kind, kind.__name__, (base,), names)


def _make(kind: Kind, name: str, bases: tuple[Kind, ...], names: dict[str, Any]) -> Kind:
    """A class made as ``kind`` was, by its metaclass."""
    metaclass: Any = type(kind)
    return cast("Kind", metaclass(name, bases, names))
