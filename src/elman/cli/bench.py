"""`elman bench`: Elman compared with torch.nn, JAX and ONNX Runtime."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elman._files import rehearse, to_json, write
from elman.cli.choice import cells_of, select, thread_counts
from elman.cli.frame import Device, Lang, interruptible, path, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from elman.bench.case import Case, Mode
    from elman.bench.contestants import Contestant
    from elman.bench.render import Page

    Result = TypeVar("Result")


class Grid(str, Enum):
    sizes = "sizes"
    tour = "tour"
    edge = "edge"
    long = "long"
    all = "all"
    sequences = "sequences"
    cells = "cells"


class Dtype(str, Enum):
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class Modes(str, Enum):
    infer = "infer"
    train = "train"
    both = "both"


_WHAT, _HOW, _DTYPE, _OUTPUT = "What is measured", "How it is measured", "On a GPU, or in another dtype", "Output"
LIBRARIES = "torch,jax,ort"
KINDS = "rnn,gru,lstm"
STDOUT = Path("-")


def bench(
    cell: Annotated[str, typer.Option(help="Kinds of network; or cells, zoo.MGU or my.py:MyCell.", rich_help_panel=_WHAT)] = KINDS,
    grid: Annotated[
        Grid | None,
        typer.Option(
            help="What to compare. sizes: usual sizes; tour: the tour's three networks; edge: awkward sizes; all: these three; long: 512 "
            "steps; sequences: lengths, resets, traces and streams, each with the alternative, Elman and torch only; cells: each cell of "
            "elman.zoo. By default sizes, on a GPU in bfloat16 or float32 long.",
            show_default=False,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    rows: Annotated[str, typer.Option(help="Only these rows of the grid: 4,8 or 2-5.", show_default=False, rich_help_panel=_WHAT)] = "",
    mode: Annotated[Modes, typer.Option(help="Inference, training or both.", rich_help_panel=_WHAT)] = Modes.both,
    against: Annotated[
        str,
        typer.Option(
            help="Libraries to compare with; torch is always included. Of cells of your own or the zoo's: loop, compile, jax.",
            rich_help_panel=_WHAT,
        ),
    ] = LIBRARIES,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Compare torch.compile with eager calls, Elman and torch only.", rich_help_panel=_WHAT)
    ] = False,
    threads: Annotated[
        str,
        typer.Option(
            help="Threads of each library; by default 2, or 1 on a single core. With several numbers, as in 1,2,4: Elman only, with each "
            "of them.",
            show_default=False,
            rich_help_panel=_HOW,
        ),
    ] = "",
    busy: Annotated[
        int, typer.Option(help="Run this many other processes meanwhile, each keeping a core busy.", min=0, max=256, rich_help_panel=_HOW)
    ] = 0,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds; by default 15, with --quick 5.", min=1, show_default=False, rich_help_panel=_HOW)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter rounds.", rich_help_panel=_HOW)] = False,
    a_a: Annotated[
        bool, typer.Option("--a-a", help="Compare Elman with itself in every row, not only in the first.", rich_help_panel=_HOW)
    ] = False,
    device: Annotated[
        Device, typer.Option(help="cuda: compare with torch.nn on the GPU, timed by events.", rich_help_panel=_DTYPE)
    ] = Device.cpu,
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            help="Compare with torch.nn in this dtype; the CPU takes bfloat16, beside it Elman in float32. On a GPU bfloat16 by default, "
            "beside it torch.nn in float16.",
            show_default=False,
            rich_help_panel=_DTYPE,
        ),
    ] = None,
    ragged: Annotated[
        bool,
        typer.Option(
            "--ragged", help="With --device cuda or --dtype: sequences of different lengths, uniform in 1..T.", rich_help_panel=_DTYPE
        ),
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.", rich_help_panel=_OUTPUT)] = False,
    json_path: Annotated[
        Path | None,
        typer.Option(
            "--json", parser=path, metavar="FILE", help="Write all measurements as JSON; - prints only these.", rich_help_panel=_OUTPUT
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
    lang: Lang = None,
) -> None:
    """Compare the speed of Elman with torch.nn, JAX (jitted scan) and ONNX Runtime, interleaved in one process. A cell of your own or the
    zoo's is compared with the same step in a Python loop, with that loop compiled, and with JAX.

    Libraries that are not installed are skipped, with a notice. Ctrl-C prints what has been measured so far.

    Example:  [bold]elman bench --cell gru --rows 4,8 --mode infer[/]

    Example:  [bold]elman bench --dtype bfloat16 --threads 1[/]

    Example:  [bold]elman bench --device cuda --dtype float16[/]
    """
    from elman.bench.case import MODES
    from elman.bench.machine import usual_threads
    from elman.bench.race import BLOCK_S, QUICK_BLOCK_S
    from elman.cli.bench_cells import RIVALS, race_cells
    from elman.zoo.by_name import is_own

    if json_path is not None and json_path != STDOUT and json_path.name.startswith("-"):
        raise ValueError(f"--json: expected a file name, or - for standard output, got {str(json_path)!r}")
    if json_path not in (None, STDOUT):
        try:
            rehearse(json_path)  # rather now than after the measurement
        except OSError as error:
            raise ValueError(f"--json: cannot write {json_path}: {error.strerror}") from error
    modes = MODES if mode is Modes.both else (mode.value,)
    counts = thread_counts(threads) if threads else [usual_threads()]
    race = Race(modes, counts, rounds or (5 if quick else 15), QUICK_BLOCK_S if quick else BLOCK_S, busy, as_markdown, json_path)
    if device is Device.cuda or dtype is not None:
        on_gpu, of_dtype = device is Device.cuda, dtype or Dtype.bfloat16
        unfit: dict[str, object] = {
            "--grid sequences": grid is Grid.sequences,
            "--grid cells": grid is Grid.cells,
            "--against": against != LIBRARIES,
            "--chart": chart,
            "--compiled": compiled,
        }
        unfit |= {"--threads": threads, "--busy": busy} if on_gpu else {f"--threads {threads}": "," in threads}
        _refuse("--device cuda" if on_gpu else f"--dtype {of_dtype.value}", unfit)
        if not on_gpu and of_dtype is not Dtype.bfloat16:
            raise ValueError(f"--dtype: on the CPU expected bfloat16 (without the option it is float32), got {of_dtype.value!r}")
        is_long = on_gpu and (of_dtype is not Dtype.float16 or ragged)
        race.in_dtype(select(cell, (grid or (Grid.long if is_long else Grid.sizes)).value, rows), device, of_dtype, ragged, a_a)
        return
    _refuse("--device cpu without --dtype", {"--ragged": ragged})
    of_cells = is_own(cell) or grid is Grid.cells
    if of_cells:
        other = f"--grid {grid.value}" if grid not in (None, Grid.cells) else ""
        what = f"--cell {cell}" if is_own(cell) else "--grid cells"
        _refuse(what, {"--rows": rows, other: other, "--chart": chart, "--a-a": a_a, "--compiled": compiled})
    grid = grid or Grid.sizes
    if compiled:
        unfit = {"--grid sequences": grid is Grid.sequences, "--against": against != LIBRARIES, "--chart": chart, "--a-a": a_a}
        _refuse("--compiled", {**unfit, f"--threads {threads}": "," in threads})
    if chart is not None:
        _prepare_chart(chart, grid, counts)
    if of_cells:
        race_cells(race, "" if cell == KINDS else cell, RIVALS if against == LIBRARIES else against)
    elif grid is Grid.sequences:
        if rows:
            raise ValueError(f"--rows: --grid sequences has no rows to choose from, got {rows!r}; leave it out")
        if len(counts) > 1:
            raise ValueError(f"--threads: --grid sequences takes a single number, got {threads!r}")
        race.sequences(cells_of(cell))
    elif compiled:
        race.compiled(select(cell, grid.value, rows))
    elif len(counts) > 1:
        race.threads(select(cell, grid.value, rows))
    else:
        race.libraries(select(cell, grid.value, rows), against.split(","), a_a, chart)


def _refuse(what: str, options: dict[str, object]) -> None:
    """Raise for an option that was given and that another does not go with."""
    for name, given in options.items():
        if given:
            raise ValueError(f"{what} does not take {name}; leave it out")


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


@dataclass(frozen=True)
class Race:
    """How something is measured and where the results go."""

    modes: tuple[Mode, ...]
    counts: list[int]
    rounds: int
    min_block_s: float
    busy: int
    as_markdown: bool
    json_path: Path | None

    def libraries(self, cases: list[tuple[int, Case]], against: list[str], always_again: bool, chart: Path | None) -> None:
        """Elman and other libraries."""
        from elman.bench.contestants import Elman, peers
        from elman.bench.machine import describe
        from elman.bench.measure import Row, measure
        from elman.bench.render import race_page
        from elman.bench.report import Report

        (threads,) = self.counts
        others, absent = peers({"torch", *against}, threads)
        elman = Elman(threads)
        everybody: list[Contestant] = [elman, *others]
        machine = describe(package for who in everybody for package in who.packages)
        total = len(cases) * len(self.modes)

        def results(rows: list[Row]) -> tuple[dict[str, Any], Page]:
            complete = len(rows) == total
            report = Report(machine, threads, self.rounds, self.min_block_s, tuple(rows), tuple(absent), complete)
            if chart is not None:
                from elman.bench.chart import draw

                draw(report.to_dict(), chart)
            return report.to_dict(), race_page(report)

        self.run(
            measure(cases, self.modes, elman, others, threads=threads, always_again=always_again, **self._timed),
            lambda row, number: f"{number}/{total}  {row.case.cell} {row.case} {row.mode}: torch/elman {row.over_elman('torch'):.2f}",
            results,
        )

    def in_dtype(self, cases: list[tuple[int, Case]], where: Device, dtype: Dtype, ragged: bool, always_again: bool) -> None:
        """Elman and torch.nn on a GPU, or on the CPU in another dtype than float32."""
        import torch

        from elman.bench import device
        from elman.bench.dtype_race import DtypeRow, measure
        from elman.bench.dtype_report import DtypeReport
        from elman.bench.machine import Machine, describe
        from elman.bench.race import by_clock

        machine: device.Card | Machine
        if where is Device.cuda:
            device.require_cuda()
            machine, threads, block_s, stopwatch = device.describe(), 0, device.BLOCK_S, device.by_events
        else:
            (threads,) = self.counts
            torch.set_num_threads(threads)
            machine, block_s, stopwatch = describe(("elman", "torch")), self.min_block_s, by_clock()
        total = len(cases) * len(self.modes)

        def results(rows: list[DtypeRow]) -> tuple[dict[str, Any], Page]:
            facts = machine, threads, dtype.value, ragged, torch.backends.cudnn.allow_tf32, self.rounds, block_s
            report = DtypeReport(*facts, tuple(rows), len(rows) == total)
            return report.to_dict(), report.page()

        timed: dict[str, Any] = {"rounds": self.rounds, "min_block_s": block_s, "device": where.value, "stopwatch": stopwatch}
        self.run(
            measure(cases, self.modes, dtype.value, ragged=ragged, always_again=always_again, **timed),
            lambda row, number: f"{number}/{total}  {row.case.cell} {row.case} {row.mode}: torch/elman {row.over_elman('torch'):.2f}",
            results,
        )

    def sequences(self, cells: list[str]) -> None:
        """Ways to run sequences."""
        from elman.bench.machine import describe
        from elman.bench.render import sequences_page
        from elman.bench.sequences import Answer, measure

        (threads,) = self.counts
        machine = describe(("elman", "torch"))

        def results(answers: list[Answer]) -> tuple[dict[str, Any], Page]:
            as_dicts = [answer.to_dict() for answer in answers]
            facts = {"machine": asdict(machine), "threads": threads, "rounds": self.rounds, "answers": as_dicts}
            return facts, sequences_page(answers, machine, threads, self.rounds)

        self.run(
            measure(cells, self.modes, threads=threads, **self._timed),
            lambda answer, number: f"{answer.cell} {answer.mode} {answer.question}: {answer.ratio:.2f}",
            results,
        )

    def compiled(self, cases: list[tuple[int, Case]]) -> None:
        """Compiled calls and eager ones."""
        from elman.bench.compiled import Row, measure
        from elman.bench.machine import describe
        from elman.bench.render import compiled_page

        (threads,) = self.counts
        machine, total = describe(("elman", "torch")), len(cases) * len(self.modes)

        def results(found: list[Row]) -> tuple[dict[str, Any], Page]:
            rows = [row.to_dict() for row in found]
            facts = {"machine": asdict(machine), "threads": threads, "rounds": self.rounds, "complete": len(found) == total, "rows": rows}
            return facts, compiled_page(found, machine, threads, self.rounds)

        self.run(
            measure(cases, self.modes, threads=threads, **self._timed),
            lambda row, number: f"{number}/{total}  {row.case.cell} {row.case} {row.mode}: compiled/eager {row.over_eager:.2f}",
            results,
        )

    def threads(self, cases: list[tuple[int, Case]]) -> None:
        """Numbers of threads."""
        from elman.bench.machine import describe
        from elman.bench.render import threads_page
        from elman.bench.threads import Row, measure

        machine = describe(("elman", "torch"))

        def results(rows: list[Row]) -> tuple[dict[str, Any], Page]:
            as_dicts = [row.to_dict() for row in rows]
            facts = {"machine": asdict(machine), "rounds": self.rounds, "busy": self.busy, "rows": as_dicts}
            return facts, threads_page(rows, machine, self.rounds, self.busy)

        self.run(
            measure(cases, self.modes, self.counts, **self._timed),
            lambda row, number: f"{row.case.cell} {row.case} {row.mode}, threads {row.threads}: {row.over_fewest:.2f}",
            results,
        )

    @property
    def _timed(self) -> dict[str, Any]:
        return {"rounds": self.rounds, "min_block_s": self.min_block_s}

    def run(
        self,
        measured: Iterable[Result],
        progress: Callable[[Result, int], str],
        results: Callable[[list[Result]], tuple[dict[str, Any], Page]],
    ) -> None:
        """Measure, a line on stderr for each result; print or write what there is, also after Ctrl-C or a wrong answer."""
        from elman.bench.threads import busy_processes

        done: list[Result] = []
        with interruptible(), busy_processes(self.busy):
            try:
                for each in measured:
                    done.append(each)
                    # No spinner: its thread would run beside what is timed.
                    print(progress(each, len(done)), file=sys.stderr)
            finally:
                if done:
                    self._put_out(*results(done))

    def _put_out(self, facts: dict[str, Any], page: Page) -> None:
        from rich.console import Console

        if self.json_path == STDOUT:
            print_json(facts)
            return
        if self.as_markdown:
            print(page.markdown())
        else:
            console = Console()
            if not console.is_terminal:
                console.width = max(console.width, 100)  # a pipe has no edge
            page.print(console)
        if self.json_path is not None:
            write(self.json_path, (to_json(facts) + "\n").encode())
