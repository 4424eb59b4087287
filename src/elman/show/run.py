"""The lines that are shown, run: everything that is said of a network is read off such a run by the very code that is shown beside it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import elman

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.layers.layer import RecurrentLayer
    from elman.show.specification import Spec


class Run:
    """What there is after these lines, by default the network's own, without gradients; torch's generator is left as it was.

    >>> from elman.show.specification import Spec
    >>> run = Run(Spec("rnn", 10, 20))
    >>> run["output[-1]"].equal(run["h_n[0]"])
    True
    """

    def __init__(self, spec: Spec, code: Sequence[str] = ()) -> None:
        self.names: dict[str, Any] = {"elman": elman, "torch": torch}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            exec("\n".join(code or spec.code), self.names)
        self.network: RecurrentLayer[Any] = self.names[spec.kind].eval()
        # Traced once, however often a trace is looked into.
        self.network.trace = cache(self.network.trace)

    def __getitem__(self, code: str) -> Any:
        """What an expression of Python gives there. It is one of ours, never a reader's."""
        with torch.no_grad():
            return eval(code, self.names)


def rounding(values: Tensor) -> float:
    """How far apart two ways to compute the same state may lie."""
    return float(64 * torch.finfo(values.dtype).eps * max(1.0, float(values.abs().max())))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return float((a.double() - b.double()).abs().max())
