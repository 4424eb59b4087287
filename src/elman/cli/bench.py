"""`elman bench`: Elman compared with torch.nn, JAX and ONNX Runtime."""

from __future__ import annotations

from enum import Enum
from importlib.util import find_spec
from pathlib import Path  # noqa: TC003, Typer reads the annotations
from typing import Annotated

import typer

from elman._files import rehearse
from elman.cli.choice import cells_of, select, thread_counts
from elman.cli.frame import STDOUT, Device, Lang, path


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


def bench(
    cell: Annotated[
        str,
        typer.Option(
            help="Networks (rnn, gru, lstm), or cells such as zoo.MGU or my.py:MyCell, separated by commas.", rich_help_panel=_WHAT
        ),
    ] = KINDS,
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
            help="Libraries to compare with; torch is always included. For cells such as zoo.MGU or your own: loop, compile, jax.",
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
        int,
        typer.Option(
            help="With several numbers of threads: run this many other processes meanwhile, each keeping a core busy.",
            min=0,
            max=256,
            rich_help_panel=_HOW,
        ),
    ] = 0,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds; by default 15, with --quick 5.", min=1, show_default=False, rich_help_panel=_HOW)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter rounds.", rich_help_panel=_HOW)] = False,
    a_a: Annotated[
        bool, typer.Option("--a-a", help="Compare Elman with itself in every row, not only in the first.", rich_help_panel=_HOW)
    ] = False,
    device: Annotated[Device, typer.Option(help="cuda: compare on the GPU, timed by events.", rich_help_panel=_DTYPE)] = Device.cpu,
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            help="Compare with torch.nn, or a cell with its own step, in this dtype. On the CPU bfloat16 or float16; beside torch.nn Elman "
            "is also timed in float32. On a GPU bfloat16 by default; torch.nn is then also timed in float16.",
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
    from elman.cli.bench_cells import race_cells
    from elman.cli.bench_race import Race
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
    on_gpu, of_cells = device is Device.cuda, is_own(cell) or grid is Grid.cells
    in_dtype = dtype or (Dtype.bfloat16 if on_gpu else None)
    if of_cells:
        other = f"--grid {grid.value}" if grid not in (None, Grid.cells) else ""
        what = f"--cell {cell}" if is_own(cell) else "--grid cells"
        _refuse(what, {"--rows": rows, other: other, "--chart": chart, "--a-a": a_a, "--compiled": compiled, "--ragged": ragged})
    if on_gpu:
        _refuse("--device cuda", {"--threads": threads, "--busy": busy})
    elif in_dtype is Dtype.float32:
        raise ValueError("--dtype: on the CPU expected bfloat16 or float16 (without the option it is float32), got 'float32'")
    if busy and len(counts) == 1:
        raise ValueError("--busy: needs several numbers of threads, as in --threads 1,2; add them")
    if of_cells:
        race_cells(race, "" if cell == KINDS else cell, "" if against == LIBRARIES else against, on_gpu, (in_dtype or Dtype.float32).value)
        return
    if in_dtype is not None:
        unfit: dict[str, object] = {
            "--grid sequences": grid is Grid.sequences,
            "--against": against != LIBRARIES,
            f"--threads {threads}": "," in threads,
            "--chart": chart,
            "--compiled": compiled,
        }
        _refuse("--device cuda" if on_gpu else f"--dtype {in_dtype.value}", unfit)
        is_long = on_gpu and (in_dtype is not Dtype.float16 or ragged)
        cases = select(cell, (grid or (Grid.long if is_long else Grid.sizes)).value, rows)
        race.in_dtype(cases, on_gpu, in_dtype.value, ragged, a_a)
        return
    if ragged:
        raise ValueError("--ragged: needs --device cuda or --dtype; add one of them")
    grid = grid or Grid.sizes
    if compiled:
        unfit = {"--grid sequences": grid is Grid.sequences, "--against": against != LIBRARIES, "--chart": chart, "--a-a": a_a}
        _refuse("--compiled", {**unfit, f"--threads {threads}": "," in threads})
    if chart is not None:
        _prepare_chart(chart, grid, counts)
    if grid is Grid.sequences:
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
