"""What a training writes: the names, how to know an earlier training's files, and whether a folder can take new ones."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from elman._files import rehearse
from elman.train import unfinished
from elman.train.checkpoint import content_of, is_checkpoint, save

if TYPE_CHECKING:
    from collections.abc import Iterable

    from elman.train.char_model import CharModel

MODEL, SAMPLE, METRICS, PICTURE, UNFINISHED = NAMES = (
    "model.safetensors",
    "sample.txt",
    "metrics.json",
    "picture.png",
    "training.safetensors",
)

FIGURE = "held_out_bits_per_character"
"""A key of the figures that no other program's are likely to have."""

_MODELS = 8
"""The most that is written of it: an unfinished training has four of its size (the weights, the last good ones, Adam's two means), and the
new one is written beside the old one."""

_BESIDES_MODEL = 2**22
"""Room for the other files, in bytes: the picture is some 0.2 MB, the figures are as long as the list of files."""


class OutputError(ValueError):
    """A training could not write its results; the message says where and why."""


def is_output(path: Path) -> bool:
    """Whether the file was written by a training: it has one of the names, and the weights, the figures or the unfinished training in its
    folder are a training's.

    So a file of one's own that is called sample.txt is text like any other.
    """
    try:
        return path.name in NAMES and (
            ((model := path.with_name(MODEL)).is_file() and is_checkpoint(model))
            or ((state := path.with_name(UNFINISHED)).is_file() and is_checkpoint(state, unfinished.FORMAT))
            or ((metrics := path.with_name(METRICS)).is_file() and f'"{FIGURE}"'.encode() in metrics.read_bytes())
        )
    except OSError:
        return False


def prepare(folder: Path, model: CharModel) -> None:
    """Make the folder, and make sure that the results will fit in: all that can be known before the training.

    Raises:
        OutputError: the folder cannot be made, or a file cannot be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rehearse(folder / MODEL, bytes(len(content_of(model)) * _MODELS + _BESIDES_MODEL))
        for name in (SAMPLE, METRICS, PICTURE, UNFINISHED):
            rehearse(folder / name)
    except OSError as error:
        where = error.filename or folder
        raise OutputError(f"--out: the results cannot be written to {where}: {error.strerror}; choose another folder") from error


def discard(folders: Iterable[Path]) -> None:
    """Remove folders that a training made and wrote nothing into, the innermost first."""
    with suppress(OSError):  # another process has put something there
        for folder in folders:
            folder.rmdir()


def keep(model: CharModel, folder: Path) -> Path:
    """Write the weights into the folder, or, if that has become impossible meanwhile, into a new temporary one.

    Raises:
        OSError: neither can be written to.
    """
    try:
        save(model, folder / MODEL)
        return folder / MODEL
    except OSError:
        elsewhere = Path(tempfile.mkdtemp(prefix="elman-")) / MODEL
        save(model, elsewhere)
        return elsewhere
