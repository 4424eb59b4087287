"""Selects layers or nodes by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from elman.layers.errors import brief, brief_list

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def choose(candidates: Sequence[T], names: str | Sequence[str], names_of: Callable[[T], Sequence[str]], kind: str) -> list[T]:
    """The candidates of these names, in the order of the names.

    Args:
        candidates: the recurrent layers or nodes.
        names: one name or several.
        names_of: the names of a candidate; errors show the first.
        kind: what a candidate is, as errors call it, which is also the argument's name: "layer" or "node".

    Raises:
        TypeError: names is neither a name nor a list of names.
        ValueError: there is no name, or one that is not the name of exactly one candidate.
    """
    expected = f"expected {kind} to name one of the recurrent {kind}s, {brief_list([names_of(each)[0] for each in candidates])}"
    if not isinstance(names, str | list | tuple):
        raise TypeError(f"expected {kind} to be a name, or a list of names from the lowest up, got {brief(names)}")
    chosen = []
    for name in [names] if isinstance(names, str) else names:
        matches = [each for each in candidates if name in names_of(each)]
        if len(matches) != 1:
            raise ValueError(f"{expected}, got {brief(name)}")
        chosen += matches
    if not chosen:
        raise ValueError(f"{expected}, got no name")
    return chosen
