"""Modules in safetensors files, by that library's own functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, load_model, save_model

import elman

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_layer_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    options = {"num_layers": 2, "bidirectional": True, "learn_initial_state": True}
    one, other = (getattr(elman, kind)(3, 4, **options) for _ in range(2))
    save_model(one, str(tmp_path / "it.safetensors"))
    x = torch.randn(5, 2, 3)
    before = other(x)[0]
    assert load_model(other, tmp_path / "it.safetensors") == (set(), [])
    assert torch.equal(other(x)[0], one(x)[0])
    assert not torch.equal(other(x)[0], before)


def test_torchs_layers_and_elmans_share_files(tmp_path: Path) -> None:
    theirs, ours = torch.nn.LSTM(3, 4), elman.LSTM(3, 4)
    save_model(theirs, str(tmp_path / "it.safetensors"))
    load_model(ours, tmp_path / "it.safetensors")
    assert load_file(tmp_path / "it.safetensors").keys() == dict(ours.named_parameters()).keys()
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])


def test_cells_are_saved_too(tmp_path: Path) -> None:
    one, other = elman.GRUCell(3, 4), elman.GRUCell(3, 4)
    save_model(one, str(tmp_path / "it.safetensors"))
    load_model(other, tmp_path / "it.safetensors")
    x = torch.randn(2, 3)
    assert torch.equal(other(x), one(x))
