"""Whether a training fits into memory, asked before it begins: torch's own answer comes late, from the operating system not at all."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from elman.train.char_model import VOCABULARY, CharModel

if TYPE_CHECKING:
    from elman.train.text import TextSettings

_FLOAT = 4
_WEIGHT_COPIES = 14
"""The weights, their gradients, Adam's two means, the last good ones, room for what a step makes of them for a while; to save four of
them, the bytes of each and of the file."""


class TooLargeError(ValueError):
    """What was asked for does not fit; the message says how much it takes and what to lower."""


def require(settings: TextSettings, text_size: int, processes: int = 1) -> None:
    """Refuse a training that memory cannot hold, in so many processes here.

    Raises:
        TooLargeError: it takes more than is free.
    """
    need, free = needed(settings, text_size, processes), available()
    if need > free:
        raise TooLargeError(
            f"this training takes {size(need)} of memory, and {size(free)} is free: lower "
            f"--hidden-size ({settings.hidden_size}), --num-layers ({settings.num_layers}), --streams ({settings.fit.streams}) "
            f"or --chunk ({settings.fit.chunk})"
        )


def needed(settings: TextSettings, text_size: int, processes: int = 1) -> int:
    """About how many bytes a training takes: its weights, what one step keeps for its gradient, and the text.

    Processes share out the streams; weights and text are in each, and the gradients once more to be sent.
    """
    E, H, L = settings.embedding_size, settings.hidden_size, settings.num_layers
    weights = (_WEIGHT_COPIES + (processes > 1)) * CharModel.count_parameters(E, H, L, settings.cell)
    # Embedding; outputs of the layers; scores, their logarithms; the gradients of all these on the way back.
    per_character = 2 * E + (2 * L + 2) * H + 4 * VOCABULARY
    return _FLOAT * (processes * weights + settings.fit.streams * settings.fit.chunk * per_character) + 3 * processes * text_size


def available() -> float:
    """Bytes that can be had without swapping, within a container's limit; infinity where the system does not tell."""
    free = _of_machine()
    try:
        group = Path("/sys/fs/cgroup", Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("0::/")[2].strip())
        free = min(free, *map(_of_group, (group, *group.parents)))
    except OSError:  # no Linux, no /proc
        pass
    return free


def _of_machine() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:  # all that is built in: better than nothing
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return inf


def _of_group(folder: Path) -> float:
    """What a control group (version 2) still allows; what it caches of files does not count as used."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return inf
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        figures = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return int(limit) - used + int(figures.get("inactive_file", 0))
    except (OSError, ValueError):
        return inf


def size(of: int | float) -> str:
    """Bytes as a person says them.

    >>> size(2_560_000_000_000), size(41_300_000), size(10**400)
    ('2.6 TB', '41.3 MB', 'more than 1000 TB')
    """
    if of >= 10**15:
        return "more than 1000 TB"
    unit, scale = next(((unit, scale) for unit, scale in (("TB", 1e12), ("GB", 1e9)) if of >= scale), ("MB", 1e6))
    return f"{of / scale:.1f} {unit}"
