"""Finds what a cell declares but its step does not use, which would never train or have no effect; and what the step trains beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from elman.backends.program.verify import nodes_of
from elman.cells.cell import Cell, place_of
from elman.cells.gates import tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# By torch's names, what makes Python's values of a tensor's form alone.
_OF_FORM = frozenset(
    "__get__ __format__ __hash__ __len__ __repr__ dim element_size get_device is_complex is_contiguous is_floating_point ndimension "  # noqa: SIM905
    "nelement numel size storage_offset stride".split()
)
# What makes a form of a tensor's values.
_FORMING = frozenset("argwhere bincount masked_select nonzero unique unique_consecutive".split())  # noqa: SIM905


class UseTracker(TorchFunctionMode):
    """Follows which of a step's arguments come into which values, while the step runs inside it.

    Of arguments that it calls unused, others than these numbers tell whether they are: some ways it does not see (``try_step``). It calls
    none so where numbers of tensors become Python's: a branch on them may use others the next time.

    Args:
        arguments: what is sought, each with what the step calls it.
    """

    def __init__(self, arguments: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._arguments = arguments
        # By the identity of a tensor, which stays alive as long: what comes into it.
        self._known: dict[int, tuple[Tensor, frozenset[str]]] = {id(each): (each, frozenset((name,))) for name, each in arguments.items()}
        self._branches = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operands = tensors_in((args, kwargs))
        result = func(*args, **(kwargs or {}))
        used, name = self._used_in(operands), getattr(func, "__name__", "")
        results = tensors_in(result)
        self._known |= {id(each): (each, used) for each in results}
        forms = name in _FORMING or (name == "__getitem__" and any(each.dtype is torch.bool for each in operands[1:]))
        if forms or (operands and not results and name not in _OF_FORM):
            self._branches = True
        return result

    def _used_in(self, values: Iterable[Tensor]) -> frozenset[str]:
        return frozenset().union(*(self._known[id(value)][1] for value in values if id(value) in self._known))

    def unused_by(self, states: Iterable[Tensor]) -> frozenset[str]:
        """The arguments that do not come into the states after the step, as far as is seen."""
        return frozenset() if self._branches else frozenset(self._arguments) - self._used_in(states)


_PLACES = (("x", "input_gates"), ("r", "recurrent_gates"), ("x", "step_inputs"), ("p", "parameters"), ("d", "draws"))


def unused_words(cell: Cell, unused: frozenset[str]) -> str:
    """The warning that a step does not use some of what it gets."""
    left = {place: [name for name in getattr(cell, place) if f"{role}.{name}" not in unused] for role, place in _PLACES}
    gates = [gate for gate in cell.gates if gate in left["input_gates"] or gate in left["recurrent_gates"]]
    mends = []
    for place, names in {"gates": gates, **left}.items():
        declared = getattr(cell, place)
        follows = names == gates and place != "gates" and not _has_own(cell, place)  # those are the gates
        if list(declared) != names and not follows:
            mends.append(f"{place} = {({name: declared[name] for name in names}) if isinstance(declared, dict) else tuple(names)}")
    use = "it" if len(unused) == 1 else "them"
    mend = f"use {use}, or declare {', '.join(mends)}" if gates or left["parameters"] else "return the new states"
    got = ", ".join(sorted(unused, key=lambda name: ("xrpd".index(name[0]), name)))
    return (
        f"expected the states after the step of {type(cell).__name__} to depend on all that the cell declares, got none that depends on "
        f"{got}{place_of(cell)}: {mend}"
    )


def _has_own(cell: Cell, place: str) -> bool:
    """Whether a cell declares it, other than all cells do."""
    return place in vars(cell) or any(place in vars(kind) for kind in type(cell).__mro__ if kind is not Cell)


def leaves_of(states: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors that no operation has made, for which the states have a gradient."""
    return (node.variable for node in nodes_of(states) if node.name() == "torch::autograd::AccumulateGrad")
