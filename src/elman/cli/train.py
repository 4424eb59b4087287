"""`elman train`: networks of your own, on data of your own."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from elman.cli.frame import FAILED, INTERRUPTED, Command, Group, Lang, fail, in_words, interruptible, path, print_json, say
from elman.language import _, current, translated
from elman.train import LEARNING_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from rich.console import Console

    from elman.cells import Cell
    from elman.train.char_model import CharModel
    from elman.train.corpus import Corpus
    from elman.train.curve import CurvePoint
    from elman.train.fit import Step
    from elman.train.processes import OneProcess
    from elman.train.text import Outcome, TextSettings
    from elman.train.unfinished import Unfinished

app = typer.Typer(
    cls=Group,
    help="Train a network on data of your own.",
    epilog="Example:  elman train text --seconds 30",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_MODEL, _TRAINING, _OUTPUT = "Model", "Training", "Output"
SECONDS = 90.0


@app.callback()
def _train(lang: Lang = None) -> None:
    """Train a network on data of your own."""
    # Before torch loads: its threads spin between two operations, for milliseconds, which they take from others where the machine is busy.
    # Some tens of microseconds reach the next operation nearly as often. GNU's OpenMP, which torch brings along on Linux, reads this.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@app.command(cls=Command)
def text(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=path,
            metavar="[PATHS]...",
            help="Text files and folders; by default Python's standard library. In folders, hidden files, environments, caches, --out and "
            "the output of earlier runs are skipped.",
            show_default=False,
        ),
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option(
            help="A cell instead of the Elman network's: zoo.MGU, or your own, path/to/file.py:MyCell. The file is imported.",
            show_default=False,
            rich_help_panel=_MODEL,
        ),
    ] = None,
    hidden_size: Annotated[int, typer.Option(help="Hidden units of each layer.", min=1, rich_help_panel=_MODEL)] = 256,
    num_layers: Annotated[int, typer.Option("--num-layers", "--layers", help="Number of layers.", min=1, rich_help_panel=_MODEL)] = 2,
    seconds: Annotated[
        float | None,
        typer.Option(help=f"How long to train; by default {SECONDS:.0f} seconds.", show_default=False, rich_help_panel=_TRAINING),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Train for this many steps instead: the same seed then gives the same model.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    learning_rate: Annotated[
        float,
        typer.Option(
            "--learning-rate", "--lr", help="Peak learning rate of Adam. Lower it if training diverges.", rich_help_panel=_TRAINING
        ),
    ] = LEARNING_RATE,
    streams: Annotated[int, typer.Option(help="Batch size: parts of the text read side by side.", min=1, rich_help_panel=_TRAINING)] = 32,
    chunk: Annotated[
        int,
        typer.Option(
            help="Truncated backpropagation: the number of characters through which gradients flow back.", min=1, rich_help_panel=_TRAINING
        ),
    ] = 32,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of the weights, the cell's random numbers, and the sample.", min=0, max=2**63 - 1, rich_help_panel=_TRAINING
        ),
    ] = 0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the unfinished training in --out: repeat the original command and add --resume.",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    out: Annotated[
        Path,
        typer.Option(parser=path, metavar="FOLDER", help="Folder for picture, sample, metrics and weights.", rich_help_panel=_OUTPUT),
    ] = Path("demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.", rich_help_panel=_OUTPUT)] = False,
    lang: Lang = None,
) -> None:
    """Train a character model: it learns to predict the next character and is evaluated on held-out files. Ctrl-C keeps the model.

    Example:  [bold]elman train text --seconds 30 ~/my/notes[/]
    """
    from rich.console import Console

    from elman.train import processes, report
    from elman.train.corpus import read_paths, read_standard_library
    from elman.train.fit import FitSettings
    from elman.train.text import TextSettings

    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: expected a folder for the results, {out} is a file")
    for option, value in {"--steps": steps, "--seconds": seconds, "--learning-rate": learning_rate}.items():
        if value is not None and not 0 < value < inf:
            raise ValueError(f"{option}: expected a positive and finite number, got {value}")
    if steps is None and seconds is None:
        seconds = SECONDS
    elif steps is not None and seconds is not None:
        raise ValueError("--steps and --seconds cannot be combined")
    settings = TextSettings(
        FitSettings(steps, seconds, streams, chunk, learning_rate),
        hidden_size=hidden_size,
        num_layers=num_layers,
        cell=None if cell is None else _cell(cell, hidden_size),
        seed=seed,
    )
    corpus = read_paths(paths, out) if paths else read_standard_library()
    started = processes.started()
    if started.global_rank > 0:
        _take_part(corpus, settings, started)
        return
    # With --json, stdout is for the program alone.
    screen = Console(stderr=as_json, highlight=False)
    with interruptible():
        outcome, files = _train_and_keep(corpus, settings, out, screen, started, resume)
        failures = _write_the_rest(outcome, out, files)
        screen.print(report.closing(outcome, files, failures))
        if as_json:
            print_json(outcome.metrics() | {"files": {kind: str(path) for kind, path in files.items()}})
    if failures:
        output, error = next(iter(failures.items()))
        fail(_failed(report.name_of(output), error, files), FAILED)


def _take_part(corpus: Corpus, settings: TextSettings, started: OneProcess) -> None:
    """Train beside the first process, which says what there is to say and ends the training where it is interrupted."""
    from elman.train.fit import DivergedError
    from elman.train.text import take_part

    with _until_interrupted(), suppress(DivergedError):
        take_part(corpus, settings, started)


def _cell(name: str, hidden_size: int) -> Cell:
    """The cell of this name, of which a network reads characters and nothing beside them."""
    from elman.zoo.by_name import cell_by_name

    cell = cell_by_name(name, [hidden_size])
    if cell.step_inputs:
        raise ValueError(f"--cell: expected a cell without step inputs, got {name} with {', '.join(cell.step_inputs)}")
    return cell


def _train_and_keep(
    corpus: Corpus, settings: TextSettings, out: Path, screen: Console, started: OneProcess, resume: bool
) -> tuple[Outcome, dict[str, Path]]:
    """Train, and write the weights as soon as they are there. What ends it early leaves with a line that says where they are."""
    from elman.train import outputs, report, unfinished
    from elman.train.fit import DivergedError

    files: dict[str, Path] = {}
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    state = out / outputs.UNFINISHED

    def begin(model: CharModel) -> None:
        outputs.prepare(out, model)
        screen.print(report.opening(corpus, settings, started.world_size))

    def keep(model: CharModel) -> None:
        files["model"] = outputs.keep(model, out)

    def save(training: Unfinished) -> None:
        try:
            unfinished.save(training, state)
            files["unfinished"] = state
        except OSError as error:
            say(f"the training goes on, but --resume cannot continue it: {in_words(error)}")

    def finish() -> None:
        files.pop("unfinished", None)
        state.unlink(missing_ok=True)

    try:
        outcome = _train_watched(corpus, settings, screen, begin, keep, save, state if resume else None, started)
        if outcome.last.fraction >= 1:
            finish()
        return outcome, files
    except DivergedError as error:
        finish()
        if error.step == 1:
            message = _(
                "training cannot begin: the untrained network costs {bits} bits per character (random guessing gives 8); check the cell's "
                "step and its initial values",
                bits=f"{error.bits:.3g}",
            )
            fail(message, FAILED)
        saved = _("the weights of step {step} are in {path}", step=error.weights_step, path=files["model"])
        before, rate = f"{settings.fit.learning_rate:g}", f"{min(settings.fit.learning_rate / 10, LEARNING_RATE):g}"
        message = _(
            "training diverged at step {step} ({bits} bits per character; random guessing gives 8): lower --lr from {before} to {rate}; "
            "{saved}",
            step=error.step,
            bits=f"{error.bits:.3g}",
            before=before,
            rate=rate,
            saved=saved,
        )
        fail(message, FAILED)
    except KeyboardInterrupt:
        if "model" not in files:
            raise
        fail(_("interrupted; the weights are in {path}", path=files["model"]), INTERRUPTED)
    except BrokenPipeError:
        raise
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        if "model" not in files:
            raise
        fail(_failed(_("the evaluation"), error, files), FAILED)
    finally:
        if not files:
            outputs.discard(made)


def _failed(what: str, error: Exception, files: dict[str, Path]) -> str:
    words = translated(in_words(error))
    return _("training has finished, but {what} failed: {error}; the weights are in {path}", what=what, error=words, path=files["model"])


def _write_the_rest(outcome: Outcome, out: Path, files: dict[str, Path]) -> dict[str, Exception]:
    """Write sample, figures and picture, add them to ``files``, and return what failed: one does not take the others with it."""
    from elman._files import write
    from elman.train import outputs
    from elman.train.text import write_metrics

    failures: dict[str, Exception] = {}

    def attempt(kind: str, path: Path, write_to: Callable[[Path], object]) -> None:
        try:
            write_to(path)
        except Exception as error:  # whatever matplotlib may raise, too
            if not (isinstance(error, ModuleNotFoundError) and error.name == "matplotlib"):  # the report says that it is not installed
                failures[kind] = error
        else:
            files[kind] = path

    attempt("sample", out / outputs.SAMPLE, lambda path: write(path, outcome.written))
    attempt("metrics", out / outputs.METRICS, partial(write_metrics, outcome))
    attempt("picture", out / outputs.PICTURE, partial(_draw, outcome))
    return failures


def _train_watched(
    corpus: Corpus,
    settings: TextSettings,
    screen: Console,
    begin: Callable[[CharModel], object],
    keep: Callable[[CharModel], object],
    save: Callable[[Unfinished], object],
    resume: Path | None,
    started: OneProcess,
) -> Outcome:
    """Train with a progress bar; the first Ctrl-C or SIGTERM ends the training, a second one the program."""
    from rich.progress import Progress

    from elman.train import report
    from elman.train.text import train_text

    progress = Progress(*report.progress_columns(), console=screen, expand=True)
    with _until_interrupted() as interrupted, ExitStack() as shown:
        bar = progress.add_task(_("Training"), total=1.0)

        def after_step(step: Step, point: CurvePoint | None) -> bool:
            go_on = not interrupted.is_set()
            progress.update(bar, completed=step.fraction, speed=step.characters / step.seconds)
            if point:
                progress.update(bar, bits=point.held_out_bits)
            if step.fraction >= 1 or not go_on:
                progress.update(bar, description=_("Evaluating"))
            return go_on

        def before(model: CharModel) -> None:
            begin(model)
            shown.enter_context(progress)

        return train_text(corpus, settings, after_step, before=before, keep=keep, save=save, resume=resume, processes=started)


def _draw(outcome: Outcome, picture: Path) -> None:
    from elman.train.plot import chinese_font, draw

    draw(outcome, picture)
    if current() == "zh" and chinese_font() is None:
        say("the picture's labels are in English: no Chinese font is installed")


@contextmanager
def _until_interrupted() -> Iterator[Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the next one raises KeyboardInterrupt."""
    interrupted = Event()

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(number, signal.default_int_handler)

    with interruptible(note):
        yield interrupted
