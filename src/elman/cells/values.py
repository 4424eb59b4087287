"""The arguments of a step, values by name such as x.i, r.i, s.c and p.p_i, and the step itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from elman.cells.closest import closest
from elman.cells.gates import GateTracker, GateValues

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from elman.cells.cell import Cell


class Values:
    """Tensors by name.

    Args:
        role: what the step calls this: "x", "r", "s", "p" or "d".
        cell: whose step it is.
        values: the tensors.
    """

    def __init__(self, role: str, cell: Cell, values: Iterable[tuple[str, Tensor]]) -> None:
        self._role = role
        self._cell = cell
        for name, value in values:
            setattr(self, name, value)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Tensor: ...

    else:

        def __getattr__(self, name):
            if name.startswith("_"):  # a protocol's, which asks whether there is such a thing
                raise AttributeError(name)
            raise AttributeError(missing(self._role, self._cell, name))


class RecurrentParts(Values):
    """The gates' recurrent parts by name; calling it gives a gate's part for a vector other than h."""

    def __init__(self, cell: Cell, h: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
        gates = cell.recurrent_gates
        super().__init__("r", cell, () if weight is None else zip(gates, _by_gate(linear(h, weight, bias), len(gates)), strict=True))
        self._weight, self._bias = weight, bias
        self._traced: GateValues | None = None

    def _trace(self, values: GateValues) -> None:
        """Report parts for vectors other than h to the gates' values from now on."""
        self._traced = values

    def __call__(self, gate: str, v: Tensor) -> Tensor:
        """The rows of W_hh and b_hh for this gate applied to ``v``, (B, H), instead of h."""
        gates = self._cell.recurrent_gates
        if self._weight is None or gate not in gates:
            raise AttributeError(missing("r", self._cell, gate))
        size = self._weight.shape[0] // len(gates)
        begin = gates.index(gate) * size
        rows = slice(begin, begin + size)
        part = linear(v, self._weight[rows], None if self._bias is None else self._bias[rows])
        if self._traced is not None:
            self._traced.take_part(gate, part)
        return part


def declared(cell: Cell) -> dict[str, tuple[str, tuple[str, ...]]]:
    """By what a step calls it, what a cell declares: where, and the names."""
    return {
        "x": ("input_gates or step_inputs", (*cell.input_gates, *cell.step_inputs)),
        "r": ("recurrent_gates", tuple(cell.recurrent_gates)),
        "s": ("states", tuple(cell.states)),
        "p": ("parameters", tuple(cell.parameters)),
        "d": ("draws", tuple(cell.draws)),
    }


def missing(role: str, cell: Cell, name: str) -> str:
    """The message for a name that a step asks of one of its arguments but the cell does not declare."""
    where, names = declared(cell)[role]
    there = ", ".join(f"{role}.{each}" for each in names) or f"nothing of {role}"
    gate = role in ("x", "r") and name in cell.gates  # it may lack this part alone
    if role in ("x", "r") and not gate:  # a new one is declared in gates: input_gates and recurrent_gates choose among those
        where = {"x": "gates or step_inputs", "r": "gates"}[role]
    elsewhere = [] if gate else [other for other, (_, names) in declared(cell).items() if name in names]
    hint = f"declare {name!r} in {where}"
    if elsewhere:
        or_declare = "" if {role, elsewhere[0]} <= {"x", "r"} else f", or {hint}"  # no gate has the name of a step input
        hint = f"write {elsewhere[0]}.{name}, as it is declared{or_declare}"
    if not gate and not elsewhere and (close := closest(name, names)):
        hint = f"write {role}.{close}, or declare {name!r} in {where}"
    return f"expected the step of {type(cell).__name__} to use {there}, got {role}.{name}: {hint}"


def take_step(
    cell: Cell,
    projected: Tensor | None,
    states: tuple[Tensor, ...],
    weights: Mapping[str, Tensor],
    step_inputs: Sequence[Tensor] = (),
    draws: Sequence[Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """One step of one direction of one layer.

    Args:
        cell: the equation.
        projected: ``x W_ih^T + b_ih``, (B, G·H), G being the number of input gates; None if there are none.
        states: the states before the step, each (B, H); with a projection the first is (B, P).
        weights: by kind, all but the input's: ``weight_hh``, (G·H, H), with a projection (G·H, P), ``bias_hh``, (G·H,), ``weight_hr``, the
            projection, (P, H), of these those that there are; and the cell's own.
        step_inputs: in the order of ``cell.step_inputs``, (B,) or (B, H).
        draws: in the order of ``cell.draws``, (B, H); None in evaluation.

    Returns:
        The states after the step, shaped like those before.
    """
    x = _inputs(cell, projected, step_inputs)
    r = RecurrentParts(cell, states[0], weights.get("weight_hh"), weights.get("bias_hh"))
    return _after(cell, x, r, states, weights, draws)


def trace_step(
    cell: Cell,
    projected: Tensor | None,
    states: tuple[Tensor, ...],
    weights: Mapping[str, Tensor],
    step_inputs: Sequence[Tensor] = (),
    draws: Sequence[Tensor] | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What ``take_step`` gives, and the gates, (B, H) each, in the order of ``cell.traced``."""
    x = _inputs(cell, projected, step_inputs)
    r = RecurrentParts(cell, states[0], weights.get("weight_hh"), weights.get("bias_hh"))
    parts = [(cell.input_gates, x), (cell.recurrent_gates, r)]
    values = GateValues({gate: [getattr(part, gate) for gates, part in parts if gate in gates] for gate in cell.traced})
    r._trace(values)
    with GateTracker(values):
        after = _after(cell, x, r, states, weights, draws)
    return after, tuple([values.of(gate, after[-1]) for gate in cell.traced])


def _by_gate(parts: Tensor, gates: int) -> tuple[Tensor, ...]:
    """The parts of so many gates, which lie side by side. A single gate's is no view, whose gradient would be one more operator a step."""
    return (parts,) if gates == 1 else parts.chunk(gates, -1)


def _inputs(cell: Cell, projected: Tensor | None, step_inputs: Sequence[Tensor]) -> Values:
    gates = () if projected is None else _by_gate(projected, len(cell.input_gates))
    given = zip(cell.step_inputs.items(), step_inputs, strict=True)
    columns = [(name, value if size == "H" else value.unsqueeze(-1)) for (name, size), value in given]
    return Values("x", cell, [*zip(cell.input_gates, gates, strict=True), *columns])


def _after(
    cell: Cell, x: Values, r: RecurrentParts, states: tuple[Tensor, ...], weights: Mapping[str, Tensor], draws: Sequence[Tensor] | None
) -> tuple[Tensor, ...]:
    """The states after a step, checked, and projected."""
    arguments: list[Any] = [
        x,
        r,
        Values("s", cell, [*zip(cell.states, states, strict=True)]),
        Values("p", cell, [(name, weights[name]) for name in cell.parameters]),
    ]
    if cell.draws:
        arguments.append(None if draws is None else Values("d", cell, [*zip(cell.draws, draws, strict=True)]))
    after = as_states(cell, cell.step(*arguments))
    if "weight_hr" in weights:
        after = (linear(after[0], weights["weight_hr"]), *after[1:])
    return check_shapes(cell, states, after)


def as_states(cell: Cell, returned: Any) -> tuple[Tensor, ...]:
    """What a step returned, in a tuple.

    Raises:
        TypeError: it is not a tensor or several.
        RuntimeError: there are more or fewer than the cell has states.
    """
    after = returned if isinstance(returned, (tuple, list)) else (returned,)
    kind, names = type(cell).__name__, ", ".join(cell.states)
    if not all(isinstance(state, Tensor) for state in after):
        got = ", ".join(type(state).__name__ for state in after)
        raise TypeError(f"expected the step of {kind} to return tensors, its states {names}, got {got}: return the states after the step")
    if len(after) != len(cell.states):
        raise RuntimeError(
            f"expected the step of {kind} to return {len(cell.states)} {'state' if len(cell.states) == 1 else 'states'}, {names}, "
            f"got {len(after)}: "
            "return a tensor for each name in states, in their order"
        )
    return tuple(after)


def check_shapes(cell: Cell, before: Sequence[Tensor], after: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The states after a step. Raises a RuntimeError if one is not shaped like the one before, or of another dtype or device."""
    for name, old, new in zip(cell.states, before, after, strict=True):
        if new.shape != old.shape:
            raise RuntimeError(
                f"expected the step of {type(cell).__name__} to return {name} of shape {tuple(old.shape)}, (B, H), got {tuple(new.shape)}: "
                "keep one number for each sequence and unit"
            )
        if new.dtype is not old.dtype and not torch.is_autocast_enabled(old.device.type):
            raise RuntimeError(
                f"expected the step of {type(cell).__name__} to return {name} of {old.dtype}, as it was before, got {new.dtype}: "
                f"convert it with .to(s.{name}.dtype)"
            )
        if new.device != old.device:
            raise RuntimeError(
                f"expected the step of {type(cell).__name__} to return {name} on {old.device}, as it was before, got {new.device}: "
                f"make tensors on s.{name}.device"
            )
    return after
