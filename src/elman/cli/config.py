"""`elman config`: what this installation runs on."""

from __future__ import annotations


def config() -> None:
    """Versions, the instruction set in use, threads.

    Example:  [bold]elman config[/]
    """
    from elman import show_config

    show_config()
