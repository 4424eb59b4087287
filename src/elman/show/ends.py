"""Where each direction of a layer, or of a sequence given lengths and resets, ends: drawn, and checked on the numbers of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.panel import Panel
from rich.text import Text

from elman.language import _, translated
from elman.show.specification import apart, indexed, rounding
from elman.show.style import BAD, COLOURS, DIM, END, GOOD, Fitted, Part, count, lines, numbers, section, shortened, small, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.show.network import Network
    from elman.show.specification import Run, Segment, Spec

MOST_NUMBERS, MOST_LAYERS, MOST_SEQUENCES, MOST_SEGMENTS = 8, 3, 8, 6

# Of the diagram: cells from one step to the next, with arrows and without; and there, steps from one number to the next.
WIDE, NARROW, TICK = 6, 2, 5
STEP, STEP_AT_END, PADDING, RESET, UP, MORE = "○◆·┃↑…"
LINE, ARROWS = "─", {"forward": "──▶", "reverse": "◀──"}


class End(SimpleNamespace):
    """Where one direction of a layer ends: its final ``state``, "h_n[1]", of one sequence "h_n[1, 0]", ``where`` in output the same numbers
    are, if there, and where in the ``trace``.

    The forward direction ends with the last segment, at its last step, the reverse direction with the first one, at its first. It ``holds``
    if the numbers in output are the very same, and if up to rounding what is shown besides (``same_as``) is, and the state in which the
    segment of one sequence ends if it is run by itself. ``nearest`` is, of a lower layer, the difference from what comes nearest in output.
    """

    def __init__(self, spec: Spec, run: Run, layer: int, direction: str, segments: Sequence[Segment], sequence: int | None = None) -> None:
        forward, top, columns = direction == "forward", layer == spec.num_layers - 1, spec.columns(direction)
        index, at = layer * len(spec.directions) + spec.directions.index(direction), ":" if sequence is None else str(sequence)
        self.layer, self.direction, self.state = layer, direction, indexed(spec.finals[0], index, at)
        self.where, self.trace, self.segment = None, indexed("last", at, columns), None
        if segments:
            first, last = self.segment = segments[-1 if forward else 0]
            step = last if forward else first
            step = -1 if step == spec.seq_len - 1 and sequence is None else step
            self.where = spec.output_code(step, at, columns) if top else None
            self.trace = self.trace if spec.ragged else spec.trace_code(layer, direction, step, at)
        self.same_as = tuple(code for code in (self.trace if spec.ragged or not top else None, self.where) if code)

        state, found = run[self.state], [run[code] for code in self.same_as]
        alone = state if sequence is None else run.alone(spec, sequence, self.segment)[index] if self.segment else state.new_zeros(())
        self.difference = max(apart(state, each) for each in (*found, alone))
        self.holds = (self.where is None or state.equal(run[self.where])) and self.difference <= rounding(state)
        firsts = (each.reshape(-1, each.shape[-1])[0, :MOST_NUMBERS] for each in (state, found[0]))
        self.numbers, self.found_numbers = (tuple(each.tolist()) for each in firsts)
        output = run["output"].transpose(0, 1) if spec.batch_first else run["output"]
        places = output.reshape(spec.seq_len, spec.batch, len(spec.directions), spec.output_size)
        self.nearest = None if top else float((places - state[None, :, None]).abs().amax(dim=(1, 3)).min())


class Unrolled(SimpleNamespace):
    """One layer, run on all sequences or on one: the segments that resets divide it into, the padding past its length, and the ends."""

    def __init__(self, spec: Spec, run: Run, layer: int, sequence: int | None = None) -> None:
        self.layer, self.sequence = layer, sequence
        self.length = spec.seq_len if spec.lengths is None or sequence is None else spec.lengths[sequence]
        starts = {0, *(step for at, step in spec.reset if at in (None, sequence))}
        begins = sorted(step for step in starts if step < self.length)
        self.segments = tuple((first, after - 1) for first, after in zip(begins, [*begins[1:], self.length], strict=False))
        self.padding = "" if self.length == spec.seq_len else spec.output_code(f"{self.length or ''}:", str(sequence))
        self.padding_is_zero = not self.padding or not run[self.padding].any()
        self.ends = tuple(End(spec, run, layer, direction, self.segments, sequence) for direction in spec.directions)


def unrolled(spec: Spec, run: Run) -> tuple[Unrolled, ...]:
    """Every layer; given lengths or resets, the last one for every sequence."""
    if spec.ragged:
        return tuple(Unrolled(spec, run, spec.num_layers - 1, sequence) for sequence in range(spec.batch))
    return tuple(Unrolled(spec, run, layer) for layer in range(spec.num_layers))


def trap(spec: Spec, run: Run) -> End | None:
    """The mistake that a network with a reverse direction invites: ``output[-1]`` holds its first step, not its final state."""
    last = spec.seq_len - 1
    return None if spec.ragged or not spec.bidirectional or last == 0 else End(spec, run, spec.num_layers - 1, "reverse", [(last, last)])


def ends_section(network: Network, with_numbers: bool = False) -> Part:
    """The diagram, each final state beside the same numbers elsewhere, and the mistakes that the network invites."""
    spec = network.spec
    shown = shortened(network.unrolled, MOST_SEQUENCES if spec.ragged else MOST_LAYERS, None)
    ends = [end for each in shown if each for end in each.ends]
    mistakes = [part for mistake in _mistakes(network) for part in ("", mistake)][1:]
    panel = Panel(lines(*mistakes), title=Text(_("Common mistakes"), BAD), title_align="left", border_style="red", padding=(0, 1))
    return section(
        _("Where the final states are"),
        Fitted(lambda width: _diagram(spec, shown, width)),
        "",
        spec.ragged and _sequences(spec, network.unrolled),
        (with_numbers or not spec.ragged) and _compared(spec, ends),
        len(mistakes) > 0 and panel,
    )


def _diagram(spec: Spec, shown: Sequence[Unrolled | None], width: int) -> Text:
    """A line for each direction of each layer or sequence, steps from left to right; "…" for those that are None. Layers stand from the top
    down: arrows lead up from each to the next, and to the lowest one from x.
    """
    words = {end.state: _words(spec, each, end) for each in shown if each for end in each.ends}
    left, right = (max(text.cell_len for text in texts) + 2 for texts in zip(*words.values(), strict=True))
    room = width - left - right
    column = WIDE if spec.seq_len * WIDE <= room + WIDE - 1 else NARROW
    steps = shortened(range(spec.seq_len), max(3, (room + column - 1) // column), None)  # None stands for the steps left out
    arrows = Text(" " * left + "".join((" " if step is None else UP).ljust(column) for step in steps).rstrip(), DIM)
    rows = []
    for each in shown if spec.ragged else reversed(shown):
        chains = [(*words[end.state], _chain(each, end.direction, steps, column)) for end in each.ends] if each else []
        drawn = [Text.assemble(name, " " * (left - name.cell_len), chain, "  ", note) for name, note, chain in chains]
        rows += [*(drawn or [Text(" " * left + MORE, DIM)]), *([] if spec.ragged else [arrows])]
    x = ("" if spec.ragged else "x").ljust(left)
    axis = Text.assemble((x, COLOURS["I"]), (_axis(steps, column), COLOURS["T"]))
    return Text("\n").join([axis, *rows] if spec.ragged else [*rows, axis])


def _words(spec: Spec, each: Unrolled, end: End) -> tuple[Text, Text]:
    """The name before a direction's steps, where it is the first one under that of its layer or sequence, and the note behind them."""
    title = _("layer {layer}", layer=each.layer) if spec.num_layers > 1 else ""
    title = _("sequence {sequence}", sequence=each.sequence) if spec.ragged else title
    direction = translated(end.direction) if spec.bidirectional or not title else ""
    name = Text(" ".join(filter(None, (title if end is each.ends[0] else " " * cell_len(title), direction))))
    note = Text.assemble((end.state, END), " = ", end.where) if end.where else Text(f"{end.state} ∉ output", DIM)
    return name, Text(end.state, END) if spec.ragged else note


def _chain(each: Unrolled, direction: str, steps: Sequence[int | None], column: int) -> Text:
    """The steps of a direction, such as "○ ──▶ ○  ┃  ○ ──▶ ◆   ·"."""
    line, begins, colour = Text(), {first for first, _ in each.segments}, COLOURS[direction]
    end, link = each.length - 1 if direction == "forward" else 0, LINE if column == NARROW else ARROWS[direction]
    for before, step in zip([None, *steps], steps, strict=False):
        runs = step is not None and step < each.length
        if step != 0:
            mark, style = (RESET, BAD) if step in begins else (link, colour)
            line.append(*((mark.center(column - 1), style) if runs and before is not None else (" " * (column - 1),)))
        run = (STEP_AT_END, END) if step == end else (STEP, colour)
        line.append(*((MORE, DIM) if step is None else run if runs else (PADDING, DIM)))
    return line


def _axis(steps: Sequence[int | None], column: int) -> str:
    """The steps' numbers, each at its mark, as many as there is room for."""
    line = ""
    for index, step in enumerate(steps):
        wide, last = column == WIDE, index == len(steps) - 1
        label = MORE if step is None else f"t={step}" if wide else str(step)
        if (wide or step is None or last or (step % TICK == 0 and index < len(steps) - 2)) and len(line) <= index * column:
            line = line.ljust(index * column) + label
    return line


def _compared(spec: Spec, ends: Sequence[End]) -> Fitted:
    """Each state's numbers above those it is compared with, as many as leave room for the names and the verdicts; sequences have one."""
    equal = _("✓ equal, all {count} numbers", count=count(spec.batch * spec.output_size))
    verdicts = []
    for end in ends:
        verdict = _("✓ equal up to {difference}", difference=small(end.difference)) if end.difference else equal
        wrong = _("✗ NOT equal, differs by {difference}", difference=small(end.difference))
        verdicts.append(Text() if spec.ragged else Text(verdict, GOOD) if end.holds else Text(wrong, BAD))
    others = max(cell_len(end.same_as[0]) for end in ends) + max(verdict.cell_len for verdict in verdicts)

    def draw(width: int) -> Part:
        rows: list[Sequence[Part]] = []
        for end, verdict in zip(ends, verdicts, strict=True):
            rows.append(((end.state, END), numbers(end.numbers, width - others - 7)))
            rows.append((end.same_as[0], numbers(end.found_numbers, width - others - 7), verdict))
        return table(*rows)

    return Fitted(draw)


def _sequences(spec: Spec, sequences: Sequence[Unrolled]) -> Part:
    """What the marks of the diagram stand for, what is run of each sequence, and whether it is true."""
    end = _("end of this direction: {states} and last", states=", ".join(spec.finals))
    marks = [(STEP, COLOURS["forward"], _("a step that is run")), (STEP_AT_END, END, end)]
    if any(len(each.segments) > 1 for each in sequences):
        marks.append((RESET, BAD, _("reset: nothing passes")))
    if any(each.padding for each in sequences):
        marks.append((PADDING, DIM, _("padding: skipped")))
    rows: list[Sequence[Part]] = []
    more = len(sequences) - MOST_SEQUENCES + 1
    for each in shortened(sequences, MOST_SEQUENCES, None):
        rows += _sequence(each) if each else [("…", (_("{count} more sequences: --json lists all of them", count=more), DIM))]
    ends = [end for each in sequences for end in each.ends]
    difference = small(max(end.difference for end in ends))
    verdict = (_("✓ Checked in this run, also against each segment run alone: differs by {difference}.", difference=difference), GOOD)
    if wrong := [end.state for end in ends if not end.holds] + [each.padding for each in sequences if not each.padding_is_zero]:
        verdict = (_("✗ NOT true in this run: {places}", places=", ".join(wrong)), BAD)
    legend = Text("  ").join(Text.assemble((mark, style), " ", meaning) for mark, style, meaning in marks)
    return lines(Fitted(lambda _width: legend), "", table(*rows), "", verdict)


def _sequence(each: Unrolled) -> list[Sequence[Part]]:
    """What there is to say of a sequence, beside its name."""
    segments = _(", ").join(shortened([*map(_steps, each.segments)], MOST_SEGMENTS, "…"))
    said = _("{segments}, a single segment", segments=segments) if segments else _("no steps")
    if len(each.segments) > 1:
        said = _("{count} segments: {segments}", count=len(each.segments), segments=segments)
    rows: list[Sequence[Part]] = [((_("sequence {sequence}", sequence=each.sequence), "bold"), said)]
    for end in each.ends:
        note = _("the initial state, here 0")
        if end.segment:
            note = _("{direction}: depends on {steps} only", direction=translated(end.direction), steps=_steps(end.segment))
        rows.append(("", Text.assemble((end.state, END), " = ", " = ".join(end.same_as), "  ", (note, DIM))))
    return [*rows, ("", Text.assemble(each.padding, " = 0  ", (_("padding: skipped"), DIM)))] if each.padding else rows


def _steps(segment: Segment) -> str:
    first, last = segment
    return _("step {step}", step=first) if first == last else _("steps {first} to {last}", first=first, last=last)


def _mistakes(network: Network) -> list[Part]:
    spec, mistakes = network.spec, list[Part]()
    if wrong := network.trap:
        where = _("{where} is not the final state of the reverse direction, which reads from the last step to step 0.", where=wrong.where)
        mistakes.append(lines(where, _("At the last step it has seen a single step."), _compared(spec, [wrong])))
    lower = [end for each in network.unrolled for end in each.ends if end.nearest is not None]
    if lower:
        nowhere = _(
            "output holds the last layer only. {states} is nowhere in it: the closest place differs by {nearest}.",
            states=" … ".join(dict.fromkeys((lower[0].state, lower[-1].state))),
            nearest=small(min(end.nearest or 0.0 for end in lower)),
        )
        mistakes.append(lines(nowhere, _("For every layer at every step, use {code}.", code=f"{spec.trace}.h")))
    if not spec.ragged and not spec.bidirectional and not lower:
        place = network.unrolled[0].ends[0].where
        mistakes.append(_("{where} is h_n[0] only with one layer, one direction and no padding.", where=place))
    for short in [each.sequence for each in network.unrolled if each.padding and each.length][:1]:
        place = spec.output_code(-1, str(short))
        mistakes.append(_("{where} is padding, not the end of sequence {sequence}. Use h_n or last.", where=place, sequence=short))
    if spec.bidirectional and any(len(each.segments) > 1 for each in network.unrolled):
        mistakes.append(_("The reverse direction starts afresh too, at the last step before each reset."))
    if spec.ragged and spec.num_layers > 1:
        more = _("The last layer is shown. All layers reset and end at the same steps; the final states of lower layers are in h_n only.")
        mistakes.append(more)
    for state in spec.stack.cell.states[1:]:
        code = f"{spec.trace}.c" if state == "c" else f"{spec.trace}.states[{state!r}]"
        mistakes.append(_("{state} is not in output at any step: use {code}.", state=f"{state}_n", code=code))
    return mistakes
