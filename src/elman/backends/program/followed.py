"""What a key is made of: what it follows, and what a step calls besides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from elman.backends.program.frozen import Key, follow_further, followed_further, frozen_cell
from elman.backends.program.reach import codes_of, is_settled_for, package_of
from elman.backends.program.stand_in import NotRecordedError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Iterator, Mapping
    from types import CodeType

T = TypeVar("T")


def holds_tensors(key: Hashable) -> bool:
    """Whether the key of a cell has in it what tensors or NumPy's arrays and numbers hold, which may change unseen by a compiler."""
    return any(isinstance(each, type) and issubclass(each, torch.Tensor | np.generic | np.ndarray) for each in _parts_of(key))


def made_for_key(cell: object, make: Callable[[Hashable], T]) -> tuple[Hashable, T] | None:
    """The key of a cell, and what ``make`` makes for it that leaves it as it was; None if it changes each time."""
    times = 0
    while times < 2:  # what a step makes once and keeps is there the second time
        before, key = followed_further(), frozen_cell(cell)
        made = make(key)
        if frozen_cell(cell) == key:
            return key, made
        times += before == followed_further()  # else the key has changed for that, here or in another thread
    return None


def follow_called(key: Hashable, cell: object, called: Mapping[CodeType, str]) -> None:
    """Follow from now on what a step calls and its key does not follow: methods of the classes in the key, which changes.

    That is what the step was seen to call, and what the functions that are followed ask of anything, be it of another class.

    Args:
        called: the code of functions, with the names of their modules.

    Raises:
        NotRecordedError: if what the step calls is no such method, or reads what may change unseen.
    """
    definitions = [each.definition for each in _parts_of(key) if isinstance(each, Key)]
    home = package_of(type(cell))
    followed = {code for each in definitions for function in each.reaches[0].functions for code in codes_of(function)}
    unseen = {code for code, module in called.items() if code not in followed and not _computes_alone(code, module, home)}
    asked = set().union(*(each.reaches[0].asked for each in definitions))
    methods = [
        (each.thing, name)
        for each in definitions
        if isinstance(each.thing, type)
        for name, value in each.said
        if isinstance(name, str) and name not in each.names and (_is_method(value, name, asked) or not unseen.isdisjoint(codes_of(value)))
    ]
    for kind, name in methods:
        follow_further(kind, name)
    if unseen and not methods:
        code = min(unseen, key=lambda each: each.co_firstlineno)
        place = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
        raise NotRecordedError(f"does not run a step that finds {code.co_name} while it runs, at {place} (call it by its name)")


def _is_method(value: object, name: str, asked: Container[str]) -> bool:
    return name in asked and (callable(value) or hasattr(type(value), "__get__"))


def _computes_alone(code: CodeType, module: str, home: str) -> bool:
    """Whether a function of a module need not be followed."""
    makes_a_tuple = code.co_filename == "<string>" and module.startswith("namedtuple_")
    return is_settled_for(module, home) or makes_a_tuple


def _parts_of(key: Hashable) -> Iterator[object]:
    """All that is in a key, and in the keys of classes and functions in it."""
    seen, found = set[int](), [key]
    while found:
        each = found.pop()
        yield each
        if isinstance(each, tuple | frozenset):
            found += each
        if isinstance(each, Key) and id(each) not in seen:
            seen.add(id(each))
            found += [before for _, _, before in each.definition.contents]
