"""Text to learn from: which files, and which of them are held out.

The split is by file, never by line: a model is judged on files it has seen nothing of. A file's side depends on its path alone, so that
two runs, and mostly two versions of a library, hold out the same files.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Set

HELD_OUT = 0.1
"""The share of the files (not of their bytes) that is held out."""

_NOT_LIBRARY = frozenset(
    # Tests and demonstrations, installers, what others installed, and tables that a program wrote (encodings, pydoc_data).
    [
        *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages", "dist-packages"),
        *("encodings", "pydoc_data"),
    ]
)


class CorpusError(ValueError):
    """There is no text to learn from; the message says why."""


@dataclass(frozen=True)
class TextFile:
    """A file's name within the corpus and its bytes."""

    name: str
    text: bytes

    @cached_property
    def rank(self) -> float:
        """A number in [0, 1) that depends on the name alone: the order of the files, and their side."""
        return int.from_bytes(hashlib.sha256(self.name.encode(errors="surrogateescape")).digest()[:6], "big") / 2**48


@dataclass(frozen=True)
class Corpus:
    """Files to learn from and files held out.

    >>> files = [TextFile("a.txt", b"one"), TextFile("b.txt", b"two"), TextFile("c.txt", b"three")]
    >>> corpus = Corpus.split("numbers", files)
    >>> len(corpus.train), len(corpus.held_out)
    (2, 1)
    """

    name: str
    train: tuple[TextFile, ...]
    held_out: tuple[TextFile, ...]

    @classmethod
    def split(cls, name: str, files: Sequence[TextFile], held_out: float = HELD_OUT) -> Corpus:
        """Hold out the files whose rank is below ``held_out``, at least one; copies of a file and empty files are left out.

        A single file is cut: its last ``held_out`` part becomes the held-out file.

        Raises:
            CorpusError: there are fewer than two characters to learn from, or none to be judged on.
        """
        # A copy of a training file among the held-out ones would be a question with its answer.
        distinct = list({file.text: file for file in reversed(files) if file.text}.values())
        if len(distinct) == 1:
            (file,) = distinct
            cut = len(file.text) - max(1, round(len(file.text) * held_out))
            train, judged = [TextFile(file.name, file.text[:cut])], [TextFile(f"{file.name} (its end)", file.text[cut:])]
        else:
            distinct.sort(key=lambda file: (file.rank, file.name))
            count = sum(file.rank < held_out for file in distinct)
            count = max(1, min(count, len(distinct) - 1))
            train, judged = distinct[count:], distinct[:count]
        corpus = cls(name, tuple(train), tuple(judged))
        if len(corpus.train_text) < 2 or not corpus.held_out_text:
            raise CorpusError(f"nothing to learn from: {name} holds {sum(len(file.text) for file in files)} characters of text")
        return corpus

    @cached_property
    def train_text(self) -> bytes:
        """The training files, one after the other."""
        return b"".join(file.text for file in self.train)

    @cached_property
    def held_out_text(self) -> bytes:
        """The held-out files, one after the other."""
        return b"".join(file.text for file in self.held_out)


def read_standard_library() -> Corpus:
    """The source of this Python's own standard library: 4 to 10 MB, on every machine, in no need of a download.

    Raises:
        CorpusError: this Python was installed without its sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = [
        TextFile(path.relative_to(root).as_posix(), path.read_bytes())
        for path in _walk(root, _NOT_LIBRARY)
        if path.suffix == ".py" and not path.name.startswith("_sysconfigdata")
    ]
    return Corpus.split(f"the standard library of Python {platform.python_version()}", files)


def read_paths(paths: Sequence[Path]) -> Corpus:
    """The given files as they are, and all the UTF-8 text files in the given folders (hidden ones are passed over).

    Raises:
        CorpusError: a path does not exist or cannot be read, or there is no text.
    """
    try:
        files = [file for path in paths for file in _files_at(path)]
    except OSError as error:
        raise CorpusError(f"cannot read {error.filename}: {error.strerror}") from error
    return Corpus.split(", ".join(str(path) for path in paths), files)


def _files_at(path: Path) -> Iterator[TextFile]:
    if path.is_dir():
        found = (TextFile(inside.relative_to(path).as_posix(), inside.read_bytes()) for inside in _walk(path))
        yield from (file for file in found if _is_text(file.text))
    elif path.is_file():
        yield TextFile(path.name, path.read_bytes())
    else:
        raise CorpusError(f"neither a file nor a folder: {path}" if path.exists() else f"no such file or folder: {path}")


def _walk(root: Path, passed_over: Set[str] = frozenset()) -> Iterator[Path]:
    """The regular files below ``root`` that are not hidden, in a fixed order; links to folders are not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in passed_over)
        yield from (path for name in sorted(names) if not name.startswith(".") and (path := Path(folder, name)).is_file())


def _is_text(text: bytes) -> bool:
    try:
        return "\0" not in text.decode()
    except UnicodeDecodeError:
        return False
