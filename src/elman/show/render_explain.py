"""One network on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from elman.show.render_network import beside_torch, code, costs, heading, parameters, shapes, where_states_sit
from elman.show.render_numbers import numbers
from elman.show.text import Words

if TYPE_CHECKING:
    from elman.show.facts import Network


def render(network: Network, language: str, width: int) -> RenderableType:
    """Everything that is told of a network, in ``width`` columns; a number worked out by hand comes last."""
    words = Words(language)
    parts: list[RenderableType] = [
        heading(words("network.yours", module=network.spec.about.module)),
        code(network, words),
        shapes(network, words, width),
        where_states_sit(network, words, width),
        parameters(network, words, width),
        costs(network, words),
        beside_torch(network, words, width),
    ]
    if network.worked is not None:
        parts.append(numbers(network.worked, network.spec, words))
    return Group(*parts)
