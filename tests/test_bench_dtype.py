"""The race in one dtype, on a GPU or the CPU: Elman beside torch.nn, accurate first. All but the last tests do without a GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import elman
from elman.bench import device, dtype_race, place
from elman.bench.agreement import WrongAnswerError
from elman.bench.case import GRIDS, Case
from elman.bench.device import Card, by_events
from elman.bench.dtype_race import BESIDE, DtypeRow, check, measure, network_of, relative_errors
from elman.bench.dtype_report import DtypeReport
from elman.bench.machine import describe
from elman.bench.measure import AGAIN
from elman.bench.place import Place
from elman.bench.race import Timing
from elman.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Callable

CASE = Case("gru", steps=6, batch=3, input_size=4, hidden_size=8)
FLOAT16, FLOAT32 = "torch float16", "elman float32"
CARD = Card("Abacus GPU", "9.0", 132, 2**37, "580.1", {"elman": "0", "torch": "2", "CUDA": "13.0", "cuDNN": "9.19.0"})

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def fake_stopwatch(run: Callable[[], object], calls: int, untimed: int) -> float:
    """Every call takes a millisecond."""
    run()
    return calls * 1e-3


HERE = Place(describe(("elman", "torch")), 1, 0.002, fake_stopwatch)
on_cpu = partial(measure, place=HERE, rounds=2)


# --- The stopwatch ----------------------------------------------------------------------------------------------------


def test_calls_are_timed_between_two_events_that_come_after_the_untimed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            did.append("record")

        def synchronize(self) -> None:
            did.append("wait")

        def elapsed_time(self, end: Event) -> float:
            assert end is not self
            return 12.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert by_events(lambda: did.append("call"), calls=3, untimed=2) == 0.012
    assert did == ["call", "call", "record", "call", "call", "call", "record", "wait"]


# --- What is raced ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [elman, nn])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_both_libraries_compute_the_same_numbers_from_the_same_rounded_weights(library: object, ragged: bool, mode: str, cell: str) -> None:
    case = Case(cell, steps=6, batch=3, input_size=4, hidden_size=8, num_layers=2, bidirectional=True)
    made = partial(network_of, case=case, mode=mode, dtype=torch.bfloat16, device="cpu", ragged=ragged)
    exact, network = made(nn, in_float64=True), made(library)
    assert all(torch.equal(a.double(), b) for a, b in zip(network.layer.parameters(), exact.layer.parameters(), strict=True))
    assert torch.equal(network.x.double(), exact.x)
    errors = relative_errors(network.arrays(case, mode), exact.arrays(case, mode))
    if mode == "infer":
        assert list(errors) == ["output", *case.finals]
    else:
        assert list(errors) == ["x", *(name for name, _ in network.layer.named_parameters())]
    assert max(errors.values()) < 0.03


def test_ragged_lengths_are_between_1_and_all_steps() -> None:
    lengths = network_of(nn, Case("rnn", 20, 500, 1, 1), "infer", torch.float32, "cpu", ragged=True).lengths
    assert lengths is not None
    assert sorted(set(lengths.tolist())) == list(range(1, 21))
    assert network_of(nn, CASE, "infer", torch.float32, "cpu").lengths is None


def test_the_grid_for_a_gpu_has_512_steps_of_every_size() -> None:
    assert {case.steps for case in GRIDS["long"]} == {512}
    assert {case.hidden_size for case in GRIDS["long"]} == {128, 256, 512, 768, 1024}
    assert all(case.input_size == case.hidden_size for case in GRIDS["long"])
    assert len(set(GRIDS["long"])) == len(GRIDS["long"]) == 17


# --- The race ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torch_takes_part_in_the_same_dtype_and_beside_bfloat16_a_third(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(dtype: str) -> list[set[str]]:
        return [set(row.timings) for row in on_cpu([(1, CASE), (2, CASE)], ["infer", "train"], dtype)]

    both = {"elman", "torch"}
    assert names("float32") == [both | {AGAIN}] * 2 + [both] * 2
    for dtype in ("bfloat16", "float16"):
        assert names(dtype) == [both | {AGAIN, FLOAT32}] * 2 + [both | {FLOAT32}] * 2
    monkeypatch.setitem(BESIDE, ("cpu", "bfloat16"), BESIDE["cuda", "bfloat16"])
    assert names("bfloat16") == [both | {AGAIN, FLOAT16}] * 2 + [both | {FLOAT16}] * 2


@pytest.mark.parametrize(("device", "library", "dtype"), [("cuda", nn, torch.float16), ("cpu", elman, torch.float32)])
def test_what_races_beside_bfloat16_is_what_its_name_says(device: str, library: object, dtype: torch.dtype) -> None:
    name, short, *contestant = BESIDE[device, "bfloat16"]
    assert contestant == [library, dtype]
    assert name == f"{'torch' if library is nn else 'elman'} {str(dtype).removeprefix('torch.')}"
    assert short == f"fp{torch.finfo(dtype).bits}"


def test_a_row_has_times_and_errors_of_both() -> None:
    (row,) = on_cpu([(7, CASE)], ["train"], "bfloat16", ragged=True)
    assert (row.number, row.case, row.mode) == (7, CASE, "train")
    assert row.timings["elman"].median == pytest.approx(1e-3)
    assert row.over_elman(FLOAT32) == pytest.approx(1.0)
    assert set(row.errors) == {"elman", "torch"}
    assert set(row.errors["elman"]) == {"x", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}
    assert 0 < row.error("elman") < 0.03


@pytest.mark.slow
def test_the_gradient_mode_of_whoever_reads_the_rows_is_left_alone() -> None:
    for _ in on_cpu([(1, CASE)], ["infer", "train"], "float32"):
        assert torch.is_grad_enabled()
    with torch.no_grad():
        for row in on_cpu([(1, CASE)], ["train"], "float32"):
            assert not torch.is_grad_enabled()
            assert "weight_hh_l0" in row.errors["elman"]


def test_an_error_is_measured_against_the_norm() -> None:
    expected = {"output": torch.tensor([3.0, 4.0], dtype=torch.float64), "h_n": torch.zeros(2, dtype=torch.float64)}
    got = {"output": torch.tensor([3.0, 4.5]), "h_n": torch.zeros(2)}
    assert relative_errors(got, expected) == {"output": 0.1, "h_n": 0.0}


@pytest.mark.parametrize(
    ("error", "torchs", "is_right"),
    [(0.03, 0.001, True), (0.032, 0.001, False), (0.1, 0.06, True), (0.1, 0.04, False), (float("nan"), 0.1, False)],
)
def test_an_error_may_be_a_few_roundings_or_twice_torchs(error: float, torchs: float, is_right: bool) -> None:
    if is_right:
        check("elman", {"output": error}, {"output": torchs}, torch.bfloat16)
    else:
        with pytest.raises(WrongAnswerError, match="elman: output has a relative error of"):
            check("elman", {"output": error}, {"output": torchs}, torch.bfloat16)


def test_an_overflow_of_torchs_allows_nothing() -> None:
    for torchs in (float("inf"), float("nan")):
        check("elman", {"output": 0.02}, {"output": torchs}, torch.bfloat16)
        for wrong in (0.04, float("inf"), float("nan")):
            with pytest.raises(WrongAnswerError):
                check("elman", {"output": wrong}, {"output": torchs}, torch.bfloat16)


def test_float32_may_be_as_wrong_as_tf32_only_where_torch_is_allowed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    check("elman", {"output": 3e-3}, {"output": 0.0}, torch.float32)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with pytest.raises(WrongAnswerError):
        check("elman", {"output": 3e-3}, {"output": 0.0}, torch.float32)


def test_a_wrong_answer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"output": 0.5}, {"output": 0.001}])
    monkeypatch.setattr(dtype_race, "relative_errors", lambda got, expected: next(answers))
    timed: list[object] = []
    with pytest.raises(WrongAnswerError, match=r"elman, gru 6,3,4,8, infer: output has a relative error of 0\.5, torch's of 0\.001"):
        list(measure([(1, CASE)], ["infer"], "bfloat16", replace(HERE, stopwatch=lambda *of: timed.append(of)), rounds=1))
    assert timed == []


# --- What is reported -------------------------------------------------------------------------------------------------


def report(complete: bool = True) -> DtypeReport:
    """In row 1 Elman is four times as fast as torch, in row 2 half as fast; torch in float16 twice as fast as torch."""
    rows = tuple(
        DtypeRow(
            number,
            CASE,
            "train",
            "cuda: bfloat16 on the GPU",
            {"torch": Timing((torchs,)), "elman": Timing((6e-6,)), FLOAT16: Timing((torchs / 2,))}
            | ({AGAIN: Timing((6.06e-6,))} if number == 1 else {}),
            peak=None,
            errors={"elman": {"x": 1e-3, "bias_hh_l0": 2e-3}, "torch": {"x": 3e-3, "bias_hh_l0": 2e-3}},
        )
        for number, torchs in ((1, 24e-6), (2, 3e-6))
    )
    return DtypeReport(Place(CARD, 0, 0.01, by_events), "bfloat16", True, True, 3, rows, complete)


def test_json_has_all_that_was_measured() -> None:
    facts = json.loads(json.dumps(report().to_dict()))
    assert set(facts) == {
        *("card", "device", "dtype", "ragged", "allow_tf32", "rounds", "min_block_s", "complete", "rows", "geometric_means"),
    }
    assert facts["card"]["name"] == "Abacus GPU"
    assert facts["card"]["versions"]["cuDNN"] == "9.19.0"
    assert facts["allow_tf32"] is True
    first, second = facts["rows"]
    assert set(first) == set(second)
    assert first["over_elman"] == pytest.approx({"torch": 4.0, FLOAT16: 2.0})
    assert first["seconds_per_step"]["elman"] == pytest.approx(1e-6)
    assert first["errors"]["torch"] == {"x": 3e-3, "bias_hh_l0": 2e-3}
    assert first["a_against_a"] == pytest.approx(1.01)
    assert second["a_against_a"] is None
    assert facts["geometric_means"]["gru"]["train"]["torch"] == pytest.approx(2**0.5)


def test_the_page_has_times_per_call_and_step_ratios_errors_and_the_card() -> None:
    text = report(complete=False).page().markdown()
    assert "| 1 | 6,3,4,8 | 6.0 | 1.00 | 24.0 | 12.0 | 0% | 4.00 | 2.00 | 2.0e-3 | 3.0e-3 |" in text
    assert "| **geometric mean** |  |  |  |  |  | **1.41** | **0.71** |" in text
    assert "Abacus GPU, compute capability 9.0, driver 580.1; timed by events on the GPU." in text
    assert "elman 0, torch 2, CUDA 13.0, cuDNN 9.19.0" in text
    assert "Elman against itself, GRU row 1, train: 1.010." in text
    assert "CUT SHORT" in text
    assert "Lengths uniform in 1..T" in text
    assert "CUT SHORT" not in report().page().markdown()
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert report().page().tables[0].red == (1,)


def test_a_gpu_is_one_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "require_cuda", lambda: None)
    monkeypatch.setattr(device, "describe", lambda: CARD)
    assert place.cuda() == Place(CARD, 0, device.BLOCK_S, by_events)
    assert place.cuda().device == "cuda"
    assert place.cuda().with_packages(["torch"]) == place.cuda()


# --- The command ------------------------------------------------------------------------------------------------------


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env={"LC_ALL": "C", "COLUMNS": "100"})
    return result.exit_code, result.stdout, result.stderr


@no_gpu
@pytest.mark.parametrize("command", ["bench", "tour"])
def test_without_a_gpu_it_is_one_line(command: str) -> None:
    code, out, error = invoke(command, "--device", "cuda")
    assert (code, out, error) == (2, "", "elman: --device: torch finds no CUDA device here\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--device", "cuda", "--threads", "2"], "--device cuda does not take --threads; leave it out"),
        (["--device", "cuda", "--against", "jax"], "--device cuda does not take --against; leave it out"),
        (["--device", "cuda", "--busy", "1"], "--device cuda does not take --busy; leave it out"),
        (["--device", "cuda", "--chart", "charts"], "--device cuda does not take --chart; leave it out"),
        (["--device", "cuda", "--grid", "sequences"], "--device cuda does not take --grid sequences; leave it out"),
        (["--device", "cuda", "--rows", "18"], "rows 1 to 17, got '18'"),
        (["--device", "cuda", "--dtype", "float16", "--rows", "9"], "rows 1 to 8, got '9'"),
        (["--device", "cuda", "--dtype", "float16", "--ragged", "--rows", "18"], "rows 1 to 17, got '18'"),
        (["--device", "cuda", "--dtype", "float64"], "'--dtype'"),
        (["--device", "tpu"], "'--device'"),
        (["--dtype", "float32"], "--dtype: on the CPU expected bfloat16 or float16 (without the option it is float32), got 'float32'"),
        (["--dtype", "bfloat16", "--threads", "1,2"], "--dtype bfloat16 does not take --threads 1,2; leave it out"),
        (["--dtype", "bfloat16", "--compiled"], "--dtype bfloat16 does not take --compiled; leave it out"),
        (["--dtype", "bfloat16", "--grid", "sequences"], "--dtype bfloat16 does not take --grid sequences; leave it out"),
        (["--dtype", "bfloat16", "--rows", "9"], "rows 1 to 8, got '9'"),
        (["--ragged"], "--ragged: needs --device cuda or --dtype; add one of them"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], complaint: str) -> None:
    code, _out, error = invoke("bench", *arguments)
    assert code == 2
    assert complaint in error
    assert error.count("\n") == 1


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU in the place of a GPU."""
    monkeypatch.setattr(place, "cuda", lambda: HERE)


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.slow
def test_the_command_prints_tables_or_json() -> None:
    here = ["bench", "--device", "cuda", "--dtype", "float32", "--grid", "sizes", "--rows", "1", "--cell", "rnn", "--quick", "--ragged"]
    code, out, error = invoke(*here)
    assert code == 0, error
    assert "RNN inference" in out
    assert "RNN training" in out
    assert "torch.backends.cudnn.allow_tf32 is True." in out
    code, out, error = invoke(*here, "--mode", "infer", "--json", "-")
    facts = json.loads(out)
    assert facts["complete"] is True
    assert (facts["dtype"], facts["ragged"], facts["rounds"]) == ("float32", True, 5)
    assert [(row["cell"], row["mode"], row["steps"]) for row in facts["rows"]] == [("rnn", "infer", 5)]
    assert "1/1  rnn 5,3,10,20 infer: torch/elman 1.00" in error


@pytest.mark.slow
def test_on_the_cpu_bfloat16_races_beside_float32() -> None:
    here = ["bench", "--dtype", "bfloat16", "--rows", "1", "--cell", "lstm", "--rounds", "1", "--quick", "--threads", "1"]
    code, out, error = invoke(*here, "--ragged")
    assert code == 0, error
    assert "fp32: Elman in float32." in out
    assert "threads of each library: 1." in out
    assert "vs fp32" in out
    code, out, error = invoke(*here, "--mode", "train", "--json", "-")
    assert code == 0, error
    facts = json.loads(out)
    assert (facts["device"], facts["dtype"], facts["threads"], facts["min_block_s"]) == ("cpu", "bfloat16", 1, 0.02)
    assert facts["machine"]["cores"] > 0
    (row,) = facts["rows"]
    assert set(row["over_elman"]) == {"torch", FLOAT32}
    assert all(timing["median"] > 0 for timing in row["seconds"].values())


# --- With a GPU -------------------------------------------------------------------------------------------------------


@needs_gpu
def test_it_races_on_the_gpu() -> None:
    code, out, error = invoke("bench", "--device", "cuda", "--grid", "sizes", "--rows", "1", "--rounds", "1", "--json", "-")
    assert code == 0, error
    facts = json.loads(out)
    assert len(facts["rows"]) == 6
    assert facts["card"]["name"] == torch.cuda.get_device_name()
    assert all(row["backend"].startswith("cuda") for row in facts["rows"])
    assert all(row["seconds"]["elman"]["median"] > 0 for row in facts["rows"])


@needs_gpu
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_tour_runs_on_the_gpu(cell: str) -> None:
    code, out, error = invoke("tour", "--device", "cuda", "--cell", cell, "--json")
    assert code == 0, error
    for network in json.loads(out)["networks"]:
        assert network["backend"].startswith("cuda")
        assert network["agreement"]["same_seed"]
        assert network["agreement"]["output"] < 1e-2
        assert all(end["holds"] for each in network["unrolled"] for end in each["ends"])
