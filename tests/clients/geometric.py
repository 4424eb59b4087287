"""torch-geometric: layers and cells in aggregations, convolutions, and models, imported by name.

requires: torch-geometric
"""

from __future__ import annotations

import torch
from swap import check
from torch_geometric.nn import (
    AttentiveFP,
    GatedGraphConv,
    GRUAggregation,
    JumpingKnowledge,
    LCMAggregation,
    LSTMAggregation,
    Set2Set,
)

nodes, index = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 1, 2])
edges = torch.tensor([[0, 1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 0, 3]])
features = torch.randn(7, 2)

check("torch-geometric LSTMAggregation", lambda: LSTMAggregation(4, 5), lambda model: model(nodes, index))
check("torch-geometric GRUAggregation", lambda: GRUAggregation(4, 5), lambda model: model(nodes, index))
check("torch-geometric LCMAggregation", lambda: LCMAggregation(4, 5), lambda model: model(nodes, index))
check("torch-geometric Set2Set", lambda: Set2Set(4, processing_steps=3), lambda model: model(nodes, index))
check("torch-geometric GatedGraphConv", lambda: GatedGraphConv(5, 3), lambda model: model(nodes, edges))
check("torch-geometric JumpingKnowledge", lambda: JumpingKnowledge("lstm", 4, 2), lambda model: model([nodes, 2 * nodes]))
check(
    "torch-geometric AttentiveFP",
    lambda: AttentiveFP(4, 5, 2, edge_dim=2, num_layers=2, num_timesteps=2),
    lambda model: model(nodes, edges, features, index),
)
