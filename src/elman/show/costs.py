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
from elman.show.style import DIM, Part, section, table

if TYPE_CHECKING:
    from elman.show.network import Network
    from elman.show.specification import Spec


class Costs(Facts):
    """Parameters, and multiply-adds of the matrix products, in which every weight is used once.

    Those of each layer and of all are for one sequence at one step, ``multiply_adds_per_call`` for the whole call.
    """

    def __init__(self, spec: Spec) -> None:
        dtype: torch.dtype = getattr(torch, spec.dtype)
        self.layers = tuple(
            Facts(
                layer=index,
                parameters=sum(map(prod, layer.shapes)),
                multiply_adds_per_step=sum(prod(shape) for shape in layer.shapes if len(shape) == 2),
            )
            for index, layer in enumerate(spec.stack.layers)
        )
        self.parameters = sum(layer.parameters for layer in self.layers)
        self.bytes = self.parameters * dtype.itemsize
        self.multiply_adds_per_step = sum(layer.multiply_adds_per_step for layer in self.layers)
        self.multiply_adds_per_call = self.multiply_adds_per_step * spec.seq_len * spec.batch


def costs_section(network: Network) -> Part:
    spec, cost = network.spec, network.costs
    many = spec.num_layers > MOST_LAYERS_SHOWN
    rows = []
    for each in (cost.layers[0], cost.layers[-1]) if many else cost.layers if spec.num_layers > 1 else ():
        name = _("layers 1 to {last}, each", last=each.layer) if many and each.layer else _("layer {layer}", layer=each.layer)
        rows.append((name, count(each.parameters), count(each.multiply_adds_per_step)))
    total = (_("total"), (count(cost.parameters), "bold"), (count(cost.multiply_adds_per_step), "bold"))
    call = _("multiply-adds per call, {steps} steps × {batch} sequences", steps=count(spec.seq_len), batch=count(spec.batch))
    note = _("Dropout applies between layers; with a single layer it does nothing.")
    if spec.num_layers > 1:
        note = _("Dropout of {dropout} applies between layers, in training only: not in this run.", dropout=f"{spec.dropout:g}")
    return section(
        _("Cost"),
        table(["", _("parameters"), _("multiply-adds per step and sequence")], *rows, total, gap=3, right=(1, 2)),
        "",
        Text.assemble(call, "  ", (count(cost.multiply_adds_per_call), "bold")),
        Text.assemble(_("memory of the parameters, {dtype}", dtype=spec.dtype), "  ", (memory(cost.bytes), "bold")),
        spec.dropout > 0 and (note, DIM),
    )
