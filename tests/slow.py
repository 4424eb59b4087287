"""Cases of a test that `make check` leaves out, beside its quick ones."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: object) -> list[Any]:
    """The values as cases that are marked slow: ``@pytest.mark.parametrize("form", [FORMS[0], *slow(*FORMS[1:])])``."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
