"""A network of any cell as loops over layers, directions, sequences and steps, in plain torch: what ``elman.Recurrent`` is compared with.

It reads a network's parameters by their names, and takes a step as a function of one sequence, written from the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    # x (I,), the states (H,) each, the parameters of a direction by kind, the step inputs by name: the states after the step.
    Step = Callable[[Tensor, tuple[Tensor, ...], Mapping[str, Tensor], Mapping[str, Tensor]], tuple[Tensor, ...]]


def run(
    step: Step,
    rnn: Any,
    x: Tensor,
    states: Sequence[Tensor] | None = None,
    lengths: Sequence[int] | None = None,
    reset: Tensor | None = None,
    **step_inputs: Tensor,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The outputs, (T, B, D·H), and the final states, (L·D, B, H) each. Everything is time first."""
    T, B, _ = x.shape
    directions, names, H = (2 if rnn.bidirectional else 1), rnn.stack.cell.states, rnn.hidden_size
    lengths = [T] * B if lengths is None else lengths
    zeros = x.new_zeros(rnn.num_layers * directions, H)
    fresh = [getattr(rnn, f"{name}_0") if rnn.learn_initial_state else zeros for name in names]
    finals: list[list[Tensor]] = []
    below = x
    for layer in range(rnn.num_layers):
        columns = []
        for d in range(directions):
            k, tail = layer * directions + d, f"_l{layer}" + "_reverse" * d
            weights = {name.removesuffix(tail): w for name, w in rnn.named_parameters() if name.endswith(tail)}
            outputs, last = [], []
            for b in range(B):
                now = tuple([each[k] if states is None else given[k, b] for each, given in zip(fresh, states or fresh, strict=True)])
                seen = {}
                for t in range(lengths[b]) if d == 0 else reversed(range(lengths[b])):
                    cut = t if d == 0 else t + 1  # before this step a sequence begins, whichever way it is read
                    if reset is not None and cut < lengths[b] and reset[cut, b]:
                        now = tuple([each[k] for each in fresh])
                    now = step(below[t, b], now, weights, {name: value[t, b] for name, value in step_inputs.items()})
                    seen[t] = now[0]
                outputs.append(torch.stack([seen.get(t, x.new_zeros(H)) for t in range(T)]))
                last.append(now)
            columns.append(torch.stack(outputs, 1))
            finals.append([torch.stack(each) for each in zip(*last, strict=True)])
        below = torch.cat(columns, -1)
    return below, tuple([torch.stack(each) for each in zip(*finals, strict=True)])
