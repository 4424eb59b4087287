"""A cell that holds parameters: a network of it would neither list nor save them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import elman
import own_cells


@pytest.mark.parametrize("held", [nn.Linear(4, 4), [nn.Parameter(torch.ones(4))], {"a": nn.PReLU()}], ids=lambda held: type(held).__name__)
def test_what_a_cell_holds_is_not_trained_in_silence(held: Any) -> None:
    mine = own_cells.Gru()
    mine.held = held  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"expected Gru to declare what it trains, got held, .*: name it in gates or parameters"):
        elman.Recurrent(mine, 3, 4)
    for each in held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held]:
        each.requires_grad_(False)
    elman.Recurrent(mine, 3, 4)
