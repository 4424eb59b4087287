"""`elman train text` in the processes of torchrun: the training of one, shared out."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import distributed
from typer.testing import CliRunner

import elman
import texts
from elman.cli.app import app
from elman.train.char_model import CharModel
from elman.train.checkpoint import load
from elman.train.corpus import Corpus, TextFile
from elman.train.fit import FitSettings, Progress, Step, fit, read_chunks
from elman.train.processes import OneProcess, started
from elman.train.text import TextSettings, take_part
from texts import CODE
from torchrun import ATTEMPTS, torchrun

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

SETTINGS = FitSettings(steps=2, streams=6, chunk=8)
CORPUS = Corpus.split("joins", [TextFile("one.py", CODE * 20)])
OPTIONS = ["--steps", "25", "--streams", "4", "--hidden-size", "16", "--json"]

# The command, which sends itself Ctrl-C's signal after nine steps.
STOPPED = """
import signal, sys
from elman.cli.app import app
from elman.train.curve import Recorder

real = Recorder.__call__


def interrupt(self, step):
    if step.number == 9:
        signal.raise_signal(signal.SIGINT)
    return real(self, step)


Recorder.__call__ = interrupt
app(sys.argv[1:])
"""

slow = [
    pytest.mark.slow,  # two processes that import torch and Fabric
    pytest.mark.skipif(not (distributed.is_available() and distributed.is_gloo_available()), reason="torch was built without gloo"),
]


class Alone(OneProcess):
    """One of three processes, without the other two; ``given`` is what the first one told it."""

    world_size = 3

    def __init__(self, rank: int, given: Any = None) -> None:
        self.global_rank, self._given = rank, given

    def broadcast(self, given: Any) -> Any:
        return self._given or given


def test_every_stream_is_one_processes_own() -> None:
    whole, *_ = next(read_chunks(CORPUS.train_text, 6, 8))
    seen = []
    for rank in range(3):
        model = CharModel(8, 16, 1)
        model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        fit(model, CORPUS.train_text, SETTINGS, processes=Alone(rank))
    assert torch.equal(torch.cat(seen[::3], 1), whole)  # two steps, and the last one's judgement, of each


def test_every_process_draws_numbers_of_its_own_and_goes_on_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []
    monkeypatch.setattr("elman.train.text.fit", lambda *_, **__: drawn.append(torch.rand(9)))
    settings = TextSettings(SETTINGS, 8, 16, 1)
    for rank in (1, 2, 1):
        take_part(CORPUS, settings, Alone(rank, given=(CORPUS.sha256, None)))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])

    generators = [torch.Generator().manual_seed(seed).get_state() for seed in range(2)]
    with torch.random.fork_rng(devices=[]):
        for rank in range(3):
            seen: list[torch.Tensor] = []
            model = CharModel(8, 16, 1)
            model.register_forward_pre_hook(lambda *_, seen=seen: seen.append(torch.get_rng_state()))
            weights = model.state_dict()
            start = Progress(Step(1, 48, 1.0, 0.5, 8.0), torch.zeros(1, 6, 16), weights, weights, {}, generators)
            before = torch.get_rng_state()
            fit(model, CORPUS.train_text, SETTINGS, processes=Alone(rank), start=start)
            assert torch.equal(seen[0], [*generators, before][rank])  # the third was not there


def test_streams_that_cannot_be_shared_equally_are_refused() -> None:
    with pytest.raises(ValueError, match="as many streams as 3 processes can share equally, got 4: let --streams be a multiple of 3"):
        fit(CharModel(8, 16, 1), CORPUS.train_text, FitSettings(steps=1, streams=4), processes=Alone(0))


def test_another_text_than_the_first_processes_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the same text in all 3 processes, got another here"):
        take_part(CORPUS, TextSettings(SETTINGS), Alone(1, given=("another text's digest", None)))


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")  # another launcher's
    assert started().world_size == 1


@pytest.mark.skipif(not distributed.is_available(), reason="torch was built without torch.distributed")
def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert started().world_size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"2 processes needs lightning-fabric, which is not installed: pip install lightning-fabric"):
        started()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, and where the trainings write."""
    path: Path = tmp_path_factory.mktemp("processes")
    texts.folder_of_files(path / "texts")
    return path


def in_two_processes(folder: Path, out: str, *options: str, attempts: int = ATTEMPTS) -> subprocess.CompletedProcess[str]:
    words = ["-m", "elman", *training(folder, out), *options]
    return torchrun("--standalone", "--nproc-per-node", "2", *words, attempts=attempts, LC_ALL="C")


def training(folder: Path, out: str) -> list[str]:
    return ["train", "text", str(folder / "texts"), *OPTIONS, "--out", str(folder / out)]


@pytest.fixture(scope="module")
def metrics(folder: Path) -> list[dict[str, Any]]:
    """What one process and what two print: the metrics, once."""
    pytest.importorskip("lightning_fabric")
    one, two = CliRunner().invoke(app, training(folder, "one")), in_two_processes(folder, "two")
    assert (one.exit_code, two.returncode) == (0, 0), two.stderr
    return [json.loads(run.stdout) for run in (one, two)]


class TestTwoProcesses:
    pytestmark = slow

    def test_reach_the_loss_of_one(self, metrics: list[dict[str, Any]]) -> None:
        one, two = metrics
        assert [each["training"]["processes"] for each in metrics] == [1, 2]
        assert one["training"]["characters"] == two["training"]["characters"]
        bits = [[(point["train_bits"], point["held_out_bits"]) for point in each["curve"]] for each in metrics]
        assert bits[0][0][0] - bits[0][-1][0] > 0.5  # it learns
        torch.testing.assert_close(torch.tensor(bits[1]), torch.tensor(bits[0]), rtol=1e-4, atol=0)

    def test_write_one_model_which_is_that_of_one(self, folder: Path, metrics: list[dict[str, Any]]) -> None:
        one, two = (load(folder / name / "model.safetensors").state_dict() for name in ("one", "two"))
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-4, msg=name)

    def test_go_on_together_and_one_goes_on_for_them(self, folder: Path, metrics: list[dict[str, Any]]) -> None:
        script = folder / "stopped.py"
        script.write_text(STOPPED)
        run = torchrun("--standalone", "--nproc-per-node", "2", str(script), *training(folder, "both"), LC_ALL="C")
        assert json.loads(run.stdout)["training"]["steps_done"] == 9, run.stderr
        shutil.copytree(folder / "both", folder / "alone")
        both = in_two_processes(folder, "both", "--resume", attempts=1)  # what has come to its end cannot be resumed once more
        assert not (folder / "both" / "training.safetensors").exists(), both.stderr
        alone = CliRunner().invoke(app, [*training(folder, "alone"), "--resume"])
        assert alone.exit_code == 0, alone.stderr
        whole, *resumed = (load(folder / name / "model.safetensors").state_dict() for name in ("two", "both", "alone"))
        for name, weight in whole.items():
            assert torch.equal(resumed[0][name], weight)
            torch.testing.assert_close(resumed[1][name], weight, rtol=0, atol=1e-4, msg=name)

    def test_go_on_with_the_random_numbers_of_both(self, folder: Path, metrics: list[dict[str, Any]]) -> None:
        cell, script = folder / "noisy.py", folder / "stopped.py"
        cell.write_text("import elman\nNoisy = elman.zoo.LeakyRNN(noise=0.5)\n")
        script.write_text(STOPPED)
        options = ["--cell", f"{cell}:Noisy"]
        whole = in_two_processes(folder, "noisy", *options)
        assert whole.returncode == 0, whole.stderr
        torchrun("--standalone", "--nproc-per-node", "2", str(script), *training(folder, "parts"), *options, LC_ALL="C")
        parts = in_two_processes(folder, "parts", *options, "--resume", attempts=1)
        assert not (folder / "parts" / "training.safetensors").exists(), parts.stderr
        both = [load(folder / name / "model.safetensors", elman.zoo.LeakyRNN(noise=0.5)).state_dict() for name in ("noisy", "parts")]
        assert all(torch.equal(weight, both[1][name]) for name, weight in both[0].items())

    def test_say_once_what_is_wrong(self, folder: Path, metrics: list[dict[str, Any]]) -> None:
        run = in_two_processes(folder, "refused", "--streams", "3")
        assert run.returncode != 0
        assert run.stderr.count("elman: ") == 1
        assert "let --streams be a multiple of 2" in run.stderr
        assert not (folder / "refused").exists()
