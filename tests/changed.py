"""Facts about a network that are not true, to see that the pages say so."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from elman.show.facts import Facts

    F = TypeVar("F", bound=Facts)


def changed(facts: F, **attributes: Any) -> F:
    """A copy in which these attributes have other values."""
    assert attributes.keys() <= vars(facts).keys()
    other = copy(facts)
    vars(other).update(attributes)
    return other
