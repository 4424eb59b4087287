"""Checks a cell before a network is built of it: its declarations, and a trial step."""

from __future__ import annotations

import difflib
import inspect
import warnings
from typing import Any

import torch
from torch import nn

from elman.cells import BY_NAME, Cell, Wrapper
from elman.cells.cell import options_of, place_of
from elman.cells.closest import closest
from elman.layers.errors import brief
from elman.layers.options import as_int
from elman.layers.try_step import Findings, try_step
from elman.layers.uses import unused_words

_DECLARE = "name it in gates or parameters, or turn its gradient off with requires_grad_(False)"
MOST_UNITS = 2**16  # of a step that is tried

_DECLARED = ("gates", "input_gates", "recurrent_gates", "states", "parameters", "step_inputs", "draws")

# What each name in a declaration can have, and what that says.
_SIZES = {
    "parameters": {"H": "a vector of H numbers", "": "one number"},
    "step_inputs": {"": "one number for each step and sequence", "H": "one for each unit too"},
    "draws": {"step": "new numbers at every step", "sequence": "the same ones for a whole sequence"},
}

_OF_ALL = frozenset(dir(Cell))  # attributes that all cells have

# What the call of a network gives by other names.
_TAKEN = ("input", "x", "chunk", "size", "hx", "state", "lengths", "reset", "out", "rnn", "self")
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def as_cell(cell: object, hidden_size: object, device: torch.device | str | None, dtype: torch.dtype | None) -> Cell:
    """The cell, checked.

    Args:
        cell: as the caller gave it.
        hidden_size: H, as the caller gave it.
        device, dtype: where its network will be, and of what.

    Raises:
        TypeError: it is not a cell; what it declares is not of the right type; or the step returns what is not a tensor.
        ValueError: it declares what does not fit together.
        AttributeError: the step asks for a name that the cell does not declare.
        RuntimeError: the step fails, returns the wrong number of states or one of the wrong shape, uses a gate's rows twice, writes to what
            it was given, changes the cell or what it reads, or gives other numbers the second time.

    Warns:
        UserWarning: the states after the step do not depend on all that the cell declares, a sequence's depend on the others of the
            batch, or the step trains what is not among the parameters of a network of the cell.
    """
    checked, _, warned = _checked(cell, hidden_size, device, dtype)
    for sentence in warned:
        warnings.warn(sentence, stacklevel=3)
    return checked


def _checked(
    cell: object, hidden_size: object, device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[Cell, Findings, list[str]]:
    """The cell, what is odd about its step, and the warnings of it, those of a cell inside it first."""
    if not isinstance(cell, Cell):
        if isinstance(cell, type) and issubclass(cell, Cell):
            raise TypeError(f"expected cell to be an elman.Cell, got the class {cell.__name__}: make one with {cell.__name__}()")
        raise TypeError(f"expected cell to be an elman.Cell, {_got_instead(cell)}")
    if type(cell) is BY_NAME.get(str(cell.name)):  # whatever somebody has put there
        return cell, Findings(), []
    _, inside, sentences = _checked(cell.cell, hidden_size, device, dtype) if isinstance(cell, Wrapper) else (None, Findings(), [])
    _check_declarations(cell)
    found = Findings()
    if not torch._C._len_torch_dispatch_stack() and not torch.compiler.is_compiling():  # numbers may be unknown there
        found = try_step(cell, min(max(as_int(hidden_size) or 1, 1), MOST_UNITS), device, dtype)
        if unused := found.unused - inside.unused:
            sentences.append(unused_words(cell, unused))
        if found.mixes and not inside.mixes:
            sentences.append(_mixes_words(cell))
        if found.trains and not inside.trains:
            sentences.append(
                f"expected the step of {type(cell).__name__} to train the parameters of its network alone, got a gradient for a tensor "
                f"that is not among them{place_of(cell)}: {_DECLARE}"
            )
    return cell, found, sentences


def _mixes_words(cell: Cell) -> str:
    return (
        f"expected the step of {type(cell).__name__} to treat each sequence by itself, got results that depend on the others of the batch "
        f"or on how many there are{place_of(cell)}: compute over the last axis, with dim=-1, and keepdim=True in a sum or mean"
    )


def _got_instead(cell: object) -> str:
    """What came that is not a cell, and how to mend it: the network itself where a built-in one is named, by its class or in a word."""
    if isinstance(cell, int):
        return f"got {cell}: the cell comes first, elman.Recurrent(cell, input_size, hidden_size)"
    kind = cell if isinstance(cell, type) else type(cell)
    got = f"got the class {kind.__name__}" if kind is cell else f"got {brief(cell)}"
    name = str(cell).upper() if isinstance(cell, str) else kind.__name__.removesuffix("Cell")
    if name not in ("RNN", "GRU", "LSTM") or not (isinstance(cell, str) or issubclass(kind, (nn.RNNBase, nn.RNNCellBase))):
        return (
            f"{got}: pass the cell itself, such as elman.zoo.MGU()" if isinstance(cell, str) else f"{got}: derive its class from elman.Cell"
        )
    article, sizes = "a" if name == "GRU" else "an", "(input_size, hidden_size)"
    return f"{got}: {article} {name} is elman.{name}{sizes}, one step of it elman.{name}Cell{sizes}"


def _check_declarations(cell: Cell) -> None:
    kind = type(cell).__name__
    if not callable(getattr(type(cell), "step", None)):
        raise TypeError(f"expected {kind} to have a method step, got none: write def step(self, x, r, s, p)")
    for name in ("name", "saved", "sums", "traced", "equations"):
        if getattr(cell, name) != (cell.gates if name == "traced" else getattr(Cell, name)):
            raise ValueError(f"expected {kind} without an attribute {name}, which cells with kernels have: call it by another name")
    for name in sorted(set(dir(type(cell))) - _OF_ALL):
        value = getattr(type(cell), name, None)
        known = "parameters" if name in ("param", "params") else name
        if isinstance(value, (tuple, list, dict)) and (meant := difflib.get_close_matches(known, _DECLARED, 1, 0.85)):
            raise ValueError(f"expected the declarations of {kind} to be {', '.join(_DECLARED)}, got {name}: did you mean {meant[0]}?")
    for name, option in options_of(cell).items():
        if name in ("shapes", "init") or (name == "step" and not callable(option)):
            raise ValueError(f"expected other names for the options of {kind}, got {name!r}, which is already in use")
        if _trains(option):
            raise TypeError(
                f"expected {kind} to declare what it trains, got {name}, which no network of the cell would have among its parameters: "
                f"{_DECLARE}"
            )
    for name in ("gates", "states", "input_gates", "recurrent_gates"):
        names = getattr(cell, name)
        if not isinstance(names, (tuple, list)) or not all(isinstance(each, str) for each in names):
            raise TypeError(f"expected {kind}.{name} to be a tuple of names, got {brief(names)}{_comma(names)}")
    if not cell.states:
        raise ValueError(f"expected {kind} to have a state, got none: name it in states, the output first")
    for name in ("input_gates", "recurrent_gates"):
        if others := [gate for gate in getattr(cell, name) if gate not in cell.gates]:
            close = closest(others[0], cell.gates)
            hint = "" if close is None else f": did you mean {close!r}?"
            raise ValueError(f"expected {kind}.{name} to be among its gates, {', '.join(cell.gates)}, got {others[0]!r}{hint}")
    if idle := [gate for gate in cell.gates if gate not in cell.input_gates and gate not in cell.recurrent_gates]:
        raise ValueError(f"expected gate {idle[0]!r} of {kind} to be in input_gates or recurrent_gates, got it in neither")
    for name, sizes in _SIZES.items():
        declared = getattr(cell, name)
        if not isinstance(declared, dict):
            given = [declared] if isinstance(declared, str) else [*declared] if isinstance(declared, (tuple, list, set)) else []
            key = given[0] if given and isinstance(given[0], str) else "name"
            raise TypeError(f"expected {kind}.{name} to be a dict, got {brief(declared)}: write {_examples(key, sizes)}")
        for key, size in declared.items():
            if size not in tuple(sizes):
                words = f"expected {kind}.{name} to have {' or '.join(map(repr, sizes))} for {key!r}, got {brief(size)}"
                if name == "parameters" and (isinstance(size, (tuple, list)) or str(size).upper().count("H") > 1):
                    raise ValueError(f"{words}: for a matrix, name {key!r} in gates, leave it out of input_gates, and write r({key!r}, v)")
                raise ValueError(f"{words}: write {_examples(key, sizes)}")
    if not cell.input_gates and not cell.recurrent_gates and not cell.parameters:
        inner = next((option for option in options_of(cell).values() if isinstance(option, Cell)), None)
        hint = "name its gates in gates" if inner is None else f"derive it from elman.cells.Wrapper, which has those of {inner!r}"
        raise ValueError(f"expected {kind} to have a parameter, got none: {hint}")
    for where in _DECLARED:
        _check_names(f"{kind}.{where}", tuple(getattr(cell, where)))
    for where, names, taken in (
        ("step_inputs", tuple(cell.step_inputs), (*cell.gates, *_TAKEN)),
        ("parameters", tuple(cell.parameters), _WEIGHTS),
    ):
        if clashing := [name for name in names if name in taken]:
            raise ValueError(f"expected other names in {kind}.{where}, got {clashing[0]!r}, which is already in use")
    arguments = ("x", "r", "s", "p", "d") if cell.draws else ("x", "r", "s", "p")
    try:
        signature = inspect.signature(cell.step)
        signature.bind(*arguments)
    except TypeError:
        taken = tuple(signature.parameters)
        hint = "write it as def step(self, x, r, s, p)"
        if cell.draws:
            hint = "d has the draws, and is None in evaluation"
        elif "d" in taken:
            hint = "name random numbers in draws to get d, too"
        raise TypeError(f"expected {kind}.step to take ({', '.join(arguments)}), got ({', '.join(taken)}): {hint}") from None
    taken = tuple(signature.parameters)
    if any(name in arguments and name != at for name, at in zip(taken, arguments, strict=False)):
        words = f"expected {kind}.step to take ({', '.join(arguments)}), got ({', '.join(taken)})"
        raise TypeError(f"{words}: they come in this order, whatever you call them")


def _examples(key: object, sizes: dict[str, str]) -> str:
    return " or ".join([f"{{{key!r}: {size!r}}} for {meaning}" for size, meaning in sizes.items()])


def _trains(option: object) -> bool:
    """Whether an option is a parameter or has some, which a network of the cell would neither list nor save."""
    if isinstance(option, torch.nn.Module):
        return any(parameter.requires_grad for parameter in option.parameters())
    if isinstance(option, (list, tuple, dict)):
        return any(map(_trains, option.values() if isinstance(option, dict) else option))
    return isinstance(option, torch.nn.Parameter) and option.requires_grad


def _check_names(where: str, names: tuple[Any, ...]) -> None:
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"expected {where} to have valid Python names, got {brief(name)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"expected {where} to have each name once, got {twice!r} twice")


def _comma(names: object) -> str:
    if not isinstance(names, str):
        return ""
    return f": write ({names!r},)" + (f" or {tuple(names)!r}" if 1 < len(names) <= 4 and names.isalpha() else "")
