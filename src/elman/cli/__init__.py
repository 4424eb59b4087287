"""The command line: thin, parse, call, print."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``elman`` with the process' arguments, and leave with its exit code."""
    from elman.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character shows "?" for it rather than nothing at all.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app(prog_name="elman")
