"""What all tests share: the backends that can run here, and memory that nobody has written to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from elman.backends import BACKENDS, Backend, Stack, registry
from elman.cells import ElmanTanh

if TYPE_CHECKING:
    from collections.abc import Iterator


def _params_of_backends() -> Iterator[object]:
    """The backends, marked as skipped where they refuse the plainest of calls."""
    x, params = torch.zeros(1, 1, 1), [torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1), torch.zeros(1)]
    for backend in BACKENDS:
        refusal = backend.refuses(Stack(ElmanTanh(), 1, 1), x, None, params, None)
        yield pytest.param(backend, id=backend.name, marks=[] if refusal is None else pytest.mark.skip(f"{backend.name} {refusal}"))


@pytest.fixture(params=list(_params_of_backends()))
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Each backend in turn, and while it lasts the only one: a call that it refuses is an error."""
    monkeypatch.setattr(registry, "BACKENDS", (request.param,))
    chosen: Backend = request.param
    return chosen


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that torch hands out is full of NaN until somebody writes to it: who reads it first is caught."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
