"""What functions can depend on besides their arguments: their own code, their closures, and the globals that they name.

Names are followed through the functions, modules and classes that they lead to: ``settings.alpha``, a helper that calls a helper. What is
installed (torch, NumPy, Python's own modules, other packages than the cell's) stays as it is, and is not followed.
"""

from __future__ import annotations

import dis
import functools
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_SETTLED = frozenset(("torch", "numpy", "elman", "builtins", *sys.stdlib_module_names))


class Reach:
    """The places that functions can read besides their arguments.

    Args:
        things: the functions, methods and properties to begin with; other things are passed over.
        home: the package whose functions are followed wherever it is installed.
    """

    def __init__(self, things: Iterable[object], home: str) -> None:
        self._home = home
        self._seen = set[int]()
        self._named: dict[tuple[int, str], tuple[Mapping[str, Any], str]] = {}
        self._cells: list[types.CellType] = []
        self.functions: list[types.FunctionType] = []
        for thing in things:
            self._follow(thing)
        self._places = list(self._named.values())

    def values(self) -> list[Any]:
        """The current contents of these places."""
        found: list[Any] = [names.get(name) for names, name in self._places]
        for function in self.functions:
            found += function.__code__, function.__defaults__, function.__kwdefaults__
        return found + [_content(cell) for cell in self._cells]

    def __bool__(self) -> bool:
        return bool(self._places or self.functions)

    def dicts(self) -> list[dict[str, Any]]:
        """The functions' own attributes and defaults that have any."""
        return [each for function in self.functions for each in (function.__kwdefaults__, vars(function)) if each]

    def _follow(self, thing: object) -> None:
        for inside in ("__func__", "fget", "func"):  # of a method, a property, a partial or cached one
            if isinstance(thing, _HOLDERS) and (function := getattr(thing, inside, None)) is not None:
                thing = function
        if isinstance(thing, types.FunctionType) and id(thing) not in self._seen:
            self._seen.add(id(thing))
            settled, cells = self._is_settled(thing.__globals__.get("__name__")), thing.__closure__ or ()
            for cell in cells:  # what torch.no_grad() wraps is bound in a function of torch's
                self._follow(_content(cell))
            if not settled:
                self.functions.append(thing)
                self._cells += cells
                for name, *attributes in _paths(thing.__code__):
                    self._follow_path(thing.__globals__, name, attributes)

    def _follow_path(self, names: Mapping[str, Any], name: str, attributes: list[str]) -> None:
        if name not in names:
            return  # one of Python's own
        value = self._place(names, name)
        for attribute in attributes:
            if not isinstance(value, types.ModuleType | type) or self._is_settled(_module_of(value)):
                break
            owners = value.__mro__ if isinstance(value, type) else (value,)
            owner = next((vars(each) for each in owners if attribute in vars(each)), None)
            if owner is None:
                return
            value = self._place(owner, attribute)
        if isinstance(value, type) and not self._is_settled(value.__module__):  # what is made of it may use all that it has
            for each in value.__mro__[:-1]:
                if not self._is_settled(each.__module__) and id(each) not in self._seen:
                    self._seen.add(id(each))
                    for key in [key for key, held in vars(each).items() if callable(held) or not key.startswith("__")]:
                        self._follow(self._place(vars(each), key))
        self._follow(value)

    def _place(self, names: Mapping[str, Any], name: str) -> Any:
        value = names[name]
        self._named[id(names), name] = names, name
        return value

    def _is_settled(self, module: str | None) -> bool:
        package = (module or "").partition(".")[0]
        return package in _SETTLED or (package != self._home and _is_installed(package))


_HOLDERS = staticmethod, classmethod, property, types.MethodType, functools.partial, functools.partialmethod, functools.cached_property


def package_of(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def is_settled(kind: type) -> bool:
    """Whether a class is one of torch's, NumPy's, Python's or ours."""
    return package_of(kind) in _SETTLED


def _module_of(value: types.ModuleType | type) -> str:
    return value.__module__ if isinstance(value, type) else value.__name__


def _is_installed(package: str) -> bool:
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty yet
        return None


def _paths(code: types.CodeType) -> Iterator[list[str]]:
    """The globals that a code names, each with the attributes that it asks of it: ``settings.alpha`` is ["settings", "alpha"]."""
    codes = [code]
    while codes:
        code = codes.pop()
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        path: list[str] = []
        for instruction in dis.get_instructions(code):
            if path and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                path.append(instruction.argval)
            elif instruction.opname != "EXTENDED_ARG":
                if path:
                    yield path
                path = [instruction.argval] if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") else []
        if path:
            yield path
