"""What the kernels run of a cell: its step, and the gradient of its step, as instructions over arrays of (sequences, H) numbers.

A program knows no sizes. An instruction reads up to three operands and writes one, all of them arrays of the same shape or single numbers;
it may write the array that it reads. What an operand is says its role.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto


class Opcode(IntEnum):
    """What an instruction does, in the order of the kernels' table. Infinities, NaN and ties are torch's."""

    COPY = 0
    ADD = auto()
    SUB = auto()
    MUL = auto()
    DIV = auto()
    NEG = auto()
    FMA = auto()  # a · b + c
    POW = auto()  # a to the power b, a number
    MIN = auto()
    MAX = auto()
    WHERE = auto()  # b where a is not 0, else c
    LT = auto()  # comparisons give 1 or 0
    LE = auto()
    GT = auto()
    GE = auto()
    EQ = auto()
    NE = auto()
    ABS = auto()
    SIGN = auto()
    SQRT = auto()
    RSQRT = auto()
    EXP = auto()
    LOG = auto()
    LOG1P = auto()
    EXPM1 = auto()
    TANH = auto()
    SIGMOID = auto()
    RELU = auto()
    SOFTPLUS = auto()  # log(1 + exp(a)); a where a > 20, as torch's
    SIN = auto()
    COS = auto()
    ERF = auto()
    RECIPROCAL = auto()
    SQUARE = auto()
    # Over the H numbers of a sequence, the result in each of them.
    ROW_SUM = auto()
    ROW_MEAN = auto()
    ROW_MAX = auto()
    FNMA = auto()  # c - a · b
    ROW_SUM_FMA = auto()  # over the H numbers a · b + c
    ROW_MEAN_FMA = auto()

    @property
    def over_rows(self) -> bool:
        return self in (Opcode.ROW_SUM, Opcode.ROW_MEAN, Opcode.ROW_MAX, Opcode.ROW_SUM_FMA, Opcode.ROW_MEAN_FMA)


class Role(IntEnum):
    """What an operand is; its index says which one."""

    TEMP = 0  # scratch of a block; what it holds is gone at the end of the stage
    CONSTANT = auto()  # one number
    INPUT = auto()  # x.g, by input_gates: the input's part with its bias
    RECURRENT = auto()  # r.g, by recurrent_gates: the product with its bias
    STATE = auto()  # a state before the step
    NEW_STATE = auto()  # after it; forward may read what it has written
    OWN = auto()  # the cell's own parameter: H numbers, the same for each sequence, or one
    STEP_INPUT = auto()  # a number of the step
    DRAW = auto()
    SAVED = auto()  # written by forward in training, read by backward; forward may read what it has written
    FACTOR = auto()  # the v of a product r(..., v): written by forward, which may read it; backward may read it
    GATE = auto()  # by gates: the value that a trace shows; forward writes it
    GRAD_NEW_STATE = auto()  # backward reads it
    GRAD_INPUT = auto()  # backward writes it
    GRAD_RECURRENT = auto()  # backward writes it, and may read what it has written
    GRAD_FACTOR = auto()  # what the product's gradient gives; backward reads it, in the stages after that product
    GRAD_STATE = auto()  # but for what comes through the product with h; backward writes it
    GRAD_OWN = auto()  # one step's part of each sequence and unit; backward writes it
    GRAD_STEP_INPUT = auto()  # likewise
    GRAD_GATE = auto()  # of a traced gate; backward reads it
    CARRY = auto()  # scratch that holds over the products of one step, for all sequences


# What a program reads without having written it.
GIVEN_FORWARD = frozenset({Role.CONSTANT, Role.INPUT, Role.RECURRENT, Role.STATE, Role.OWN, Role.STEP_INPUT, Role.DRAW})
GIVEN_BACKWARD = frozenset(
    {Role.CONSTANT, Role.STATE, Role.NEW_STATE, Role.OWN, Role.STEP_INPUT, Role.DRAW, Role.SAVED, Role.FACTOR}
    | {Role.GRAD_NEW_STATE, Role.GRAD_FACTOR, Role.GRAD_GATE}
)
NOTHING = -1  # an operand that an instruction does not have

Operand = tuple[Role, int]
Instruction = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Code:
    """Instructions in the order in which they run.

    Of what they write, they read TEMP, CARRY, SAVED, NEW_STATE, FACTOR and GRAD_RECURRENT again.

    Attributes:
        instructions: (opcode, destination, a, b, c); the last four index ``operands``, or are ``NOTHING``.
        operands: (role, index).
        constants: the numbers that CONSTANT operands index.
        stages: (first, end) of the instructions between two products.
        temps, carries: how many TEMP and CARRY there are.
    """

    instructions: tuple[Instruction, ...]
    operands: tuple[Operand, ...]
    constants: tuple[float, ...]
    stages: tuple[tuple[int, int], ...]
    temps: int
    carries: int

    def __str__(self) -> str:
        """A line an instruction: ``temp0 = add(input0, recurrent0)``; a line of dashes between two stages."""

        def name(operand: int) -> str:
            role, index = self.operands[operand]
            return repr(self.constants[index]) if role is Role.CONSTANT else f"{role.name.lower()}{index}"

        stages = [
            "\n".join(
                f"{name(to)} = {Opcode(opcode).name.lower()}({', '.join(name(each) for each in operands if each != NOTHING)})"
                for opcode, to, *operands in self.instructions[first:end]
            )
            for first, end in self.stages
        ]
        return "\n---\n".join(stages)


@dataclass(frozen=True)
class Program:
    """The step of a cell and its gradient.

    N products r(..., v) with something else than h divide the step into N + 1 stages. Before the first stage of ``forward`` the scan makes
    the product with h for the gates in ``products[0]``; after stage j the product of FACTOR j for those in ``products[j + 1]``. Backward
    runs its N + 1 stages in the order in which they stand: after stage j the scan makes GRAD_FACTOR N - 1 - j from GRAD_RECURRENT of its
    gates, and after the last the product for h's gates, which it adds to GRAD_STATE of the first state.

    A gradient that no instruction writes is zero. Where the two gradients of a gate are one value, GRAD_RECURRENT is computed and
    GRAD_INPUT is a COPY of it, which a scan may drop to keep one array for both.

    Attributes:
        forward: for inference.
        training: forward, and writes what backward reads of SAVED.
        backward: reads only states, own parameters, step inputs, draws, SAVED, FACTOR, and the gradients that arrive.
        products: gates as indices into ``recurrent_gates``.
        inputs, recurrents, states, draws, gates: how many there are of each, ``gates`` in a traced program only, else 0.
        own, step_inputs: for each whether it has a number for each unit ("H"), else it is a single number.
        saved: how many SAVED there are.
    """

    forward: Code
    training: Code
    backward: Code
    products: tuple[tuple[int, ...], ...]
    inputs: int
    recurrents: int
    states: int
    own: tuple[bool, ...]
    step_inputs: tuple[bool, ...]
    draws: int
    gates: int
    saved: int

    @property
    def reads(self) -> frozenset[Operand]:
        """What backward reads of what forward has had or made."""
        kept = {Role.STATE, Role.NEW_STATE, Role.FACTOR}
        read = {operand for each in self.backward.instructions for operand in each[2:] if operand != NOTHING}
        return frozenset(self.backward.operands[each] for each in read if self.backward.operands[each][0] in kept)
