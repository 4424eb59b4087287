"""Where the command ``elman`` enters: beside the library, since importing that may already fail, and a command has no traceback."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec, module_from_spec


def main() -> None:
    """Run ``elman.cli``; leave with one line where elman cannot be imported (exit code 2 for what ``ELMAN_ISA`` says), or at Ctrl-C."""
    # Who started the command may have it ignore Ctrl-C, as a shell does for what runs in the background.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    try:
        from elman.cli import main as run
    except (ValueError, ImportError) as error:
        print(_in_the_readers_language(f"elman: {' '.join(str(error).split())}"), file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    try:
        run()
    finally:
        # All is said. What is left is Python's own tidying up, with which Ctrl-C cannot do any good.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_the_readers_language(line: str) -> str:
    """The line translated by the part of the package that needs nothing else of it, as the package itself could not be imported."""
    spec = find_spec("elman")
    if spec is None:
        return line
    sys.modules["elman"] = module_from_spec(spec)  # says where its modules are, but does not run
    try:
        from elman.cli.frame import language_asked_for
        from elman.language import speaking, translated
    except ImportError:  # of the command line's own dependencies
        return line
    with speaking(language_asked_for(sys.argv[1:])):
        return translated(line)


def _leave(*_: object) -> None:
    """End the process at once. An exception could surface anywhere in an import, where some turn it into another one or print it.

    A command with something to put in order first asks for the exception: see ``elman.cli.frame.interruptible``.
    """
    say = getattr(sys.modules.get("elman.language"), "translated", str)  # in English before that is imported
    try:
        os.write(2, f"{say('elman: interrupted')}\n".encode(getattr(sys.stderr, "encoding", None) or "utf-8", "replace"))
    finally:
        os._exit(130)
