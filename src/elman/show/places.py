"""Where the final state sits in ``output``, checked on the numbers of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elman.show.facts import Place, Trap
from elman.show.tensors import directions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.show.spec import Spec


def places(spec: Spec, output: Tensor, h_n: Tensor, alone: Sequence[Tensor]) -> tuple[Place, ...]:
    """One place for each slice of ``h_n``.

    In the top layer the forward direction ends at the last step and the reverse direction at step 0, each in its own half of
    ``output``. A lower layer's outputs are not in ``output`` at all; its state is checked against the layer's own.

    Args:
        spec: the network.
        output: as the network returned it, (T, B, D·H), or (B, T, D·H) with batch_first; with a projection P stands for H.
        h_n: as the network returned it, (L·D, B, H).
        alone: every layer's own outputs, (T, B, D·H) each.
    """
    whole = output.transpose(0, 1) if spec.batch_first else output
    found = []
    for layer in range(spec.num_layers):
        for side, direction in enumerate(directions(spec)):
            index = layer * spec.num_directions + side
            top = layer == spec.num_layers - 1
            there = _end(spec, whole if top else alone[layer], direction)
            difference = _difference(h_n[index], there)
            found.append(
                Place(
                    state=f"h_n[{index}]",
                    layer=layer,
                    direction=direction,
                    where=end_code(spec, direction) if top else None,
                    holds=difference == 0 if top else difference <= rounding(spec, there),
                    difference=difference,
                    state_row=_row(h_n[index]),
                    found_row=_row(there),
                    nearest=None if top else _nearest(spec, whole, h_n[index]),
                )
            )
    return tuple(found)


def trap(spec: Spec, output: Tensor, h_n: Tensor) -> Trap | None:
    """What ``output[-1]`` holds of the reverse direction: its first step, not its end.

    None where the two are one: in a network without a reverse direction, and in a sequence of one step.
    """
    if not spec.bidirectional or spec.seq_len == 1:
        return None
    whole = output.transpose(0, 1) if spec.batch_first else output
    there = whole[-1, :, spec.output_units :]
    where = _code(spec, "-1", f"{spec.output_units}:")
    return Trap(f"h_n[{len(h_n) - 1}]", where, _difference(h_n[-1], there), _row(h_n[-1]), _row(there))


def end_code(spec: Spec, direction: str) -> str:
    """Where a direction ends in ``output``, as one writes it: "output[0, :, 20:]"."""
    if not spec.bidirectional:
        return "output[:, -1]" if spec.batch_first else "output[-1]"
    return _code(spec, "-1", f":{spec.output_units}") if direction == "forward" else _code(spec, "0", f"{spec.output_units}:")


def rounding(spec: Spec, values: Tensor) -> float:
    """How far two ways to compute the same state may lie apart."""
    import torch

    return float(64 * torch.finfo(values.dtype).eps * max(1.0, float(values.abs().max())))


def _end(spec: Spec, whole: Tensor, direction: str) -> Tensor:
    return whole[-1, :, : spec.output_units] if direction == "forward" else whole[0, :, spec.output_units :]


def _code(spec: Spec, step: str, columns: str) -> str:
    return f"output[:, {step}, {columns}]" if spec.batch_first else f"output[{step}, :, {columns}]"


def _nearest(spec: Spec, whole: Tensor, state: Tensor) -> float:
    slots = whole.reshape(spec.seq_len, spec.batch, spec.num_directions, spec.output_units)
    return float((slots - state[None, :, None]).abs().amax(dim=(1, 3)).min())


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _row(state: Tensor) -> tuple[float, ...]:
    return tuple(state[0, :8].tolist())
