"""From a graph to instructions: stages between the products, fused multiply-adds, few places for what is computed in between."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from elman.backends.program.cut import KEEP_OVER_A_PRODUCT, kept
from elman.backends.program.graph import Node
from elman.backends.program.order import ordered
from elman.backends.program.program import NOTHING, Code, Instruction, Opcode, Operand, Role

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from elman.backends.program.graph import Graph

    Output = tuple[int, Operand]  # a value, and where it goes

# Where what has been written can be read again.
_READABLE = {Role.CARRY, Role.SAVED, Role.NEW_STATE, Role.FACTOR, Role.GRAD_RECURRENT}


def fuse(graph: Graph, roots: Collection[int], among: Collection[int]) -> None:
    """Make a · b + c one instruction for those ``among`` the nodes where nothing else of what the roots need uses a · b.

    Likewise its sum or mean over the units, and that of a · b, b + c or c - b.
    """
    uses = Counter(roots)
    for place in graph.below(roots):
        uses.update(graph.nodes[place].operands)
    for place in among:
        node = graph.nodes[place]
        if node.opcode in (Opcode.ROW_SUM, Opcode.ROW_MEAN) and uses[node.operands[0]] == 1:
            terms = _terms(graph, graph.nodes[node.operands[0]])
            if terms is not None:
                graph.nodes[place] = Node(Opcode.ROW_SUM_FMA if node.opcode is Opcode.ROW_SUM else Opcode.ROW_MEAN_FMA, terms)
        if node.opcode not in (Opcode.ADD, Opcode.SUB):
            continue
        for product, other in (node.operands[::-1], node.operands):
            factors = _factors(graph.nodes[product])
            if factors is not None and uses[product] == 1:
                graph.nodes[place] = Node(Opcode.FMA if node.opcode is Opcode.ADD else Opcode.FNMA, (*factors, other))
                break
            if node.opcode is Opcode.SUB:
                break  # only what is taken off


def _terms(graph: Graph, node: Node) -> tuple[int, int, int] | None:
    """a, b and c, if the node is a · b + c."""
    if node.opcode is Opcode.FMA:
        return node.operands  # type: ignore[return-value]
    if node.opcode is Opcode.ADD:
        return node.operands[0], graph.number(1.0).place, node.operands[1]
    if node.opcode is Opcode.SUB:
        return node.operands[1], graph.number(-1.0).place, node.operands[0]
    factors = _factors(node)
    return None if factors is None else (*factors, graph.number(-0.0).place)


def _factors(node: Node) -> tuple[int, int] | None:
    if node.opcode is Opcode.MUL:
        return node.operands[0], node.operands[1]
    return node.operands * 2 if node.opcode is Opcode.SQUARE else None  # type: ignore[return-value]


def code(graph: Graph, stages: Sequence[Sequence[Output]], given: Mapping[int, Operand]) -> Code:
    """The instructions that compute the outputs.

    Args:
        stages: what each stage must have written at its end; the last one writes the rest.
        given: values that are there already, by where they are read; leaves are there anyway.
    """
    there = {place: node.leaf for place, node in enumerate(graph.nodes) if node.leaf is not None} | dict(given)
    there_or_number = set(there) | {place for place, node in enumerate(graph.nodes) if node.number is not None}
    rest = [output for stage in stages for output in stage]
    lists, carried = _divided(graph, stages, there_or_number, {place for place, operand in rest if operand[0] in _READABLE})
    writer = _Writer(graph, dict(there))
    carries = {place: (Role.CARRY, index) for index, place in enumerate(sorted(carried))}
    for outputs, places in zip(stages, lists, strict=True):
        here = [output for output in rest if output[0] in places or output in outputs]
        rest = [output for output in rest if output not in here]
        writer.stage(places, [*here, *((place, carries.pop(place)) for place in sorted(set(carries) & set(places)))])
    return writer.code(len(carried))


def _divided(
    graph: Graph, stages: Sequence[Sequence[Output]], there: Collection[int], readable: Collection[int]
) -> tuple[list[list[int]], set[int]]:
    """What each stage computes, in order, and what is carried from one to a later one."""
    carried = set[int]()
    while True:
        known, computed, lists, more = set(there), set[int](), [], set[int]()
        for outputs in stages:
            needed = {place for place, _ in outputs} - known
            more |= kept(graph, needed, known, KEEP_OVER_A_PRODUCT, only=computed) if computed else set()
            known |= more
            lists.append(ordered(graph, [place for place, _ in outputs], known))
            computed |= set(lists[-1])
            known |= set(lists[-1]) & (set(readable) | carried)
        if not more:
            return lists, carried
        carried |= more  # once more: a stage in between that would compute such a value again reads it, too


@dataclass
class _Writer:
    """Emits instructions, and tracks where each value is read."""

    graph: Graph
    at: dict[int, Operand]
    operands: list[Operand] = field(default_factory=list)
    constants: list[float] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    stages: list[tuple[int, int]] = field(default_factory=list)
    temps: int = 0

    def stage(self, places: Sequence[int], outputs: Sequence[Output]) -> None:
        first = len(self.instructions)
        last_use = {operand: index for index, place in enumerate(places) for operand in self.graph.nodes[place].operands}
        free, taken = list[int](), 0
        in_temp: dict[int, int] = {}
        for index, place in enumerate(places):
            node = self.graph.nodes[place]
            assert node.opcode is not None
            reads = [self._read(operand) for operand in node.operands]
            for operand in set(node.operands):
                if operand in in_temp and last_use[operand] == index:
                    free.append(in_temp.pop(operand))
                    free.sort(reverse=True)
                    del self.at[operand]
            homes = sorted((to for value, to in outputs if value == place), key=lambda to: to[0] not in _READABLE)
            temp = None
            if homes and (homes[0][0] in _READABLE or (len(homes) == 1 and place not in last_use)):
                primary, copies = homes[0], homes[1:]
            else:
                if not free:
                    free.append(taken)
                    taken += 1
                temp = free.pop()
                primary, copies = (Role.TEMP, temp), homes
            self._write(node.opcode, primary, *reads)
            for to in copies:
                self._write(Opcode.COPY, to, self._operand(primary))
            if temp is None:
                self.at[place] = primary
            elif place in last_use:
                self.at[place], in_temp[place] = primary, temp
            else:
                free.append(temp)
        for value, to in outputs:
            if value not in places:  # a leaf, a number, or what an earlier stage or forward has left
                self._write(Opcode.COPY, to, self._read(value))
        self.temps = max(self.temps, taken)
        self.stages.append((first, len(self.instructions)))

    def code(self, carries: int) -> Code:
        return Code(
            tuple(self.instructions), tuple(self.operands), tuple(self.constants), tuple(self.stages), temps=self.temps, carries=carries
        )

    def _write(self, opcode: Opcode, to: Operand, *reads: int) -> None:
        a, b, c = (*reads, NOTHING, NOTHING, NOTHING)[:3]
        self.instructions.append((int(opcode), self._operand(to), a, b, c))

    def _read(self, place: int) -> int:
        value = self.graph.nodes[place].value
        if value is None:
            return self._operand(self.at[place])
        for index, known in enumerate(self.constants):
            if known.hex() == value.hex():
                return self._operand((Role.CONSTANT, index))
        self.constants.append(value)
        return self._operand((Role.CONSTANT, len(self.constants) - 1))

    def _operand(self, operand: Operand) -> int:
        if operand not in self.operands:
            self.operands.append(operand)
        return self.operands.index(operand)
