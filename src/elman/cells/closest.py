"""The name that was probably meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like this one, capitals aside; None if none is like it."""
    folded = {each.casefold(): each for each in known}
    return next((folded[each] for each in difflib.get_close_matches(name.casefold(), folded, 1)), None)
