"""Where a benchmark runs: the CPU with a number of threads, or a GPU, and the stopwatch that fits it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from elman.bench import device
from elman.bench.machine import Machine, describe
from elman.bench.race import by_clock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from elman.bench.race import Stopwatch


@dataclass(frozen=True)
class Place:
    """Where a benchmark runs.

    Attributes:
        machine: the CPU's, or the GPU.
        threads: of each library on the CPU; on a GPU 0.
        block_s: how long a timed block lasts, in seconds.
        stopwatch: times a block.
    """

    machine: Machine | device.Card
    threads: int
    block_s: float
    stopwatch: Stopwatch

    @property
    def device(self) -> str:
        """As torch names it."""
        return "cuda" if isinstance(self.machine, device.Card) else "cpu"

    def with_packages(self, packages: Iterable[str]) -> Place:
        """With the versions of these packages, where it is the CPU."""
        return replace(self, machine=describe(packages)) if self.device == "cpu" else self

    def to_dict(self) -> dict[str, Any]:
        """What a report says of it; the block's length apart."""
        if self.device == "cuda":
            return {"card": asdict(self.machine), "device": "cuda"}
        return {"machine": asdict(self.machine), "threads": self.threads, "device": "cpu"}


def cpu(threads: int, block_s: float) -> Place:
    """This machine's processor."""
    return Place(describe(("elman", "torch")), threads, block_s, by_clock())


def cuda() -> Place:
    """The CUDA device that torch would use.

    Raises:
        ValueError: there is none.
    """
    device.require_cuda()
    return Place(device.describe(), 0, device.BLOCK_S, device.by_events)
