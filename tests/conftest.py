"""What all tests share: the backends that can run here, and memory that nobody has written to."""

from __future__ import annotations

import gc
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

# Torch's threads sleep while they wait for work. Spinning for it, some milliseconds each time, they would be in the way of other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from hypothesis import settings

from cases import every_backend, refusal
from elman.backends import Backend, kernels, registry

# Torch keeps on disk what it compiles, with the sizes that the operators told it: those of other kernels may be others.
if (native := find_spec("elman._native")) and native.origin:
    cache = Path(__file__).parent.parent / ".pytest_cache" / f"torchinductor-{Path(native.origin).stat().st_mtime_ns}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))

# A shell lets what runs in the background ignore Ctrl-C, and its children with it; some tests are about what Ctrl-C does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: what is tested does not depend on the day. HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `make test` runs tests in: one for each processor that is ours to use, up to four, each with torch's threads."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.fixture(params=every_backend())
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Each backend in turn, and while it lasts the only one: a call that it refuses is an error.

    Skipped where a test is about a kind of network, by ``kind`` or ``case``, that the backend does not run at all.
    """
    params = request.node.callspec.params
    kind = params["case"].kind if "case" in params else params.get("kind")
    reason = None if kind is None else refusal(request.param, kind)
    if reason is not None:
        pytest.skip(f"{request.param.name} {reason}")
    monkeypatch.setattr(registry, "BACKENDS", (request.param,))
    chosen: Backend = request.param
    return chosen


@pytest.fixture(params=kernels.isas() if kernels.available() else ("none",))
def every_isa(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each instruction set that this processor and this build offer, in turn; test_isa says which are not here."""
    before = kernels.isa()
    kernels._native.use(request.param)
    yield
    kernels._native.use(before)


@pytest.fixture(autouse=True)
def _columns_are_split() -> None:
    """Where the kernels go by how long a barrier takes, they take it to be short: tests do not depend on the machine's mood."""
    if kernels.available():
        kernels._native.assume_barrier(0.0)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that torch hands out is full of NaN until somebody writes to it: who reads it first is caught."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.nn.LSTM in torch's own operators: oneDNN, where there is one, rounds elsewhere and keeps other dtypes."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def pytest_collection_finish() -> None:
    """Tests are no garbage: who looks for some need not look at those of 20,000 tests."""
    gc.collect()
    gc.freeze()
