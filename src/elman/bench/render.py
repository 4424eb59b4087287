"""What a benchmark found, for people: a table in the terminal, or in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elman.bench.measure import AGAIN
from elman.bench.report import geometric_means
from elman.bench.sequences import BATCH, QUESTIONS, SIZE, STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from elman.bench.case import Mode
    from elman.bench.machine import Machine
    from elman.bench.measure import Row
    from elman.bench.race import Timing
    from elman.bench.report import Report
    from elman.bench.sequences import Answer
    from elman.bench.threads import Row as ThreadsRow

TITLES: dict[Mode, str] = {"infer": "inference", "train": "training: forward, and backward to x and all weights"}
BEHIND = "✗"
# Company, and distance of A against A from 1, beyond which times are not worth much.
MUCH_COMPANY, SAME = 0.1, 0.05


def print_tables(report: Report, console: Console) -> None:
    """Print the report as tables, in colour where the terminal has it; 80 columns are enough."""
    from rich import box
    from rich.table import Table

    for cell, mode in _parts(report):
        rows = report.part(cell, mode)
        header, *body, means = _grid(report, cell, mode)
        table = Table(
            title=f"{cell.upper()} {TITLES[mode]}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for index, name in enumerate(header):
            table.add_column(name, justify="left" if index == 1 else "right", no_wrap=True)
        for row, cells in zip(rows, body, strict=True):
            table.add_row(*cells, style="red" if _behind(row) else None)
        table.add_section()
        table.add_row(*means, style="bold")
        console.print(table)
    for line in _notes(report):
        console.print(line, markup=False, highlight=False)


def markdown(report: Report) -> str:
    """The report as GitHub's tables."""
    blocks = []
    for cell, mode in _parts(report):
        header, *body, means = _grid(report, cell, mode)
        ruler = [":--" if index == 1 else "--:" for index in range(len(header))]
        lines = [header, ruler, *body, [f"**{text}**" if text else "" for text in means]]
        blocks.append(f"**{cell.upper()} {TITLES[mode]}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*blocks, "\n".join(f"- {line}" for line in _notes(report))])


def print_answers(answers: Sequence[Answer], machine: Machine, threads: int, rounds: int, console: Console, as_markdown: bool) -> None:
    """Print what was found about sequences: a table of the ratios with a row for each question, and below it what they mean."""
    asked = list(dict.fromkeys((answer.cell, answer.mode) for answer in answers))
    header = ["", *(f"{cell.upper()} {mode}" for cell, mode in asked)]
    found = {(answer.question, answer.cell, answer.mode): answer for answer in answers}
    body = [
        [question, *(_ratio(found[key].ratio) if (key := (question, cell, mode)) in found else "" for cell, mode in asked)]
        for question in QUESTIONS
    ]
    _print_table("the other way's time over Elman's", header, body, 1, console, as_markdown)
    notes = [f"{question}: {meaning}." for question, meaning in QUESTIONS.items()]
    steps = [f"{a.cell.upper()} {_microseconds(a.elman)} µs beside {_microseconds(a.beside)}" for a in answers if a.question == "stream"]
    if steps:
        notes.append(f"stream, a step: {', '.join(steps)}.")
    notes.append(
        f"T={STEPS}, B={BATCH}, I=H={SIZE}, medians of {rounds} interleaved rounds, {threads} threads on {machine.cpu}, {machine.isa}."
    )
    _print_notes(notes, machine, console, as_markdown)


def print_threads(rows: Sequence[ThreadsRow], machine: Machine, rounds: int, busy: int, console: Console, as_markdown: bool) -> None:
    """Print how long calls took with each number of threads: a line for each, and below what the columns mean."""
    header = ["", "T,B,I,H", "", "threads", "µs", "±", "over fewest", "ran on"]
    body = [
        [
            f"{row.case.cell.upper()} {row.number}",
            str(row.case),
            row.mode,
            str(row.threads),
            _microseconds(row.timing),
            f"{row.timing.spread:.0%}",
            _ratio(row.over_fewest),
            ", ".join(f"{count} ({share:.0%})" for count, share in list(row.used.items())[:2]),
        ]
        for row in rows
    ]
    _print_table("Elman by number of threads", header, body, 3, console, as_markdown)
    company = f" Beside {busy} busy process{'es' if busy > 1 else ''}." if busy else ""
    notes = [
        "over fewest: the time over that with the fewest threads, the median of the rounds' ratios. ran on: how many threads the kernel "
        "took (training: on the way back), and in what share of the calls; it tries other numbers now and then. Training: forward and "
        "backward without torch's own operators.",
        f"Medians of {rounds} interleaved rounds on {machine.cpu}, {machine.isa}, {machine.cores} cores.{company}",
    ]
    _print_notes(notes, machine, console, as_markdown)


def _print_table(title: str, header: list[str], body: list[list[str]], left: int, console: Console, as_markdown: bool) -> None:
    """A table whose first ``left`` columns are words."""
    from rich import box
    from rich.table import Table

    if as_markdown:
        ruler = [":--" if index < left else "--:" for index in range(len(header))]
        print("\n".join(f"| {' | '.join(line)} |" for line in (header, ruler, *body)), end="\n\n")
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < left else "right")
    for line in body:
        table.add_row(*line)
    console.print(table)


def _print_notes(notes: list[str], machine: Machine, console: Console, as_markdown: bool) -> None:
    versions = ", ".join(f"{package} {version}" for package, version in machine.versions.items()) + "."
    for note in (*notes, versions):
        console.print(f"- {note}" if as_markdown else note, markup=False, highlight=False, soft_wrap=as_markdown)


def _parts(report: Report) -> list[tuple[str, Mode]]:
    """One table for each cell and mode that has rows."""
    return [(cell, mode) for cell in report.cells for mode in report.modes if report.part(cell, mode)]


def _grid(report: Report, cell: str, mode: Mode) -> list[list[str]]:
    """The header, a line for each row, and the geometric means."""
    rows = report.part(cell, mode)
    others = list(dict.fromkeys(name for row in rows for name in row.others))
    header = ["", "T,B,I,H", "elman", *others, "±", "vs torch", "vs best", "of peak"]
    means = geometric_means(rows)
    last = ["", "geometric mean", *[""] * (2 + len(others)), _ratio(means["torch"]), _ratio(means["best"]), ""]
    return [header, *(_line(report, row, others) for row in rows), last]


def _line(report: Report, row: Row, others: list[str]) -> list[str]:
    share = report.share_of_peak(row)
    best = f"{_ratio(row.over_elman(row.best_other))} {row.best_other}"
    return [
        str(row.number),
        str(row.case),
        *(_microseconds(row.timings[name]) if name in row.timings else "" for name in ("elman", *others)),
        f"{max(row.timings[name].spread for name in ('elman', *row.others)):.0%}",
        _ratio(row.over_elman("torch")),
        f"{BEHIND} {best}" if _behind(row) else best,
        "" if share is None else f"{share:.1%}",
    ]


def _behind(row: Row) -> bool:
    return row.over_elman(row.best_other) <= 1.0


def _microseconds(timing: Timing) -> str:
    median = timing.median * 1e6
    return f"{median:.0f}" if median >= 100 else f"{median:.1f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _notes(report: Report) -> Iterator[str]:
    machine = report.machine
    if not report.complete:
        yield "CUT SHORT: rows are missing."
    yield (
        f"Medians of {report.rounds} interleaved rounds, in µs a call. ±: half the distance between the quartiles, of whoever in the row "
        "varied most. vs: torch's, or the best other's, time over Elman's, the median of the rounds' ratios. T steps, B batch, I inputs, "
        "H hidden units."
    )
    if any(_behind(row) for row in report.rows):
        yield f"{BEHIND} Elman is not ahead of everybody here."
    yield f"{machine.cpu}, {machine.isa}, {machine.cores} cores, of which each contestant uses {report.threads}. {machine.system}."
    yield ", ".join(f"{package} {version}" for package, version in machine.versions.items()) + "."
    for backend in dict.fromkeys(row.backend for row in report.rows):
        yield f"Elman ran on {backend}."
    if report.peak is not None:
        yield f"Peak: {report.peak / 1e9:.0f} GFLOP/s, multiply-adds in registers alone on {report.threads} of the cores, in this run."
    for row in report.rows:
        if AGAIN in row.timings:
            same = row.over_elman(AGAIN)
            verdict = "" if abs(same - 1) <= SAME else "; the machine was too restless to tell smaller differences than this"
            yield f"Elman against itself, {row.case.cell.upper()} row {row.number}, {row.mode}: {same:.3f}{verdict}."
    if report.neighbours is not None and report.neighbours > MUCH_COMPANY:
        yield f"Not alone: other processes kept up to {report.neighbours:.1f} cores busy; measure again on a quiet machine."
    yield from (f"{line}." for line in report.absent)
