"""Which steps of each sequence are run, given lengths and resets, and where it ends: checked on the numbers of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from elman.show.run import apart, rounding, run

if TYPE_CHECKING:
    from collections.abc import Sequence as Several

    from torch import Tensor

    from elman.show.run import Run
    from elman.show.specification import Spec

MOST_LISTED = 8

# The first and the last step of a part of a sequence.
Segment = tuple[int, int]


@dataclass(frozen=True)
class Ending:
    """Where one direction of a sequence ends in the top layer.

    Attributes:
        state: the sequence's final state, as one writes it: "h_n[0, 1]".
        last: the same numbers in what ``trace`` calls ``last``: "last[1, :20]".
        where: the same in ``output``: "output[2, 1, :20]"; None for a sequence without a step.
        segment: the steps that the state depends on; None for a sequence without a step.
        holds: checked: the numbers there are the very same, and the segment run by itself ends in this state, up to rounding.
        difference: the largest difference found in that check.
        numbers: the state's first numbers.
    """

    direction: str
    state: str
    last: str
    where: str | None
    segment: Segment | None
    holds: bool
    difference: float
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class Sequence:
    """What is run of one sequence of a batch.

    Attributes:
        segments: what resets divide it into.
        padding: what lies past its length, as one writes it: "output[3:, 1]"; None where there is nothing.
        padding_is_zero: checked: all numbers there are 0.
        ends: one for each direction.
    """

    sequence: int
    length: int
    segments: tuple[Segment, ...]
    padding: str | None
    padding_is_zero: bool
    ends: tuple[Ending, ...]


@dataclass(frozen=True)
class Sequences:
    """A batch with lengths and resets. ``lengths`` is None where all steps are run; ``reset`` has the sequence and the step of each."""

    spec: Spec
    lengths: tuple[int, ...] | None
    reset: tuple[tuple[int, int], ...]
    code: tuple[str, ...]
    sequences: tuple[Sequence, ...]
    backend: str


def study_sequences(spec: Spec, lengths: tuple[int, ...] | None, reset: Several[tuple[int | None, int]]) -> Sequences:
    """Run the network on sequences of these lengths with these resets, and find out what is run of each and where it ends.

    >>> from elman.show.specification import Spec
    >>> found = study_sequences(Spec("rnn", 10, 20), lengths=(5, 3, 0), reset=[(None, 2)]).sequences[1]
    >>> found.segments, found.padding, found.ends[0].state, found.ends[0].where
    (((0, 1), (2, 2)), 'output[3:, 1]', 'h_n[0, 1]', 'output[2, 1]')

    Args:
        spec: the network and its data.
        lengths: one for each sequence; None: every sequence has all steps.
        reset: sequences, and the steps at which they begin afresh; None stands for all sequences.

    Raises:
        ValueError: not one length for each sequence, or a length, a step or a sequence that the data does not have.
    """
    import torch

    _check(spec, lengths, reset)
    starts = tuple(sorted({(b, step) for at, step in reset for b in (range(spec.batch) if at is None else (at,))}))
    mask = torch.zeros(spec.batch, spec.seq_len, dtype=torch.bool)
    for start in starts:
        mask[start] = True
    given = None if not starts else mask if spec.batch_first else mask.t()
    ran = run(spec, None if lengths is None else list(lengths), given)
    sizes = lengths or (spec.seq_len,) * spec.batch
    return Sequences(
        spec=spec,
        lengths=lengths,
        reset=starts,
        code=_code(spec, lengths, reset),
        sequences=tuple(_sequence(spec, b, length, {step for at, step in starts if at == b}, ran) for b, length in enumerate(sizes)),
        backend=ran.backend,
    )


def _sequence(spec: Spec, b: int, length: int, starts: set[int], ran: Run) -> Sequence:
    begins = [step for step in sorted({0, *starts}) if step < length]
    segments = tuple((first, after - 1) for first, after in zip(begins, [*begins[1:], length], strict=False))
    return Sequence(
        sequence=b,
        length=length,
        segments=segments,
        padding=None if length == spec.seq_len else spec.output_code(f"{length or ''}:", b),
        padding_is_zero=not ran.output[length:, b].any(),
        ends=tuple(_ending(spec, b, direction, segments, ran) for direction in spec.directions),
    )


def _ending(spec: Spec, b: int, direction: str, segments: Several[Segment], ran: Run) -> Ending:
    """The forward direction ends with the last segment, at its last step; the reverse direction with the first one, at its first."""
    side, columns, forward = spec.directions.index(direction), spec.columns(direction), direction == "forward"
    index = side - len(spec.directions)
    state = ran.h_n[index, b]
    found, alone, where, segment = state, state.new_zeros(state.shape), None, None
    if segments:
        segment = segments[-1] if forward else segments[0]
        step = segment[1] if forward else segment[0]
        where, found = spec.output_code(step, b, direction), ran.output[step, b, columns]
        alone = _run_alone(spec, ran, b, segment)[index]
    difference = apart(state, alone)
    last = f"last[{b}]" if not spec.bidirectional else f"last[{b}, {f':{columns.stop}' if forward else f'{columns.start}:'}]"
    return Ending(
        direction=direction,
        state=f"h_n[{len(ran.h_n) + index}, {b}]",
        last=last,
        where=where,
        segment=segment,
        holds=state.equal(found) and state.equal(ran.last[b, columns]) and difference <= rounding(state),
        difference=difference,
        numbers=tuple(state[:MOST_LISTED].tolist()),
    )


def _run_alone(spec: Spec, ran: Run, b: int, segment: Segment) -> list[Tensor]:
    """The final h of every layer and direction, (P,) each, of a segment that is run as a sequence of its own."""
    import torch

    piece = spec.steps_first(ran.x)[segment[0] : segment[1] + 1, b : b + 1]
    with torch.no_grad():
        _, finals = ran.network(spec.steps_first(piece))
    return [state[0] for state in (finals[0] if isinstance(finals, tuple) else finals)]


def _code(spec: Spec, lengths: tuple[int, ...] | None, reset: Several[tuple[int | None, int]]) -> tuple[str, ...]:
    """The lines that make this network and run it so: after ``import elman, torch`` they give the numbers that are shown."""
    *lines, call = spec.code
    given = ""
    if lengths is not None:
        lines.append(f"lengths = {list(lengths)}")
        given += ", lengths=lengths"
    if reset:
        lines.append("reset = torch.zeros({}, {}, dtype=torch.bool)".format(*spec.lead))
        for b, step in reset:
            at = (":" if b is None else b, step)
            lines.append("reset[{}, {}] = True".format(*(at if spec.batch_first else reversed(at))))
        given += ", reset=reset"
    return (*lines, call.replace("(x)", f"(x{given})"), f"last = {spec.kind}.trace(x{given}).last")


def _check(spec: Spec, lengths: tuple[int, ...] | None, reset: Several[tuple[int | None, int]]) -> None:
    if lengths is not None and len(lengths) != spec.batch:
        raise ValueError(f"expected a length for each sequence of the batch, {spec.batch} in all, got {len(lengths)}")
    for length in lengths or ():
        if not 0 <= length <= spec.seq_len:
            raise ValueError(f"a length must be between 0 and the number of steps, {spec.seq_len}, got {length}")
    for b, step in reset:
        if not 0 <= step < spec.seq_len:
            raise ValueError(f"a reset must be at a step between 0 and {spec.seq_len - 1}, got {step}")
        if b is not None and not 0 <= b < spec.batch:
            raise ValueError(f"a reset must be in a sequence between 0 and {spec.batch - 1}, got {b}")
