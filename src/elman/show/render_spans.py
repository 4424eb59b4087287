"""Which steps of each row are run, on the terminal: a picture, and in words where each row ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from elman.show.render_network import heading
from elman.show.render_style import AXIS_COLOURS, BAD, DIM, END, FORWARD, GOOD, NUMBER_WIDTH, REVERSE, flow, row_text, section, small
from elman.show.text import Words

if TYPE_CHECKING:
    from elman.show.facts import End, Row, Spans
    from elman.show.render_style import Marks

WIDE, NARROW = 6, 2  # cells from one step to the next: with arrows; with no room for them
TICK = 5  # where there is no room for more, so many steps from one numbered step to the next
MOST_ROWS, MOST_PIECES = 8, 6


def render(spans: Spans, language: str, width: int, marks: Marks, numbers: bool = False) -> RenderableType:
    """The lines that run it, the picture, and the words, in ``width`` columns.

    Args:
        spans: what is told.
        language: "en" or "zh".
        width: of the terminal, in columns.
        marks: what steps are drawn with.
        numbers: whether to print the final states' numbers.
    """
    words = Words(language)
    code = Syntax("\n".join(spans.code), "python", theme="ansi_dark", background_color="default", word_wrap=True)
    rows: list[RenderableType] = [_row(row, spans, words, width - 2, numbers) for row in spans.rows[:MOST_ROWS]]
    if len(spans.rows) > MOST_ROWS:
        rows.append(Text(words("spans.more", count=len(spans.rows) - MOST_ROWS), DIM))
    return Group(
        heading(words("network.yours", module=spans.spec.about.module)),
        Panel(code, border_style=DIM, padding=(0, 1)),
        section(words("section.steps"), picture(spans, words, width - 2, marks), Text(""), _legend(spans, words, width - 2, marks)),
        section(words("section.rows"), *rows, Text(""), *_remarks(spans, words), _verdict(spans, words), _backend(spans, words)),
    )


def picture(spans: Spans, words: Words, width: int, marks: Marks) -> Text:
    """A line for each direction of each row, steps from left to right.

    Steps and rows that do not fit are left out.
    """
    names = [_names(row, spans, words) for row in spans.rows[:MOST_ROWS]]
    left = max(Text(name).cell_len for each in names for name in each) + 2
    right = max(len(end.state) for end in spans.rows[min(MOST_ROWS, len(spans.rows)) - 1].ends) + 2
    room = width - left - right
    column = WIDE if spans.spec.seq_len * WIDE <= room + WIDE - 1 else NARROW
    steps = _steps(spans.spec.seq_len, max(3, (room + column - 1) // column))
    lines = [Text(" " * left) + _axis(steps, column, marks)]
    for each, row in zip(names, spans.rows, strict=False):
        for name, end in zip(each, row.ends, strict=True):
            line = Text(name)
            line.pad_right(left - line.cell_len)
            line.append_text(_chain(row, end, steps, column, marks)).append("  ").append(end.state, END)
            lines.append(line)
    if len(spans.rows) > MOST_ROWS:
        lines.append(Text(marks.more, DIM))
    return Text("\n").join(lines)


def _names(row: Row, spans: Spans, words: Words) -> list[str]:
    name = words("spans.row", row=row.row)
    if not spans.spec.bidirectional:
        return [name]
    return [f"{name} {words('places.forward')}", " " * (Text(name).cell_len + 1) + words("places.reverse")]


def _steps(seq_len: int, fits: int) -> list[int | None]:
    """The steps that are drawn; None stands for those left out."""
    return list(range(seq_len)) if seq_len <= fits else [*range(fits - 2), None, seq_len - 1]


def _axis(steps: list[int | None], column: int, marks: Marks) -> Text:
    """The steps' numbers, each above its mark, as many as there is room for."""
    line = ""
    for index, step in enumerate(steps):
        at = index * column
        told = "" if step is None else f"t={step}" if column == WIDE else str(step)
        if column == WIDE or index == len(steps) - 1 or (step is not None and step % TICK == 0 and index < len(steps) - 2):
            line = line.ljust(at) + told if len(line) <= at else line
        elif step is None:
            line = line.ljust(at) + marks.more
    return Text(line, AXIS_COLOURS["T"])


def _chain(row: Row, end: End, steps: list[int | None], column: int, marks: Marks) -> Text:
    """One direction of one row: "○ ──▶ ○  ┃  ○ ──▶ ◆   · "."""
    forward = end.direction == "forward"
    colour = FORWARD if forward else REVERSE
    begins = {first for first, _ in row.pieces}
    last = None if end.piece is None else end.piece[1] if forward else end.piece[0]
    line = Text()
    for index, step in enumerate(steps):
        if step is not None and index > 0 and steps[index - 1] is not None and step < row.length:
            cut = step in begins
            link = marks.cut if cut else marks.line if column == NARROW else marks.forward if forward else marks.reverse
            line.append(link.center(column - 1), BAD if cut else colour)
        elif index:
            line.append(" " * (column - 1))
        if step is None:
            line.append(marks.more, DIM)
        elif step >= row.length:
            line.append(marks.padding, DIM)
        else:
            line.append(marks.end if step == last else marks.step, END if step == last else colour)
    return line


def _legend(spans: Spans, words: Words, width: int, marks: Marks) -> Text:
    """What each mark stands for that the picture has."""
    told = [(marks.step, FORWARD, "step_run"), (marks.end, END, "end")]
    if any(len(row.pieces) > 1 for row in spans.rows):
        told.append((marks.cut, BAD, "cut"))
    if any(row.padding for row in spans.rows):
        told.append((marks.padding, DIM, "padding"))
    return flow([Text.assemble((mark, style), " ", words(f"spans.{name}")) for mark, style, name in told], width)


def _row(row: Row, spans: Spans, words: Words, width: int, numbers: bool) -> Table:
    """A row's name beside what is to say of it."""
    named = [_piece(piece, words) for piece in row.pieces]
    pieces = ("、" if words.language == "zh" else ", ").join(
        named if len(named) <= MOST_PIECES else [*named[: MOST_PIECES - 2], "…", named[-1]]
    )
    key = "spans.none" if not row.pieces else "spans.one_piece" if len(row.pieces) == 1 else "spans.pieces"
    told = [Text(words(key, count=len(row.pieces), pieces=pieces))]
    name = words("spans.row", row=row.row)
    most = max(1, (width - Text(name).cell_len - 4) // (NUMBER_WIDTH + 2))
    for end in row.ends:
        code = Text.assemble((end.state, END), f" = {end.last}" + (f" = {end.where}" if end.where else ""))
        said = words("spans.initial") if end.piece is None else words(f"spans.depends.{end.direction}", piece=_piece(end.piece, words))
        told += [Text.assemble(code, "  ", (said, DIM))]
        if numbers:
            told.append(Text("  ") + row_text(end.numbers, most))
    if row.padding is not None:
        told.append(Text.assemble(row.padding, " = 0  ", (words("spans.padding"), DIM)))
    table = Table.grid(padding=(0, 2))
    table.add_row(Text(name, "bold"), Text("\n").join(told))
    return table


def _piece(piece: tuple[int, int], words: Words) -> str:
    first, last = piece
    return words("spans.at", step=first) if first == last else words("spans.from_to", first=first, last=last)


def _remarks(spans: Spans, words: Words) -> list[RenderableType]:
    """What is easily taken wrong, where it matters here."""
    found: list[RenderableType] = []
    short = next((row for row in spans.rows if row.padding and row.length), None)
    if short is not None:
        wrong = f"output[{short.row}, -1]" if spans.spec.batch_first else f"output[-1, {short.row}]"
        found.append(Text(words("spans.trap", where=wrong, row=short.row)))
    if any(len(row.pieces) > 1 for row in spans.rows) and spans.spec.bidirectional:
        found.append(Text(words("spans.both_ways")))
    if spans.spec.num_layers > 1:
        found.append(Text(words("spans.layers")))
    if inner := [f"{state}_n" for state in spans.spec.cell.states[1:]]:
        found.append(Text(words("spans.inner", states=", ".join(inner))))
    return [*found, Text("")] if found else []


def _verdict(spans: Spans, words: Words) -> Text:
    ends = [end for row in spans.rows for end in row.ends]
    wrong = [end.state for end in ends if not end.holds] + [row.padding or "" for row in spans.rows if not row.padding_is_zero]
    if wrong:
        return Text(words("spans.wrong", places=", ".join(wrong)), BAD)
    return Text(words("spans.right", difference=small(max(end.difference for end in ends))), GOOD)


def _backend(spans: Spans, words: Words) -> Text:
    return Text.assemble(words("torch.backend"), "  ", (spans.backend, "bold"))
