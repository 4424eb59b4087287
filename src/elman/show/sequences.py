"""Which steps of each sequence are run, given lengths and resets, and where it ends: checked on the numbers of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from elman.show.run import Run, apart, rounding
from elman.show.specification import Spec, indexed

if TYPE_CHECKING:
    from collections.abc import Sequence as Several


MOST_LISTED = 8

# The first and the last step of a part of a sequence.
Segment = tuple[int, int]


@dataclass(frozen=True)
class Ending:
    """Where one direction of a sequence ends in the last layer.

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
    _check(spec, lengths, reset)
    starts = tuple(sorted({(b, step) for at, step in reset for b in (range(spec.batch) if at is None else (at,))}))
    code, arguments = _code(spec, lengths, reset)
    run = Run(spec, code)
    sizes = lengths or (spec.seq_len,) * spec.batch
    return Sequences(
        spec=spec,
        lengths=lengths,
        reset=starts,
        code=code,
        sequences=tuple(_sequence(spec, b, length, {step for at, step in starts if at == b}, run) for b, length in enumerate(sizes)),
        backend=run[f"elman.why({spec.kind}, {arguments})"],
    )


def _sequence(spec: Spec, b: int, length: int, starts: set[int], run: Run) -> Sequence:
    begins = [step for step in sorted({0, *starts}) if step < length]
    padding = None if length == spec.seq_len else spec.output_code(f"{length or ''}:", b)
    segments = tuple((first, after - 1) for first, after in zip(begins, [*begins[1:], length], strict=False))
    return Sequence(
        sequence=b,
        length=length,
        segments=segments,
        padding=padding,
        padding_is_zero=padding is None or not run[padding].any(),
        ends=tuple(_ending(spec, b, direction, segments, run) for direction in spec.directions),
    )


def _ending(spec: Spec, b: int, direction: str, segments: Several[Segment], run: Run) -> Ending:
    """The forward direction ends with the last segment, at its last step; the reverse direction with the first one, at its first."""
    columns, forward = spec.columns(direction), direction == "forward"
    index = (spec.num_layers - 1) * len(spec.directions) + spec.directions.index(direction)
    code, last, where, segment = indexed("h_n", index, b), indexed("last", b, columns), None, None
    state = found = run[code]
    alone = state.new_zeros(state.shape)
    if segments:
        segment = segments[-1] if forward else segments[0]
        where = spec.output_code(segment[1] if forward else segment[0], b, columns)
        piece = indexed("x", *spec.in_order(f"{segment[0]}:{segment[1] + 1}", f"{b}:{b + 1}"))
        found, finals = run[where], run[f"{spec.kind}({piece})[1]"]
        alone = (finals[0] if isinstance(finals, tuple) else finals)[index, 0]
    difference = apart(state, alone)
    return Ending(
        direction=direction,
        state=code,
        last=last,
        where=where,
        segment=segment,
        holds=state.equal(found) and state.equal(run[last]) and difference <= rounding(state),
        difference=difference,
        numbers=tuple(state[:MOST_LISTED].tolist()),
    )


def _code(spec: Spec, lengths: tuple[int, ...] | None, reset: Several[tuple[int | None, int]]) -> tuple[tuple[str, ...], str]:
    """The lines that make this network and run it so, and what they call it with."""
    *lines, call = spec.code
    arguments = "x"
    if lengths is not None:
        lines.append(f"lengths = {list(lengths)}")
        arguments += ", lengths=lengths"
    if reset:
        lines.append("reset = torch.zeros({}, {}, dtype=torch.bool)".format(*spec.lead))
        starts = (spec.in_order(step, ":" if b is None else b) for b, step in reset)
        lines += ["reset[{}, {}] = True".format(*start) for start in starts]
        arguments += ", reset=reset"
    return (*lines, call.replace("(x)", f"({arguments})"), f"last = {spec.kind}.trace({arguments}).last"), arguments


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
