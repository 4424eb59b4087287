"""What ``trace`` of a layer gives: a run with all that was computed on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from elman.backends import Stack, Traced


class Trace(NamedTuple):
    """A run of a layer and all that was computed on its way; unbatched, all of it without the axis B. P is H without a projection.

    Attributes:
        output: the outputs, (T, B, D·P), as a call gives them.
        final: the final states, as a call gives them: h_n, (L·D, B, P), of an LSTM (h_n, c_n).
        h: what every layer and direction puts out at every step, before dropout, (L, D, T, B, P), with batch_first (L, D, B, T, P). Past a
            row's length it is 0, and so are c and the gates.
        c: an LSTM's c at every step, (L, D, T, B, H), laid out as h; None of other networks.
        gates: the gates at every step by their usual names, laid out as h: a GRU's "r", "z" and "n", an LSTM's "i", "f", "g" and "o"; an
            RNN has none.
        last: the top layer's final h of each direction, side by side, (B, D·P). It is what the last step of the output is often taken for,
            which holds no more than the first step of the reverse direction.
    """

    output: Tensor
    final: Tensor | tuple[Tensor, ...]
    h: Tensor
    c: Tensor | None
    gates: dict[str, Tensor]
    last: Tensor

    @classmethod
    def of(cls, traced: Traced, stack: Stack, batch_first: bool, unbatched: bool) -> Trace:
        """What a backend traced, as a layer lays it out."""
        layers, directions, cell = stack.num_layers, stack.num_directions, stack.cell

        def laid_out(steps: Tensor, batch: int) -> Tensor:
            """A tensor with the axes T and B at ``batch - 1`` and ``batch``."""
            if unbatched:
                return steps.squeeze(batch)
            return steps.transpose(batch - 1, batch) if batch_first else steps

        hidden = traced.hidden.reshape(*traced.hidden.shape[:3], directions, stack.state_sizes[0]).movedim(3, 1)
        steps = {name: laid_out(each.reshape(layers, directions, *each.shape[1:]), 3) for name, each in traced.steps.items()}
        last = traced.finals[0][-directions:].transpose(0, 1).flatten(1)
        finals = tuple([state.squeeze(1) if unbatched else state for state in traced.finals])
        return cls(
            output=laid_out(traced.hidden[-1], 1),
            final=finals[0] if len(finals) == 1 else finals,
            h=laid_out(hidden, 3),
            c=steps.get("c"),
            gates={name: steps[name] for name in cell.gates if name not in cell.states},
            last=last.squeeze(0) if unbatched else last,
        )
