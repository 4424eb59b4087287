"""What every command shares: its language, one clear line for bad input, warnings and Ctrl-C, the terminal's width, paths, JSON."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import warnings
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from elman._files import to_json
from elman.language import LANGUAGES, _, language_of, speaking, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

# Every mistake in an argument is one of these: an unknown option or command, a missing one, a bad value.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130

NARROWEST, WIDEST = 40, 1000
"""Columns. A terminal outside of these is taken to be at the nearer end: narrower ones wrap lines by themselves."""


class Language(str, Enum):
    """The languages that output comes in."""

    en = "en"
    zh = "zh"


class Device(str, Enum):
    """Where networks run."""

    cpu = "cpu"
    cuda = "cuda"


# A parameter of every command, which none reads: `Group.main` has read it before anything is parsed, so that help and errors heed it.
Lang = Annotated[Language | None, typer.Option(help="The language of the output; by default that of the locale.", show_default=False)]


def language_asked_for(arguments: Sequence[str]) -> str:
    """What ``--lang`` says, wherever it stands; else the locale's language.

    >>> language_asked_for(["tour", "--lang=zh", "--help"])
    'zh'
    """
    for index, argument in enumerate(arguments):
        option, _equals, value = argument.partition("=")
        if option == "--lang" and (value or "".join(arguments[index + 1 : index + 2])) in LANGUAGES:
            return value or arguments[index + 1]
    return language_of()


class _Help:
    """Help in the reader's language, for a command or a group of them. What is written in the code is English."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            for name in ("help", "rich_help_panel"):
                if isinstance(text := getattr(param, name, None), str):
                    setattr(param, name, translated(text))
        return params

    def get_usage(self, ctx: Any) -> str:
        return str(super().get_usage(ctx)).replace("Usage:", _("Usage:"), 1)  # type: ignore[misc]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for command in (self, *getattr(self, "commands", {}).values()):
            for name in ("help", "epilog"):
                if text := getattr(command, name, None):
                    setattr(command, name, "\n\n".join(translated(part) for part in paragraphs(text)))
        from elman.cli.help import help_in_the_readers_language

        with help_in_the_readers_language():
            super().format_help(ctx, formatter)  # type: ignore[misc]


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a docstring, each in one line."""
    return [" ".join(line.strip() for line in part.splitlines()) for part in re.split(r"\n\s*\n", text.strip())]


class Command(_Help, TyperCommand):
    """A command whose help is in the reader's language. The library is imported when it runs, so that help is quick."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return list(super().parse_args(ctx, args))
        except UsageError as error:
            said: str = error.message  # type: ignore[attr-defined]
            extra = re.fullmatch(r"Got unexpected extra argument\S* \((\S+)\)", said)
            takes_none = all(param.param_type_name == "option" for param in self.params)
            if extra and takes_none and _names_cells(extra[1]) and any("--cell" in param.opts for param in self.params):
                error.message = f"{said}; did you mean --cell {extra[1]}?"  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        library = sys.modules["elman"]
        if not hasattr(library, "__version__") and library.__spec__ and library.__spec__.loader:  # as `elman_cli` leaves it
            try:
                library.__spec__.loader.exec_module(library)
            except ImportError as error:
                fail(str(error), FAILED)
        if ctx.params.get("as_json") or ctx.params.get("json_path") == STDOUT:
            with _stdout_for_json():
                return super().invoke(ctx)
        return super().invoke(ctx)


def _names_cells(value: str) -> bool:
    """Whether a value may be what ``--cell`` takes: "gru", "rnn,lstm", "zoo.MGU", "my.py:MyCell"."""
    return all(each in ("rnn", "gru", "lstm") or each.startswith("zoo.") or ":" in each for each in value.split(","))


class Group(_Help, TyperGroup):
    """A group of commands that meets bad input with one line on stderr and exit code 2, never with a traceback.

    Bad input is what the parser refuses, and any ValueError that a command raises. Trouble with files, memory or torch (OSError,
    RuntimeError) is one line and exit code 1, Ctrl-C one line and 130. Anything else is a defect of Elman's, and shows itself as such.
    A warning is one line on stderr.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        with speaking(language_asked_for(sys.argv[1:] if args is None else args)), _usable_width(), _warnings_in_one_line():
            if sys.stdout is None:
                fail("standard output is closed; to discard the output add > /dev/null", FAILED)
            try:
                code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
                sys.stdout.flush()
            except UsageError as error:
                # typer's own base class, which has no public name; without a message it has printed the help of a group of commands
                message: str = error.format_message()  # type: ignore[attr-defined]
                message = message.replace("Value error, ", "")  # pydantic's words
                fail(message or "missing command; choose one of those above", BAD_INPUT)
            except ValueError as error:
                fail(str(error), BAD_INPUT)
            except (typer.Abort, KeyboardInterrupt):
                fail("interrupted", INTERRUPTED)
            except BrokenPipeError:
                # Who read the output wanted no more of it. What is left in the buffer must not be tried again on leaving.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(FAILED)
            except (OSError, RuntimeError, MemoryError) as error:
                fail(in_words(error), FAILED)
            if code == INTERRUPTED:  # typer has caught the interruption
                fail("interrupted", INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> NoReturn:
    """Leave with one line on stderr."""
    say(message)
    sys.exit(code)


def say(message: str) -> None:
    """Print one line on stderr, in the reader's language. Names of files are in it: what could steer a terminal becomes a mark."""
    line = translated(f"elman: {' '.join(message.split())}")
    with suppress(OSError):  # there is nowhere left to complain
        if sys.stderr is not None:
            print("".join(character if character.isprintable() else "·" for character in line), file=sys.stderr, flush=True)


def in_words(error: BaseException) -> str:
    """What went wrong, in words for a user.

    >>> in_words(OSError(28, "No space left on device", "demo/sample.txt")), in_words(MemoryError())
    ('demo/sample.txt: No space left on device', 'not enough memory')
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if asked := re.search(r"tried to allocate (\d+) bytes", str(error)):
        return f"not enough memory: {int(asked[1]) / 1e9:,.1f} GB more are needed"
    return str(error) or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)


@contextmanager
def interruptible(handler: Callable[[int, FrameType | None], object] = signal.default_int_handler) -> Iterator[None]:
    """In here Ctrl-C and SIGTERM, unless they are ignored, call this handler: by default they raise KeyboardInterrupt, for a command that
    has something to put in order before it leaves.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, usual in before.items():
        if usual not in (signal.SIG_IGN, None):
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, usual in before.items():
            if usual is not None:  # it was set in C, and left alone
                signal.signal(number, usual)


def path(given: str | Path) -> Path:
    """A path that was given: an empty one, which would be the current folder, is a variable that was not set.

    Raises:
        typer.BadParameter: it is empty.
    """
    if not str(given).strip():
        raise typer.BadParameter(f"expected a path, got {given!r}; for the current folder use .")
    return Path(given)


STDOUT = Path("-")  # as a path that is given
_for_json: ContextVar[TextIO | None] = ContextVar("stdout for JSON", default=None)


@contextmanager
def _stdout_for_json() -> Iterator[None]:
    """Leave standard output to ``print_json``: what a cell of the user's prints goes to standard error."""
    token = _for_json.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _for_json.reset(token)


def print_json(facts: object) -> None:
    """Print facts for a program: no colour, keys in the order in which the dataclasses have them."""
    print(to_json(facts), file=_for_json.get())


@contextmanager
def _usable_width() -> Iterator[None]:
    """A width that things can be printed in, whatever the terminal or COLUMNS and LINES say; rich and typer read these two."""
    before = {name: os.environ.get(name) for name in ("COLUMNS", "LINES")}
    columns, lines = shutil.get_terminal_size()
    if before["COLUMNS"] is not None or columns < NARROWEST:
        os.environ["COLUMNS"] = str(min(max(columns, NARROWEST), WIDEST))
    if before["LINES"] is not None:
        os.environ["LINES"] = str(lines)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Warnings as a person reads them: what they say, each once, without the line of code that gave them."""
    said: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if (text := str(message)) not in said:
            said.add(text)
            say(f"warning: {text}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
