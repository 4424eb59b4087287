"""Checks that a network can run a step or a chunk at a time."""

from __future__ import annotations

from elman.layers.errors import wrong_module
from elman.layers.recurrent import Recurrent


def check_network(rnn: object, lacks: str) -> None:
    """Raise an error unless rnn is one of Elman's layers, with one direction.

    Args:
        rnn: the network, or what came in its place.
        lacks: the subject of the message, which does not have the sequence's end, as in "a stream does".

    Raises:
        TypeError: it is something else.
        ValueError: it is bidirectional.
    """
    if not isinstance(rnn, Recurrent):
        raise wrong_module("rnn", "layers, RNN, GRU, LSTM or Recurrent", rnn)
    if rnn.bidirectional:
        raise ValueError(
            "expected a network with one direction, got a bidirectional one: its reverse direction begins at the sequence's end, which "
            f"{lacks} not have"
        )
