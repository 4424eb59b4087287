"""Files that are whole or absent, and JSON that every reader accepts: the one way in which the package writes either."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4


def write(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it: a disk that fills up, a crash or Ctrl-C leave what stood there before.

    A link is followed; a device or a pipe is written to directly.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    _write(path, content, rename=True)


def rehearse(path: Path, content: bytes = b"") -> None:
    """Raise the OSError that :func:`write` would raise now, and leave no trace."""
    _write(path, content, rename=False)


def to_json(facts: object) -> str:
    """Facts as JSON, in ASCII, which survives any terminal's encoding. JSON has no infinities and no NaN: they become null. Namespaces and
    dataclasses become objects.

    >>> print(to_json({"bits": [1.5, float("inf")]}))
    {
      "bits": [
        1.5,
        null
      ]
    }
    """
    return json.dumps(_finite(facts), allow_nan=False, indent=2)


def _write(path: Path, content: bytes, *, rename: bool) -> None:
    target = Path(os.path.realpath(path))
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.exists() and not target.is_file():
            if rename:
                target.write_bytes(content)
            return
        beside = target.with_name(f".{uuid4().hex[:12]}.part")
        try:
            with beside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if rename:
                if target.exists():
                    shutil.copymode(target, beside)
                beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _finite(facts: object) -> object:
    if isinstance(facts, dict):
        return {key: _finite(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_finite(value) for value in facts]
    if isinstance(facts, SimpleNamespace):
        return _finite(vars(facts))
    if is_dataclass(facts):
        return {each.name: _finite(getattr(facts, each.name)) for each in fields(facts)}
    return None if isinstance(facts, float) and not isfinite(facts) else facts
