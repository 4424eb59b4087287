"""Programs as text: what ``str`` of a Code prints, read again; and two of them written by hand."""

from __future__ import annotations

import re

from elman.backends.program.program import NOTHING, Code, Instruction, Opcode, Operand, Program, Role

LINE = re.compile(r"(\w+) = (\w+)\((.*)\)")
OPERAND = re.compile(r"([a-z_]+)(\d+)")
OPERANDS = {  # how many an operation has, by its name
    **{each.name.lower(): 1 for each in Opcode},
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "min", "max", "lt", "le", "gt", "ge", "eq", "ne"), 2),
    **dict.fromkeys(("fma", "fnma", "where", "row_sum_fma", "row_mean_fma"), 3),
}


def read(text: str) -> Code:
    """The code that prints as ``text``. A number stands for a constant; a line of dashes ends a stage."""
    operands: list[Operand] = []
    constants: list[float] = []
    instructions: list[Instruction] = []
    stages: list[tuple[int, int]] = []

    def operand(name: str) -> int:
        if found := OPERAND.fullmatch(name):
            which = Role[found[1].upper()], int(found[2])
        else:
            number, known = float(name), [each.hex() for each in constants]  # 0 is not -0
            if number.hex() not in known:
                constants.append(number)
            which = Role.CONSTANT, (*known, number.hex()).index(number.hex())
        if which not in operands:
            operands.append(which)
        return operands.index(which)

    for stage in text.split("---"):
        first = len(instructions)
        for line in stage.strip().splitlines():
            found = LINE.fullmatch(line.strip())
            assert found is not None, line
            to, (a, b, c) = operand(found[1]), ([operand(each.strip()) for each in found[3].split(",")] + [NOTHING] * 3)[:3]
            instructions.append((Opcode[found[2].upper()], to, a, b, c))
        stages.append((first, len(instructions)))
    temps, carries = (1 + max((index for role, index in operands if role is scratch), default=-1) for scratch in (Role.TEMP, Role.CARRY))
    return Code(tuple(instructions), tuple(operands), tuple(constants), tuple(stages), temps, carries)


# i, f, g, o; c' = f c + i g; h' = o tanh(c'). Kept: the four gates.
LSTM_FORWARD = """
temp0 = add(input0, recurrent0)
temp0 = sigmoid(temp0)
temp1 = add(input1, recurrent1)
temp1 = sigmoid(temp1)
temp2 = add(input2, recurrent2)
temp2 = tanh(temp2)
temp0 = mul(temp0, temp2)
new_state1 = fma(temp1, state1, temp0)
temp1 = add(input3, recurrent3)
temp1 = sigmoid(temp1)
temp0 = tanh(new_state1)
new_state0 = mul(temp1, temp0)
"""
LSTM_TRAINING = """
temp0 = add(input0, recurrent0)
saved0 = sigmoid(temp0)
temp0 = add(input1, recurrent1)
saved1 = sigmoid(temp0)
temp0 = add(input2, recurrent2)
saved2 = tanh(temp0)
temp0 = mul(saved0, saved2)
new_state1 = fma(saved1, state1, temp0)
temp0 = add(input3, recurrent3)
saved3 = sigmoid(temp0)
temp0 = tanh(new_state1)
new_state0 = mul(saved3, temp0)
"""
LSTM_BACKWARD = """
temp0 = tanh(new_state1)
temp1 = mul(grad_new_state0, temp0)
temp2 = fnma(saved3, saved3, saved3)
grad_recurrent3 = mul(temp1, temp2)
grad_input3 = copy(grad_recurrent3)
temp1 = mul(grad_new_state0, saved3)
temp0 = fnma(temp0, temp0, 1.0)
temp0 = fma(temp1, temp0, grad_new_state1)
grad_state1 = mul(temp0, saved1)
temp1 = mul(temp0, state1)
temp2 = fnma(saved1, saved1, saved1)
grad_recurrent1 = mul(temp1, temp2)
grad_input1 = copy(grad_recurrent1)
temp1 = mul(temp0, saved2)
temp2 = fnma(saved0, saved0, saved0)
grad_recurrent0 = mul(temp1, temp2)
grad_input0 = copy(grad_recurrent0)
temp1 = mul(temp0, saved0)
temp2 = fnma(saved2, saved2, 1.0)
grad_recurrent2 = mul(temp1, temp2)
grad_input2 = copy(grad_recurrent2)
"""
LSTM = Program(
    read(LSTM_FORWARD),
    read(LSTM_TRAINING),
    read(LSTM_BACKWARD),
    products=((0, 1, 2, 3),),
    inputs=4,
    recurrents=4,
    states=2,
    own=(),
    step_inputs=(),
    draws=0,
    gates=0,
    saved=4,
)

# r, z; n = tanh(x.n + r("n", r h)); h' = n + z (h - n). Kept: the three gates, and r h as the factor.
GRU2014_FORWARD = """
temp0 = add(input0, recurrent0)
temp0 = sigmoid(temp0)
factor0 = mul(temp0, state0)
---
temp0 = add(input1, recurrent1)
temp0 = sigmoid(temp0)
temp1 = add(input2, recurrent2)
temp1 = tanh(temp1)
temp2 = sub(state0, temp1)
new_state0 = fma(temp0, temp2, temp1)
"""
GRU2014_TRAINING = """
temp0 = add(input0, recurrent0)
saved0 = sigmoid(temp0)
factor0 = mul(saved0, state0)
---
temp0 = add(input1, recurrent1)
saved1 = sigmoid(temp0)
temp0 = add(input2, recurrent2)
saved2 = tanh(temp0)
temp0 = sub(state0, saved2)
new_state0 = fma(saved1, temp0, saved2)
"""
# The gradient of h that does not come through h's product ends in the second stage; carry0 holds its first part over the factor's product.
GRU2014_BACKWARD = """
temp0 = sub(state0, saved2)
temp0 = mul(grad_new_state0, temp0)
temp1 = fnma(saved1, saved1, saved1)
grad_recurrent1 = mul(temp0, temp1)
grad_input1 = copy(grad_recurrent1)
carry0 = mul(grad_new_state0, saved1)
temp0 = sub(grad_new_state0, carry0)
temp2 = fnma(saved2, saved2, 1.0)
grad_recurrent2 = mul(temp0, temp2)
grad_input2 = copy(grad_recurrent2)
---
grad_state0 = fma(grad_factor0, saved0, carry0)
temp0 = mul(grad_factor0, state0)
temp1 = fnma(saved0, saved0, saved0)
grad_recurrent0 = mul(temp0, temp1)
grad_input0 = copy(grad_recurrent0)
"""
GRU2014 = Program(
    read(GRU2014_FORWARD),
    read(GRU2014_TRAINING),
    read(GRU2014_BACKWARD),
    products=((0, 1), (2,)),
    inputs=3,
    recurrents=3,
    states=1,
    own=(),
    step_inputs=(),
    draws=0,
    gates=0,
    saved=3,
)
