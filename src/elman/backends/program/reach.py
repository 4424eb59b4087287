"""What functions can depend on besides their arguments: their own code, their closures, and the globals that they name.

Names are followed through the functions, modules and classes that they lead to: ``settings.alpha``, a helper that calls a helper. What is
installed (torch, NumPy, Python's own modules, other packages than the cell's) stays as it is, and is not followed. What reads a state that
no name shows (the environment, a mode of torch's, ``globals()``, a module as a whole) is refused.
"""

from __future__ import annotations

import dis
import enum
import functools
import importlib.machinery
import operator
import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman.backends.program.stand_in import NotRecordedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_SETTLED = frozenset(("torch", "numpy", "elman", "builtins"))
_PYTHONS_FOLDER = str(Path(os.__file__).parent)
# Of Python's modules, those whose functions depend on their arguments alone, or leave no trace in what a step returns.
_PURE = frozenset(
    (
        *("__future__", "_abc", "_bisect", "_collections", "_collections_abc", "_functools", "_heapq", "_operator", "_typing", "abc"),
        *("bisect", "builtins", "cmath", "collections", "contextlib", "copy", "dataclasses", "decimal", "enum", "fractions", "functools"),
        *("heapq", "inspect", "itertools", "json", "logging", "math", "numbers", "operator", "pprint", "re", "statistics", "string"),
        *("sys", "textwrap", "time", "traceback", "types", "typing", "warnings"),
    )
)
# Python's own names that read what no name shows.
_OPAQUE = frozenset(("__import__", "eval", "exec", "globals", "input", "open"))
# What of torch's tells its modes, not what comes of tensors. Whether autocast is on is seen when a step is recorded.
_MODES = frozenset(
    (
        *("are_deterministic_algorithms_enabled", "get_default_device", "get_deterministic_debug_mode", "get_float32_matmul_precision"),
        *("get_num_interop_threads", "get_num_threads", "get_rng_state", "initial_seed", "is_anomaly_enabled", "is_compiling"),
        *("is_dynamo_compiling", "is_grad_enabled", "is_inference_mode_enabled", "is_warn_always_enabled"),
    )
)
# What of a module's tells the state of others.
_STATES = frozenset((("torch", "backends"), ("sys", "modules")))


# What steps were seen to call of classes, by other ways than a name that is followed.
seen_called: dict[type, frozenset[str]] = {}


class Reach:
    """The places that functions can read besides their arguments.

    Raises:
        NotRecordedError: if they read what may change unseen.

    Args:
        things: the functions, methods and properties to begin with; other things are passed over.
        home: the package whose functions are followed wherever it is installed.
        apart: no step calls these things: what they read is none of its results, and may change unseen.
        asks_any: whether others may ask the classes among them for any attribute.

    Attributes:
        functions: those that are followed.
        asked: the attributes that they ask of anything.
        classes: those that are followed, each with what it defines; an enumeration with its members, too.
    """

    def __init__(self, things: Iterable[object], home: str, apart: bool = False, asks_any: bool = False) -> None:
        self._home = home
        self._refuses = not apart
        self._seen = set[int]()
        self._left: list[object] = []
        self.asked = set[str]()
        self._asks_any = asks_any
        self._ways = dict[int, int]()  # how each class is followed, by its id: see ``_HELD``
        self._named: dict[tuple[int, str], tuple[Mapping[str, Any], str]] = {}
        self._places: list[tuple[Mapping[str, Any], str]] = []
        self._cells: list[types.CellType] = []
        self._tables: list[dict[Any, Any]] = []
        self.functions: list[types.FunctionType] = []
        self.classes: list[tuple[type, Mapping[str, Any]]] = []
        self.follow(things)

    def follow_held(self, kinds: Iterable[type]) -> bool:
        """Follow classes that lists, dicts and objects hold. Returns whether there was a new one."""
        before = len(self._ways)
        for kind in kinds:
            self._follow_class(kind, _HELD)
        self.follow(())
        return len(self._ways) > before

    def follow(self, things: Iterable[object]) -> None:
        """Follow further things."""
        self._left += things
        self._ask_classes()
        while self._left:
            self._visit(self._left.pop())
            if not self._left:
                self._ask_classes()
        self._places = list(self._named.values())

    def values(self) -> list[Any]:
        """The current contents of these places."""
        found: list[Any] = [names.get(name) for names, name in self._places]
        for function in self.functions:
            found += function.__code__, function.__defaults__, function.__kwdefaults__
        return found + [content_of(cell) for cell in self._cells]

    def named(self) -> list[tuple[str, Any]]:
        """The current contents of those that have a name, with it."""
        cells = [(name, content_of(cell)) for function in self.functions for name, cell in _bound(function)]
        return [(name, names.get(name)) for names, name in self._places] + cells

    def unasked(self) -> list[Any]:
        """What the classes that are followed have besides, which functions that are not followed may read."""
        found: list[Any] = []
        for _, names in self.classes:
            found += [value for name, value in list(names.items()) if is_plain(name) and (id(names), name) not in self._named]
        return found

    def __bool__(self) -> bool:
        return bool(self._places or self.functions or self.classes)

    def dicts(self) -> list[dict[str, Any]]:
        """The functions' own attributes and defaults that have any, and the tables by which others call them."""
        return [each for function in self.functions for each in (function.__kwdefaults__, vars(function)) if each] + self._tables

    def _visit(self, thing: object) -> None:
        thing = _unwrapped(thing)
        if isinstance(thing, type):
            if self._refuses:
                self._follow_class(thing, _ASKED)
        elif isinstance(thing, operator.attrgetter | operator.methodcaller):
            self.asked.add("getattr")
        elif isinstance(thing, types.ModuleType):
            if self._refuses and not self._is_settled(thing.__name__):
                raise NotRecordedError(f"does not run a step that reads {thing.__name__}, which may change unseen")
        elif isinstance(thing, types.FunctionType) and id(thing) not in self._seen:
            self._seen.add(id(thing))
            bound = {name: content_of(cell) for name, cell in _bound(thing) if name != "__class__"}  # which super() binds
            if self._is_settled(thing.__globals__.get("__name__")):  # as what torch.no_grad() wraps something in
                self._left += bound.values()
                if isinstance(table := bound.get("registry"), dict):  # of functools.singledispatch
                    self._tables.append(table)
                    self._left += table.values()
                return
            self.functions.append(thing)
            self._cells += thing.__closure__ or ()
            self.asked.update(*(code.co_names for code in codes_of(thing)))
            for line, is_bound, (name, *attributes) in _paths(thing):
                if is_bound and name not in bound:  # a local of its own, which a function in it reads
                    continue
                unseen = self._follow_path(bound if is_bound else thing.__globals__, name, attributes)
                if unseen is not None and self._refuses:
                    place = f"{Path(thing.__code__.co_filename).name}:{line}"
                    raise NotRecordedError(f"does not run a step that reads {unseen}, which may change unseen, at {place}")

    def _follow_path(self, names: Mapping[str, Any], name: str, attributes: list[str]) -> str | None:
        """What of it may change unseen."""
        if modes := _MODES.intersection(attributes):
            return f"torch.{min(modes)}"
        if name == "import":
            package = attributes[0].partition(".")[0]
            return None if package in _PURE or package in ("elman", "numpy", "torch") else f"import {attributes[0]}"
        if name not in names:  # one of Python's own
            return f"{name}()" if name in _OPAQUE else None
        value = self._place(names, name)
        if isinstance(value, types.ModuleType) and (value.__name__, *attributes[:1]) in _STATES:
            return f"{value.__name__}.{attributes[0]}"
        for attribute in attributes:
            if not isinstance(value, types.ModuleType | type) or self._is_settled(_module_of(value)):
                break
            if isinstance(value, type):
                self._follow_class(value, _WHOLE)
            owners = value.__mro__ if isinstance(value, type) else (value,)
            owner = next((vars(each) for each in owners if attribute in vars(each)), None)
            if owner is None:
                return f"{name}.{attribute}" if attribute == "__dict__" or isinstance(value, types.ModuleType) else None
            value = self._place(owner, attribute)
        if isinstance(value, types.ModuleType) and not self._is_settled(value.__name__):
            return value.__name__
        if callable(value) and getattr(value, "__name__", None) in _MODES:
            return f"torch.{value.__name__}"
        home = _module_of(value) if isinstance(value, types.ModuleType | types.FunctionType | types.BuiltinFunctionType | type) else None
        if home is not None and _is_pythons(package := home.partition(".")[0]) and package not in _PURE:
            return package
        if isinstance(value, type):
            self._follow_class(value, _WHOLE)
        else:
            self._left.append(value)
        return None

    def _follow_class(self, kind: type, way: int) -> None:
        """Follow a class, those above it and its metaclass, in the widest of the ways that it is asked for."""
        metaclass: type = type(kind)
        for each in (*kind.__mro__, *metaclass.__mro__):
            if self._is_settled(each.__module__):
                continue
            if id(each) not in self._ways:
                self.classes.append((each, vars(each)))
                if issubclass(each, enum.Enum):
                    self.classes.append((each, each.__members__))
            self._ways[id(each)] = max(way, self._ways.get(id(each), way))

    def _ask_classes(self) -> None:
        """Follow what the classes have that functions ask for: of the class, or of what is made of it."""
        asks_any = self._asks_any or not self.asked.isdisjoint(_ASK_ANY)
        for kind, names in self.classes:
            for name, value in list(names.items()):
                if (id(names), name) not in self._named and self._is_asked(kind, name, value, asks_any):
                    self._left.append(self._place(names, name))

    def _is_asked(self, kind: type, name: str, value: object, asks_any: bool) -> bool:
        """Whether functions may ask for this of a class."""
        way = self._ways[id(kind)]
        if name in seen_called.get(kind, ()):
            return True
        if name.startswith("__"):  # Python asks for these
            return way != _HELD and (callable(value) or isinstance(value, classmethod)) and not name.startswith(_UNASKED)
        if isinstance(value, enum.Enum):
            return name in self.asked or not self.asked.isdisjoint(own_names_of(value))
        is_own = is_plain(name) and not (issubclass(kind, enum.Enum) and _is_of_enums(name))
        return is_own and (way == _WHOLE or asks_any or name in self.asked)

    def _place(self, names: Mapping[str, Any], name: str) -> Any:
        self._named[id(names), name] = names, name
        return names.get(name)

    def _is_settled(self, module: str | None) -> bool:
        return is_settled_for(module, self._home)


# How a class is followed. Something holds it: what functions ask for by name. A function asks for it: what Python asks for, too.
# A name leads to it: whole, since a function that it is given may ask for anything.
_HELD, _ASKED, _WHOLE = range(3)
# What asks for attributes by other names than those in the code.
_ASK_ANY = frozenset(("__dict__", "asdict", "astuple", "attrgetter", "dir", "fields", "getattr", "getmembers", "hasattr", "vars"))
# Methods that steps do not call, as a rule, and what Python keeps of annotations.
_UNASKED = (
    *("__annot", "__copy__", "__deepcopy__", "__del__", "__eq__", "__format__", "__getstate__", "__hash__", "__init_subclass__", "__ne__"),
    *("__reduce", "__repr__", "__setstate__"),
)


def is_plain(name: str) -> bool:
    """Whether a class's name is none that Python has for itself."""
    return not name.startswith(("__", "_abc_"))


def own_names_of(member: enum.Enum) -> list[str]:
    """The attributes that somebody has given to a member of an enumeration."""
    return [name for name in vars(member) if not name.startswith("__") and not _is_of_enums(name)]


def _is_of_enums(name: str) -> bool:
    """Whether a name is one that enumerations have for themselves: ``_value_``."""
    return name[:1] == "_" == name[-1:]


_HOLDERS: tuple[Any, ...] = (
    *(staticmethod, classmethod, property, types.MethodType, functools.partial, functools.partialmethod, functools.cached_property),
    *(functools._lru_cache_wrapper, functools.singledispatchmethod),
)


def _unwrapped(thing: Any) -> Any:
    """The function of a method, a property, a partial or cached one."""
    for inside in ("__func__", "fget", "dispatcher", "func", "__wrapped__"):
        if isinstance(thing, _HOLDERS) and (function := getattr(thing, inside, None)) is not None:
            thing = function
    return thing


def codes_of(thing: object) -> Iterator[types.CodeType]:
    """The code of a function, or of what holds one, and those inside it."""
    function = _unwrapped(thing)
    found = [function.__code__] if isinstance(function, types.FunctionType) else []
    while found:
        code = found.pop()
        yield code
        found += [each for each in code.co_consts if isinstance(each, types.CodeType)]


def package_of(thing: type | types.FunctionType) -> str:
    return str(thing.__module__).partition(".")[0]


def is_settled_for(module: str | None, home: str) -> bool:
    """Whether a module is installed, and none of the package ``home``."""
    package = (module or "").partition(".")[0]
    return _is_always_settled(package) or (package != home and _is_installed(package))


def is_settled(kind: type) -> bool:
    """Whether a class is one of torch's, NumPy's, Python's or ours."""
    return _is_always_settled(package_of(kind))


def _is_always_settled(package: str) -> bool:
    return package in _SETTLED or _is_pythons(package)


def _module_of(value: Any) -> str:
    return (value.__name__ if isinstance(value, types.ModuleType) else value.__module__) or ""


@functools.cache
def _is_pythons(package: str) -> bool:
    """Whether a module is one of Python's, and no other of that name (a file of the user's, ``code.py``)."""
    if package not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(package), "__file__", None)
    return file is None or file.startswith(_PYTHONS_FOLDER) or file.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


def _is_installed(package: str) -> bool:
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def content_of(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty yet
        return None


def _bound(function: types.FunctionType) -> Iterator[tuple[str, types.CellType]]:
    """What is bound in a function, with its names."""
    return zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)


def _paths(function: types.FunctionType) -> Iterator[tuple[int | None, bool, list[str]]]:
    """The lines and names that a code has of globals, or of what is bound in it (True), each with the attributes that it asks of it:
    ``settings.alpha`` is ["settings", "alpha"]. What it imports is ["import", its name]; a mode of torch's, whatever it is asked of,
    ["", its name].
    """
    for code in codes_of(function):
        path: list[str] = []
        is_bound = False
        asks = ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM", *(("LOAD_CONST",) if "getattr" in code.co_names else ()))
        lines, line, before = dict(dis.findlinestarts(code)), None, (None, None)
        for instruction in dis.get_instructions(code):
            operation, argument = instruction.opname, instruction.argval
            line = lines.get(instruction.offset, line)
            if path and operation in ("LOAD_ATTR", "LOAD_METHOD"):
                path.append(argument)
            elif operation != "EXTENDED_ARG":
                if path:
                    yield line, is_bound, path
                is_mode = operation in asks and argument in _MODES
                is_bound = operation == "LOAD_DEREF"
                is_name = is_bound or operation in ("LOAD_GLOBAL", "LOAD_NAME")
                path = [argument] if is_name else ["", argument] if is_mode else []
                if operation == "IMPORT_NAME":  # how far up in the package, and what of it, come before
                    yield line, False, ["import", ("" if before[0] == 0 else ".") + argument]
            before = before[1], argument
        if path:
            yield line, is_bound, path
