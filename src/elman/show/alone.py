"""One layer of a network, run as a network of its own: its outputs, which only the layer above sees, and its states at any step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elman.show.spec import Spec
from elman.show.tensors import directions, roles, suffix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


def layers_alone(spec: Spec, values: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    """Every layer's own outputs, found by running each layer on the outputs of the one below.

    Args:
        spec: the whole network.
        values: its parameters by name.
        x: its input, (T, B, I).

    Returns:
        One tensor (T, B, D·H) for each layer, or (T, B, D·P) with a projection.
    """
    outputs: list[Tensor] = []
    for layer in range(spec.num_layers):
        output, _ = run(_layer(spec, values, layer), outputs[-1] if outputs else x)
        outputs.append(output)
    return outputs


def states_after(spec: Spec, values: Mapping[str, Tensor], layer: int, direction: str, step: int, source: Tensor) -> tuple[Tensor, ...]:
    """The states of one direction of one layer after a step, each (B, H), the first (B, P) with a projection.

    Args:
        spec: the whole network.
        values: its parameters by name.
        layer: which layer.
        direction: which direction.
        step: after which step: the layer is run up to it.
        source: what the layer reads, (T, B, features).
    """
    read = source[: step + 1] if direction == "forward" else source[step:]
    _, finals = run(_layer(spec, values, layer), read)
    return tuple(final[directions(spec).index(direction)] for final in finals)


def run(network: nn.Module, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output, and the final states one by one."""
    output, finals = network(x)
    return output, finals if isinstance(finals, tuple) else (finals,)


def _layer(spec: Spec, values: Mapping[str, Tensor], layer: int) -> nn.Module:
    import elman

    one = Spec(
        spec.kind,
        spec.layer_inputs(layer),
        spec.hidden_size,
        nonlinearity=spec.nonlinearity,
        bias=spec.bias,
        bidirectional=spec.bidirectional,
        proj_size=spec.proj_size,
        dtype=spec.dtype,
    )
    network: nn.Module = one.build(getattr(elman, spec.about.module))
    endings = [(suffix(0, direction), suffix(layer, direction)) for direction in directions(spec)]
    network.load_state_dict({role + own: values[role + whole] for own, whole in endings for role in roles(spec)})
    return network
