"""Chinese: for each English sentence what an engineer would write, not a translation of it word by word."""

from __future__ import annotations

from elman.language.zh import bench, cells, errors, help, show, train

SENTENCES: dict[str, str] = {
    **show.SENTENCES,
    **help.SENTENCES,
    **bench.SENTENCES,
    **train.SENTENCES,
    **cells.SENTENCES,
    **errors.SENTENCES,
}
