"""What `elman explain --lengths --reset` prints: a diagram of which steps are run, and in words where each sequence ends."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.console import ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from elman.language import _, translated
from elman.show.diagram import MORE, PADDING, RESET, STEP, STEP_AT_END, Grid, Lane, typed
from elman.show.numbers import NUMBER_WIDTH, numbers_text, small
from elman.show.style import BAD, DIM, END, FORWARD, GOOD, Fitted, flow, grid, heading, python, section

if TYPE_CHECKING:
    from elman.show.sequences import Segment, Sequence, Sequences

MOST_SEQUENCES, MOST_SEGMENTS = 8, 6


def sequences_page(told: Sequences, numbers: bool = False) -> RenderableType:
    """The lines that run it, the diagram, and the words; with ``numbers`` those of the final states."""
    rows: list[RenderableType] = [Fitted(partial(_sequence, each, numbers)) for each in told.sequences[:MOST_SEQUENCES]]
    if (more := len(told.sequences) - MOST_SEQUENCES) > 0:
        rows.append(Text(_("… and {count} more sequences: --json lists all of them", count=more), DIM))
    backend = Text.assemble(_("backend"), "  ", (translated(told.backend), "bold"))
    return Group(
        heading(_("Your {module}", module=told.spec.module)),
        Padding(python(told.code), (0, 0, 0, 2)),
        section(_("Which steps are run"), Fitted(partial(_diagram, told)), Text(""), Fitted(partial(_legend, told))),
        section(_("Where each sequence ends"), *rows, Text(""), *_remarks(told), _verdict(told), backend),
    )


def _diagram(told: Sequences, options: ConsoleOptions) -> Text:
    """A line for each direction of each sequence, steps from left to right."""
    lanes = []
    for each in told.sequences[:MOST_SEQUENCES]:
        name = _("sequence {sequence}", sequence=each.sequence)
        for index, end in enumerate(each.ends):
            first = name if index == 0 else " " * Text(name).cell_len
            direction = f" {translated(end.direction)}" if told.spec.bidirectional else ""
            lanes.append(Lane(first + direction, end.direction, each.segments, Text(end.state, END)))
    drawn = Grid(lanes, told.spec.seq_len, options)
    lines = [drawn.axis(), *map(drawn.lane, lanes)]
    more = [Text(MORE, DIM)] if len(told.sequences) > MOST_SEQUENCES else []
    return typed(Text("\n").join([*lines, *more]), options)


def _legend(told: Sequences, options: ConsoleOptions) -> RenderableType:
    """What each mark of the diagram stands for."""
    found = [(STEP, FORWARD, _("a step that is run")), (STEP_AT_END, END, _("end of this direction: h_n and last"))]
    if any(len(each.segments) > 1 for each in told.sequences):
        found.append((RESET, BAD, _("reset: nothing passes")))
    if any(each.padding for each in told.sequences):
        found.append((PADDING, DIM, _("padding: skipped")))
    return flow([typed(Text.assemble((mark, style), " ", said), options) for mark, style, said in found])


def _sequence(each: Sequence, numbers: bool, options: ConsoleOptions) -> RenderableType:
    """A sequence's name beside what there is to say of it."""
    name = _("sequence {sequence}", sequence=each.sequence)
    most = max(1, (options.max_width - Text(name).cell_len - 4) // (NUMBER_WIDTH + 2))
    named = [_steps(segment) for segment in each.segments]
    segments = _(", ").join(named if len(named) <= MOST_SEGMENTS else [*named[: MOST_SEGMENTS - 2], "…", named[-1]])
    if not named:
        said = [Text(_("no steps"))]
    elif len(named) == 1:
        said = [Text(_("{segments}, a single segment", segments=segments))]
    else:
        said = [Text(_("{count} segments: {segments}", count=len(named), segments=segments))]
    for end in each.ends:
        code = Text.assemble((end.state, END), f" = {end.last}" + (f" = {end.where}" if end.where else ""))
        if end.segment is None:
            note = _("the initial state, here 0")
        else:
            note = _("{direction}: depends on {steps} only", direction=translated(end.direction), steps=_steps(end.segment))
        said.append(Text.assemble(code, "  ", (note, DIM)))
        if numbers:
            said.append(Text("  ") + numbers_text(end.numbers, most))
    if each.padding is not None:
        said.append(Text.assemble(each.padding, " = 0  ", (_("padding: skipped"), DIM)))
    return grid((Text(name, "bold"), Text("\n").join(said)))


def _steps(segment: Segment) -> str:
    first, last = segment
    return _("step {step}", step=first) if first == last else _("steps {first} to {last}", first=first, last=last)


def _remarks(told: Sequences) -> list[RenderableType]:
    """Common mistakes, where they matter here."""
    spec, found = told.spec, []
    short = next((each for each in told.sequences if each.padding and each.length), None)
    if short is not None:
        where = spec.output_code(-1, short.sequence)
        found.append(_("{where} is padding, not the end of sequence {sequence}. Use h_n or last.", where=where, sequence=short.sequence))
    if any(len(each.segments) > 1 for each in told.sequences) and spec.bidirectional:
        found.append(_("The reverse direction starts afresh too, at the last step before each reset."))
    if spec.num_layers > 1:
        found.append(
            _("The last layer is shown. All layers reset and end at the same steps; the final states of lower layers are in h_n only.")
        )
    if inner := spec.finals[1:]:
        found.append(_("{states} belongs to the same steps as h_n and is not in output.", states=", ".join(inner)))
    return [*map(Text, found), Text("")] if found else []


def _verdict(told: Sequences) -> Text:
    ends = [end for each in told.sequences for end in each.ends]
    wrong = [end.state for end in ends if not end.holds] + [each.padding or "" for each in told.sequences if not each.padding_is_zero]
    if wrong:
        return Text(_("✗ NOT true in this run: {places}", places=", ".join(wrong)), BAD)
    difference = small(max(end.difference for end in ends))
    return Text(_("✓ Checked in this run, also against each segment run alone: differs by {difference}.", difference=difference), GOOD)
