"""Tensors in ``_flat_weights``, which calls take in place of parameters, and how long they do: as long as torch.nn's layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import elman

every_library = pytest.mark.parametrize("library", [nn, elman], ids=["torch.nn", "elman"])


@every_library
def test_a_parameter_set_to_itself_ends_its_own_replacement_alone(library: Any) -> None:
    gru = library.GRU(3, 4)
    for index in (0, 1):
        gru._flat_weights[index] = torch.zeros_like(gru._flat_weights[index])
    gru.weight_ih_l0 = gru.weight_ih_l0
    gru(torch.randn(5, 2, 3))
    assert gru._flat_weights[0] is gru.weight_ih_l0
    assert not gru._flat_weights[1].any()


@every_library
def test_another_parameter_ends_all_replacements(library: Any) -> None:
    gru = library.GRU(3, 4)
    for index in (0, 1):
        gru._flat_weights[index] = torch.zeros_like(gru._flat_weights[index])
    gru.weight_ih_l0 = nn.Parameter(torch.randn(12, 3))
    gru(torch.randn(5, 2, 3))
    assert gru._flat_weights[0] is gru.weight_ih_l0
    assert gru._flat_weights[1] is gru.weight_hh_l0


@every_library
def test_the_parameter_set_in_the_list_ends_its_replacement(library: Any) -> None:
    gru, x = library.GRU(3, 4), torch.randn(5, 2, 3)
    expected = gru(x)[0]
    gru._flat_weights[0] = torch.zeros_like(gru.weight_ih_l0)
    assert not torch.equal(gru(x)[0], expected)
    gru._flat_weights[0] = gru.weight_ih_l0
    assert torch.equal(gru(x)[0], expected)
