"""`elman config`: what this installation runs on."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

from elman.cli.frame import Lang  # noqa: TC001 (typer reads it)


def config(lang: Lang = None) -> None:
    """Show versions, the instruction set in use and the number of threads.

    Example:  [bold]elman config[/]
    """
    from rich.cells import cell_len

    from elman import show_config
    from elman.language import translated

    with redirect_stdout(io.StringIO()):
        lines = show_config().splitlines()
    for line in lines:
        name, value = translated(line[:16].strip()), translated(line[16:].strip())
        print(f"{name}{' ' * (16 - cell_len(name))} {value}")
