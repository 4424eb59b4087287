"""Where the command ``elman`` enters: beside the library, since importing that may already fail, and a command has no traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``elman.cli``; leave with one line and exit code 2 where elman cannot be imported for what ``ELMAN_ISA`` says."""
    try:
        from elman.cli import main as run
    except ValueError as error:
        print(f"elman: {error}", file=sys.stderr)
        sys.exit(2)
    run()
