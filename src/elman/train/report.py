"""What is printed about a training run in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from elman.language import _, translated
from elman.train.sample import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from elman.train.corpus import Corpus
    from elman.train.text import Outcome, TextSettings


def why_skipped(reason: str) -> str:
    """Why files were passed over."""
    return {
        "hidden": _("hidden"),
        "made": _("environments and caches"),
        "link": _("links to folders"),
        "training": _("written by an earlier training run"),
        "out": _("this run's --out"),
        "not_text": _("not UTF-8 text"),
        "unreadable": _("cannot be read"),
    }[reason]


def name_of(kind: str) -> str:
    """What a file that was written holds."""
    return {
        "picture": _("learning curve, and hidden units over a line of text"),
        "sample": _("sample text"),
        "metrics": _("all metrics"),
        "model": _("weights"),
        "unfinished": _("the unfinished training: the same command with --resume continues it"),
    }[kind]


_NAMED = 3
"""So many files of those left out are named."""


def opening(corpus: Corpus, settings: TextSettings, processes: int = 1) -> RenderableType:
    """What the model learns from, what was skipped, and which settings the text is too short for."""
    characters = {"train_characters": f"{len(corpus.train_text):,}", "held_out_characters": f"{len(corpus.held_out_text):,}"}
    if corpus.is_one_file:
        counts = _("one file: {train_characters} characters for training, its last {held_out_characters} held out", **characters)
    else:
        counts = _(
            "training files: {train} ({train_characters} characters); held-out files: {held_out} ({held_out_characters} characters)",
            train=len(corpus.train),
            held_out=len(corpus.held_out),
            **characters,
        )
    title = _("A character model learns {name}", name=translated(_name(corpus.name)))
    left_out = [Text(_left_out(corpus), "bright_black")] if corpus.left_out else []
    fit = settings.fit.within(len(corpus.train_text))
    clamped = (
        []
        if fit == settings.fit
        else [Text(_("The text is short: using --streams {streams} --chunk {chunk}.", streams=fit.streams, chunk=fit.chunk), "yellow")]
    )
    shared = (
        [Text(_("{processes} processes, {streams} streams each", processes=processes, streams=fit.streams // processes))]
        if processes > 1
        else []
    )
    stop = Text(_("Ctrl-C stops early and keeps what has been learned."), "bright_black")
    return Group(Text(f"\n{title}", "bold"), Text(counts), *left_out, *clamped, *shared, stop, "")


def _left_out(corpus: Corpus) -> str:
    """How much was passed over, and why; by name where there are few."""
    parts = []
    for reason, names in corpus.left_out.items():
        shown, more = ", ".join(map(_name, names[:_NAMED])), len(names) - _NAMED
        which = _("{names} and {more} more", names=shown, more=f"{more:,}", count=f"{len(names):,}") if more > 0 else shown
        parts.append(f"{which} ({why_skipped(reason)})")
    return f"{_('Skipped:')} {'; '.join(parts)}"


def progress_columns() -> list[ProgressColumn]:
    """The bar's columns: the task's fields are ``speed`` (characters per second) and ``bits``."""
    return [
        TextColumn("{task.description}"),
        BarColumn(None),
        TextColumn("{task.percentage:3.0f} %"),
        _Field("speed", f"{{:,.0f}} {_('char/s')}", "cyan"),
        _Field("bits", f"{{:.2f}} {_('bits/char')}", "yellow"),
        _Remaining(compact=True),
    ]


def closing(outcome: Outcome, files: Mapping[str, Path], failed: Collection[str] = ()) -> RenderableType:
    """What came of it: the files written, and whether the picture is missing for lack of matplotlib and not because it failed."""
    last = outcome.last
    metrics = outcome.metrics()
    trained = _(
        "{steps} steps, {characters} characters in {seconds} s: {speed} char/s. {backend}",
        steps=f"{last.number:,}",
        characters=f"{last.characters:,}",
        seconds=f"{last.seconds:.0f}",
        speed=f"{last.characters / last.seconds:,.0f}",
        backend=translated(metrics["training"]["backend"]),
    )
    corpus = outcome.corpus
    if corpus.is_one_file:
        compressed = _("gzip and xz compress only the held-out end of the file.")
    elif len(corpus.held_out) == 1:
        compressed = _("gzip and xz compress only the held-out file.")
    else:
        compressed = _("gzip and xz compress only the held-out files, joined into one.")
    fair = _(
        "{compressed} The network has read {characters} characters of the training text before; its {weights} of weights are not counted.",
        compressed=compressed,
        characters=f"{last.characters:,}",
        weights=_bytes(4 * metrics["model"]["parameters"]),
    )
    stopped = (
        [] if last.fraction >= 1 else [Text(_("Stopped early, after {percent} of the training.", percent=f"{last.fraction:.0%}"), "yellow")]
    )
    return Group(
        "",
        *stopped,
        Text(trained),
        Text(f"\n{_('On the held-out text')}", "bold"),
        Padding(_scores(outcome), (0, 0, 0, 2)),
        Padding(Text(fair, "bright_black"), (0, 0, 1, 2)),
        Panel(
            Text(printable(outcome.written).strip("\n")),
            title=_("What it writes"),
            title_align="left",
            box=box.ROUNDED,
            border_style="bright_black",
        ),
        Text(f"\n{_('Files written')}", "bold"),
        Padding(_files(files), (0, 0, 0, 2)),
        *(
            []
            if "picture" in files or "picture" in failed
            else [Text(_("No picture: it needs matplotlib. To install it: pip install matplotlib"), "yellow")]
        ),
    )


def _scores(outcome: Outcome) -> Table:
    table = Table(box=None, header_style="bright_black", padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(_("bits/char"), justify="right", no_wrap=True)
    table.add_column(_("compressed size"), justify="right", no_wrap=True)
    table.add_column(max_width=40)  # what a narrow terminal takes from
    characters = len(outcome.corpus.held_out_text)
    scores = {_("{name} (strongest)", name=name): bits for name, bits in outcome.compressed.items()}
    network = _("Elman network") if outcome.settings.cell is None else type(outcome.settings.cell).__name__
    scores[network] = outcome.bits
    longest = max(scores.values())
    for name, bits in sorted(scores.items(), key=lambda score: score[1]):
        ours = name == network
        bar = Bar(longest, 0, bits, color="green" if ours else "default")
        table.add_row(name, f"{bits:.3f}", _bytes(bits * characters / 8), bar, style="bold green" if ours else "")
    return table


def _files(files: Mapping[str, Path]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for kind, path in files.items():
        table.add_row(Text(str(path), "cyan"), Text(name_of(kind)))
    return table


class _Field(ProgressColumn):
    """One of the task's own fields, once it is known."""

    def __init__(self, field: str, form: str, style: str) -> None:
        super().__init__(Column(no_wrap=True))
        self._field, self._form, self._style = field, form, style

    def render(self, task: Task) -> Text:
        value = task.fields.get(self._field)
        return Text("" if value is None else self._form.format(value), self._style)


class _Remaining(TimeRemainingColumn):
    """The time that remains, and the word for it."""

    def render(self, task: Task) -> Text:
        time = super().render(task)
        return Text(_("{time} left", time=time), time.style)


def _name(path: str) -> str:
    """A file's name, which may hold what could steer a terminal."""
    return printable(path.encode(errors="surrogateescape"))


def _bytes(size: float) -> str:
    return f"{size:,.0f} B" if size < 10_000 else f"{size / 1000:,.0f} kB"
