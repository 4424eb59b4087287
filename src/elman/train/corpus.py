"""Text to learn from: which files, and which of them are held out.

Of a folder all text is read but what is hidden, what programs made (environments, caches) and what a training wrote: ``left_out`` of the
corpus names it.

The split is by file, never by line: a model is judged on files it has seen nothing of. A file's side depends on its path alone, so that
two runs, and mostly two versions of a library, hold out the same files.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from elman.train import memory, outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HELD_OUT = 0.1
"""The share of the files (not of their bytes) that is held out."""

_NOT_LIBRARY = frozenset(
    # Tests and demonstrations, installers, what others installed, and tables that a program wrote (encodings, pydoc_data).
    [
        *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages", "dist-packages"),
        *("encodings", "pydoc_data"),
    ]
)


_MADE = frozenset(["__pycache__", "node_modules", "site-packages", "dist-packages"])
_MADE_MARKS = ("pyvenv.cfg", "CACHEDIR.TAG")
"""Folders that programs fill, by name, and by a file that says so: a virtual environment's, a cache's (bford.info/cachedir)."""


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
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Paths of files and folders that were not read, by the reason: see :func:`read_paths`."""
    is_one_file: bool = False
    """Whether a single file was cut in two: what is held out is its end."""

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
        corpus = cls(name, tuple(train), tuple(judged), is_one_file=len(distinct) == 1)
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

    @cached_property
    def sha256(self) -> str:
        """A digest of all the text."""
        return hashlib.sha256(self.train_text + self.held_out_text).hexdigest()


def read_standard_library() -> Corpus:
    """The source of this Python's own standard library: 4 to 10 MB, on every machine, in no need of a download.

    Raises:
        CorpusError: this Python was installed without its sources.
    """
    root = Path(sysconfig.get_path("stdlib"))

    def why_not(path: Path) -> str | None:
        return "hidden" if path.name.startswith(".") or path.name in _NOT_LIBRARY else None

    files = [
        TextFile(path.relative_to(root).as_posix(), path.read_bytes())
        for path in _walk(root, why_not, defaultdict(list))
        if path.suffix == ".py" and not path.name.startswith("_sysconfigdata")
    ]
    return Corpus.split(f"the standard library of Python {platform.python_version()}", files)


def read_paths(paths: Sequence[Path], out: Path | None = None) -> Corpus:
    """The given files as they are, and all the UTF-8 text files in the given folders.

    What is passed over in a folder is named in ``left_out``, by the reason: "hidden" (the name begins with a point), "made" (environments
    and caches), "link" (to a folder), "training" (written by an earlier training), "out", "not_text", "unreadable".

    Args:
        paths: files and folders.
        out: where this training will write: passed over where it lies inside a given folder.

    Raises:
        CorpusError: a path does not exist or cannot be read, there is no text, or a file in ``out`` would both be read and overwritten.
    """
    left_out: dict[str, list[str]] = defaultdict(list)
    room, length = memory.available(), 0
    written = {os.path.realpath(out / name) for name in outputs.NAMES} if out else set()
    files = []
    for path in paths:
        for name, file in _files_at(path, out, left_out):
            if os.path.realpath(file) in written:
                raise CorpusError(f"{file} would be read and then overwritten: let --out be another folder, or move the file")
            try:
                length += file.stat().st_size
                if 4 * length > room:
                    raise CorpusError(f"{file} and what comes before it are {memory.size(length)} of text: too much for the memory")
                text = file.read_bytes()
            except OSError as error:
                if file == path:
                    raise CorpusError(f"cannot read {file}: {error.strerror}") from error
                left_out["unreadable"].append(str(file))
                continue
            if file == path or _is_text(text):
                files.append(TextFile(name, text))
            else:
                left_out["not_text"].append(str(file))
    try:
        return replace(Corpus.split(", ".join(str(path) for path in paths), files), left_out=left_out)
    except CorpusError as error:
        passed_over = sum(map(len, left_out.values()))
        raise CorpusError(f"{error}; {passed_over} files and folders in it were passed over" if passed_over else str(error)) from None


def _files_at(path: Path, out: Path | None, left_out: dict[str, list[str]]) -> Iterator[tuple[str, Path]]:
    """Names and paths of the files that a given path stands for."""
    own = os.path.realpath(out) if out else None

    def why_not(inside: Path) -> str | None:
        if inside.name.startswith("."):
            return "hidden"
        if not inside.is_dir():
            return "training" if outputs.is_output(inside) else None
        if inside.is_symlink():
            return "link"
        if inside.name in _MADE or any((inside / mark).exists() for mark in _MADE_MARKS):
            return "made"
        return "out" if os.path.realpath(inside) == own else None

    if path.is_dir():
        yield from ((inside.relative_to(path).as_posix(), inside) for inside in _walk(path, why_not, left_out))
    elif path.is_file():
        yield path.name, path
    else:
        raise CorpusError(f"neither a file nor a folder: {path}" if path.exists() else f"no such file or folder: {path}")


def _walk(root: Path, why_not: Callable[[Path], str | None], left_out: dict[str, list[str]]) -> Iterator[Path]:
    """The regular files below ``root``, in a fixed order, without those files and folders for which there is a reason why not."""

    def is_included(path: Path) -> bool:
        if reason := why_not(path):
            left_out[reason].append(str(path))
        return not reason

    for folder, folders, names in os.walk(root, onerror=lambda error: left_out["unreadable"].append(str(error.filename))):
        folders[:] = [name for name in sorted(folders) if is_included(Path(folder, name))]
        yield from (path for name in sorted(names) if is_included(path := Path(folder, name)) and path.is_file())


def _is_text(text: bytes) -> bool:
    try:
        return "\0" not in text.decode()
    except UnicodeDecodeError:
        return False
