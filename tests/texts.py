"""A text for the tests of training to learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CODE = b'''def join(parts, mark=", "):
    """Join the parts."""
    text = mark.join(str(part) for part in parts[1:])  # all but the first
    return "(" + text + ")"
'''


def folder_of_files(folder: Path) -> Path:
    """A new folder of four files, each with the text a few times."""
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.py").write_bytes(CODE * (number + 3))
    return folder
