"""Finds what a cell declares but its step does not use, whose weights would never train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.overrides import TorchFunctionMode

from elman.cells.cell import place_of
from elman.cells.gates import tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from elman.cells import Cell

# By torch's names, what tells nothing of a tensor's values to the step.
_OF_FORM = frozenset(
    "__get__ __format__ __hash__ __len__ __repr__ dim element_size get_device is_complex is_contiguous is_floating_point ndimension "  # noqa: SIM905
    "nelement numel size storage_offset stride".split()
)


class UseTracker(TorchFunctionMode):
    """Follows which of a step's arguments come into which values, while the step runs inside it.

    It calls an argument unused only if it has seen all: not where numbers of tensors become Python's (in a branch on values), nor where
    tensors come from elsewhere.

    Args:
        arguments: what is sought, each with what the step calls it.
        others: what else the step can read.
    """

    def __init__(self, arguments: Mapping[str, Tensor], others: Iterable[Tensor]) -> None:
        super().__init__()
        self._arguments = arguments
        # By the identity of a tensor, which stays alive as long: what comes into it.
        self._known: dict[int, tuple[Tensor, frozenset[str]]] = {id(each): (each, frozenset((name,))) for name, each in arguments.items()}
        self._known |= {id(each): (each, frozenset()) for each in others}
        self._has_seen_all = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operands = tensors_in((args, kwargs))
        result = func(*args, **(kwargs or {}))
        used = self._used_in(operands)
        results = tensors_in(result)
        self._known |= {id(each): (each, used) for each in results}
        if operands and not results and getattr(func, "__name__", "") not in _OF_FORM:
            self._has_seen_all = False
        return result

    def _used_in(self, values: Iterable[Tensor]) -> frozenset[str]:
        found = frozenset[str]()
        for value in values:
            if id(value) in self._known:
                found |= self._known[id(value)][1]
            else:
                self._has_seen_all = False
        return found

    def unused_by(self, states: Iterable[Tensor]) -> frozenset[str]:
        """The arguments that do not come into the states after the step, as far as can be said."""
        used = self._used_in(states)
        return frozenset(self._arguments) - used if self._has_seen_all else frozenset()


def unused_words(cell: Cell, unused: frozenset[str]) -> str:
    """The warning that a step does not use some of what it gets, which UseTracker has found."""
    parts = {
        gate: {f"{role}.{gate}" for role, gates in (("x", cell.input_gates), ("r", cell.recurrent_gates)) if gate in gates}
        for gate in cell.gates
    }
    idle = [gate for gate in cell.gates if parts[gate] <= unused]
    mends = []
    for role, place in (("x", "input_gates"), ("r", "recurrent_gates"), ("x", "step_inputs"), ("p", "parameters"), ("d", "draws")):
        declared = getattr(cell, place)
        if any(f"{role}.{name}" in unused and name not in idle for name in declared):
            mends.append((place, [name for name in declared if f"{role}.{name}" not in unused]))
    if idle:
        mends.insert(0, ("gates", [gate for gate in cell.gates if gate not in idle]))
    without = [f"{place} = {_declared(getattr(cell, place), names)}" for place, names in mends]
    got, use = _joined(sorted(unused, key=lambda name: ("xrpd".index(name[0]), name))), "it" if len(unused) == 1 else "them"
    return (
        f"expected the step of {type(cell).__name__} to use all that the cell declares, got no use of {got}{place_of(cell)}: "
        f"use {use}, or declare {_joined(without)}"
    )


def _declared(declared: Any, names: list[str]) -> str:
    return repr({name: declared[name] for name in names} if isinstance(declared, dict) else tuple(names))


def _joined(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
