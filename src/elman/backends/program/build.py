"""From a recorded step to its program: the gradient, what to keep for it, and the instructions of each way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elman.backends.program.cut import KEEP_FOR_BACKWARD, kept
from elman.backends.program.differentiate import gradients
from elman.backends.program.graph import Node
from elman.backends.program.program import Opcode, Program, Role
from elman.backends.program.schedule import code, fuse

if TYPE_CHECKING:
    from collections.abc import Collection

    from elman.backends.program.graph import Expression, Graph
    from elman.backends.program.program import Operand
    from elman.backends.program.record import Recorded
    from elman.cells import Cell

_GRADIENT = {
    Role.INPUT: Role.GRAD_INPUT,
    Role.RECURRENT: Role.GRAD_RECURRENT,
    Role.STATE: Role.GRAD_STATE,
    Role.OWN: Role.GRAD_OWN,
    Role.STEP_INPUT: Role.GRAD_STEP_INPUT,
}
_PARTS = (Role.INPUT, Role.RECURRENT)
_ARRIVING = {Role.GRAD_NEW_STATE, Role.GRAD_FACTOR, Role.GRAD_GATE}


def build(cell: Cell, step: Recorded, traced: bool) -> Program:
    """The program of a recorded step. Where it is traced, it writes the gates' values, too, and reads their gradients."""
    ends = [(place, (Role.NEW_STATE, index)) for index, place in enumerate(step.states)]
    ends += [(place, (Role.FACTOR, index)) for index, (place, _) in enumerate(step.of_others)]
    ends += [(place, (Role.GATE, index)) for index, place in enumerate(step.gates) if traced]
    sought = _gradients(step.graph, ends)
    apart = _read_apart(step)

    graph, at = step.graph.settled([place for place, _ in (*ends, *sought)])
    ends, sought = ([(at[place], operand) for place, operand in outputs] for outputs in (ends, sought))
    steps = [place for place, operand in ends if operand[0] is not Role.GATE]  # alone: so a trace changes no bit of them
    forward = graph.below(steps)
    _keep_apart(graph, forward, apart)
    fuse(graph, steps, sorted(forward))
    every = [place for place, _ in (*ends, *sought)]
    fuse(graph, every, sorted(graph.below(every) - forward))

    given = {place: operand for place, operand in ends if operand[0] is not Role.GATE}
    saved = {place: (Role.SAVED, index) for index, place in enumerate(sorted(_kept(graph, [place for place, _ in sought], given)))}
    products = (step.of_h, *(gates for _, gates in step.of_others))
    stages = [[output for output in ends if output[1] == (Role.FACTOR, index)] for index in range(len(step.of_others))]
    last = [output for output in ends if output[1][0] is not Role.FACTOR]
    return Program(
        forward=code(graph, [*stages, last], {}),
        training=code(graph, [*stages, [*last, *saved.items()]], {}),
        backward=code(graph, _backward_stages(sought, products), saved | given),
        products=products,
        inputs=len(cell.input_gates),
        recurrents=len(cell.recurrent_gates),
        states=len(cell.states),
        own=tuple(size == "H" for size in cell.parameters.values()),
        step_inputs=tuple(size == "H" for size in cell.step_inputs.values()),
        draws=len(cell.draws),
        gates=len(cell.traced) if traced else 0,
        saved=len(saved),
    )


def _read_apart(step: Recorded) -> set[Operand]:
    """The inputs' and recurrent parts that a trace reads where the step does not."""
    graph = step.graph
    beyond = graph.below(step.gates) - graph.below([*step.states, *(place for place, _ in step.of_others)])
    read = {*step.gates, *(operand for place in beyond for operand in graph.nodes[place].operands)}
    return {leaf for leaf in (graph.nodes[place].leaf for place in read) if leaf is not None and leaf[0] in _PARTS}


def _keep_apart(graph: Graph, among: Collection[int], parts: set[Operand]) -> None:
    """Keep the kernels from adding such a part to another in the product (csrc/program/program.cpp), which rounds in another way: a trace,
    which cannot, is to have the same bits. An addition of 1 · a is the same one, but for the name.
    """
    for place in among:
        node = graph.nodes[place]
        leaves = [graph.nodes[operand].leaf for operand in node.operands]
        if node.opcode is Opcode.ADD and all(leaf is not None and leaf[0] in _PARTS for leaf in leaves) and parts.intersection(leaves):
            graph.nodes[place] = Node(Opcode.FMA, (node.operands[0], graph.number(1.0).place, node.operands[1]))


def _gradients(graph: Graph, ends: list[tuple[int, Operand]]) -> list[tuple[int, Operand]]:
    """The nodes of the gradients, and where each goes."""
    arrives = {Role.NEW_STATE: Role.GRAD_NEW_STATE, Role.FACTOR: Role.GRAD_FACTOR, Role.GATE: Role.GRAD_GATE}
    arriving: dict[int, Expression] = {}
    for place, (role, index) in ends:
        gradient = graph.leaf((arrives[role], index))
        arriving[place] = arriving[place] + gradient if place in arriving else gradient
    found = gradients(graph, arriving)
    leaves = sorted((graph.nodes[place].leaf, gradient.place) for place, gradient in found.items())
    return [(gradient, (_GRADIENT[leaf[0]], leaf[1])) for leaf, gradient in leaves if leaf is not None and leaf[0] in _GRADIENT]


def _kept(graph: Graph, sought: list[int], given: dict[int, Operand]) -> set[int]:
    """What forward keeps for the gradients, beside the states and factors that are kept anyway."""
    moving = set[int]()  # what depends on the gradients that arrive
    needed = set[int]()
    for place in sorted(graph.below(sought)):
        node = graph.nodes[place]
        if (node.leaf is not None and node.leaf[0] in _ARRIVING) or moving.intersection(node.operands):
            moving.add(place)
            needed |= set(node.operands) - moving
    needed |= set(sought) - moving
    free = {place for place, node in enumerate(graph.nodes) if node.leaf is not None and node.leaf[0] not in (Role.INPUT, Role.RECURRENT)}
    return kept(graph, needed, free | set(given), KEEP_FOR_BACKWARD)


def _backward_stages(sought: list[tuple[int, Operand]], products: tuple[tuple[int, ...], ...]) -> list[list[tuple[int, Operand]]]:
    """Before each product's gradient, last product first, those of its gates; after it the rest."""
    stages = [[output for output in sought if output[1][0] is Role.GRAD_RECURRENT and output[1][1] in gates] for gates in products[:0:-1]]
    return [*stages, [output for output in sought if not any(output in stage for stage in stages)]]
