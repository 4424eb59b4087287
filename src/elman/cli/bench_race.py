"""What `elman bench` races, how its results are gathered, and where they go."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from elman._files import to_json, write
from elman.cli.frame import STDOUT, interruptible, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import TypeVar

    from elman.bench.case import Case, Mode
    from elman.bench.contestants import Contestant
    from elman.bench.place import Place
    from elman.bench.render import Page

    Result = TypeVar("Result")


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
        elman = Elman()
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

    def place(self, on_gpu: bool) -> Place:
        """A GPU, or the CPU with its number of threads."""
        from elman.bench import place

        if on_gpu:
            return place.cuda()
        (threads,) = self.counts
        return place.cpu(threads, self.min_block_s)

    def in_dtype(self, cases: list[tuple[int, Case]], on_gpu: bool, dtype: str, ragged: bool, always_again: bool) -> None:
        """Elman and torch.nn on a GPU, or on the CPU in another dtype than float32."""
        import torch

        from elman.bench.dtype_race import DtypeRow, measure
        from elman.bench.dtype_report import DtypeReport

        place, total = self.place(on_gpu), len(cases) * len(self.modes)

        def results(rows: list[DtypeRow]) -> tuple[dict[str, Any], Page]:
            facts = dtype, ragged, torch.backends.cudnn.allow_tf32, self.rounds
            report = DtypeReport(place, *facts, tuple(rows), len(rows) == total)
            return report.to_dict(), report.page()

        self.run(
            measure(cases, self.modes, dtype, place, rounds=self.rounds, ragged=ragged, always_again=always_again),
            lambda row, number: f"{number}/{total}  {row.case.cell} {row.case} {row.mode}: torch/elman {row.over_elman('torch'):.2f}",
            results,
        )

    def sequences(self, cells: list[str]) -> None:
        """Ways to run sequences."""
        from elman.bench.machine import describe
        from elman.bench.render import sequences_page
        from elman.bench.sequences import Answer, measure, number_of_answers

        (threads,) = self.counts
        machine, total = describe(("elman", "torch")), number_of_answers(cells, self.modes)

        def results(answers: list[Answer]) -> tuple[dict[str, Any], Page]:
            complete, as_dicts = len(answers) == total, [answer.to_dict() for answer in answers]
            facts = {"machine": asdict(machine), "threads": threads, "rounds": self.rounds, "complete": complete, "answers": as_dicts}
            return facts, sequences_page(answers, machine, threads, self.rounds, complete=complete)

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
            complete, rows = len(found) == total, [row.to_dict() for row in found]
            facts = {"machine": asdict(machine), "threads": threads, "rounds": self.rounds, "complete": complete, "rows": rows}
            return facts, compiled_page(found, machine, threads, self.rounds, complete=complete)

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

        machine, total = describe(("elman", "torch")), len(cases) * len(self.modes) * len(self.counts)

        def results(rows: list[Row]) -> tuple[dict[str, Any], Page]:
            complete, as_dicts = len(rows) == total, [row.to_dict() for row in rows]
            facts = {"machine": asdict(machine), "rounds": self.rounds, "busy": self.busy, "complete": complete, "rows": as_dicts}
            return facts, threads_page(rows, machine, self.rounds, self.busy, complete=complete)

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
