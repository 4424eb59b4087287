"""What a network costs: parameters, their memory, and multiply-adds."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from rich.text import Text

from elman.language import _
from elman.show.facts import Facts
from elman.show.numbers import count, memory
from elman.show.specification import MOST_LAYERS_SHOWN
from elman.show.style import DIM, section, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from elman.show.network import Network
    from elman.show.specification import Spec


class LayerCost(Facts):
    """A layer's parameters, and its multiply-adds for one sequence at one step: every weight is used once."""

    def __init__(self, layer: int, shapes: Sequence[tuple[int, ...]]) -> None:
        self.layer = layer
        self.parameters = sum(map(prod, shapes))
        self.multiply_adds_per_step = sum(prod(shape) for shape in shapes if len(shape) == 2)


class Costs(Facts):
    """Parameters, and multiply-adds of the matrix products: for one sequence at one step, and for the whole call."""

    def __init__(self, spec: Spec) -> None:
        dtype: torch.dtype = getattr(torch, spec.dtype)
        self.layers = tuple(LayerCost(index, layer.shapes) for index, layer in enumerate(spec.stack.layers))
        self.parameters = sum(layer.parameters for layer in self.layers)
        self.bytes = self.parameters * dtype.itemsize
        self.multiply_adds_per_step = sum(layer.multiply_adds_per_step for layer in self.layers)
        self.multiply_adds_per_call = self.multiply_adds_per_step * spec.seq_len * spec.batch


def costs_section(network: Network) -> RenderableType:
    spec, cost = network.spec, network.costs
    many = spec.num_layers > MOST_LAYERS_SHOWN
    shown = (cost.layers[0], cost.layers[-1]) if many else cost.layers if spec.num_layers > 1 else ()
    rows = [
        (
            _("layers 1 to {last}, each", last=each.layer) if many and each.layer else _("layer {layer}", layer=each.layer),
            count(each.parameters),
            count(each.multiply_adds_per_step),
        )
        for each in shown
    ]
    total = (_("total"), (count(cost.parameters), "bold"), (count(cost.multiply_adds_per_step), "bold"))
    made = table(["", _("parameters"), _("multiply-adds per step and sequence")], *rows, total, gap=3)
    made.columns[1].justify = made.columns[2].justify = "right"
    call = _("multiply-adds per call, {steps} steps × {batch} sequences", steps=count(spec.seq_len), batch=count(spec.batch))
    note = (
        _("Dropout of {dropout} applies between layers, in training only: not in this run.", dropout=f"{spec.dropout:g}")
        if spec.num_layers > 1
        else _("Dropout applies between layers; with a single layer it does nothing.")
    )
    return section(
        _("Cost"),
        made,
        "",
        Text.assemble(call, "  ", (count(cost.multiply_adds_per_call), "bold")),
        Text.assemble(_("memory of the parameters, {dtype}", dtype=spec.dtype), "  ", (memory(cost.bytes), "bold")),
        spec.dropout > 0 and (note, DIM),
    )
