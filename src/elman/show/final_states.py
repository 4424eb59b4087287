"""Where each final state lies in ``output`` or ``trace(x)``, checked on the numbers of a run, and where it is looked for by mistake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from elman.show.run import apart, rounding

if TYPE_CHECKING:
    from torch import Tensor

    from elman.show.run import Run
    from elman.show.specification import Spec

MOST_LISTED = 8


@dataclass(frozen=True)
class FinalState:
    """Where one slice of h_n lies.

    Attributes:
        state: the slice, as one writes it: "h_n[1]".
        where: the same numbers in ``output``, as one writes it; None for every layer but the top one, which output does not hold.
        trace: the same numbers in what ``trace`` gives: "rnn.trace(x).h[0, 1, 0]".
        holds: checked: the numbers in ``output`` are the very same; of a lower layer, those in the trace are, up to rounding.
        difference: the largest difference found in that check.
        state_numbers: the slice's first numbers, of sequence 0.
        found_numbers: those that they were compared with.
        nearest: of a lower layer: the largest difference from the place in ``output`` that comes nearest; else None.
    """

    state: str
    layer: int
    direction: str
    where: str | None
    trace: str
    holds: bool
    difference: float
    state_numbers: tuple[float, ...]
    found_numbers: tuple[float, ...]
    nearest: float | None = None


def final_states(spec: Spec, run: Run) -> tuple[FinalState, ...]:
    """One for each slice of h_n.

    The forward direction ends at the last step, the reverse direction at step 0. The last layer's are in ``output``, each direction in its
    own columns.
    """
    ends = {direction: -1 if direction == "forward" else 0 for direction in spec.directions}
    return tuple(_looked_for(spec, run, layer, *end) for layer in range(spec.num_layers) for end in ends.items())


def trap(spec: Spec, run: Run) -> FinalState | None:
    """The mistake that a network invites: ``output[-1]`` holds the reverse direction's first step, not its final state.

    None without a reverse direction, and for a single step, where the two are one.
    """
    return _looked_for(spec, run, spec.num_layers - 1, "reverse", -1) if spec.bidirectional and spec.seq_len > 1 else None


def _looked_for(spec: Spec, run: Run, layer: int, direction: str, step: int) -> FinalState:
    """A slice of h_n beside what ``output``, for lower layers ``trace``, holds at a step."""
    top = layer == spec.num_layers - 1
    slice_of_h_n = f"h_n[{layer * len(spec.directions) + spec.directions.index(direction)}]"
    where = spec.output_code(step, ":", spec.columns(direction)) if top else None
    trace = spec.trace_code(layer, direction, step, ":")
    state, found = run[slice_of_h_n], run[where or trace]
    difference = apart(state, found)
    return FinalState(
        state=slice_of_h_n,
        layer=layer,
        direction=direction,
        where=where,
        trace=trace,
        holds=difference <= (0 if top else rounding(found)),
        difference=difference,
        state_numbers=tuple(state[0, :MOST_LISTED].tolist()),
        found_numbers=tuple(found[0, :MOST_LISTED].tolist()),
        nearest=None if top else _nearest(spec, run["output"], state),
    )


def _nearest(spec: Spec, output: Tensor, state: Tensor) -> float:
    steps_first = output.transpose(0, 1) if spec.batch_first else output
    slots = steps_first.reshape(spec.seq_len, spec.batch, len(spec.directions), spec.output_size)
    return float((slots - state[None, :, None]).abs().amax(dim=(1, 3)).min())
