"""`elman bench`: Elman raced against what people would run otherwise."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elman._files import rehearse, to_json, write
from elman.cli.frame import interruptible, path, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.bench.case import Case, Mode
    from elman.bench.report import Report


class Grid(str, Enum):
    sizes = "sizes"
    tour = "tour"
    edge = "edge"
    all = "all"
    sequences = "sequences"


class Modes(str, Enum):
    infer = "infer"
    train = "train"
    both = "both"


_WHAT, _HOW, _OUTPUT = "What is raced", "How it is measured", "What is printed"
STDOUT = Path("-")
MOST_THREADS = 1024


def bench(
    cell: Annotated[str, typer.Option(help="The kinds of network.", rich_help_panel=_WHAT)] = "rnn,gru,lstm",
    grid: Annotated[
        Grid,
        typer.Option(
            help="Of each kind: usual sizes, the tour's three, awkward sizes, or all of them. sequences: lengths, resets, traces and "
            "streams beside what one would do without, torch and Elman alone.",
            rich_help_panel=_WHAT,
        ),
    ] = Grid.sizes,
    rows: Annotated[str, typer.Option(help="Only these rows of the grid: 4,8 or 2-5.", show_default=False, rich_help_panel=_WHAT)] = "",
    mode: Annotated[Modes, typer.Option(help="Inference, training or both.", rich_help_panel=_WHAT)] = Modes.both,
    against: Annotated[str, typer.Option(help="Whom; torch always takes part.", rich_help_panel=_WHAT)] = "torch,jax,ort",
    threads: Annotated[
        str,
        typer.Option(
            help="Of each contestant; by default 2, or 1 on one core. Several numbers, 1,2,4: Elman alone, with each of them.",
            show_default=False,
            rich_help_panel=_HOW,
        ),
    ] = "",
    busy: Annotated[
        int, typer.Option(help="Other processes that keep a processor busy meanwhile.", min=0, max=256, rich_help_panel=_HOW)
    ] = 0,
    rounds: Annotated[
        int | None, typer.Option(help="How often each runs; by default 15, quick 5.", min=1, show_default=False, rich_help_panel=_HOW)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds, shorter blocks.", rich_help_panel=_HOW)] = False,
    a_a: Annotated[
        bool, typer.Option("--a-a", help="Race Elman against itself in every row, not only each cell's first.", rich_help_panel=_HOW)
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The tables in Markdown.", rich_help_panel=_OUTPUT)] = False,
    json_path: Annotated[
        Path | None,
        typer.Option(
            "--json", parser=path, metavar="FILE", help="Write all that was measured; - prints that alone.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="DIR",
            help="Draw the geometric means as SVG files, for light and for dark pages; needs matplotlib.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
) -> None:
    """Elman beside torch.nn, JAX's jitted scan and ONNX Runtime, interleaved in one process. Ctrl-C prints what is measured so far.

    Example:  [bold]elman bench --cell gru --rows 4,8 --mode infer[/]
    """
    from elman.bench.case import MODES
    from elman.bench.contestants import Elman, peers
    from elman.bench.machine import available_cores, describe
    from elman.bench.measure import measure
    from elman.bench.report import Report
    from elman.bench.threads import busy_processes

    if json_path is not None and json_path != STDOUT and json_path.name.startswith("-"):
        raise ValueError(f"--json: expected a file's name, or - for the terminal, got {str(json_path)!r}")
    if json_path not in (None, STDOUT):
        try:
            rehearse(json_path)  # rather now than after the measurement
        except OSError as error:
            raise ValueError(f"--json: cannot write {json_path}: {error.strerror}") from error
    modes = MODES if mode is Modes.both else (mode.value,)
    counts = _counts(threads) if threads else [min(2, available_cores())]
    if chart is not None:
        _prepare_chart(chart, grid, counts)
    rounds = rounds or (5 if quick else 15)
    min_block_s = 0.02 if quick else 0.05
    if grid is Grid.sequences:
        if rows:
            raise ValueError(f"--rows: --grid sequences has none to choose from, got {rows!r}; leave it out")
        if len(counts) > 1:
            raise ValueError(f"--threads: --grid sequences takes one number, got {threads!r}")
        with busy_processes(busy):
            race_sequences(_cells(cell), modes, counts[0], rounds, min_block_s, as_markdown, json_path)
        return
    cases = select(cell, grid.value, rows)
    if len(counts) > 1:
        with busy_processes(busy):
            race_threads(cases, modes, counts, rounds, min_block_s, busy, as_markdown, json_path)
        return

    others, absent = peers({"torch", *against.split(",")}, counts[0])
    elman = Elman(counts[0])
    machine = describe(package for who in (elman, *others) for package in who.packages)
    measured = measure(cases, modes, elman, others, threads=counts[0], rounds=rounds, min_block_s=min_block_s, always_again=a_a)
    found = []
    total = len(cases) * len(modes)
    with interruptible(), busy_processes(busy):
        try:
            for row in measured:
                found.append(row)
                # No spinner: its thread would run beside what is timed.
                ratio = f"torch/elman {row.over_elman('torch'):.2f}"
                print(f"{len(found)}/{total}  {row.case.cell} {row.case} {row.mode}: {ratio}", file=sys.stderr)
        finally:
            # Also when it was interrupted, or a later row's answer was wrong.
            if found:
                report = Report(machine, counts[0], rounds, min_block_s, tuple(found), tuple(absent), complete=len(found) == total)
                publish(report, as_markdown, json_path)
                if chart is not None:
                    from elman.bench.chart import draw

                    draw(report.to_dict(), chart)


def _prepare_chart(folder: Path, grid: Grid, counts: list[int]) -> None:
    """Make the chart's folder and check that it can be drawn, before minutes of measurement rather than after."""
    if grid is Grid.sequences or len(counts) > 1:
        raise ValueError("--chart: compares libraries, so it takes neither --grid sequences nor several numbers of threads")
    if find_spec("matplotlib") is None:
        raise ValueError("--chart: needs matplotlib, which is not installed: pip install matplotlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rehearse(folder / "bench-light.svg")
    except OSError as error:
        raise ValueError(f"--chart: cannot write to {folder}: {error.strerror}") from error


def select(cells: str, grid: str, rows: str) -> list[tuple[int, Case]]:
    """Of each of the ``cells`` (``"rnn,gru"``) the ``rows`` of the grid (``"4,8"``, ``"2-5"``; all if empty), with their numbers.

    Raises:
        ValueError: a cell or a row that isn't there.
    """
    from elman.bench.case import GRIDS, cases_of

    numbers = _numbers(rows, len(GRIDS[grid]))
    return [(number, cases_of(cell, grid)[number - 1]) for cell in _cells(cells) for number in numbers]


def _cells(cells: str) -> list[str]:
    """The cells that ``"rnn,gru"`` names, each once."""
    from elman.bench.case import CELLS

    chosen = cells.split(",")
    if unknown := [cell for cell in chosen if cell not in CELLS]:
        raise ValueError(f"--cell: expected cells from {', '.join(CELLS)}, got {unknown[0]!r}")
    return list(dict.fromkeys(chosen))


def _counts(threads: str) -> list[int]:
    """The numbers of threads that ``"1,2,4"`` names, rising, each once."""
    try:
        counts = sorted({int(count) for count in threads.split(",")})
    except ValueError:
        counts = [0]
    if not 1 <= counts[0] <= counts[-1] <= MOST_THREADS:
        raise ValueError(f"--threads: expected numbers from 1 to {MOST_THREADS} like 2 or 1,2,4, got {threads!r}")
    return counts


def _numbers(rows: str, last_row: int) -> list[int]:
    """The row numbers that ``rows`` names."""
    if not rows:
        return list(range(1, last_row + 1))
    chosen: list[int] = []
    for part in rows.split(","):
        first, dash, last = part.partition("-")
        try:
            span = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise ValueError(f"--rows: expected row numbers like 4,8 or 2-5, got {rows!r}") from None
        if not span or span[0] < 1 or span[-1] > last_row:
            raise ValueError(f"--rows: this grid has rows 1 to {last_row}, got {part!r}")
        chosen += span
    return list(dict.fromkeys(chosen))


def publish(report: Report, as_markdown: bool, json_path: Path | None) -> None:
    """Print the report, and write it where it was asked for."""
    from rich.console import Console

    from elman.bench.render import markdown, print_tables

    def show() -> None:
        if as_markdown:
            print(markdown(report))
            return
        console = Console()
        if not console.is_terminal:
            console.width = max(console.width, 100)  # a pipe has no edge
        print_tables(report, console)

    _put_out(report.to_dict(), show, json_path)


def _put_out(facts: dict[str, Any], show: Callable[[], None], json_path: Path | None) -> None:
    """Show what was found, or print it as JSON; and write it where it was asked for."""
    if json_path == STDOUT:
        print_json(facts)
        return
    show()
    if json_path is not None:
        write(json_path, (to_json(facts) + "\n").encode())


def race_sequences(
    cells: list[str],
    modes: tuple[Mode, ...],
    threads: int,
    rounds: int,
    min_block_s: float,
    as_markdown: bool,
    json_path: Path | None,
) -> None:
    """Put the questions on sequences, and print or write the answers."""
    from rich.console import Console

    from elman.bench.machine import describe
    from elman.bench.render import print_answers
    from elman.bench.sequences import measure

    answers = []
    with interruptible():
        try:
            for answer in measure(cells, modes, threads=threads, rounds=rounds, min_block_s=min_block_s):
                answers.append(answer)
                print(f"{answer.cell} {answer.mode} {answer.question}: {answer.ratio:.2f}", file=sys.stderr)
        finally:  # also when it was interrupted
            machine = describe(("elman", "torch"))
            facts = {"machine": asdict(machine), "threads": threads, "rounds": rounds, "answers": [answer.to_dict() for answer in answers]}
            _put_out(facts, lambda: print_answers(answers, machine, threads, rounds, Console(), as_markdown), json_path)


def race_threads(
    cases: list[tuple[int, Case]],
    modes: tuple[Mode, ...],
    counts: list[int],
    rounds: int,
    min_block_s: float,
    busy: int,
    as_markdown: bool,
    json_path: Path | None,
) -> None:
    """Race numbers of threads, and print or write what was found."""
    from rich.console import Console

    from elman.bench.machine import describe
    from elman.bench.render import print_threads
    from elman.bench.threads import measure

    rows = []
    with interruptible():
        try:
            for row in measure(cases, modes, counts, rounds=rounds, min_block_s=min_block_s):
                rows.append(row)
                print(f"{row.case.cell} {row.case} {row.mode}, threads {row.threads}: {row.over_fewest:.2f}", file=sys.stderr)
        finally:  # also when it was interrupted
            machine = describe(("elman", "torch"))
            facts = {"machine": asdict(machine), "rounds": rounds, "busy": busy, "rows": [row.to_dict() for row in rows]}
            _put_out(facts, lambda: print_threads(rows, machine, rounds, busy, Console(), as_markdown), json_path)
