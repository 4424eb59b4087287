"""Checks ``hx``, the initial states that a caller gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from elman.layers.errors import and_torchs, check_layout, check_like, wrong_kind

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from elman.backends import Stack


def as_states(names: Sequence[str], hx: Any, step_inputs: Iterable[str] = (), given: Container[str] = ()) -> tuple[Tensor, ...] | None:
    """The states in a tuple; None if hx is. Checks only that there is one for each name.

    Args:
        names: what the states are called.
        hx: as the caller gave it.
        step_inputs: the names of those that there are.
        given: of these, the names of those that the caller gave.

    Raises:
        TypeError: there should be several, and hx is not a tuple.
        RuntimeError: there are more or fewer.
    """
    if hx is None:
        return None
    if len(names) == 1:
        return (hx,)
    expected = f"a tuple ({', '.join(names)})"
    if not isinstance(hx, (tuple, list)):
        meant = next((name for name in step_inputs if name not in given), None) if isinstance(hx, Tensor) else None
        raise TypeError(f"{wrong_kind('hx', expected, hx)}{'' if meant is None else _by_name(meant)}")
    if _are_lengths(hx):
        raise TypeError(f"{wrong_kind('hx', expected, hx)} of integers: did you mean lengths=?")
    if len(hx) != len(names):
        raise RuntimeError(f"expected hx to be {expected}, got one of length {len(hx)}")
    return tuple(hx)


def for_all(learned: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """Learned initial states, (L·D, H) each, for every sequence of the batch, (L·D, B, H)."""
    return tuple([state.unsqueeze(1).expand(-1, batch, -1).contiguous() for state in learned])


def _by_name(step_input: str) -> str:
    return f": hx comes second, so pass {step_input} by name, {step_input}=..."


def _are_lengths(hx: object) -> bool:
    return isinstance(hx, (list, tuple)) and len(hx) > 0 and all(type(number) is int for number in hx)


def check_states(
    names: Sequence[str],
    states: tuple[Tensor, ...],
    x: Tensor,
    stack: Stack,
    axes: str,
    leading: tuple[int, ...],
    ranks: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """Raise an error if an initial state is wrong.

    Args:
        names: what the states are called.
        states: as the caller gave them.
        x: the input, checked.
        stack: what is to be run.
        axes: the names of a state's axes, with "H" for the last.
        leading: a state's shape without the last axis.
        ranks: the numbers of dimensions beyond which torch's cells raise a ValueError.

    Returns:
        The states. While torch.jit.trace records, they keep the trace from accepting states of another batch, which it would broadcast.

    Raises:
        TypeError: one is not a tensor.
        ValueError: one has a number of dimensions that is not in ``ranks``.
        RuntimeError: one has another wrong shape, a wrong dtype or device.
    """
    for name, state, size in zip(names, states, stack.state_sizes, strict=True):
        of_state = axes if size == stack.hidden_size else axes.replace("H", "P")
        _check_state(name, state, x, (*leading, size), of_state, ranks, stack.cell.step_inputs, states)
    if torch._C._get_tracing_state() is not None:
        return tuple([state.reshape(*leading, size) for state, size in zip(states, stack.state_sizes, strict=True)])
    return states


def _check_state(
    name: str,
    state: Tensor,
    x: Tensor,
    expected: tuple[int, ...],
    axes: str,
    ranks: Sequence[int] | None,
    step_inputs: Mapping[str, str],
    states: Sequence[Tensor],
) -> None:
    if not isinstance(state, Tensor):
        hint = " of integers: did you mean lengths=?" if _are_lengths(state) else ""
        if name == "hx" and isinstance(state, (tuple, list)) and any(isinstance(part, Tensor) for part in state):
            hint = ": there is one state, so pass the tensor alone"
        raise TypeError(f"{wrong_kind(name, 'a tensor', state)}{hint}")
    check_layout(name, state)
    if state.shape != expected:
        error = RuntimeError if ranks is None or state.dim() in ranks else ValueError
        hint = f": add the first axis with {name}.unsqueeze(0)" if (1, *state.shape) == expected else ""
        if len(expected) == 3 and (*state.shape[1::-1], *state.shape[2:]) == expected:
            hint = f": a state is not laid out as x with batch_first; swap its axes with {name}.swapaxes(0, 1)"
        if not hint and name == "hx" and (meant := _step_input_like(state.shape, x.shape[:-1], expected[-1:], step_inputs)):
            hint = _by_name(meant)
        message = f"expected {name} of shape {expected}, {axes}, got {tuple(state.shape)}{hint}"
        of_ranks = _torchs_words_of_ranks(states, x, len(expected)) if ranks is None else ""
        raise error(and_torchs(message, of_ranks or _torchs_words(name, tuple(state.shape), expected, ranks)))
    check_like(name, state, x)


def _step_input_like(shape: torch.Size, steps: torch.Size, units: tuple[int, ...], step_inputs: Mapping[str, str]) -> str | None:
    """The step input that has this shape, time and batch in either order."""
    likely = {"": (steps, steps[::-1]), "H": ((*steps, *units), (*steps[::-1], *units))}
    return next((name for name, size in step_inputs.items() if shape in likely[size]), None)


def _torchs_words_of_ranks(states: Sequence[Tensor], x: Tensor, rank: int) -> str:
    """How torch.nn's layers say that states have another number of dimensions than x; "" if they have the same, or x is packed."""
    if x.dim() != rank or not all(isinstance(state, Tensor) for state in states) or all(state.dim() == rank for state in states):
        return ""
    kind = f"For {'batched' if rank == 3 else 'unbatched'} {rank}-D input"
    if len(states) == 1:
        return f"{kind}, hx should also be {rank}-D but got {states[0].dim()}-D tensor"
    return f"{kind}, hx and cx should also be {rank}-D but got ({states[0].dim()}-D, {states[1].dim()}-D) tensors"


def _torchs_words(name: str, got: tuple[int, ...], expected: tuple[int, ...], ranks: Sequence[int] | None) -> str:
    """How torch.nn says that a state of this shape is wrong: of a layer, or where ``ranks`` are given of a cell."""
    index = 1 if name.startswith("c") else 0
    item = "" if name == "hx" else f"[{index}]"
    if ranks is None:
        return f"Expected hidden{item} size {expected}, got {list(got)}"
    if len(got) not in ranks:
        return f"Expected {f'hx{item}' if item else 'hidden'} to be 1D or 2D, got {len(got)}D instead"
    if got[-1] != expected[-1]:
        return f"hidden{index} has inconsistent hidden_size: got {got[-1]}, expected {expected[-1]}"
    batch, given = ((*shape[:-1], 1)[0] for shape in (expected, got))
    return f"Input batch size {batch} doesn't match hidden{index} batch size {given}"
