"""A cell: the equation of one step, and its declarations.

A cell holds no parameters and no shapes. It declares its gates, states and parameters in one place: layers, the scan, the
backends, ``trace``, ``elman explain`` and the benchmarks read it here. The built-in cells are written in the same way as yours.
"""

from __future__ import annotations

import inspect
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class _Gates:
    """An attribute that is the cell's gates, where neither a class nor an object says otherwise."""

    def __get__(self, cell: Cell | None, owner: type[Cell]) -> tuple[str, ...]:
        return owner.gates if cell is None else cell.gates


class Cell:
    """One step of a recurrent network as an equation, in plain torch. Derive from it to write a cell of your own.

    >>> import elman, torch
    >>> class MinimalGate(elman.Cell):
    ...     gates = ("f", "n")
    ...     def step(self, x, r, s, p):
    ...         f = torch.sigmoid(x.f + r.f)
    ...         n = torch.tanh(x.n + r("n", f * s.h))
    ...         return (1 - f) * s.h + f * n
    >>> net = elman.Recurrent(MinimalGate(), 10, 20, num_layers=2, bidirectional=True)
    >>> output, h_n = net(torch.randn(5, 3, 10), lengths=[5, 2, 0])
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 40]), torch.Size([4, 3, 20]))

    ``step(x, r, s, p)`` gets four sets of values by name, each (B, H) or broadcast to it:

    - ``x.f``: the input's part of gate f, W_if x + b_if; and a step input by its name, ``x.dt``.
    - ``r.f``: the recurrent part of gate f, W_hf h + b_hf, h being the first state. ``r("n", v)`` applies the same rows of W_hh and b_hh to
      ``v`` instead of h. Each gate's rows are used in one of these ways, once a step.
    - ``s.h``: a state before the step.
    - ``p.name``: a parameter of the cell's own.
    - With ``draws`` there is a fifth argument ``d``: ``d.u``, (B, H), a tensor of uniform numbers; in evaluation ``d`` is None.

    It returns the states after the step, (B, H) each, in the order of ``states``; a cell of one state may return the tensor itself. It must
    not change its arguments in place, nor depend on anything else that changes between calls.

    Attributes:
        gates: the gates' names, in the order in which their blocks of H rows lie in weight_ih and weight_hh.
        states: the states' names. The first is the output.
        input_gates: the gates that have an input's part, ``gates`` by default. Empty: there are no weight_ih and bias_ih.
        recurrent_gates: the gates that have a recurrent part, ``gates`` by default. Empty: there are no weight_hh and bias_hh.
        parameters: the cell's own parameters, besides weights and biases: their names, each with "H", a vector of H numbers, or "", one.
        step_inputs: numbers that come with each step beside x, given by name to the network: their names, each with "" for one number
            for each step and sequence, (T, B), or "H" for one for each unit too, (T, B, H).
        draws: uniform random numbers in [0, 1), in training only: their names, each with "step", for new ones at every step, or
            "sequence", for the same ones from a sequence's start or reset to its end. Every layer and direction has its own.
    """

    gates: tuple[str, ...] = ()
    states: tuple[str, ...] = ("h",)
    input_gates: tuple[str, ...] = _Gates()  # type: ignore[assignment]  # what it gives
    recurrent_gates: tuple[str, ...] = _Gates()  # type: ignore[assignment]
    parameters: dict[str, str] = {}  # noqa: RUF012 - written as a user writes it
    step_inputs: dict[str, str] = {}  # noqa: RUF012
    draws: dict[str, str] = {}  # noqa: RUF012
    if TYPE_CHECKING:
        step: Callable[..., Tensor | tuple[Tensor, ...]]

    # What a cell with kernels written for it declares besides.
    name: ClassVar[str] = ""
    """How backends and operators call it ("rnn_tanh"): kernels of this name run it."""
    saved: ClassVar[tuple[str, ...]] = ()
    """What its kernels save of each unit and step for the gradient, in order (csrc/cells): names of gates and states, and "" for a number
    that is neither. Nothing where the kernels need only the outputs.
    """
    sums: ClassVar[tuple[str, ...]] = ()
    """The states that are sums over many steps, which keep their dtype under autocast as torch's sums do."""
    traced: ClassVar[tuple[str, ...]] = _Gates()  # type: ignore[assignment]
    """The gates that ``trace`` shows."""
    equations: ClassVar[tuple[str, ...]] = ()
    """The step for people to read, a line for each gate and state, in the order in which they are computed:
    ``"r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)"``. A gate's weights bear its name; a state after the step has a prime (``h'``).
    """

    def init(self, name: str, tensor: Tensor) -> bool:
        """Fill a parameter with its initial values, in place. Override it for values other than uniform ones over ±1/sqrt(H).

        Args:
            name: "weight_ih", "weight_hh", "bias_ih", "bias_hh", or the name of a parameter of the cell's own.
            tensor: the parameter, of one direction of one layer. It is full of NaN, and no gradient is recorded. Fill all of it or none of
                it: to set the rows of one gate, draw those of the others, too.

        Returns:
            True if it filled the tensor. Otherwise False or None: the tensor is then drawn from the uniform distribution over ±1/sqrt(H).
            The network's constructor raises a RuntimeError if this is not what happened.
        """
        return False

    def shapes(self, input_size: int, hidden_size: int, proj_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """The parameters of one direction of one layer, in torch's order: the shape of each by its kind."""
        inputs, recurrent, width = len(self.input_gates) * hidden_size, len(self.recurrent_gates) * hidden_size, proj_size or hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (inputs, input_size), "weight_hh": (recurrent, width)}
        if bias:
            shapes |= {"bias_ih": (inputs,), "bias_hh": (recurrent,)}
        absent = ("_ih",) * (not self.input_gates) + ("_hh",) * (not self.recurrent_gates)
        shapes = {kind: shape for kind, shape in shapes.items() if not kind.endswith(absent)}
        shapes |= {name: (hidden_size,) if size == "H" else () for name, size in self.parameters.items()}
        return shapes | {"weight_hr": (proj_size, hidden_size)} if proj_size else shapes

    def __eq__(self, other: object) -> bool:
        """Whether it is a cell of the same class with the same options."""
        if type(self) is not type(other):
            return NotImplemented
        mine, others = options_of(self), options_of(other)
        return mine.keys() == others.keys() and all(_same(value, others[name]) for name, value in mine.items())

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        """The class and its options: ``LeakyRNN(alpha=0.1)``."""
        options = [f"{name}={value!r}" for name, value in options_of(self).items() if not name.startswith("_")]
        return f"{type(self).__name__}({', '.join(options)})"


def options_of(cell: object) -> dict[str, Any]:
    """A cell's options: all that it holds."""
    slots = {name: getattr(cell, name) for name in slots_of(type(cell)) if hasattr(cell, name)}
    return slots | vars(cell)


def place_of(cell: Cell) -> str:
    """Where the step is written, for messages."""
    code = getattr(inspect.unwrap(type(cell).step), "__code__", None)
    return "" if code is None else f" (at {code.co_filename}:{code.co_firstlineno})"


def slots_of(kind: type) -> tuple[str, ...]:
    """The names of a class's __slots__ and of those above it."""
    return tuple([name for each in kind.__mro__ for name, place in vars(each).items() if isinstance(place, MemberDescriptorType)])


def _same(a: Any, b: Any) -> bool:
    import torch  # the equations alone need no torch

    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return a is b or (type(a) is type(b) and a.dtype is b.dtype and a.device == b.device and torch.equal(a, b))
    if a is b:
        return True
    if type(a) is type(b) and type(a) in (list, tuple, dict):
        names = a.keys() if isinstance(a, dict) else range(len(a))
        return len(a) == len(b) and (not isinstance(a, dict) or names == b.keys()) and all(_same(a[name], b[name]) for name in names)
    if getattr(a, "shape", None) != getattr(b, "shape", None):
        return False
    equal = a == b
    return bool(equal.all()) if hasattr(equal, "all") else bool(equal)  # of arrays, element by element
