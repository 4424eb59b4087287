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


@dataclass(frozen=True)
class Trap:
    """What ``output[-1]`` holds of the reverse direction: its first step, not its final state."""

    state: str
    where: str
    difference: float
    state_numbers: tuple[float, ...]
    found_numbers: tuple[float, ...]


def final_states(spec: Spec, ran: Run) -> tuple[FinalState, ...]:
    """One for each slice of h_n.

    The forward direction ends at the last step, the reverse direction at step 0. The top layer's are in ``output``, each direction in its
    own columns.
    """
    found = []
    for layer in range(spec.num_layers):
        for side, direction in enumerate(spec.directions):
            index, step = layer * len(spec.directions) + side, -1 if direction == "forward" else 0
            top = layer == spec.num_layers - 1
            state = ran.h_n[index]
            there = ran.output[step, :, spec.columns(direction)] if top else ran.hidden[layer, side, step]
            difference = apart(state, there)
            found.append(
                FinalState(
                    state=f"h_n[{index}]",
                    layer=layer,
                    direction=direction,
                    where=spec.output_code(step, ":", direction) if top else None,
                    trace=spec.trace_code(layer, direction, step, ":"),
                    holds=difference <= (0 if top else rounding(there)),
                    difference=difference,
                    state_numbers=_first(state),
                    found_numbers=_first(there),
                    nearest=None if top else _nearest(spec, ran.output, state),
                )
            )
    return tuple(found)


def trap(spec: Spec, ran: Run) -> Trap | None:
    """The mistake that a network invites; None without a reverse direction, and for a single step, where the two are one."""
    if not spec.bidirectional or spec.seq_len == 1:
        return None
    there = ran.output[-1, :, spec.columns("reverse")]
    where = spec.output_code(-1, ":", "reverse")
    return Trap(f"h_n[{len(ran.h_n) - 1}]", where, apart(ran.h_n[-1], there), _first(ran.h_n[-1]), _first(there))


def _nearest(spec: Spec, output: Tensor, state: Tensor) -> float:
    slots = output.reshape(spec.seq_len, spec.batch, len(spec.directions), spec.output_size)
    return float((slots - state[None, :, None]).abs().amax(dim=(1, 3)).min())


def _first(state: Tensor) -> tuple[float, ...]:
    return tuple(state[0, :MOST_LISTED].tolist())
