"""Which values to keep for later, and which to compute again: the cheapest choice of all, as a minimum cut.

A value that is needed later is kept, or computed again from its operands, which are needed then. Let each value be an edge, from "it is
computed again" to "it is needed". A flow runs from what computing costs, over these edges and on to the values that use them, into what
is needed at the end; where the greatest flow fills the edges lies the cheapest cut (L. R. Ford, D. R. Fulkerson, 1956). The values whose
edge it crosses are kept.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from elman.backends.program.program import Opcode, Role

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from elman.backends.program.graph import Graph

# Clock cycles a vector, about (csrc/program/machine.h). What is kept for backward goes out to memory and comes back.
KEEP_FOR_BACKWARD = 18
KEEP_OVER_A_PRODUCT = 8
_KEEP_OF_ROW = 5
_CHEAP = 2
_OVER_ROWS = tuple(opcode for opcode in Opcode if opcode.over_rows)
_COSTS = {
    Opcode.DIV: 8,
    Opcode.SQRT: 10,
    Opcode.RSQRT: 12,
    Opcode.RECIPROCAL: 8,
    **dict.fromkeys((Opcode.EXP, Opcode.TANH, Opcode.SIGMOID, Opcode.EXPM1, Opcode.LOG, Opcode.LOG1P), 16),
    Opcode.SOFTPLUS: 24,
    **dict.fromkeys(_OVER_ROWS, 6),
    **dict.fromkeys((Opcode.SIN, Opcode.COS, Opcode.ERF, Opcode.POW), 200),  # number by number
}
_NEVER = 1 << 30


def kept(graph: Graph, needed: Iterable[int], free: Collection[int], keep: int, only: Collection[int] | None = None) -> set[int]:
    """The values to keep, so that all that is ``needed`` is there at the least cost.

    Args:
        free: what is there anyway.
        keep: what keeping a value costs.
        only: the values that there are to be kept; the others are computed for the first time, which costs nothing more. By default all.
    """
    flow = _Flow()
    open_, seen = [place for place in needed if place not in free], set[int]()
    for place in open_:
        flow.edge((place, True), "end", _NEVER)
    while open_:
        place = open_.pop()
        if place in seen:
            continue
        seen.add(place)
        again, wanted = (place, False), (place, True)
        first_time = only is not None and place not in only
        flow.edge("start", again, 0 if first_time else _cost(graph, place))
        flow.edge(again, wanted, _NEVER if first_time else min(keep, _KEEP_OF_ROW) if graph.is_of_row(place) else keep)
        for operand in set(graph.nodes[place].operands) - set(free):
            flow.edge((operand, True), again, _NEVER)
            open_.append(operand)
    side = flow.start_side()
    return {place for place in seen if (place, False) in side and (place, True) not in side}


def _cost(graph: Graph, place: int) -> int:
    node = graph.nodes[place]
    if node.leaf is not None:
        return _NEVER if node.leaf[0] in (Role.INPUT, Role.RECURRENT) else 0
    cost = 0 if node.opcode is None else _COSTS.get(node.opcode, _CHEAP)
    return min(cost, 1) if graph.is_of_row(place) and node.opcode not in _OVER_ROWS else cost


class _Flow:
    def __init__(self) -> None:
        self.room: dict[object, dict[object, int]] = {"start": {}, "end": {}}

    def edge(self, a: object, b: object, capacity: int) -> None:
        self.room.setdefault(a, {})[b] = capacity
        self.room.setdefault(b, {}).setdefault(a, 0)

    def start_side(self) -> set[object]:
        """The start's side of the minimum cut: what still has room from there when the flow is greatest."""
        while True:
            came_from = self._reached()
            if "end" not in came_from:
                return set(came_from)
            path: list[tuple[object, object]] = []
            point: object = "end"
            while point != "start":
                path.append((came_from[point], point))
                point = came_from[point]
            amount = min(self.room[a][b] for a, b in path)
            for a, b in path:
                self.room[a][b] -= amount
                self.room[b][a] += amount

    def _reached(self) -> dict[object, object]:
        """What has room from the start, and whence it was reached; to the end by a shortest way."""
        came_from: dict[object, object] = {"start": None}
        line = deque[object](["start"])
        while line and "end" not in came_from:
            point = line.popleft()
            for to, room in self.room[point].items():
                if room and to not in came_from:
                    came_from[to] = point
                    line.append(to)
        return came_from
