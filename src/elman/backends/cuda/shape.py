"""What of a cell decides which kernels it has, and how much each reads, keeps and writes; and what else a run is told of a stack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch

from elman.backends.contract import Expected
from elman.cells import BY_NAME

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class CellShape:
    """A cell as the kernels have it (kernels/step.cuh), which assert that their Step says the same. There is one object for each cell.

    Attributes:
        name: for messages.
        source: C++, which declares ``Step``, after all headers of the kernels.
        inputs, gates: parts of x, of products: vectors of H numbers, rows of W_ih and W_hh.
        products: the gates of each, of h first, which may have none; then of factors, which stages of the step make.
        states: how many.
        own: for each parameter of the cell's own whether it has a number for each unit; else it is a single number.
        step_inputs, draws: numbers of a step beside x.
        kept: numbers of a unit that forward keeps of each step.
        read: how many of them, the first ones, the step's gradient reads.
        reads_output: whether it reads the first state after the step.
        before: the states before the step that it reads.
        kept_at: where among those kept each state but the first is; -1: it is not.
        factors_at: where each factor is.
        columns: gradients of a unit that a step of backward writes: those of the parts of x first.
        runs: where those of the gates lie, in their order: (product, begin, end) of gates that are neighbours.
        step_inputs_at: where those of the step inputs begin.
        rows: at most how many numbers are summed over the units at once, forward and backward; 0: none.
        sums: how often in a step they are, forward and backward.
        held: numbers of a unit that a thread holds from one part of a step to the next, forward and backward.
        constants: how many numbers forward and backward are given with a launch.
        weight: how much longer than an RNN's the arithmetic of a unit takes.
    """

    name: str
    source: str
    inputs: int
    gates: int
    products: tuple[tuple[int, ...], ...]
    states: int
    own: tuple[bool, ...]
    step_inputs: tuple[bool, ...]
    draws: int
    kept: int
    read: int
    reads_output: bool
    before: tuple[int, ...]
    kept_at: tuple[int, ...]
    factors_at: tuple[int, ...]
    columns: int
    runs: tuple[tuple[int, int, int], ...]
    step_inputs_at: int
    rows: tuple[int, int]
    sums: tuple[int, int]
    held: tuple[int, int]
    constants: tuple[int, int]
    weight: float

    @property
    def given(self) -> int:
        """Vectors of H numbers that a step reads beside x."""
        return len(self.step_inputs) + self.draws

    @cached_property
    def multiplied(self) -> tuple[int, ...]:
        """The products that gates' gradients are of, in the order of their first."""
        return tuple(dict.fromkeys(j for j, _, _ in self.runs))

    @cached_property
    def apart(self) -> tuple[int, ...]:
        """Gates whose recurrent part has gradients of its own, and so has b_hh there."""
        columns = [column for _, begin, end in self.runs for column in range(begin, end)]
        return tuple(gate for gate, column in enumerate(columns) if column >= self.inputs)

    @property
    def totals(self) -> int:
        """Gradients of a unit that a thread adds up over the steps: of the cell's own parameters, then of b_hh for the gates apart."""
        return len(self.own) + len(self.apart)

    @property
    def vectors(self) -> int:
        """Those that a step reads forward."""
        return self.inputs + self.given

    @property
    def operands(self) -> int:
        """Those that it reads backward."""
        return 1 + self.read + self.reads_output + len(self.before) + self.given

    @property
    def assertions(self) -> str:
        """C++ that does not compile unless ``Step`` says the same."""
        counts = {
            "kInputs": self.inputs,
            "kGates": self.gates,
            "kProducts": len(self.products),
            "kStates": self.states,
            "kOwn": len(self.own),
            "kApart": len(self.apart),
            "kGiven": self.given,
            "kKept": self.kept,
            "kRead": self.read,
            "kReadsOutput": int(self.reads_output),
            "kBefore": len(self.before),
            "kColumns": self.columns,
            "kForwardRows": self.rows[0],
            "kBackwardRows": self.rows[1],
        }
        same = " && ".join(f"Step::{name} == {count}" for name, count in counts.items())
        return f'static_assert({same}, "as shape.py has it");\n'


def _built_in(name: str, weight: float, split_gate: int | None, reads_output: bool, reads_before: bool) -> CellShape:
    cell = BY_NAME[name]
    header = cell.__module__.rpartition(".")[2]
    gates, kept, states = len(cell.gates), len(cell.saved), len(cell.states)
    # A gate whose recurrent part has a gradient of its own has it after all others (csrc/cells/gru.h).
    runs = ((0, 0, gates),) if split_gate is None else ((0, 0, split_gate), (0, gates, gates + 1))
    return CellShape(
        name=name,
        source=f'#include "{header}.h"\n' + f"using Step = elman::cuda::BuiltIn<elman::cuda::{cell.__name__}<float>>;\n",
        inputs=gates,
        gates=gates,
        products=(tuple(range(gates)),),
        states=states,
        own=(),
        step_inputs=(),
        draws=0,
        kept=kept,
        read=kept,
        reads_output=reads_output,
        before=(states - 1,) if reads_before else (),
        kept_at=(kept - 1,) * (states - 1),
        factors_at=(),
        columns=gates + (split_gate is not None),
        runs=runs,
        step_inputs_at=gates + (split_gate is not None),
        rows=(0, 0),
        sums=(0, 0),
        held=(0, 0),
        constants=(0, 0),
        weight=weight,
    )


class CellKernel(NamedTuple):
    """A cell, and the numbers that its arithmetic is given with a launch: options' values change without another kernel.

    Attributes:
        shape: the cell's.
        forward, backward: the constants, float32 as they lie in memory: numbers may be equal and differ, as 0.0 and -0.0.
    """

    shape: CellShape
    forward: bytes = b""
    backward: bytes = b""


# The cells whose kernels are written by hand.
CELLS = {
    "rnn_tanh": _built_in("rnn_tanh", 1.0, None, True, False),
    "rnn_relu": _built_in("rnn_relu", 1.0, None, True, False),
    "gru": _built_in("gru", 2.0, 2, False, True),
    "lstm": _built_in("lstm", 2.5, None, False, True),
}


class Sizes(Protocol):
    """What is asked of a stack beside its cell's kernel: a ``Stack`` says it, and so does what recorded calls are told."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_directions(self) -> int: ...
    @property
    def bias(self) -> int: ...
    @property
    def recompute(self) -> int: ...


def expected_of(shape: CellShape, sizes: Sizes, input_size: int) -> Expected:
    """Which operands a run of a stack of such cells takes."""
    hidden, directions, parameters = sizes.hidden_size, sizes.num_directions, list[tuple[int, ...]]()
    inputs, gates = shape.inputs * hidden, shape.gates * hidden
    for index in range(sizes.num_layers * directions):
        parameters.append((inputs, input_size if index < directions else directions * hidden))
        parameters += [(gates, hidden)] * bool(gates)
        parameters += [(rows,) for rows in (inputs, gates) if rows and sizes.bias]
        parameters += [(hidden,) if of_units else () for of_units in shape.own]
    return Expected(_DTYPES, hidden, sizes.num_layers, directions, (hidden,) * shape.states, shape.step_inputs, parameters, shape.kept)
