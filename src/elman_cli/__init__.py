"""Where the command ``elman`` enters: beside the library, since importing that may already fail, and a command has no traceback."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec, module_from_spec


def main() -> None:
    """Run ``elman.cli``; leave with one line where a part of it cannot be imported, or at Ctrl-C."""
    # Who started the command may have it ignore Ctrl-C, as a shell does for what runs in the background.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    if "elman" not in sys.modules and (spec := find_spec("elman")):
        # Says where its modules are, but does not run, nor import torch, before a command does: see `elman.cli.frame.Command`.
        sys.modules["elman"] = module_from_spec(spec)
    try:
        from elman.cli import main as run
    except ImportError as error:
        print(f"elman: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    try:
        run()
    finally:
        # All is said. What is left is Python's own tidying up, with which Ctrl-C cannot do any good.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(*_: object) -> None:
    """End the process at once. An exception could surface anywhere in an import, where some turn it into another one or print it.

    A command with something to put in order first asks for the exception: see ``elman.cli.frame.interruptible``.
    """
    say = getattr(sys.modules.get("elman.language"), "translated", str)  # in English before that is imported
    try:
        os.write(2, f"{say('elman: interrupted')}\n".encode(getattr(sys.stderr, "encoding", None) or "utf-8", "replace"))
    finally:
        os._exit(130)
