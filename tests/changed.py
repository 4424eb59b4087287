"""Facts about a network that are not true, to see that the pages say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from types import SimpleNamespace

    F = TypeVar("F", bound=SimpleNamespace)


def changed(facts: F, **attributes: Any) -> F:
    """A copy in which these attributes have other values."""
    assert attributes.keys() <= vars(facts).keys()
    other = type(facts).__new__(type(facts))
    vars(other).update(vars(facts) | attributes)
    return other
