"""Verifies a recording: runs it and the step that it records on a few numbers.

A stand-in is no tensor, so a step may do something else with it (``isinstance(v, torch.Tensor)``), and gradients of its own
(``torch.autograd.Function``) are not recorded. Neither can be seen while it is recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.nn.functional import linear

from elman.backends.program.arithmetic import COMPUTE
from elman.backends.program.program import Role
from elman.backends.program.stand_in import NotRecordedError, where_raised
from elman.cells import take_step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from elman.backends.program.record import Recorded
    from elman.cells import Cell

_BATCH, _UNITS = 1, 3  # of one sequence no operation of torch's is worth threads, which are long in coming; where any H will do
# Far above what rounding makes of a step's operations in another order, and below what is something else.
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}


def verify(cell: Cell, recorded: Recorded, dtype: torch.dtype, draws: bool, known_units: int | None = None) -> None:
    """Raise a NotRecordedError if the step gives other numbers than its recording, where both are finite, or has gradients of its own."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype, device="cpu").sub(0.4).requires_grad_()

    units = known_units or _UNITS
    leaves = {(Role.INPUT, k): draw(_BATCH, units) for k in range(len(cell.input_gates))}
    leaves |= {(Role.STATE, k): draw(_BATCH, units) for k in range(len(cell.states))}
    leaves |= {(Role.OWN, k): draw(*((units,) if size else ())) for k, size in enumerate(cell.parameters.values())}
    leaves |= {(Role.STEP_INPUT, k): draw(_BATCH, units if size else 1) for k, size in enumerate(cell.step_inputs.values())}
    leaves |= {(Role.DRAW, k): draw(_BATCH, units).detach().abs() for k in range(len(cell.draws) if draws else 0)}
    rows = len(cell.recurrent_gates) * units
    weight, bias = draw(rows, units), draw(rows)
    try:
        expected = _by_step(cell, leaves, weight, bias, draws)
    except Exception as error:  # nothing tells then whether the recording is the step: the reference runs it, or says what is wrong with it
        raise NotRecordedError(
            f"does not run a step that raises {type(error).__name__} with another H (write s.h.shape[-1] for it), at {where_raised(error)}"
        ) from error
    if (name := _gradient_of_its_own(expected)) is not None:
        raise NotRecordedError(f"does not run the gradient of {name}")
    with torch.no_grad():
        if not all(map(_are_near, _by_graph(recorded, leaves, weight, bias), expected)):
            raise NotRecordedError("does not run a step that does something else when it is recorded (it may ask for its tensors' type)")


def _gradient_of_its_own(results: tuple[Tensor, ...]) -> str | None:
    """The name of a torch.autograd.Function in the graph of the results."""
    own = (node for node in nodes_of(results) if isinstance(node, BackwardCFunction))
    return next((type(node).__name__.removesuffix("Backward") for node in own), None)


def nodes_of(results: Iterable[Tensor]) -> Iterator[Any]:
    """The nodes of the graph of results, each once."""
    seen, open_ = set[Any](), [each.grad_fn for each in results]
    while open_:
        node = open_.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            open_ += [each for each, _ in node.next_functions]


def _by_step(cell: Cell, leaves: dict[Any, Tensor], weight: Tensor, bias: Tensor, draws: bool) -> tuple[Tensor, ...]:
    def of(role: Role) -> list[Tensor]:
        return [value for (each, _), value in leaves.items() if each is role]

    inputs = of(Role.INPUT)
    weights = dict(zip(cell.parameters, of(Role.OWN), strict=True))
    if cell.recurrent_gates:
        weights |= {"weight_hh": weight, "bias_hh": bias}
    beside = [value if size else value.squeeze(-1) for value, size in zip(of(Role.STEP_INPUT), cell.step_inputs.values(), strict=True)]
    random = of(Role.DRAW) if draws else None
    return take_step(cell, torch.cat(inputs, -1) if inputs else None, tuple(of(Role.STATE)), weights, beside, random)


def _by_graph(recorded: Recorded, leaves: dict[Any, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    factors = {gate: place for place, gates in recorded.of_others for gate in gates}
    units = weight.shape[1]
    there: list[Tensor] = []
    for node in recorded.graph.nodes:
        if node.leaf is not None and node.leaf[0] is Role.RECURRENT:
            gate = node.leaf[1]
            rows = slice(gate * units, (gate + 1) * units)
            there.append(linear(there[factors[gate]] if gate in factors else leaves[Role.STATE, 0], weight[rows], bias[rows]))
        elif node.leaf is not None:
            there.append(leaves[node.leaf].expand(_BATCH, units))
        elif node.number is not None:
            number = torch.tensor(float.fromhex(node.number), dtype=torch.float64, device="cpu")
            there.append(number.to(bias.dtype).expand(_BATCH, units))
        elif node.opcode is not None:
            there.append(COMPUTE[node.opcode](*(there[each] for each in node.operands)))
        else:
            there.append(there[node.operands[0]])
    return tuple([there[place] for place in recorded.states])


def _are_near(one: Tensor, other: Tensor) -> bool:
    finite = one.isfinite() & other.isfinite()
    one, other = one[finite], other[finite]
    return bool(((one - other).abs() <= _TOLERANCES[one.dtype] * (1 + other.abs().max())).all()) if len(one) else True
