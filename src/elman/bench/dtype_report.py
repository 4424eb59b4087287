"""The results of a race in one dtype, as one JSON document and as tables with notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elman.bench.dtype_race import BESIDE, DtypeRow
from elman.bench.render import Page, Table, against_itself, doubts, microseconds, place_text, ratio_text, tf32_text, title_of, versions_text
from elman.bench.report import geometric_means, means_by_part, parts, raced
from elman.language import _, translated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from elman.bench.case import Mode
    from elman.bench.place import Place


@dataclass(frozen=True)
class DtypeReport:
    """The rows measured in one dtype, and all that one needs to judge them.

    Attributes:
        place: where it ran.
        dtype, ragged, rounds: what was measured, and how.
        allow_tf32: of ``torch.backends.cudnn``: how recurrent layers multiply float32, torch's and Elman's.
        complete: False if it was cut short.
    """

    place: Place
    dtype: str
    ragged: bool
    allow_tf32: bool
    rounds: int
    rows: tuple[DtypeRow, ...]
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """All of it, for ``json.dumps``; times in seconds."""
        return {
            **self.place.to_dict(),
            "dtype": self.dtype,
            "ragged": self.ragged,
            "allow_tf32": self.allow_tf32,
            "rounds": self.rounds,
            "min_block_s": self.place.block_s,
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
        tables = [self._table(*part, rows) for part, rows in parts(self.rows).items()]
        timings = (timing for row in self.rows for timing in row.timings.values())
        return Page(tables, list(self._notes()), doubts(timings, complete=self.complete))

    def _notes(self) -> Iterator[str]:
        yield _(
            "{dtype}. Medians of {rounds} interleaved rounds, in µs a call. ±: half the interquartile range, of what varied most. vs: the "
            "other's time over Elman's, median of the rounds' ratios.",
            dtype=self.dtype,
            rounds=self.rounds,
        )
        if (beside := BESIDE.get((self.place.device, self.dtype))) is not None:
            yield {"fp16": _("fp16: torch.nn in float16."), "fp32": _("fp32: Elman in float32.")}[beside.short]
        yield _(
            "step: Elman's µs a step. error: Elman's largest relative error, beside torch's; of the outputs, in training of the gradients."
        )
        if self.ragged:
            yield _("Lengths uniform in 1..T: Elman takes lengths=, torch packs, runs and unpacks.")
        if self.dtype == "float32":
            yield tf32_text(self.allow_tf32)
        yield _("T steps, B batch, I input features, H hidden units.")
        yield place_text(self.place)
        yield versions_text(self.place.machine)
        for backend in dict.fromkeys(row.backend for row in self.rows):
            yield _("Elman ran on {backend}.", backend=translated(backend))
        yield from against_itself(self.rows)

    def _table(self, cell: str, mode: Mode, rows: Sequence[DtypeRow]) -> Table:
        means = geometric_means(rows)
        beside = BESIDE.get((self.place.device, self.dtype))
        peers = {"torch": "torch"} if beside is None else {"torch": "torch", beside.name: beside.short}
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


def _line(row: DtypeRow, peers: Sequence[str]) -> list[str]:
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
