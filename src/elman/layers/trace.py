"""The result of a layer's ``trace``: outputs, states and gates at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch.nn.utils.rnn import PackedSequence

from elman.layers.packed import pack_as

if TYPE_CHECKING:
    from torch import Tensor

    from elman.backends import Stack, Traced


class Trace(NamedTuple):
    """A layer's outputs, states and gates at every step. Unbatched, nothing has the axis B. Without a projection, P is H.

    Attributes:
        output: the outputs, (T, B, D·P), as a call returns them: for a PackedSequence, one.
        final: the final state, as a call returns it: h_n, (L·D, B, P), for an LSTM (h_n, c_n).
        h: the output of every layer and direction at every step, before dropout, (L, D, T, B, P), with batch_first (L, D, B, T, P). Past a
            sequence's length h, c and the gates are 0.
        c: an LSTM's c at every step, (L, D, T, B, H), laid out as h; None for other networks.
        gates: the gates at every step by their usual names, laid out as h: for a GRU "r", "z" and "n", for an LSTM "i", "f", "g" and "o";
            empty for an RNN. For a cell of your own, the result of the first activation that is applied to the gate's parts;
            without one, their sum.
        last: the last layer's final h of each direction, concatenated, (B, D·P). Use it instead of the last step of output, which for the
            reverse direction is the first step that it ran, and for a short sequence is padding.
        states: all states at every step by their names, laid out as h: h is among them, and an LSTM's c.
    """

    output: Any  # Tensor, or PackedSequence: with both, every use of a tensor's would be an error to a type checker
    final: Tensor | tuple[Tensor, ...]
    h: Tensor
    c: Tensor | None
    gates: dict[str, Tensor]
    last: Tensor
    states: dict[str, Tensor]

    def __repr__(self) -> str:
        """The shapes: the numbers would fill pages."""
        return f"Trace({', '.join(f'{name}={_shapes(value)}' for name, value in self._asdict().items())})"

    @classmethod
    def of(cls, traced: Traced, stack: Stack, batch_first: bool, unbatched: bool) -> Trace:
        """A backend's trace, laid out as the layer lays out its results."""
        layers, directions = stack.num_layers, stack.num_directions

        def laid_out(steps: Tensor, batch: int) -> Tensor:
            """A tensor whose axes T and B are ``batch - 1`` and ``batch``, as x is laid out."""
            if unbatched:
                return steps.squeeze(batch)
            return steps.transpose(batch - 1, batch) if batch_first else steps

        hidden = traced.hidden.reshape(*traced.hidden.shape[:3], directions, stack.state_sizes[0]).movedim(3, 1)

        def of_all(steps: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: laid_out(each.reshape(layers, directions, *each.shape[1:]), 3) for name, each in steps.items()}

        h, others = laid_out(hidden, 3), of_all(traced.states)
        last = traced.finals[0][-directions:].transpose(0, 1).flatten(1)
        finals = tuple([state.squeeze(1) if unbatched else state for state in traced.finals])
        return cls(
            output=laid_out(traced.hidden[-1], 1),
            final=finals[0] if len(finals) == 1 else finals,
            h=h,
            c=others.get("c"),
            gates=of_all(traced.gates),
            last=last.squeeze(0) if unbatched else last,
            states={stack.cell.states[0]: h, **others},
        )

    def packed_as(self, x: Tensor | PackedSequence, lengths: Any, batch_first: bool) -> Trace:
        """This trace with its output packed as the input x is, if x is a PackedSequence; ``lengths`` are its own."""
        return self._replace(output=pack_as(x, self.output, lengths, batch_first)) if isinstance(x, PackedSequence) else self


def _shapes(value: Tensor | PackedSequence | tuple[Tensor, ...] | dict[str, Tensor] | None) -> str:
    """The shape of a tensor, or of each of several."""
    if isinstance(value, PackedSequence):
        return f"PackedSequence{tuple(value.data.shape)}"
    if value is None:
        return "None"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {tuple(gate.shape)}' for name, gate in value.items())}}}"
    return f"({', '.join(map(_shapes, value))})" if isinstance(value, tuple) else str(tuple(value.shape))
