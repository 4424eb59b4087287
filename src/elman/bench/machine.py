"""The machine that a benchmark ran on, and how busy other processes kept it."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# The widest instruction set is named; on x86 by the flags that Linux lists.
_X86_SETS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"), ("sse2", "SSE2"))


@dataclass(frozen=True)
class Machine:
    """The machine that a benchmark ran on.

    Attributes:
        cpu: the processor as it names itself, with x86's family and model, since cloud machines hide the name.
        isa: the widest vector instructions that it has.
        cores: how many this process may use.
        system: operating system and Python.
        versions: of the packages that took part, by name.
    """

    cpu: str
    isa: str
    cores: int
    system: str
    versions: dict[str, str]


def available_cores() -> int:
    """How many cores this process may use, which in a container may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usual_threads() -> int:
    """How many threads each library gets by default: 2, or 1 on one core."""
    return min(2, available_cores())


def describe(packages: Iterable[str]) -> Machine:
    """This machine, and the versions of ``packages``, which are imported."""
    cpu, isa = _processor()
    return Machine(
        cpu=cpu,
        isa=isa,
        cores=available_cores(),
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        versions={package: import_module(package).__version__ for package in packages},
    )


def _processor() -> tuple[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    facts: dict[str, str] = {}
    if cpuinfo.exists():
        first_core = cpuinfo.read_text().split("\n\n")[0]
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first_core.splitlines())}
    if "flags" in facts:
        flags = facts["flags"].split()
        isa = next((name for flag, name in _X86_SETS if flag in flags), "none")
        return f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']})", isa
    return platform.processor() or platform.machine(), "NEON" if platform.machine() in {"arm64", "aarch64"} else "unknown"


class Neighbours:
    """How many cores other processes kept busy since this was made; Linux only.

    >>> neighbours = Neighbours()
    >>> busy = neighbours.cores_busy()
    >>> busy is None or busy >= 0
    True

    A neighbour slows contestants unevenly: one whose threads spin at a barrier loses most. A benchmark should say that it had company.
    """

    def __init__(self) -> None:
        self._start = _clocks()

    def cores_busy(self) -> float | None:
        """The mean number of cores at work for others, time stolen by the hypervisor's other guests included; None where unknown."""
        now = _clocks()
        if self._start is None or now is None:
            return None
        wall, everyone, own = (after - before for after, before in zip(now, self._start, strict=True))
        return max(0.0, (everyone - own) / wall) if wall > 0 else 0.0


def _clocks() -> tuple[float, float, float] | None:
    """Seconds of: the wall clock, all cores' work for everyone, all cores' work for this process."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in stat.read_text().split()[1:9])
    return time.perf_counter(), (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"), time.process_time()
