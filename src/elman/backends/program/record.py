"""Records a cell's step as a graph, by calling it once with stand-ins."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch.utils._python_dispatch import _disable_current_modes

from elman.backends.program.calls import watched
from elman.backends.program.made import made
from elman.backends.program.operations import OPERATIONS
from elman.backends.program.program import Opcode, Role
from elman.backends.program.stand_in import (
    NotRecordedError,
    Recording,
    UnknownSize,
    UnlikeStepsError,
    Value,
    refuse,
    take_refusal,
    where_raised,
    words_of,
)
from elman.backends.program.verify import verify
from elman.cells.cell import place_of
from elman.cells.gates import GateFinder

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping
    from types import CodeType

    from elman.backends.program.graph import Graph
    from elman.backends.program.stand_in import Shape
    from elman.cells import Cell


@dataclass(frozen=True)
class Recorded:
    """What a step does.

    Attributes:
        states: the nodes of the states after it.
        gates: the nodes of the gates' values.
        of_h: the gates whose rows are multiplied by h.
        of_others: the nodes that the products r(..., v) take, in their order, and which gates' rows each is multiplied by.
        called: the code of the functions that it calls, with the names of their modules; None: not known.
        always: those among them that each call calls.
    """

    graph: Graph
    states: tuple[int, ...]
    gates: tuple[int, ...]
    of_h: tuple[int, ...]
    of_others: tuple[tuple[int, tuple[int, ...]], ...]
    called: Mapping[CodeType, str] | None
    always: Container[CodeType] = ()

    def same(self, other: Recorded) -> bool:
        mine, others = ((each.graph.nodes, each.states, each.gates, each.of_h, each.of_others) for each in (self, other))
        return mine == others


def record(cell: Cell, dtype: torch.dtype, draws: bool, units: int | None = None) -> Recorded:
    """What ``cell.step`` does.

    Args:
        dtype: what its tensors say that they are.
        draws: whether there are the cell's draws, as in training.
        units: H, where what is recorded is for that alone; None: for any.

    Raises:
        NotRecordedError: if it does something that no program can do.
        UnlikeStepsError: if it is another one each time.
    """
    # Tensors with numbers, whatever the call is under; and gradients on, so that a step that turns them off is seen.
    with _disable_current_modes(), torch.inference_mode(False), torch.enable_grad():
        first, second = (_recorded(cell, dtype, draws, units=units) for _ in range(2))
        if not first.same(second):
            raise UnlikeStepsError(
                f"expected the step of {type(cell).__name__} to do the same at each call, got another one the second time"
                f"{place_of(cell)}: keep what lasts from step to step in a state, declare random numbers in draws"
            )
        verify(cell, first, dtype, draws, units)
    if first.called is None or second.called is None:
        return replace(first, called=None)
    return replace(first, called={**first.called, **second.called}, always=first.called.keys() & second.called.keys())


def check_precision(cell: Cell, draws: bool, units: int | None = None) -> None:
    """Raise a NotRecordedError if a step does something else in a 16-bit dtype than in float32, or asks whether autocast is on."""
    with torch.inference_mode(False), torch.enable_grad():
        plain = _recorded(cell, torch.float32, draws, units=units)
        for narrow in (torch.bfloat16, torch.float16):
            for said, autocasts in ((narrow, False), (narrow, True), (torch.float32, True)):
                with torch.autocast("cpu", narrow, enabled=autocasts):
                    if not plain.same(_recorded(cell, torch.float32, draws, said, units)):
                        raise NotRecordedError("does not run a step that asks for dtypes, or whether autocast is on, in 16 bits")


def _recorded(cell: Cell, dtype: torch.dtype, draws: bool, said: torch.dtype | None = None, units: int | None = None) -> Recorded:
    recording = Recording(OPERATIONS, dtype, said=said, units=units)
    try:
        return _taken(recording, cell, draws)
    except NotRecordedError as error:
        error.asks_units = recording.asks_units
        raise


def _taken(recording: Recording, cell: Cell, draws: bool) -> Recorded:
    """What the step does to the stand-ins of a recording."""

    def leaves(role: Role, names: Mapping[str, str]) -> dict[str, Value]:
        return {name: recording.leaf((role, index), _SHAPES[role, size]) for index, (name, size) in enumerate(names.items())}

    def full(role: Role, names: Iterable[str]) -> dict[str, Value]:
        return leaves(role, dict.fromkeys(names, "H"))

    x = full(Role.INPUT, cell.input_gates)
    r = _Recurrent(recording, cell)
    gates = _Gates(cell, x)
    recording.listener = gates.listen
    r.listener = gates.listen_to_product
    arguments = (
        SimpleNamespace(**x, **leaves(Role.STEP_INPUT, cell.step_inputs)),
        r,
        SimpleNamespace(**full(Role.STATE, cell.states)),
        SimpleNamespace(**leaves(Role.OWN, cell.parameters)),
        *((SimpleNamespace(**full(Role.DRAW, cell.draws)) if draws else None,) if cell.draws else ()),
    )
    take_refusal()  # of another step
    try:
        with watched() as called:
            returned = cell.step(*arguments)
    except (NotRecordedError, UnlikeStepsError):
        raise
    except Exception as error:  # it runs with tensors, which was tried when the network was made
        raise NotRecordedError(f"{_told(error, recording.asks_sizes)}, at {where_raised(error)}") from error
    if (caught := take_refusal()) is not None:
        raise caught
    after = [recording.value(each) for each in (returned if isinstance(returned, tuple | list) else (returned,))]
    if [each.shape_ if isinstance(each, Value) and not each.truth else None for each in after] != [("B", "H")] * len(cell.states):
        raise NotRecordedError("does not run a step that does not return its states")  # the reference says what is wrong with it
    values = [gates.value(gate, r) for gate in cell.traced]
    r.take_rest()
    return Recorded(
        recording.graph,
        tuple(each.expression.place for each in after),
        tuple(each.expression.place for each in values),
        tuple(sorted(r.of_h)),
        tuple((place, tuple(sorted(of))) for place, of in r.of_others.items()),
        called,
    )


_MOST_WORDS = 100


def _told(error: Exception, asks_sizes: bool) -> str:
    """What a step does that raises an error with stand-ins alone."""
    kind, words = type(error).__name__, words_of(error)
    if asks_sizes and isinstance(error, TypeError) and re.search(rf"\b{UnknownSize.__name__}\b|\(\) takes \d+ positional", words):
        return "does not run a step that makes a tensor of a given size (use torch.ones_like(v), or a parameter that init fills)"
    words = f"{words[:_MOST_WORDS]}..." if len(words) > _MOST_WORDS else words
    return f"does not run a step with {kind} ({words})" if words else f"does not run a step with {kind}"


_SHAPES: dict[tuple[Role, str], Shape] = {
    (Role.INPUT, "H"): ("B", "H"),
    (Role.STATE, "H"): ("B", "H"),
    (Role.DRAW, "H"): ("B", "H"),
    (Role.STEP_INPUT, "H"): ("B", "H"),
    (Role.STEP_INPUT, ""): ("B", 1),
    (Role.OWN, "H"): ("H",),
    (Role.OWN, ""): (),
}


class _Recurrent:
    """The recurrent parts: r.g, and r("g", v), which are leaves; and which gate's rows take what."""

    def __init__(self, recording: Recording, cell: Cell) -> None:
        self._recording = recording
        self._gates = {gate: index for index, gate in enumerate(cell.recurrent_gates)}
        self._parts: dict[str, Value] = {}  # as they were taken, r.g or r(g, v)
        self._h = recording.leaf((Role.STATE, 0), ("B", "H"))
        self.of_h: set[int] = set()
        self.of_others: dict[int, set[int]] = {}
        self.listener: Callable[[str, Value, Value], None] = lambda gate, v, part: None

    def __getattr__(self, gate: str) -> Value:
        if gate.startswith("_"):
            raise AttributeError(gate)
        setattr(self, gate, self(gate, self._h))
        return self._parts[gate]

    def __call__(self, gate: str, v: Value) -> Value:
        if v.shape_ != ("B", "H"):
            refuse(f"does not run r({gate!r}, v) with a v of a shape other than (B, H)")
        index = self._gates[gate]
        of = self.of_h if v.expression == self._h.expression else self.of_others.setdefault(v.expression.place, set())
        if any(index in gates for gates in (self.of_h, *self.of_others.values()) if gates is not of):
            refuse(f"does not run a step that uses the rows of gate {gate!r} twice")
        of.add(index)
        part = self._parts[gate] = self._recording.leaf((Role.RECURRENT, index), ("B", "H"))
        self.listener(gate, v, part)
        return part

    def part_of(self, gate: str) -> Value | None:
        """The gate's part as the step has taken it, of h where it has not; None if the gate has none."""
        return None if gate not in self._gates else self._parts[gate] if gate in self._parts else getattr(self, gate)

    def take_rest(self) -> None:
        """Let the rows that the step has not used be multiplied by h: they are in weight_hh, and a program has a product for each."""
        self.of_h |= {index for gate, index in self._gates.items() if gate not in self._parts}


class _Gates:
    """Finds the gates' values, as ``elman.cells.gates.GateValues`` does."""

    def __init__(self, cell: Cell, x: Mapping[str, Value]) -> None:
        self._x = x
        self._finder = GateFinder({gate: (gate in x) + (gate in cell.recurrent_gates) for gate in cell.traced})
        for gate, part in x.items():
            self._finder.open(gate, 0, part)

    def listen_to_product(self, gate: str, v: Value, part: Value) -> None:
        self._finder.open(gate, int(gate in self._x), part)

    def listen(self, name: str, operands: list[Value], result: Value) -> None:
        self._finder.note(name, operands, [result])

    def value(self, gate: str, r: _Recurrent) -> Value:
        found: Value | None = self._finder.of(gate)
        if found is not None:
            return found
        parts = [self._x[gate]] if gate in self._x else []
        if (part := r.part_of(gate)) is not None:
            parts.append(part)
        return made(Opcode.ADD, *parts) if len(parts) == 2 else parts[0]
