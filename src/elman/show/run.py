"""A network built from its seed and run on its data: everything that is shown is read off such a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from elman.layers.layer import RecurrentLayer
    from elman.show.specification import Spec


@dataclass(frozen=True)
class Run:
    """What a network made of its data. Below, T and B lie in this order, whatever batch_first says.

    Attributes:
        network: the network, and ``x`` its input as it takes it.
        output: (T, B, D·P); P is H without a projection.
        finals: the final states by name, (L·D, B, P) or (L·D, B, H).
        states: the states of every layer and direction after every step, by name, (L, D, T, B, P) or (L, D, T, B, H).
        last: the top layer's final h of each direction, side by side, (B, D·P).
        backend: what ran it, as ``elman.why`` says it.
    """

    network: RecurrentLayer[Any]
    x: Tensor
    output: Tensor
    finals: Mapping[str, Tensor]
    states: Mapping[str, Tensor]
    last: Tensor
    backend: str

    @property
    def h_n(self) -> Tensor:
        return next(iter(self.finals.values()))

    @property
    def hidden(self) -> Tensor:
        """What every layer and direction puts out at every step, (L, D, T, B, P)."""
        return next(iter(self.states.values()))


def run(spec: Spec, lengths: list[int] | None = None, reset: Tensor | None = None) -> Run:
    """Build the network and its data from the seed, leaving torch's generator as it was, and run it without gradients."""
    import torch

    import elman

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = spec.build(getattr(elman, spec.module)).to(spec.device)
        x = spec.data()
        output, finals = network(x, lengths=lengths, reset=reset)
        traced = network.trace(x, lengths=lengths, reset=reset)
        return Run(
            network=network,
            x=x,
            output=spec.steps_first(output),
            finals=dict(zip(spec.finals, finals if isinstance(finals, tuple) else (finals,), strict=True)),
            states={name: spec.steps_first(getattr(traced, name), 2) for name in spec.stack.cell.states},
            last=traced.last,
            backend=elman.why(network, x, lengths=lengths, reset=reset),
        )


def rounding(values: Tensor) -> float:
    """How far apart two ways to compute the same state may lie."""
    import torch

    return float(64 * torch.finfo(values.dtype).eps * max(1.0, float(values.abs().max())))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return float((a.double() - b.double()).abs().max())
