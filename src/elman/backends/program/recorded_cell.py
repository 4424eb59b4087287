"""A recorded step as a cell again: for who needs its operations one by one, in torch's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from elman.backends.program.arithmetic import COMPUTE, OVER_ROWS
from elman.backends.program.program import NOTHING, Opcode, Role
from elman.cells import Cell

if TYPE_CHECKING:
    from elman.backends.program.program import Operand, Program


class RecordedCell(Cell):
    """The cell of a program, for evaluation: its names are numbers, and its step does what the program's ``forward`` does.

    The step asks for no size: a loop's body in which sizes are numbers of the graph cannot be exported.

    Args:
        program: without random numbers.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.gates = tuple(f"g{i}" for i in range(max(program.inputs, program.recurrents)))
        self.input_gates, self.recurrent_gates = self.gates[: program.inputs], self.gates[: program.recurrents]
        self.states = tuple(f"s{i}" for i in range(program.states))
        self.parameters = {f"p{i}": "H" * has_units for i, has_units in enumerate(program.own)}
        self.step_inputs = {f"q{i}": "H" * has_units for i, has_units in enumerate(program.step_inputs)}

    def step(self, x: Any, r: Any, s: Any, p: Any) -> tuple[Tensor, ...]:
        program, code = self.program, self.program.forward
        named = (
            (Role.INPUT, x, self.input_gates),
            (Role.STATE, s, self.states),
            (Role.OWN, p, self.parameters),
            (Role.STEP_INPUT, x, self.step_inputs),
        )
        there: dict[Operand, Tensor] = {
            (role, index): getattr(values, name) for role, values, names in named for index, name in enumerate(names)
        }
        first = s.s0
        for stage, (begin, end) in enumerate(code.stages):
            for gate in program.products[stage]:
                name = self.recurrent_gates[gate]
                there[Role.RECURRENT, gate] = r(name, there[Role.FACTOR, stage - 1]) if stage else getattr(r, name)
            for opcode, to, *operands in code.instructions[begin:end]:
                keys = [code.operands[each] for each in operands if each != NOTHING]
                values = [first.new_full((), code.constants[i]) if role is Role.CONSTANT else there[role, i] for role, i in keys]
                if Opcode(opcode).over_rows:
                    result = OVER_ROWS[Opcode(opcode)](*(_of_all(value, first) for value in values))
                elif opcode == Opcode.POW and keys[1][0] is Role.CONSTANT:
                    result = torch.pow(values[0], code.constants[keys[1][1]])
                elif opcode in (Opcode.MIN, Opcode.MAX) and len(constant := [key for key in keys if key[0] is Role.CONSTANT]) == 1:
                    # ONNX's exporter makes a clamp of two such, and gives those of one value the same names.
                    (value,), bound = [values[i] for i, key in enumerate(keys) if key not in constant], code.constants[constant[0][1]]
                    result = torch.where(value > bound if opcode == Opcode.MIN else value < bound, bound, value)
                else:
                    result = COMPUTE[Opcode(opcode)](*values)
                there[code.operands[to]] = result
        # A copy of an argument is a tensor of its own: a loop's body may not hand out what it was given.
        return tuple([_of_all(there[Role.NEW_STATE, index], first).clone() for index in range(program.states)])


def _of_all(value: Tensor, like: Tensor) -> Tensor:
    """The numbers of all sequences and units, of what may be the same for several."""
    return value if value.dim() == 2 and value.shape[-1] == like.shape[-1] else torch.where(like.isnan(), value, value)
