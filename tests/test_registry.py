"""Which backend runs a call, what elman.why says about it, and what elman.show_config shows."""

from __future__ import annotations

import platform
from contextlib import nullcontext
from typing import TYPE_CHECKING, NoReturn

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import elman
from elman.backends import BACKENDS, Backend, Operands, kernels, registry
from elman.backends.cuda import launcher
from elman.backends.reference import ReferenceBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor

COMPLEX = torch.complex64  # which no kernels run


class _Picky(Backend):
    """Takes no float64 and gives zeros."""

    name = "picky"

    def refuses(self, stack: object, operands: Operands) -> str | None:
        return "does not run float64" if operands.x.dtype is torch.float64 else None

    def run(self, stack: object, operands: Operands, batch_first: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        return torch.zeros(5, 3, 20), (torch.zeros(1, 3, 20),)

    def trace(self, *arguments: object) -> NoReturn:
        raise NotImplementedError


@pytest.fixture
def picky_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (_Picky(), ReferenceBackend()))


@pytest.mark.usefixtures("picky_first")
def test_the_first_backend_that_does_not_refuse_runs_the_call() -> None:
    rnn, x = elman.RNN(10, 20), torch.randn(5, 3, 10)
    assert not rnn(x)[0].any()
    assert elman.why(rnn, x) == "picky: float32 on the CPU"


@pytest.mark.usefixtures("picky_first")
def test_why_tells_what_the_backends_before_would_not_do() -> None:
    rnn, x = elman.RNN(10, 20).double(), torch.randn(5, 3, 10).double()
    assert rnn(x)[0].all()
    assert elman.why(rnn, x) == "reference: picky does not run float64"


def test_the_reference_comes_last_and_refuses_nothing() -> None:
    assert isinstance(BACKENDS[-1], ReferenceBackend)
    rnn = elman.RNN(2, 3, device="meta", dtype=torch.bfloat16)
    assert elman.why(rnn, torch.empty(4, 1, 2, device="meta", dtype=torch.bfloat16)).startswith("reference: native ")


def test_why_takes_what_the_module_takes() -> None:
    rnn, cell = elman.RNN(10, 20, batch_first=True, dtype=COMPLEX), elman.RNNCell(10, 20, dtype=COMPLEX)
    x = torch.randn(5, 3, 10, dtype=COMPLEX)
    for given in (x, x[0], pack_sequence([x[0], x[1, :2]])):
        assert elman.why(rnn, given).startswith("reference: native ")
    assert elman.why(rnn, x, torch.randn(1, 5, 20, dtype=COMPLEX)).startswith("reference")
    assert elman.why(cell, x[0], torch.randn(3, 20, dtype=COMPLEX)).startswith("reference")


class _Plain(elman.Cell):
    gates = ("n",)

    def step(self, x, r, s, p):
        return torch.tanh(x.n + r.n)


class _WithStepInputs(_Plain):
    step_inputs = {"dt": ""}  # noqa: RUF012

    def step(self, x, r, s, p):
        return s.h + x.dt * torch.tanh(x.n + r.n)


@pytest.mark.parametrize("context", [nullcontext, torch.autograd.forward_ad.dual_level], ids=["kernels", "reference"])
@pytest.mark.parametrize(
    "rnn",
    [elman.GRU(3, 4), *(elman.Recurrent(cell, 3, 4) for cell in (_Plain(), _WithStepInputs(), elman.Zoneout(_Plain(), h=0.5)))],
    ids=["built in", "own", "step inputs", "draws"],
)
def test_why_names_the_backend_that_runs(
    rnn: elman.Recurrent, context: Callable[[], AbstractContextManager[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, ran, run = torch.randn(5, 3, 3), [], ReferenceBackend.run
    monkeypatch.setattr(ReferenceBackend, "run", lambda *call: ran.append(call) or run(*call))
    padded = {name: torch.rand(5, 3) for name in rnn.stack.cell.step_inputs}
    alone = {name: value[:, 0] for name, value in padded.items()}
    packed = pack_sequence([x[:, 0], x[:4, 1], x[:2, 2]])
    reset = torch.rand(5, 3) < 0.3
    for given, call in (
        (x, padded),
        (x, {"lengths": [3, 5, 0], **padded}),
        (x, {"reset": reset, **padded}),
        (x[:, 0], alone),
        (packed, padded),
        (packed, {"reset": reset, **padded}),
    ):
        ran.clear()
        with context():
            rnn(given, **call)
            assert elman.why(rnn, given, **call).startswith("reference") == bool(ran)


def test_why_takes_the_lstms_two_states() -> None:
    lstm, x, state = elman.LSTM(10, 20, dtype=COMPLEX), torch.randn(5, 3, 10, dtype=COMPLEX), torch.randn(1, 3, 20, dtype=COMPLEX)
    assert elman.why(lstm, x, (state, state)).startswith("reference: native ")
    assert elman.why(elman.LSTMCell(10, 20, dtype=COMPLEX), x[0], (state[0], state[0])).startswith("reference: native ")
    with pytest.raises(TypeError, match=r"expected hx to be a tuple \(h_0, c_0\), got Tensor"):
        elman.why(lstm, x, state)


def test_why_names_the_instruction_set_of_the_native_backend(backend: Backend) -> None:
    reason = elman.why(elman.RNN(10, 20), torch.randn(5, 3, 10))
    assert reason == f"{backend.label}: float32 on the CPU"
    assert (" (" in reason) == (backend.name == "native")


def test_why_raises_what_the_call_would_raise() -> None:
    with pytest.raises(RuntimeError, match=r"expected input of 10 features \(input_size\), got 12"):
        elman.why(elman.RNN(10, 20), torch.randn(5, 3, 12))


def test_why_is_for_elmans_modules() -> None:
    with pytest.raises(TypeError, match=r"expected rnn to be one of Elman's layers or cells, got torch\.nn\.Linear$"):
        elman.why(torch.nn.Linear(10, 20), torch.randn(3, 10))  # type: ignore[arg-type]


def test_show_config_prints_and_returns_versions_instruction_sets_and_threads(capsys: pytest.CaptureFixture[str]) -> None:
    text = elman.show_config()
    assert capsys.readouterr().out == text + "\n"
    for fact in (
        elman.__version__,
        platform.python_version(),
        torch.__version__,
        "reference\n",
        f"{torch.get_num_threads()} ",
    ):
        assert fact in text
    assert "instruction set" in text


@pytest.mark.parametrize(("capability", "reason"), [((7, 5), "Tesla T4: the compute capability is below 8.0"), ((8, 0), None)])
def test_a_gpu_that_is_too_old_is_named(capability: tuple[int, int], reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "unavailable_reason", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    properties = launcher.DeviceProperties("Tesla T4", capability, 40, 65536, 65536, 4 << 20)
    monkeypatch.setattr(launcher, "device_properties", lambda index: properties)
    (cuda,) = [backend for backend in registry.BACKENDS if backend.name == "cuda"]
    assert cuda.unavailable_reason() == reason


def test_show_config_tells_which_backends_run_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in registry.BACKENDS:
        monkeypatch.setattr(type(backend), "unavailable_reason", lambda self: "it rains" if self.name in ("native", "cuda") else None)
    assert "backends         aten, reference\nnot available    native: it rains; cuda: it rains\n" in elman.show_config()
    monkeypatch.undo()
    unavailable = {backend.name for backend in registry.BACKENDS if backend.unavailable_reason() is not None}
    assert ("native" in unavailable) != kernels.available()
    assert ("cuda" in unavailable) == (launcher.unavailable_reason() is not None)
