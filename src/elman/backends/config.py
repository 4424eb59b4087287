"""What this installation runs on: versions, instruction sets, backends, threads."""

from __future__ import annotations

import platform
from typing import Any

import torch

from elman._version import __version__
from elman.backends import kernels
from elman.backends.registry import BACKENDS


def facts() -> dict[str, Any]:
    """What ``show_config`` says, for programs. ``instruction_set``: the one in use; None without kernels."""
    unavailable = {backend.name: reason for backend in BACKENDS if (reason := backend.unavailable_reason()) is not None}
    return {
        "elman": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "instruction_set": kernels.isa() if kernels.available() else None,
        "instruction_sets": list(kernels.isas()) if kernels.available() else [],
        "backends": [backend.name for backend in BACKENDS if backend.name not in unavailable],
        "not_available": unavailable,
        "threads": torch.get_num_threads(),
    }


def show_config() -> str:
    """Print the versions, the instruction set, the backends and the number of threads, and return the same text.

    >>> import elman
    >>> text = elman.show_config()
    elman ...

    Returns:
        The text that was printed: a line for each fact.
    """
    found = facts()
    unavailable = found["not_available"]
    lines = {
        **{name: found[name] for name in ("elman", "python", "torch")},
        "instruction set": (
            f"{found['instruction_set']} of {', '.join(found['instruction_sets'])} (ELMAN_ISA forces one)"
            if kernels.available()
            else f"none: the kernels are not available ({kernels.unavailable_reason()})"
        ),
        "backends": ", ".join(found["backends"]),
        **({"not available": "; ".join(f"{name}: {reason}" for name, reason in unavailable.items())} if unavailable else {}),
        "threads": f"{found['threads']} (torch.set_num_threads changes it)",
    }
    text = "\n".join(f"{name:<16} {value}" for name, value in lines.items())
    print(text)
    return text
