"""`elman config`: what this installation runs on."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Annotated

import typer

from elman.cli.frame import Lang, print_json


def config(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, lang: Lang = None) -> None:
    """Show versions, the instruction set, the backends and why others are unavailable, and the number of threads.

    Example:  [bold]elman config[/]
    """
    from rich.cells import cell_len

    from elman import show_config
    from elman.backends.config import facts
    from elman.language import translated

    if as_json:
        print_json(facts())
        return
    with redirect_stdout(io.StringIO()):
        lines = show_config().splitlines()
    for line in lines:
        name, value = translated(line[:16].strip()), translated(line[16:].strip())
        print(f"{name}{' ' * (16 - cell_len(name))} {value}")
