"""An order for instructions in which few values wait at a time, so that a block of them all stays in first-level cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from elman.backends.program.graph import Graph


def ordered(graph: Graph, roots: Sequence[int], there: Collection[int]) -> list[int]:
    """What the roots need beside what is there, each after its operands."""
    missing = _missing(graph, roots, there)
    return min((_depth_first(graph, each, missing) for each in (roots, sorted(roots))), key=lambda order: most_waiting(graph, order))


def most_waiting(graph: Graph, order: Sequence[int]) -> int:
    """The largest number of values alive at once."""
    last_use = {operand: index for index, place in enumerate(order) for operand in graph.nodes[place].operands}
    computed, waiting, most = set(order), 0, 0
    for index, place in enumerate(order):
        waiting -= sum(each in computed and last_use[each] == index for each in set(graph.nodes[place].operands))
        waiting += place in last_use
        most = max(most, waiting)
    return most


def _depth_first(graph: Graph, roots: Iterable[int], missing: Collection[int]) -> list[int]:
    """One root after the other; of two operands first the one that has more waiting on its way (R. Sethi, J. D. Ullman, 1970)."""
    waiting: dict[int, int] = {}
    for place in sorted(missing):  # operands come before what uses them
        below = sorted((waiting[each] for each in set(graph.nodes[place].operands) if each in waiting), reverse=True)
        waiting[place] = max([1, *(each + index for index, each in enumerate(below))])
    order: dict[int, None] = {}
    for root in roots:
        open_ = [root] if root in missing else []
        while open_:
            place = open_[-1]
            first = [each for each in graph.nodes[place].operands if each in missing and each not in order]
            if first:
                open_.append(max(first, key=waiting.__getitem__))
            else:
                order[open_.pop()] = None
    return list(order)


def _missing(graph: Graph, roots: Iterable[int], there: Collection[int]) -> set[int]:
    found, open_ = set[int](), [root for root in roots if root not in there]
    while open_:
        place = open_.pop()
        if place not in found:
            found.add(place)
            open_ += [each for each in graph.nodes[place].operands if each not in there]
    return found
