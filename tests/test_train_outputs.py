"""The output folder of a training."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

from elman.train.char_model import CharModel
from elman.train.checkpoint import content_of
from elman.train.outputs import prepare

if TYPE_CHECKING:
    from pathlib import Path


def test_room_on_the_disk_is_tried_without_copies_of_it_in_memory(tmp_path: Path) -> None:
    """Which would be more than the training itself takes."""
    model = CharModel(8, 256, 2)
    size = len(content_of(model))
    tracemalloc.start()
    try:
        prepare(tmp_path / "out", model)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size * 8 < most < size * 10 + 2**22 + 2**20  # as much as is tried, once
    assert list((tmp_path / "out").iterdir()) == []
