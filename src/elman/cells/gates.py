"""Which value in a step is a gate's, for ``trace``: the result of the first activation applied to the gate's parts.

x.g and r.g are open for gate g. What an operation makes of open values is open, too, until an activation closes it: its result is the
gate's value. An activation of all of a gate's parts comes before one of some of them, which may be another gate's. A gate without an
activation has the sum of its parts as its value.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

# By torch's names, the functions whose result is a gate's value.
ACTIVATIONS = frozenset(
    "tanh sigmoid special_expit relu relu6 leaky_relu elu selu celu silu mish gelu softplus softsign hardsigmoid hardtanh hardswish "  # noqa: SIM905
    "clamp clamp_min clamp_max clip logsigmoid log_sigmoid softmax special_softmax exp expm1 special_expm1 log log1p special_log1p "
    "erf special_erf sin cos".split()
)

Part = tuple[str, int]  # of a gate, the how-manieth


def _shared(operands: Iterable[tuple[Part, ...]]) -> tuple[Part, ...]:
    """The parts for which the result of an operation is open, of those for which each of its operands is.

    Those of the gates that all open operands share, as i in exp(i - max(i, f)); if they share none, all of them.
    """
    opened = [parts for parts in operands if parts]
    every = tuple(dict.fromkeys([part for parts in opened for part in parts]))
    shared = [part for part in every if all(part[0] in [gate for gate, _ in parts] for parts in opened)]
    return tuple(shared) or every


class GateFinder:
    """Finds the gates' values while a step runs, whatever it computes with.

    Args:
        counts: of each gate whose value is sought, how many parts it has.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts
        self._closed: dict[str, Any] = {}
        self._first: dict[str, Any] = {}  # of an activation of some parts
        self._open: list[tuple[object, tuple[Part, ...]]] = []  # looked up by `is`: older compilers of torch's know no tensor's id

    def open(self, gate: str, index: int, part: object) -> None:
        """Tell of a gate's part."""
        if gate in self._counts:
            self._open.append((part, ((gate, index),)))

    def note(self, name: str, operands: Iterable[object], results: Sequence[object]) -> None:
        """Tell of an operation of this name."""
        parts = _shared([self._parts_in(each) for each in operands])
        if not parts:
            return
        if name not in ACTIVATIONS:
            self._open += [(result, parts) for result in results]
            return
        gates = [gate for gate, _ in parts]
        for gate in gates:
            is_whole = len([of for of in gates if of == gate]) == self._counts[gate]
            (self._closed if is_whole else self._first).setdefault(gate, results[0])

    def _parts_in(self, value: object) -> tuple[Part, ...]:
        """For which parts a value is open, as it was last told."""
        for known, parts in reversed(self._open):
            if known is value:
                return parts
        return ()

    def of(self, gate: str) -> Any:
        """A gate's value; None if it has no activation."""
        return self._closed.get(gate, self._first.get(gate))


class GateValues:
    """The gates' values, as they are found while a step runs with tensors.

    Args:
        parts: by gate, those of x.g and r.g that there are.
    """

    def __init__(self, parts: dict[str, list[Tensor]]) -> None:
        self._parts = parts
        self._finder = GateFinder({gate: len(tensors) for gate, tensors in parts.items()})
        for gate, tensors in parts.items():
            for index, tensor in enumerate(tensors):
                self._finder.open(gate, index, tensor)

    def take_part(self, gate: str, part: Tensor) -> None:
        """Observe r(gate, v), which becomes the gate's recurrent part instead of the product with h."""
        if gate in self._parts:
            self._parts[gate][-1] = part
            self._finder.open(gate, len(self._parts[gate]) - 1, part)

    def note(self, name: str, operands: Any, result: Any) -> None:
        """Observe an operation of this name."""
        self._finder.note(name, tensors_in(operands), tensors_in(result))

    def of(self, gate: str, like: Tensor) -> Tensor:
        """A gate's value, shaped as another tensor, (B, H): of (B,) and (B, 1), each sequence's number for all units. Where an activation
        gives what does not fit, the sum of the parts.
        """
        found: Tensor | None = self._finder.of(gate)
        value = None if found is None else _fitted(found, like)
        return reduce(torch.add, self._parts[gate]).expand_as(like) if value is None else value


def _fitted(value: Tensor, like: Tensor) -> Tensor | None:
    batch, _ = shape = like.shape
    if value.dim() == 1 and value.shape[0] == batch:
        return value.unsqueeze(-1).expand(shape)
    if value.dim() > 2 and value.numel() == like.numel():  # with an axis more, or in groups of units
        return value.reshape(shape)
    while value.dim() > 2 and value.shape[-1] == 1:
        value = value.squeeze(-1)
    fits = value.dim() <= 2 and all(value.shape[-axis] in (1, shape[-axis]) for axis in range(1, value.dim() + 1))
    return value.expand(shape) if fits else None


class GateTracker(TorchFunctionMode):
    """Reports the operations that run inside it to ``GateValues``."""

    def __init__(self, values: GateValues) -> None:
        super().__init__()
        self.values = values

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.values.note(getattr(func, "__name__", ""), (args, kwargs), result)
        return result


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [tensor for value in values for tensor in tensors_in(value)] if isinstance(values, (list, tuple)) else []
