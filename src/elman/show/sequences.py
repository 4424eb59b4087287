"""Which steps of each sequence are run, given lengths and resets, and where it ends: checked on the numbers of a run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from elman.language import _, translated
from elman.show.diagram import MORE, PADDING, RESET, STEP, STEP_AT_END, Drawing, Grid, Lane, Segment
from elman.show.facts import Facts
from elman.show.numbers import numbers_text, shortened, small
from elman.show.specification import Run, Spec, apart, indexed, rounding
from elman.show.style import BAD, DIM, END, FORWARD, GOOD, Fitted, Part, flow, grid, heading, indented, lines, python, section

if TYPE_CHECKING:
    from collections.abc import Sequence as Several

MOST_LISTED = 8
MOST_SEQUENCES, MOST_SEGMENTS = 8, 6


class Ending(Facts):
    """Where one direction of a sequence ends in the last layer: the forward one with the last segment, at its last step, the reverse one
    with the first segment, at its first.

    Attributes:
        state: the sequence's final state, as one writes it: "h_n[0, 1]".
        last: the same numbers in what ``trace`` calls ``last``: "last[1, :20]".
        where: the same in ``output``: "output[2, 1, :20]"; None for a sequence without a step.
        segment: the steps that the state depends on; None for a sequence without a step.
        holds: checked: the numbers there are the very same, and the segment run by itself ends in this state, up to rounding.
        difference: the largest difference found in that check.
        numbers: the state's first numbers.
    """

    def __init__(self, spec: Spec, sequence: int, direction: str, segments: Several[Segment], run: Run) -> None:
        columns, forward = spec.columns(direction), direction == "forward"
        index = (spec.num_layers - 1) * len(spec.directions) + spec.directions.index(direction)
        self.direction, self.state, self.last = direction, indexed("h_n", index, sequence), indexed("last", sequence, columns)
        self.where, self.segment = None, None
        state = found = run[self.state]
        alone = state.new_zeros(state.shape)
        if segments:
            first, last = self.segment = segments[-1] if forward else segments[0]
            self.where = spec.output_code(last if forward else first, sequence, columns)
            piece = indexed("x", *spec.in_order(f"{first}:{last + 1}", f"{sequence}:{sequence + 1}"))
            found, finals = run[self.where], run[f"{spec.kind}({piece})[1]"]
            alone = (finals[0] if isinstance(finals, tuple) else finals)[index, 0]
        self.difference = apart(state, alone)
        self.holds = state.equal(found) and state.equal(run[self.last]) and self.difference <= rounding(state)
        self.numbers: tuple[float, ...] = tuple(state[:MOST_LISTED].tolist())


class Sequence(Facts):
    """What is run of one sequence of a batch.

    Attributes:
        segments: what resets divide it into.
        padding: what is past its length, as one writes it: "output[3:, 1]"; None where there is nothing.
        padding_is_zero: checked: all numbers there are 0.
        ends: one for each direction.
    """

    def __init__(self, spec: Spec, sequence: int, length: int, starts: set[int], run: Run) -> None:
        begins = [step for step in sorted({0, *starts}) if step < length]
        self.sequence, self.length = sequence, length
        self.segments = tuple((first, after - 1) for first, after in zip(begins, [*begins[1:], length], strict=False))
        self.padding = None if length == spec.seq_len else spec.output_code(f"{length or ''}:", sequence)
        self.padding_is_zero = self.padding is None or not run[self.padding].any()
        self.ends = tuple(Ending(spec, sequence, direction, self.segments, run) for direction in spec.directions)


class Sequences(Facts):
    """A network run on sequences of these lengths with these resets: what is run of each, and where it ends.

    >>> from elman.show.specification import Spec
    >>> found = Sequences(Spec("rnn", 10, 20), lengths=(5, 3, 0), reset=[(None, 2)]).sequences[1]
    >>> found.segments, found.padding, found.ends[0].state, found.ends[0].where
    (((0, 1), (2, 2)), 'output[3:, 1]', 'h_n[0, 1]', 'output[2, 1]')

    Args:
        spec: the network and its data.
        lengths: one for each sequence; None: every sequence has all steps.
        reset: sequences, and the steps at which they begin afresh; None stands for all sequences.

    Raises:
        ValueError: not one length for each sequence, or a length, a step or a sequence that the data does not have.
    """

    def __init__(self, spec: Spec, lengths: tuple[int, ...] | None, reset: Several[tuple[int | None, int]]) -> None:
        _check(spec, lengths, reset)
        self.spec, self.lengths = spec, lengths
        self.reset = tuple(sorted({(b, step) for at, step in reset for b in (range(spec.batch) if at is None else (at,))}))
        self.code, arguments = _code(spec, lengths, reset)
        run = Run(spec, self.code)
        starts = [{step for at, step in self.reset if at == b} for b in range(spec.batch)]
        sizes = lengths or (spec.seq_len,) * spec.batch
        self.sequences = tuple(Sequence(spec, b, *each, run) for b, each in enumerate(zip(sizes, starts, strict=True)))
        self.backend: str = run[f"elman.why({spec.kind}, {arguments})"]


def _code(spec: Spec, lengths: tuple[int, ...] | None, reset: Several[tuple[int | None, int]]) -> tuple[tuple[str, ...], str]:
    """The lines that make this network and run it so, and what they call it with."""
    *lines, call = spec.code
    arguments = "x"
    if lengths is not None:
        lines.append(f"lengths = {list(lengths)}")
        arguments += ", lengths=lengths"
    if reset:
        lines.append("reset = torch.zeros({}, {}, dtype=torch.bool)".format(*spec.in_order(spec.seq_len, spec.batch)))
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


def sequences_page(shown: Sequences, numbers: bool = False) -> Part:
    """Which steps are run, and where each sequence ends; with ``numbers`` also the final states' first ones."""
    more = len(shown.sequences) - MOST_SEQUENCES
    return lines(
        heading(_("Your {module}", module=shown.spec.module)),
        indented(python(shown.code)),
        section(_("Which steps are run"), Drawing(partial(_diagram, shown)), "", Drawing(partial(_legend, shown))),
        section(
            _("Where each sequence ends"),
            *(Fitted(partial(_sequence, each, numbers)) for each in shown.sequences[:MOST_SEQUENCES]),
            more > 0 and (_("… and {count} more sequences: --json lists all of them", count=more), DIM),
            "",
            *_remarks(shown),
            _verdict(shown),
            Text.assemble(_("backend"), "  ", (translated(shown.backend), "bold")),
        ),
    )


def _diagram(shown: Sequences, width: int) -> Text:
    """A line for each direction of each sequence, steps from left to right."""
    lanes = []
    for each in shown.sequences[:MOST_SEQUENCES]:
        name = _("sequence {sequence}", sequence=each.sequence)
        for end in each.ends:
            direction = f" {translated(end.direction)}" if shown.spec.bidirectional else ""
            lanes.append(Lane(name + direction, end.direction, each.segments, Text(end.state, END)))
            name = " " * cell_len(name)
    made = Grid(lanes, shown.spec.seq_len, width)
    more = [Text(MORE, DIM)] if len(shown.sequences) > MOST_SEQUENCES else []
    return Text("\n").join([made.axis(), *map(made.lane, lanes), *more])


def _legend(shown: Sequences, width: int) -> Text:
    """What each mark of the diagram stands for."""
    marks = [(STEP, FORWARD, _("a step that is run")), (STEP_AT_END, END, _("end of this direction: h_n and last"))]
    if any(len(each.segments) > 1 for each in shown.sequences):
        marks.append((RESET, BAD, _("reset: nothing passes")))
    if any(each.padding for each in shown.sequences):
        marks.append((PADDING, DIM, _("padding: skipped")))
    return flow([Text.assemble((mark, style), " ", meaning) for mark, style, meaning in marks], width)


def _sequence(each: Sequence, numbers: bool, width: int) -> Part:
    """A sequence's name beside what there is to say of it."""
    name, several = _("sequence {sequence}", sequence=each.sequence), len(each.segments) > 1
    segments = _(", ").join(shortened([*map(_steps, each.segments)], MOST_SEGMENTS, "…"))
    said = _("{segments}, a single segment", segments=segments) if segments else _("no steps")
    rows = [Text(_("{count} segments: {segments}", count=len(each.segments), segments=segments) if several else said)]
    for end in each.ends:
        note = _("the initial state, here 0")
        if end.segment is not None:
            note = _("{direction}: depends on {steps} only", direction=translated(end.direction), steps=_steps(end.segment))
        where = f" = {end.where}" if end.where else ""
        rows.append(Text.assemble((end.state, END), f" = {end.last}{where}  ", (note, DIM)))
        if numbers:
            rows.append(Text("  ") + numbers_text(end.numbers, width - cell_len(name) - 4))
    if each.padding is not None:
        rows.append(Text.assemble(each.padding, " = 0  ", (_("padding: skipped"), DIM)))
    return grid(((name, "bold"), Text("\n").join(rows)))


def _steps(segment: Segment) -> str:
    first, last = segment
    return _("step {step}", step=first) if first == last else _("steps {first} to {last}", first=first, last=last)


def _remarks(shown: Sequences) -> list[Part]:
    """Common mistakes, where they matter here."""
    spec = shown.spec
    remarks: list[Part] = []
    short = next((each.sequence for each in shown.sequences if each.padding and each.length), None)
    if short is not None:
        where = spec.output_code(-1, short)
        remarks.append(_("{where} is padding, not the end of sequence {sequence}. Use h_n or last.", where=where, sequence=short))
    if any(len(each.segments) > 1 for each in shown.sequences) and spec.bidirectional:
        remarks.append(_("The reverse direction starts afresh too, at the last step before each reset."))
    if spec.num_layers > 1:
        remarks.append(
            _("The last layer is shown. All layers reset and end at the same steps; the final states of lower layers are in h_n only.")
        )
    if inner := spec.finals[1:]:
        remarks.append(_("{states} belongs to the same steps as h_n and is not in output.", states=", ".join(inner)))
    return [*remarks, ""] if remarks else []


def _verdict(shown: Sequences) -> Text:
    ends = [end for each in shown.sequences for end in each.ends]
    wrong = [end.state for end in ends if not end.holds] + [each.padding or "" for each in shown.sequences if not each.padding_is_zero]
    if wrong:
        return Text(_("✗ NOT true in this run: {places}", places=", ".join(wrong)), BAD)
    difference = small(max(end.difference for end in ends))
    return Text(_("✓ Checked in this run, also against each segment run alone: differs by {difference}.", difference=difference), GOOD)
