"""Commands that calls have prepared hold kernels and products: a test that puts something in the place of these begins without any."""

from __future__ import annotations

from inspect import unwrap
from typing import TYPE_CHECKING

from elman.backends.cuda import gradients, layer, products
from elman.backends.cuda.commands import prepared

if TYPE_CHECKING:
    import pytest

_MAKERS = (layer, "_forward_commands"), (layer, "_backward_commands"), (gradients, "_commands"), (products, "_alone")


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without prepared commands, and leave none when the test ends."""
    for module, name in _MAKERS:
        monkeypatch.setattr(module, name, prepared(unwrap(getattr(module, name))))
