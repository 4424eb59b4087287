"""The error that a call raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable


def error_of(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one it is, is the question
        call()
    assert isinstance(caught.value, Exception)
    return caught.value


def error_of_torch(call: Callable[[], object]) -> Exception:
    """What torch.nn raises, where its constructors check their arguments: where they take anything, its other errors have other words."""
    try:
        nn.RNN(0, 1)
    except ValueError:
        return error_of(call)
    pytest.skip("torch.nn's constructors take any argument here")
