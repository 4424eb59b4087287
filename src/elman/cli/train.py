"""`elman train`: networks of one's own, on data of one's own."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from elman.cli.frame import Lang, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from rich.console import Console

    from elman.train.corpus import Corpus
    from elman.train.fit import Step
    from elman.train.report import Report
    from elman.train.text import CurvePoint, Outcome, TextSettings

app = typer.Typer(help="Train a network on data of your own.", no_args_is_help=True, rich_markup_mode="rich")

_MODEL, _TRAINING, _OUTPUT = "The model", "Its training", "What comes out"
SECONDS = 90.0


@app.callback()
def _train() -> None:
    """Train a network on data of your own."""


@app.command()
def text(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Text files and folders of them; by default Python's standard library.", show_default=False)
    ] = None,
    hidden_size: Annotated[int, typer.Option(help="Hidden units of a layer.", min=1, rich_help_panel=_MODEL)] = 256,
    num_layers: Annotated[int, typer.Option("--num-layers", "--layers", help="Layers.", min=1, rich_help_panel=_MODEL)] = 2,
    seconds: Annotated[
        float | None, typer.Option(help=f"How long to train; by default {SECONDS:.0f}.", show_default=False, rich_help_panel=_TRAINING)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="How many steps to train, instead: the same seed then gives the same model.", show_default=False, rich_help_panel=_TRAINING
        ),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Adam's, at its highest.", rich_help_panel=_TRAINING)] = 3e-3,
    streams: Annotated[int, typer.Option(help="Parts of the text that are read side by side.", min=1, rich_help_panel=_TRAINING)] = 32,
    chunk: Annotated[int, typer.Option(help="Characters through which gradients go back.", min=1, rich_help_panel=_TRAINING)] = 32,
    seed: Annotated[int, typer.Option(help="Of weights and sample.", min=0, max=2**63 - 1, rich_help_panel=_TRAINING)] = 0,
    out: Annotated[
        Path, typer.Option(help="The folder for picture, sample, figures and weights.", file_okay=False, rich_help_panel=_OUTPUT)
    ] = Path("demo"),
    lang: Annotated[
        Lang | None, typer.Option(help="The language; by default the locale's.", show_default=False, rich_help_panel=_OUTPUT)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures for a program to read.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """A character model: reads text, learns to say what comes next, is judged on files it never read. Ctrl-C keeps what it has learnt.

    Example:  [bold]elman train text --seconds 30 ~/my/notes[/]
    """
    from rich.console import Console

    from elman.show.text import language_of
    from elman.train.corpus import read_paths, read_standard_library
    from elman.train.fit import FitSettings
    from elman.train.report import Report
    from elman.train.text import TextSettings, write_files

    if steps is None and seconds is None:
        seconds = SECONDS
    settings = TextSettings(
        FitSettings(steps, seconds, streams, chunk, learning_rate), hidden_size=hidden_size, num_layers=num_layers, seed=seed
    )
    report = Report(lang.value if lang else language_of())
    corpus = read_paths(paths) if paths else read_standard_library()
    out.mkdir(parents=True, exist_ok=True)
    # With --json, stdout is for the program alone.
    screen = Console(stderr=as_json, highlight=False)
    screen.print(report.opening(corpus))
    outcome = _train_watched(corpus, settings, report, screen)
    files = _draw(outcome, out) | write_files(outcome, out)
    screen.print(report.closing(outcome, files))
    if as_json:
        print_json(outcome.metrics() | {"files": {kind: str(path) for kind, path in files.items()}})


def _train_watched(corpus: Corpus, settings: TextSettings, report: Report, screen: Console) -> Outcome:
    """Train with a progress bar; the first Ctrl-C ends the training, a second one the program."""
    from rich.progress import Progress

    from elman.train.text import train_text

    with _until_interrupted() as interrupted, Progress(*report.progress_columns(), console=screen, expand=True) as progress:
        bar = progress.add_task(report.say("learning"), total=1.0)

        def after_step(step: Step, point: CurvePoint | None) -> bool:
            go_on = not interrupted.is_set()
            progress.update(bar, completed=step.fraction, speed=step.characters / step.seconds)
            if point:
                progress.update(bar, bits=point.held_out_bits)
            if step.fraction >= 1 or not go_on:
                progress.update(bar, description=report.say("measuring"))
            return go_on

        return train_text(corpus, settings, after_step)


def _draw(outcome: Outcome, folder: Path) -> dict[str, Path]:
    """The picture, where matplotlib is installed."""
    try:
        from elman.train.plot import draw
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return {}
    picture = folder / "picture.png"
    draw(outcome, picture)
    return {"picture": picture}


@contextmanager
def _until_interrupted() -> Iterator[Event]:
    """An event that the first Ctrl-C sets; the next one interrupts as usual."""
    interrupted = Event()

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
