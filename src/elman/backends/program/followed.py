"""What a key is made of: what it follows, and what a step calls besides."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from elman.backends.program.frozen import Key, follow_further, followed_further, following, frozen_cell
from elman.backends.program.reach import codes_of, content_of, is_settled_for, package_of, seen_called
from elman.backends.program.stand_in import NotRecordedError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Iterator, Mapping
    from types import CodeType

    from elman.backends.program.frozen import Definition

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


def follow_called(key: Hashable, cell: object, called: Mapping[CodeType, str], always: Container[CodeType]) -> None:
    """Follow from now on what a step calls and its key does not follow: methods of the classes that the key reaches, which changes.

    That is what the step was seen to call; and what the functions that are followed ask of anything, if it can be followed.

    Args:
        called: the code of functions, with the names of their modules.
        always: those that the step calls each time.

    Raises:
        NotRecordedError: if what the step calls is no such method, or reads what may change unseen.
    """
    definitions = [each.definition for each in _parts_of(key) if isinstance(each, Key)]
    home = package_of(type(cell))
    followed = {code for each in definitions for function in each.reaches[0].functions for code in codes_of(function)}
    unseen = {code for code, module in called.items() if code not in followed and not _computes_alone(code, module, home)}
    asked = set().union(*(each.reaches[0].asked for each in definitions))
    changed = False
    with following:  # what another thread follows has changed the key, too
        for each in definitions:
            for kind, name, value in _methods_of(each):
                if name in seen_called.get(kind, ()):
                    continue
                if not unseen.isdisjoint(_codes_in(value)):
                    follow_further(each.thing, kind, name)
                    changed = True
                elif kind is each.thing and name in asked and name not in each.names and callable(value):
                    with suppress(NotRecordedError):
                        follow_further(each.thing, kind, name)
    refused = [code for code in unseen if code in always]
    if refused and not changed:
        code = min(refused, key=lambda each: each.co_firstlineno)
        place = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
        raise NotRecordedError(f"does not run a step that finds {code.co_name} while it runs, at {place} (call it by its name)")


def _methods_of(definition: Definition) -> Iterator[tuple[type, str, object]]:
    """What a class defines, and the classes that are followed with it."""
    if isinstance(definition.thing, type):
        yield from [(definition.thing, name, value) for name, value in definition.said if isinstance(name, str)]
    for kind, names in definition.reaches[0].classes:
        yield from [(kind, name, value) for name, value in list(names.items())]


def _codes_in(value: object) -> set[CodeType]:
    """The code of a function or of what holds one, and of the functions that are bound in it, as in what a decorator makes."""
    found = set(codes_of(value))
    for cell in getattr(value, "__closure__", None) or ():
        found.update(codes_of(content_of(cell)))
    return found


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
