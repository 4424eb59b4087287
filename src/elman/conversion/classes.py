"""Maps torch.nn's recurrent classes, and subclasses of them, to Elman's classes and back.

Elman's classes inherit from torch.nn's. So a class of both, ``class Converted(Theirs, elman.LSTM)``, has in its order of resolution first
what ``Theirs`` adds to ``torch.nn.LSTM``, then Elman's LSTM, and only then torch.nn's: what ``Theirs`` calls by ``super()`` is Elman's.

No registry holds these classes: a class knows its subclasses weakly, so the combined class lives as long as it is in use.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from elman import layers
from elman.layers.layer import RecurrentLayer
from elman.layers.module import RecurrentModule, taken_names, users_classes
from elman.layers.torch_layer import ASKED, bookkeeping_overridden, overridden

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Kind = type[nn.Module]

PAIRS: Mapping[Kind, Kind] = {getattr(nn, name): getattr(layers, name) for name in ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")}
_THEIRS = {ours: theirs for theirs, ours in PAIRS.items()}
_lock = threading.RLock()  # one class of both for a class, whichever thread asks first


class InconvertibleError(TypeError):
    """There is no corresponding class. The message is a clause that says why."""


def torch_base(kind: Kind) -> Kind | None:
    """The one of torch.nn's six classes that a class inherits from."""
    return next((base for base in kind.__mro__ if base in PAIRS), None)


def as_ours(kind: Kind) -> Kind:
    """Elman's class for one of torch.nn's, or for a subclass of one. Raises InconvertibleError if there is none."""
    if issubclass(kind, RecurrentModule):
        return kind
    base = torch_base(kind)
    if base is None:
        raise InconvertibleError(f"{kind.__name__} is not torch.nn's RNN, GRU, LSTM or a cell of these")
    if kind is base:
        return PAIRS[base]
    if _is_parametrized(kind):
        return _rebased(kind, as_ours(kind.__base__))  # type: ignore[arg-type]
    if issubclass(base, nn.RNNBase) and (names := bookkeeping_overridden(kind)):
        raise InconvertibleError(f"{kind.__name__} overrides {', '.join(names)}")
    check_names(PAIRS[base], kind.__name__, (name for each in users_classes(kind) for name in vars(each)))
    with _lock:
        made = (each for each in type.__subclasses__(kind) if vars(each).get("_converted_from") is kind)
        return next(made, None) or _of_both(kind, PAIRS[base])


def check_names(ours: Kind, owner: str, names: Iterable[str]) -> None:
    """Raise InconvertibleError if the owner has names of its own that the modules of Elman's class use for themselves."""
    if taken := taken_names(ours, names, ("learn_initial_state", "recompute")):
        raise InconvertibleError(f"{owner} has {', '.join(taken)}, which Elman's modules use")


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
    if issubclass(ours, RecurrentLayer) and overridden(kind, ASKED):
        names["_run"] = ours._run_asking
    return _make(kind, (kind, ours), names)


def _reduce(module: nn.Module, protocol: object) -> tuple[object, ...]:
    """Pickle by naming the class that can be imported; unpickling makes Elman's class of it again."""
    kind = type(module)
    return _new, (vars(kind).get("_converted_from", kind),), module.__getstate__()  # type: ignore[no-untyped-call]


def _new(kind: Kind) -> nn.Module:
    """An empty module, whose attributes unpickling sets."""
    ours = as_ours(kind)
    return ours.__new__(ours)


def _is_parametrized(kind: Kind) -> bool:
    """Whether torch.nn.utils.parametrize made this class, for a single module."""
    return getattr(vars(kind).get("__getstate__"), "__module__", None) == "torch.nn.utils.parametrize"


def _rebased(kind: Kind, base: Kind) -> Kind:
    """A class whose functions don't use ``super()``, with another base. A new one each time: its properties are one module's."""
    names = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return _make(kind, (base,), names)


def _make(kind: Kind, bases: tuple[Kind, ...], names: dict[str, Any]) -> Kind:
    """A class made as ``kind`` was, by its metaclass. Raises InconvertibleError if that refuses, in whatever way."""
    metaclass: Any = type(kind)
    try:
        with _lock, _without_hook(bases[0]):
            return cast("Kind", metaclass(kind.__name__, bases, names))
    except Exception as error:
        raise InconvertibleError(f"{kind.__name__} cannot be subclassed: {error}") from error


@contextmanager
def _without_hook(kind: Kind) -> Iterator[None]:
    """Make a subclass without calling the client's ``__init_subclass__``, which might register it as one of the client's own classes.

    The hook is replaced in the class itself. A base before ``kind`` would hide it too, but then ``__class__`` cannot be assigned: Python
    compares the first bases. The hook still hears of classes that other threads define in the meantime.
    """
    hook, thread = vars(kind).get("__init_subclass__"), threading.get_ident()

    def hear(cls: Kind, /, **named: Any) -> None:
        if threading.get_ident() != thread:
            (super(kind, cls).__init_subclass__ if hook is None else hook.__get__(None, cls))(**named)

    type.__setattr__(kind, "__init_subclass__", classmethod(hear))
    try:
        yield
    finally:
        if hook is None:
            type.__delattr__(kind, "__init_subclass__")
        else:
            type.__setattr__(kind, "__init_subclass__", hook)
