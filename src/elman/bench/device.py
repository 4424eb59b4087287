"""The GPU of a benchmark: whether there is one, its properties, and a stopwatch for it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import torch

import elman

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK_S = 0.01
"""How long a timed block lasts on a GPU, in seconds: its clock does not hesitate as a processor's cores do."""


@dataclass(frozen=True)
class Card:
    """The machine that a benchmark ran on.

    Attributes:
        name: of the GPU.
        capability: its compute capability, as "9.0".
        multiprocessors: how many it has.
        memory_bytes: of the GPU.
        driver: its version; None where the driver does not tell.
        versions: of Elman, torch, CUDA and cuDNN.
    """

    name: str
    capability: str
    multiprocessors: int
    memory_bytes: int
    driver: str | None
    versions: dict[str, str]


def require_cuda() -> None:
    """Raise if there is no GPU to run on.

    Raises:
        ValueError: torch has no CUDA device.
    """
    if not torch.cuda.is_available():
        raise ValueError("--device: torch finds no CUDA device here")


def describe() -> Card:
    """The CUDA device that torch would use."""
    of_card = torch.cuda.get_device_properties()
    versions = {"elman": elman.__version__, "torch": torch.__version__, "CUDA": torch.version.cuda or "none"}
    if (cudnn := torch.backends.cudnn.version()) is not None:  # type: ignore[no-untyped-call]
        versions["cuDNN"] = cudnn_version(cudnn)
    return Card(
        name=of_card.name,
        capability=f"{of_card.major}.{of_card.minor}",
        multiprocessors=of_card.multi_processor_count,
        memory_bytes=of_card.total_memory,
        driver=_driver(),
        versions=versions,
    )


def cudnn_version(number: int) -> str:
    """What cuDNN's number says.

    >>> cudnn_version(91900), cudnn_version(8907)
    ('9.19.0', '8.9.7')
    """
    thousands = 10_000 if number >= 90_000 else 1000
    return f"{number // thousands}.{number % thousands // 100}.{number % 100}"


def _driver() -> str | None:
    """The driver's version, from NVIDIA's management library, which comes with it."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    version = ctypes.create_string_buffer(81)
    if library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(version, ctypes.c_uint(len(version))):
        return None
    library.nvmlShutdown()
    return version.value.decode()


def by_events(run: Callable[[], object], calls: int, untimed: int) -> float:
    """The seconds between two events on the GPU, a :class:`~elman.bench.race.Stopwatch`.

    The GPU is still at the untimed calls when the first event is put behind them, so that waiting for the first call is not timed.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    for _ in repeat(None, untimed):
        run()
    start.record()
    for _ in repeat(None, calls):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
