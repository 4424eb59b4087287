"""Torch's settings for the process: as asked while a benchmark prepares and races, and afterwards as they were."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import torch
from typer.testing import CliRunner

from elman import zoo
from elman.bench import own_cells
from elman.bench.case import Case
from elman.bench.cell_contestants import CellCase, CompiledLoop, ElmanNetwork, Loop
from elman.bench.contestants import Elman, Torch
from elman.bench.device import Card
from elman.bench.place import Place
from elman.bench.race import Timing, by_clock
from elman.bench.settings import torch_set
from elman.cli.app import app
from native import required, threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CARD = Card("Abacus GPU", "9.0", 132, 2**37, "580.1", {"elman": "0", "torch": "2"})
ROW = "--cell rnn --rows 1"
COMMANDS = [
    pytest.param("measure", f"{ROW} --against torch --threads 3", {3}, id="libraries"),
    pytest.param("sequences", "--cell rnn --grid sequences --threads 3", {3}, id="sequences"),
    pytest.param("threads", f"{ROW} --threads 3,4", {3, 4}, id="threads", marks=required),
    pytest.param("compiled", f"{ROW} --compiled --threads 3", {3}, id="compiled", marks=[required, pytest.mark.slow]),
    pytest.param("own_cells", "--cell zoo.MGU --against loop --threads 3", {3}, id="cells"),
    pytest.param("dtype_race", f"{ROW} --dtype bfloat16 --threads 3", {3}, id="dtype"),
]


@pytest.fixture(autouse=True)
def _before() -> Iterator[None]:
    """Two threads, and no TF32."""
    matmul = torch.backends.cuda.matmul
    allowed, matmul.allow_tf32 = matmul.allow_tf32, False
    with threads(2):
        yield
    matmul.allow_tf32 = allowed


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The numbers of threads with which parameters and data are made and calls run; all calls take a second."""
    found: set[int] = set()
    forward, arrays = torch.nn.Module.__call__, Case.arrays

    def noted(do: Callable[..., Any]) -> Callable[..., Any]:
        def run(*of: Any, **named: Any) -> Any:
            found.add(torch.get_num_threads())
            return do(*of, **named)

        return run

    def race(jobs: Mapping[str, Callable[[], object]], **_: object) -> dict[str, Timing]:
        for job in jobs.values():
            noted(job)()
        return {name: Timing((1.0,)) for name in jobs}

    monkeypatch.setattr(torch.nn.Module, "__call__", noted(forward))
    monkeypatch.setattr(Case, "arrays", noted(arrays))
    monkeypatch.setattr(CellCase, "arrays", noted(CellCase.arrays))
    for module in ("measure", "sequences", "threads", "compiled", "own_cells", "dtype_race"):
        monkeypatch.setattr(import_module(f"elman.bench.{module}"), "race", race)
    monkeypatch.setitem(own_cells.SHAPES, "cpu", ((2, 16, 4),))
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # from torch's compiler
@pytest.mark.parametrize(("module", "options", "counts"), COMMANDS)
def test_threads_are_as_asked_while_it_runs(module: str, options: str, counts: set[int], seen: set[int]) -> None:
    result = CliRunner().invoke(app, ["bench", *options.split(), "--rounds", "1", "--mode", "train", "--json", "-"])
    assert result.exit_code == 0, result.output
    assert seen == counts
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("seen")
@pytest.mark.parametrize(("module", "options", "counts"), [each for each in COMMANDS if each.id != "compiled"])
def test_whoever_reads_the_rows_has_his_own_threads(module: str, options: str, counts: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    measure, between = import_module(f"elman.bench.{module}").measure, []

    def read(*of: Any, **named: Any) -> Iterator[Any]:
        for row in measure(*of, **named):
            between.append(torch.get_num_threads())
            yield row

    monkeypatch.setattr(f"elman.bench.{module}.measure", read)
    assert CliRunner().invoke(app, ["bench", *options.split(), "--rounds", "1", "--json", "-"]).exit_code == 0
    assert set(between) == {2}


def test_contestants_set_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for device in ("cpu", "cuda"):
        for make in (ElmanNetwork, Loop, CompiledLoop):
            make(device)
    for make in (Torch, Elman):
        make()
    assert torch.get_num_threads() == 2
    assert torch.backends.cuda.matmul.allow_tf32 is False


def test_settings_come_back_after_an_error() -> None:
    with suppress(KeyboardInterrupt), torch_set(threads=3, matmul_tf32=True):
        assert (torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32) == (3, True)
        raise KeyboardInterrupt
    assert (torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32) == (2, False)
    with torch_set(threads=0):
        assert (torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32) == (2, False)


def test_on_a_gpu_cells_are_multiplied_as_recurrent_layers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contestants are on the CPU, the place says that it is a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setitem(own_cells.SHAPES, "cuda", ((2, 16, 4),))
    settings = []

    def race(jobs: Mapping[str, object], **_: object) -> dict[str, Timing]:
        settings.append((torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32))
        return {name: Timing((1.0,)) for name in jobs}

    monkeypatch.setattr(own_cells, "race", race)
    place = Place(CARD, 0, 0.001, by_clock())
    for _ in own_cells.measure([zoo.MGU()], ["infer"], ElmanNetwork(), [Loop()], place, rounds=1):
        assert torch.backends.cuda.matmul.allow_tf32 is False
    assert settings == [(2, True)]
