"""What this installation runs on: versions, instruction sets, threads."""

from __future__ import annotations

import platform

import torch

from elman._version import __version__
from elman.backends import kernels
from elman.backends.registry import BACKENDS


def show_config() -> str:
    """Print what runs here, and return the same text.

    >>> text = show_config()  # doctest: +ELLIPSIS
    elman ...
    """
    unavailable = {backend.name: reason for backend in BACKENDS if (reason := backend.unavailable_reason()) is not None}
    lines = {
        "elman": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "instruction set": (
            f"{kernels.isa()} of {', '.join(kernels.isas())} (ELMAN_ISA forces one)"
            if kernels.available()
            else f"none: the kernels are not available ({kernels.unavailable_reason()})"
        ),
        "backends": ", ".join(backend.name for backend in BACKENDS if backend.name not in unavailable),
        **({"not available": "; ".join(f"{name}: {reason}" for name, reason in unavailable.items())} if unavailable else {}),
        "threads": f"{torch.get_num_threads()} (torch.set_num_threads changes it)",
    }
    text = "\n".join(f"{name:<16} {value}" for name, value in lines.items())
    print(text)
    return text
