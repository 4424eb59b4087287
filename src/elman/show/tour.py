"""The tour: the three networks one meets first, at the sizes of a first notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elman.show.network import study
from elman.show.spec import Spec

if TYPE_CHECKING:
    from elman.show.facts import Network


def stops(kind: str = "rnn", seed: int = 0) -> dict[str, Spec]:
    """The tour's networks by name."""
    return {
        "one_directional": Spec(kind, 10, 20, seq_len=5, batch=3, seed=seed),
        "bidirectional": Spec(kind, 10, 20, bidirectional=True, seq_len=5, batch=3, seed=seed),
        "multi_layer": Spec(kind, 5, 10, num_layers=2, seq_len=4, batch=3, seed=seed),
    }


def tour(kind: str = "rnn", seed: int = 0) -> tuple[Network, ...]:
    """Study the three networks.

    >>> [network.name for network in tour()]
    ['one_directional', 'bidirectional', 'multi_layer']

    Raises:
        ValueError: an unknown kind, or a seed that torch does not take.
    """
    return tuple(study(spec, name=name) for name, spec in stops(kind, seed).items())
