"""The command line: thin, parse, call, print."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run ``elman`` with the process' arguments, and leave with its exit code."""
    from elman.cli.app import app

    if sys.stderr is None:
        # Closed. A file opened later would get its number, and whatever torch's libraries print would go into that file.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for as long as the process lives)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character shows "?" for it rather than nothing at all.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app(prog_name="elman")
