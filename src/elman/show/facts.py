"""What is true of a network, as plain data: ``dataclasses.asdict`` of it is what ``--json`` prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from elman.show.spec import Spec

# Numbers nested as deep as a tensor has axes.
Nested: TypeAlias = "float | list[Nested]"


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor.

    Attributes:
        symbol: the letter used for it everywhere ("T"), or a product of letters ("D·H").
        meaning: in words, "steps".
        size: how long it is.
    """

    symbol: str
    meaning: str
    size: int


@dataclass(frozen=True)
class TensorFacts:
    """A tensor's name, shape and meaning.

    Attributes:
        role: what it is for: "x", "output", "h_n", "c_n", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr".
        layer: of a parameter: its layer; else None.
        direction: of a parameter: "forward" or "reverse"; else None.
        values: the numbers; None where there are too many to list.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    layer: int | None = None
    direction: str | None = None
    values: Nested | None = None

    @property
    def count(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class GateRows:
    """Which rows of a weight or a bias are a gate's: from ``start`` up to ``stop``."""

    gate: str
    start: int
    stop: int


@dataclass(frozen=True)
class Place:
    """Where one slice of the final state sits in ``output``, and whether this run's numbers bear that out.

    Attributes:
        state: the slice, as one writes it: "h_n[1]".
        where: the same numbers in ``output``, as one writes it; None where they are not in it (every layer but the top one).
        holds: checked: the numbers there are the very same; for a lower layer, that the layer run by itself ends in this state.
        difference: the largest difference found in that check.
        state_row: the slice's numbers of batch row 0.
        found_row: the numbers of batch row 0 that they were compared with.
        nearest: of a lower layer: the largest difference from the place in ``output`` that comes nearest; else None.
    """

    state: str
    layer: int
    direction: str
    where: str | None
    holds: bool
    difference: float
    state_row: tuple[float, ...]
    found_row: tuple[float, ...]
    nearest: float | None = None


@dataclass(frozen=True)
class Trap:
    """The place people take for the reverse direction's end, and which is its first step: ``output[-1, :, H:]``."""

    state: str
    where: str
    difference: float
    state_row: tuple[float, ...]
    found_row: tuple[float, ...]


@dataclass(frozen=True)
class LayerCost:
    """One layer's parameters, and multiply-adds for one row of the batch at one step."""

    layer: int
    parameters: int
    multiply_adds_per_step: int


@dataclass(frozen=True)
class Costs:
    """Parameters, and multiply-adds of the matrix products: for one row of the batch at one step, and for the whole call."""

    parameters: int
    bytes: int
    multiply_adds_per_step: int
    multiply_adds_per_call: int
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True)
class Agreement:
    """Elman beside torch.nn with the same weights: largest absolute differences.

    Attributes:
        same_seed: the same seed gave both the very same parameters.
        output: between the two outputs.
        state: between the final states.
        elman_from_float64: Elman's output from that of a float64 run (by torch.nn); None if the network is float64 itself.
        torch_from_float64: torch.nn's output from the same.
    """

    same_seed: bool
    output: float
    state: float
    elman_from_float64: float | None
    torch_from_float64: float | None


@dataclass(frozen=True)
class Quartiles:
    """Seconds per call over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """A call of each without gradients, raced in one process in shuffled order.

    ``ratio`` is torch's median over Elman's.
    """

    elman: Quartiles
    torch: Quartiles
    ratio: float
    rounds: int
    threads: int


@dataclass(frozen=True)
class Product:
    """A weight times the number it meets."""

    index: int
    weight: float
    value: float
    product: float


@dataclass(frozen=True)
class GateSum:
    """What enters one gate of one unit: from the input, and from the state before.

    Attributes:
        bias_ih, bias_hh: None in a network without.
        total: of all that; None where the cell does not simply add it up, as for the GRU's n.
    """

    gate: str
    from_input: tuple[Product, ...]
    input_sum: float
    bias_ih: float | None
    from_state: tuple[Product, ...]
    state_sum: float
    bias_hh: float | None
    total: float | None


@dataclass(frozen=True)
class Line:
    """One equation worked out: what it gives, the equation, the same with numbers, the value."""

    name: str
    equation: str
    numbers: str
    value: float


@dataclass(frozen=True)
class Worked:
    """One step of one unit worked through by hand.

    Attributes:
        step: the time step; the reverse direction comes to it from the step after it.
        before: the step that the state before came from; None at a direction's first step, where the state is zero.
        input_code, state_code: what is read, as one writes it; ``state_code`` is None at the first step.
        weight_ih, weight_hh: the parameters' names.
        value_code: where the library put the value, as one writes it.
        lines: every equation in turn, with its numbers.
        projection: the products that give the value where the network projects its state; else None.
        by_hand: the value worked out here in float64.
        library: the value that the library computed.
    """

    step: int
    unit: int
    row: int
    layer: int
    direction: str
    before: int | None
    equations: tuple[str, ...]
    input_code: str
    state_code: str | None
    weight_ih: str
    weight_hh: str
    value_code: str
    gates: tuple[GateSum, ...]
    lines: tuple[Line, ...]
    projection: tuple[Product, ...] | None
    by_hand: float
    library: float
    difference: float


@dataclass(frozen=True)
class Network:
    """All that is told of a network. ``speed`` and ``worked`` are None where they were not asked for."""

    name: str
    spec: Spec
    code: tuple[str, ...]
    equations: tuple[str, ...]
    tensors: tuple[TensorFacts, ...]
    parameters: tuple[TensorFacts, ...]
    gates: tuple[GateRows, ...]
    places: tuple[Place, ...]
    trap: Trap | None
    costs: Costs
    backend: str
    agreement: Agreement
    speed: Speed | None
    worked: Worked | None


@dataclass(frozen=True)
class End:
    """Where one direction of a row ends in the top layer, and whether this run's numbers bear that out.

    Attributes:
        state: the row's final state, as one writes it: "h_n[0, 1]".
        last: the same numbers in what ``trace`` calls ``last``: "last[1, :20]".
        where: the same in ``output``: "output[2, 1, :20]"; None for a row without a step.
        piece: the first and the last step that the state depends on; None for a row without a step.
        holds: checked: the numbers there are the very same, and the piece run by itself ends in this state.
        difference: the largest difference found in that check.
        numbers: the state's first numbers.
    """

    direction: str
    state: str
    last: str
    where: str | None
    piece: tuple[int, int] | None
    holds: bool
    difference: float
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """What is run of one row of a batch.

    Attributes:
        pieces: the first and the last step of each piece that resets leave of it.
        padding: what lies past its length, as one writes it: "output[3:, 1]"; None where there is nothing.
        padding_is_zero: checked: all numbers there are 0.
        ends: one for each direction.
    """

    row: int
    length: int
    pieces: tuple[tuple[int, int], ...]
    padding: str | None
    padding_is_zero: bool
    ends: tuple[End, ...]


@dataclass(frozen=True)
class Spans:
    """Which steps of a batch's rows are run, and in which pieces.

    Attributes:
        lengths: of the rows; None where they were not asked about: all steps are run.
        reset: row and step of each reset.
    """

    spec: Spec
    lengths: tuple[int, ...] | None
    reset: tuple[tuple[int, int], ...]
    code: tuple[str, ...]
    rows: tuple[Row, ...]
    backend: str
