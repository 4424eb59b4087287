"""A cell by its name on the command line: of the zoo, ``zoo.MGU``, or of a file, ``path/to/file.py:MyCell``."""

from __future__ import annotations

import sys
import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman.cells.cell import Cell
from elman.cells.closest import closest
from elman.layers.check_cell import as_cell
from elman.zoo import CELLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ZOO = "zoo."
_OF_ZOO: dict[str, Any] = {cell.__name__: cell for cell in CELLS}


def is_own(name: str) -> bool:
    """Whether a name means a cell of the zoo or of a file, rather than a built-in network."""
    return name.startswith(_ZOO) or ":" in name


def cell_by_name(name: str, hidden_sizes: Iterable[int] = ()) -> Cell:
    """The cell of this name, made without arguments. If the name is that of a file, the file is imported and so executed.

    Args:
        hidden_sizes: of the networks that there will be of the cell.

    Raises:
        ValueError: there is no such cell, file or name, the file cannot be imported, the cell cannot be made without arguments, or no
            network of it with one of these sizes.
    """
    made = _made(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network itself gives it
            for size in hidden_sizes:
                as_cell(made, size, None, None)
    except (TypeError, AttributeError, RuntimeError) as error:  # what is wrong with somebody's cell
        raise ValueError(str(error)) from error
    return made


def _made(name: str) -> Cell:
    if name.startswith(_ZOO):
        found = _of_zoo(name.removeprefix(_ZOO))
    elif all((parts := name.rpartition(":"))[::2]):
        found = _of_file(Path(parts[0]), parts[2])
    else:
        raise ValueError(f"expected a cell like zoo.MGU or path/to/file.py:MyCell, got {name!r}")
    if isinstance(found, type):
        try:
            made: Cell = found()
        except Exception as error:
            raise ValueError(f"expected {name} to be made without arguments, got {type(error).__name__}: {error}") from error
        return made
    return found  # type: ignore[no-any-return]  # an object that the file has made


def _of_zoo(name: str) -> Any:
    if name not in _OF_ZOO:
        raise ValueError(f"unknown cell {f'zoo.{name}'!r}; {hint(name, list(_OF_ZOO), _ZOO)}")
    return _OF_ZOO[name]


def _of_file(path: Path, name: str) -> Any:
    if not path.is_file():
        raise ValueError(f"no such file or folder: {path}")
    spec = spec_from_file_location(f"elman_cell_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"expected a Python file, got {path}")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look it up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may end itself
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ValueError(f"cannot import {path}: {words}") from error
    found = vars(module).get(name)
    if not _is_cell(found):
        cells = [each for each, value in vars(module).items() if _is_cell(value) and getattr(value, "__module__", "") == spec.name]
        raise ValueError(f"expected a cell called {name} in {path}, got none; {hint(name, cells)}")
    return found


def _is_cell(value: object) -> bool:
    return isinstance(value, Cell) or (isinstance(value, type) and issubclass(value, Cell) and value is not Cell)


def hint_of_kind(name: str, kinds: Sequence[str]) -> str:
    """What may have been meant by an unknown kind of network: a cell of the zoo by the name of its class alone, or one of the kinds."""
    if name.endswith(".py"):
        return f"name the cell in it, too: --cell {name}:MyCell"
    if is_own(name) and (":" in name or name.removeprefix(_ZOO) in _OF_ZOO):
        return f"race it without {', '.join(kinds)}: --cell {name}"
    of_zoo = {cell.casefold(): cell for cell in _OF_ZOO}
    found = of_zoo.get(name.casefold())
    return hint(name, [*kinds, "zoo.MGU", "path/to/file.py:MyCell"]) if found is None else f"did you mean --cell {_ZOO}{found}?"


def hint(name: str, known: Sequence[str], prefix: str = "") -> str:
    """What may have been meant by a name that is not among the known ones."""
    if close := closest(name, known):
        return f"did you mean {prefix + close!r}?"
    return f"expected one of {', '.join(prefix + each for each in known)}" if known else "there are no cells"
