"""Prints a benchmark's results: tables with notes, in the terminal or in Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from elman.bench.device import Card
from elman.bench.measure import AGAIN
from elman.bench.race import most_neighbours
from elman.bench.report import geometric_means, parts
from elman.bench.sequences import BATCH, QUESTIONS, SIZE, STEPS
from elman.language import _, translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console

    from elman.bench.case import Mode
    from elman.bench.compiled import Row as CompiledRow
    from elman.bench.machine import Machine
    from elman.bench.measure import Row
    from elman.bench.place import Place
    from elman.bench.race import Timing
    from elman.bench.report import Report
    from elman.bench.sequences import Answer
    from elman.bench.threads import Row as ThreadsRow

BEHIND = "✗"
# Company, and distance of A against A from 1, beyond which times are not worth much.
MUCH_COMPANY, SAME = 0.1, 0.05


@dataclass(frozen=True)
class Table:
    """A title, a header, lines of cells; which columns are words; which lines are red; whether the last line sums up the others."""

    title: str
    header: list[str]
    body: list[list[str]]
    words: tuple[int, ...]
    red: tuple[int, ...] = ()
    sums_up: bool = False


@dataclass(frozen=True)
class Page:
    """A printable page of results: what makes them doubtful above the tables, and notes below."""

    tables: list[Table]
    notes: list[str]
    warnings: list[str] = field(default_factory=list)

    def print(self, console: Console) -> None:
        """Print it in colour where the terminal has it. Words are wrapped at the terminal's width; what is wider still is not cut."""
        from rich import box
        from rich.cells import cell_len
        from rich.measure import Measurement
        from rich.table import Table as Drawn

        for warning in self.warnings:
            console.print(warning, style="bold red", markup=False, highlight=False)
        for table in self.tables:
            drawn = Drawn(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for index, name in enumerate(table.header):
                if index in table.words:
                    drawn.add_column(name)
                else:
                    widest = max(map(cell_len, [name, *(line[index] for line in table.body)]))
                    drawn.add_column(name, justify="right", no_wrap=True, min_width=widest)
            for index, line in enumerate(table.body):
                last = table.sums_up and index == len(table.body) - 1
                if last:
                    drawn.add_section()
                drawn.add_row(*line, style="bold" if last else "red" if index in table.red else None)
            least = Measurement.get(console, console.options.update(width=10_000), drawn).minimum
            width, console.width = console.width, max(console.width, least)
            console.print(drawn)
            console.width = width
        for note in self.notes:
            console.print(note, markup=False, highlight=False)

    def markdown(self) -> str:
        """The page as GitHub's tables, quoted warnings above them, and a list of the notes below."""
        blocks = [f"> **{warning}**" for warning in self.warnings]
        for table in self.tables:
            body = [*table.body[:-1], [f"**{cell}**" if cell else "" for cell in table.body[-1]]] if table.sums_up else table.body
            ruler = [":--" if index in table.words else "--:" for index in range(len(table.header))]
            title = f"**{table.title}**\n\n" if table.title else ""
            blocks.append(title + "\n".join(f"| {' | '.join(line)} |" for line in (table.header, ruler, *body)))
        return "\n\n".join([*blocks, "\n".join(f"- {note}" for note in self.notes)])


def doubts(timings: Iterable[Timing], *, complete: bool) -> list[str]:
    """What stands above the tables: that rows are missing, that other processes took part in the machine."""
    warnings = [] if complete else [_("CUT SHORT: rows are missing.")]
    if neighbours := _much_company(timings):
        warnings.append(
            _(
                "WARNING: other processes kept up to {busy} cores busy meanwhile, so that ratios may be far off, with several threads by "
                "thousands of times: measure again on a quiet machine.",
                busy=f"{neighbours:.1f}",
            )
        )
    return warnings


def _much_company(timings: Iterable[Timing]) -> float | None:
    """How many cores other processes kept busy, if so many that the times are doubtful."""
    neighbours = most_neighbours(timings)
    return neighbours if neighbours is not None and neighbours > MUCH_COMPANY else None


def race_page(report: Report) -> Page:
    """Elman beside the others: a table for each cell and mode."""
    tables = [_race_table(report, *part, rows) for part, rows in parts(report.rows).items()]
    timings = (timing for row in report.rows for timing in row.timings.values())
    return Page(tables, list(_race_notes(report)), doubts(timings, complete=report.complete))


def sequences_page(answers: Sequence[Answer], machine: Machine, threads: int, rounds: int, *, complete: bool) -> Page:
    """Lengths, resets, traces and streams: the ratios, a line for each comparison, and what they mean."""
    asked = list(dict.fromkeys((answer.cell, answer.mode) for answer in answers))
    by_key = {(answer.question, answer.cell, answer.mode): answer for answer in answers}
    body = [
        [question, *(ratio_text(by_key[key].ratio) if (key := (question, cell, mode)) in by_key else "" for cell, mode in asked)]
        for question in QUESTIONS
    ]
    header = ["", *(f"{cell.upper()} {mode_name(mode)}" for cell, mode in asked)]
    table = Table(_("time of the alternative over Elman's"), header, body, words=(0,))
    notes = [f"{question}{_(': ')}{_(meaning)}" for question, meaning in QUESTIONS.items()]
    streams = [a for a in answers if a.question == "stream"]
    if streams:
        steps = ", ".join(f"{a.cell.upper()} {microseconds(a.elman)} / {microseconds(a.beside)}" for a in streams)
        notes.append(_("stream, µs a step, Elman / torch: {steps}", steps=steps))
    notes.append(
        f"T={STEPS}, B={BATCH}, I=H={SIZE}; "
        + _(
            "medians of {rounds} interleaved rounds, threads: {threads}; {machine}.",
            rounds=rounds,
            threads=threads,
            machine=_machine(machine),
        )
    )
    timings = (timing for a in answers for timing in (a.elman, a.beside))
    return Page([table], [*notes, versions_text(machine)], doubts(timings, complete=complete))


def threads_page(rows: Sequence[ThreadsRow], machine: Machine, rounds: int, busy: int, *, complete: bool) -> Page:
    """How long calls took with each number of threads: a line for each, and what the columns mean."""
    header = ["", "T,B,I,H", "", _("threads"), "µs", "±", _("over fewest"), _("ran on")]
    body = [
        [
            f"{row.case.cell.upper()} {row.number}",
            str(row.case),
            mode_name(row.mode),
            str(row.threads),
            microseconds(row.timing),
            f"{row.timing.spread:.0%}",
            ratio_text(row.over_fewest),
            ", ".join(f"{count} ({share:.0%})" for count, share in list(row.used.items())[:2]),
        ]
        for row in rows
    ]
    notes = [
        _("over fewest: the time over that with the fewest threads, median of the rounds' ratios."),
        _(
            "ran on: how many threads the kernel used (training: in the backward pass), and in what share of the calls; it tries other "
            "numbers now and then."
        ),
        _("Training: forward and backward without torch's own operators."),
        _(
            "medians of {rounds} interleaved rounds; {machine}, {cores} cores.",
            rounds=rounds,
            machine=_machine(machine),
            cores=machine.cores,
        ),
    ]
    if busy:
        notes.append(_("Busy processes meanwhile: {busy}.", busy=busy))
    table = Table(_("Elman by number of threads"), header, body, words=(0, 1, 2))
    timings = [] if busy else [row.timing for row in rows]  # company that was asked for is no reason to doubt
    return Page([table], [*notes, versions_text(machine)], doubts(timings, complete=complete))


def compiled_page(rows: Sequence[CompiledRow], machine: Machine, threads: int, rounds: int, *, complete: bool) -> Page:
    """Compiled layers beside eager ones: a table for each mode, and what the columns mean."""
    names = ("elman", "elman compiled", "torch", "torch compiled")
    header = ["", "T,B,I,H", *names, "±", _("over eager"), _("more"), _("vs torch")]
    tables = []
    for mode in dict.fromkeys(row.mode for row in rows):
        body = [
            [
                f"{row.case.cell.upper()} {row.number}",
                str(row.case),
                *(microseconds(row.timings[name]) for name in names),
                f"{max(timing.spread for timing in row.timings.values()):.0%}",
                ratio_text(row.over_eager),
                f"{row.more_s * 1e6:+.0f}",
                ratio_text(row.torchs),
            ]
            for row in rows
            if row.mode == mode
        ]
        title = {"infer": _("Compiled inference"), "train": _("Compiled training")}[mode]
        tables.append(Table(title, header, body, words=(0, 1)))
    apart = [row.against_itself for row in rows]
    notes = [
        _("over eager: the compiled layer's time over the eager one's, median of the rounds' ratios. more: the difference of medians, µs."),
        _("vs torch: torch.nn's compiled layer over Elman's. torch.compile leaves torch.nn's layers as they are."),
        _("The compiled layer against itself: {low} to {high}.", low=f"{min(apart):.2f}", high=f"{max(apart):.2f}"),
        _(
            "medians of {rounds} interleaved rounds, threads: {threads}; {machine}.",
            rounds=rounds,
            threads=threads,
            machine=_machine(machine),
        ),
    ]
    timings = (timing for row in rows for timing in row.timings.values())
    return Page(tables, [*notes, versions_text(machine)], doubts(timings, complete=complete))


def _race_table(report: Report, cell: str, mode: Mode, rows: Sequence[Row]) -> Table:
    others = list(dict.fromkeys(name for row in rows for name in row.others))
    means = geometric_means(rows)
    title, busy = title_of(cell, mode), _much_company(timing for row in rows for timing in row.timings.values())
    last = ["", _("geometric mean"), *[""] * (2 + len(others)), ratio_text(means["torch"]), ratio_text(means["best"]), ""]
    return Table(
        title=_("{title} (other processes were busy)", title=title) if busy else title,
        header=["", "T,B,I,H", "elman", *others, "±", _("vs torch"), _("vs best"), _("of peak")],
        body=[*(_race_line(report, row, others) for row in rows), last],
        words=(1,),
        red=tuple(index for index, row in enumerate(rows) if _behind(row)),
        sums_up=True,
    )


def mode_name(mode: Mode) -> str:
    """A mode in one word."""
    return {"infer": _("infer"), "train": _("train")}[mode]


def title_of(cell: str, mode: Mode) -> str:
    if mode == "infer":
        return _("{cell} inference", cell=cell.upper())
    return _("{cell} training: forward, and backward to x and all weights", cell=cell.upper())


def _race_line(report: Report, row: Row, others: list[str]) -> list[str]:
    share = report.share_of_peak(row)
    best = f"{ratio_text(row.over_elman(row.best_other))} {row.best_other}"
    return [
        str(row.number),
        str(row.case),
        *(microseconds(row.timings[name]) if name in row.timings else "" for name in ("elman", *others)),
        f"{max(row.timings[name].spread for name in ('elman', *row.others)):.0%}",
        ratio_text(row.over_elman("torch")),
        f"{BEHIND} {best}" if _behind(row) else best,
        "" if share is None else f"{share:.1%}",
    ]


def _race_notes(report: Report) -> Iterator[str]:
    machine = report.machine
    yield _(
        "Medians of {rounds} interleaved rounds, in µs a call. ±: half the interquartile range, of the library that varied most. "
        "vs: time of torch, or of the best other library, over Elman's, median of the rounds' ratios.",
        rounds=report.rounds,
    )
    yield _("T steps, B batch, I input features, H hidden units.")
    if any(_behind(row) for row in report.rows):
        yield _("{mark}: Elman is not the fastest here.", mark=BEHIND)
    yield machine_text(machine, report.threads)
    yield versions_text(machine)
    for backend in dict.fromkeys(row.backend for row in report.rows):
        yield _("Elman ran on {backend}.", backend=translated(backend))
    if report.peak is not None:
        yield _(
            "Peak: {peak} GFLOP/s, multiply-adds in registers, threads: {threads}, in this run.",
            peak=f"{report.peak / 1e9:.0f}",
            threads=report.threads,
        )
    yield from against_itself(report.rows)
    yield from map(translated, report.absent)


def against_itself(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each row in which Elman was compared with itself."""
    for row in rows:
        if AGAIN in row.timings:
            same = row.over_elman(AGAIN)
            which = {"cell": row.case.cell.upper(), "row": row.number, "mode": mode_name(row.mode), "ratio": f"{same:.3f}"}
            if abs(same - 1) <= SAME:
                yield _("Elman against itself, {cell} row {row}, {mode}: {ratio}.", **which)
            else:
                yield _(
                    "Elman against itself, {cell} row {row}, {mode}: {ratio}; the machine was too noisy to tell smaller differences.",
                    **which,
                )


def _behind(row: Row) -> bool:
    return row.over_elman(row.best_other) <= 1.0


def microseconds(timing: Timing) -> str:
    median = timing.median * 1e6
    return f"{median:.0f}" if median >= 100 else f"{median:.1f}"


def ratio_text(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _machine(machine: Machine) -> str:
    return f"{machine.cpu}, {machine.isa}"


def machine_text(machine: Machine, threads: int) -> str:
    """A line on the machine and how much of it each library used."""
    return _(
        "{machine}, {cores} cores; threads of each library: {threads}. {system}.",
        machine=_machine(machine),
        cores=machine.cores,
        threads=threads,
        system=machine.system,
    )


def tf32_text(allowed: bool) -> str:
    """How float32 is multiplied on a GPU."""
    return _("torch.backends.cudnn.allow_tf32 is {allowed}.", allowed=allowed)


def place_text(place: Place) -> str:
    """A line on where a benchmark ran."""
    if isinstance(place.machine, Card):
        return _(
            "{card}, compute capability {capability}, driver {driver}; timed by events on the GPU.",
            card=place.machine.name,
            capability=place.machine.capability,
            driver=place.machine.driver or _("unknown"),
        )
    return machine_text(place.machine, place.threads)


def versions_text(machine: Machine | Card) -> str:
    return ", ".join(f"{package} {version}" for package, version in machine.versions.items())
