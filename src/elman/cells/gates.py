"""Which value in a step is a gate's, for ``trace``: the result of the first activation applied to the gate's parts.

x.g and r.g are open for gate g. What an operation makes of open values is open, too, until an activation closes it: its result is the
gate's value. A gate that nothing closes has the last open value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# By torch's names, the functions whose result is a gate's value.
ACTIVATIONS = frozenset(
    "tanh sigmoid special_expit relu relu6 leaky_relu elu selu celu silu mish gelu softplus softsign hardsigmoid hardtanh hardswish "  # noqa: SIM905
    "logsigmoid log_sigmoid softmax special_softmax exp expm1 special_expm1 log log1p special_log1p erf special_erf sin cos".split()
)


def shared_gates(operands: Iterable[frozenset[str]]) -> frozenset[str]:
    """The gates for which the result of an operation is open, of the gates for which each of its operands is.

    Those that all open operands share, as i in exp(i - max(i, f)); if they share none, all of them.
    """
    opened = [gates for gates in operands if gates]
    return frozenset.intersection(*opened) or frozenset.union(*opened) if opened else frozenset()


class GateValues:
    """The gates' values, as they are found while a step runs.

    Args:
        parts: by gate, those of x.g and r.g that there are.
    """

    def __init__(self, parts: dict[str, list[Tensor]]) -> None:
        self._values: dict[str, Tensor] = {}
        self._closed: set[str] = set()
        self._parts = parts
        self._open: dict[int, tuple[Tensor, frozenset[str]]] = {}  # with the tensor, whose id is not given to another meanwhile
        for gate, tensors in parts.items():
            for tensor in tensors:
                self._open[id(tensor)] = tensor, frozenset((gate,))

    def take_part(self, gate: str, of_h: Tensor, part: Tensor) -> None:
        """Observe r(gate, v), which becomes the gate's recurrent part instead of the product with h."""
        if gate in self._parts:
            self._parts[gate] = [*(each for each in self._parts[gate] if each is not of_h), part]
            self._open[id(part)] = part, frozenset((gate,))

    def note(self, name: str, operands: Any, result: Any) -> None:
        """Observe an operation of this name."""
        gates = shared_gates([self._open[id(t)][1] for t in _tensors(operands) if id(t) in self._open])
        results = _tensors(result) if gates else []
        if name in ACTIVATIONS:
            for gate in gates - self._closed:
                self._values[gate] = results[0]
            self._closed |= gates
        else:
            for tensor in results:
                self._open[id(tensor)] = tensor, gates
                for gate in gates - self._closed:
                    self._values[gate] = tensor

    def of(self, gate: str) -> Tensor:
        """A gate's value."""
        if gate in self._values:
            return self._values[gate]
        first, *rest = self._parts[gate]
        return first + rest[0] if rest else first


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


def _tensors(values: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, (list, tuple)) else []
