"""Makes torch.nn's own names build Elman's modules inside a context."""

from __future__ import annotations

import functools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from elman.conversion.classes import PAIRS, InconvertibleError, as_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

_lock = threading.Lock()
_depth = 0
_constructors: dict[type[nn.Module], Callable[..., None]] = {}  # torch.nn's, while they are replaced


@contextmanager
def patched() -> Iterator[None]:
    """Inside this context, ``torch.nn.RNN``, ``GRU``, ``LSTM``, ``RNNCell``, ``GRUCell`` and ``LSTMCell`` build Elman's modules.

    >>> import elman, torch
    >>> from torch.nn import LSTM
    >>> with elman.patched():
    ...     lstm = LSTM(10, 20)
    >>> type(lstm), isinstance(lstm, LSTM)
    (<class 'elman.layers.lstm.LSTM'>, True)

    Use it for code that you cannot edit. The classes stay the same objects, so it does not matter how that code imported them:
    ``from torch.nn import LSTM`` before the block is covered, and so are subclasses, wherever they were defined. Modules built inside stay
    Elman's after the block. Their state_dicts load anywhere, their pickles where Elman is installed. Blocks may be nested. The effect ends
    with the outermost block, also on an exception; until then it applies to every thread.

    Not covered: modules that were built before the block or come from ``torch.load`` or ``copy.deepcopy`` (use ``elman.convert``); modules
    built after the block; subclasses that call ``torch.nn.RNNBase.__init__`` themselves, or that override the
    bookkeeping of ``_flat_weights`` or define a name that Elman's modules use, such as ``stack``. They stay torch.nn's.
    """
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            for theirs, ours in PAIRS.items():
                _constructors[theirs] = theirs.__init__
                theirs.__init__ = _building(ours, theirs.__init__)  # type: ignore[method-assign]
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                for theirs, constructor in _constructors.items():
                    theirs.__init__ = constructor  # type: ignore[method-assign]
                _constructors.clear()


def _building(ours: type[nn.Module], constructor: Callable[..., None]) -> Callable[..., None]:
    """A constructor that makes an object of torch.nn's class one of Elman's and builds that; where there is no such class, torch.nn's."""

    @functools.wraps(constructor)
    def build(self: nn.Module, *arguments: Any, **named: Any) -> None:
        try:
            kind = as_ours(type(self))
        except InconvertibleError:
            constructor(self, *arguments, **named)
        else:
            object.__setattr__(self, "__class__", kind)
            ours.__init__(self, *arguments, **named)

    return build
