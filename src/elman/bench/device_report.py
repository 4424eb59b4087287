"""The results of a race on a GPU, as one JSON document and as tables with notes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from elman.bench.device_race import FLOAT16, DeviceRow
from elman.bench.render import Page, Table, against_itself, doubts, microseconds, ratio_text, title_of, versions_text
from elman.bench.report import geometric_means, means_by_part, parts, raced
from elman.language import _, translated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from elman.bench.case import Mode
    from elman.bench.device import Card


@dataclass(frozen=True)
class DeviceReport:
    """The rows measured on a GPU, and all that one needs to judge them.

    Attributes:
        dtype, ragged, rounds, min_block_s: what was measured, and how.
        allow_tf32: of ``torch.backends.cudnn``: how recurrent layers multiply float32, torch's and Elman's.
        complete: False if it was cut short.
    """

    card: Card
    dtype: str
    ragged: bool
    allow_tf32: bool
    rounds: int
    min_block_s: float
    rows: tuple[DeviceRow, ...]
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """All of it, for ``json.dumps``; times in seconds."""
        return {
            "card": asdict(self.card),
            "device": "cuda",
            "dtype": self.dtype,
            "ragged": self.ragged,
            "allow_tf32": self.allow_tf32,
            "rounds": self.rounds,
            "min_block_s": self.min_block_s,
            "complete": self.complete,
            "rows": [
                {
                    "row": row.number,
                    **raced(row),
                    "seconds_per_step": {name: timing.median / row.case.steps for name, timing in row.timings.items()},
                    "errors": {name: dict(errors) for name, errors in row.errors.items()},
                }
                for row in self.rows
            ],
            "geometric_means": means_by_part(self.rows),
        }

    def page(self) -> Page:
        """A table for each cell and mode, and notes."""
        tables = [_table(*part, rows) for part, rows in parts(self.rows).items()]
        timings = (timing for row in self.rows for timing in row.timings.values())
        return Page(tables, list(self._notes()), doubts(timings, complete=self.complete))

    def _notes(self) -> Iterator[str]:
        yield _(
            "{dtype}. Medians of {rounds} interleaved rounds, in µs a call, timed by events on the GPU. ±: half the interquartile range, "
            "of the library that varied most. vs: torch's time over Elman's, median of the rounds' ratios.",
            dtype=self.dtype,
            rounds=self.rounds,
        )
        if any(FLOAT16 in row.timings for row in self.rows):
            yield _("fp16: torch.nn in float16.")
        yield _(
            "step: Elman's µs a step. error: Elman's largest relative error, beside torch's; of the outputs, in training of the gradients."
        )
        if self.ragged:
            yield _("Lengths uniform in 1..T: Elman takes lengths=, torch packs, runs and unpacks.")
        if self.dtype == "float32":
            yield _("torch.backends.cudnn.allow_tf32 is {allowed}.", allowed=self.allow_tf32)
        yield _("T steps, B batch, I input features, H hidden units.")
        card = self.card
        yield _(
            "{card}, compute capability {capability}, driver {driver}.",
            card=card.name,
            capability=card.capability,
            driver=card.driver or _("unknown"),
        )
        yield versions_text(card)
        for backend in dict.fromkeys(row.backend for row in self.rows):
            yield _("Elman ran on {backend}.", backend=translated(backend))
        yield from against_itself(self.rows)


def _table(cell: str, mode: Mode, rows: Sequence[DeviceRow]) -> Table:
    means = geometric_means(rows)
    peers = {name: short for name, short in {"torch": "torch", FLOAT16: "fp16"}.items() if name in means}
    header = ["", "T,B,I,H", "elman", _("step"), *peers.values(), "±", *(_("vs {name}", name=short) for short in peers.values())]
    last = ["", _("geometric mean"), *[""] * (3 + len(peers)), *(ratio_text(means[name]) for name in peers), "", ""]
    behind = tuple(index for index, row in enumerate(rows) if row.over_elman("torch") <= 1)
    return Table(
        title=title_of(cell, mode),
        header=[*header, _("error"), _("torch's")],
        body=[*(_line(row, list(peers)) for row in rows), last],
        words=(1,),
        red=behind,
        sums_up=True,
    )


def _line(row: DeviceRow, peers: Sequence[str]) -> list[str]:
    per_step = row.timings["elman"].median / row.case.steps * 1e6
    return [
        str(row.number),
        str(row.case),
        microseconds(row.timings["elman"]),
        f"{per_step:.2f}",
        *(microseconds(row.timings[name]) for name in peers),
        f"{max(row.timings[name].spread for name in ('elman', *peers)):.0%}",
        *(ratio_text(row.over_elman(name)) for name in peers),
        *(_exponent(row.error(name)) for name in ("elman", "torch")),
    ]


def _exponent(value: float) -> str:
    """A small number in few characters.

    >>> _exponent(0.00123)
    '1.2e-3'
    """
    return f"{value:.1e}".replace("e-0", "e-")
