"""torch.export, its files, and ahead-of-time compilation: any number of steps and sequences, the eager numbers to the bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import elman
from kinds import Kind, as_hx, as_states, every_kind
from native import required

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    required,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
OPTIONS = {"num_layers": 2, "bidirectional": True, "batch_first": True}
STEPS, BATCH = Dim("steps"), Dim("batch")


class _Call(nn.Module):
    """A call with everything, of a model's only network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, lengths: Tensor, reset: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole, _ = self.network(x)
        output, hx = self.network(x, as_hx(states), lengths=lengths, reset=reset)
        return whole, output, *as_states(hx)


def _draw(kind: Kind, steps: int, batch: int) -> tuple[Any, ...]:
    states = tuple(torch.randn(4, batch, width) for width in kind.widths(4))
    return torch.randn(batch, steps, 3), torch.randint(0, steps + 1, (batch,)), torch.rand(batch, steps) < 0.3, states


def _exported(kind: Kind) -> tuple[nn.Module, torch.export.ExportedProgram]:
    model = _Call(kind.build(elman, 3, 4, **OPTIONS)).eval()
    dynamic = {0: BATCH, 1: STEPS}
    shapes = {"x": dynamic, "lengths": {0: BATCH}, "reset": dynamic, "states": tuple({1: BATCH} for _ in kind.states)}
    return model, torch.export.export(model, _draw(kind, 5, 2), dynamic_shapes=shapes)


def _assert_same(got: Any, expected: Any) -> None:
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


@every_kind
def test_a_file_serves_any_number_of_steps_and_sequences(kind: Kind, tmp_path: Path) -> None:
    model, program = _exported(kind)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for sizes in ((7, 3), (1, 1), (5, 2), (4, 0)):
        arguments = _draw(kind, *sizes)
        _assert_same(loaded(*arguments), model(*arguments))


@pytest.mark.slow
def test_a_file_says_what_to_import(tmp_path: Path) -> None:
    gru = elman.GRU(3, 4).eval()
    torch.export.save(torch.export.export(gru, (torch.randn(5, 2, 3),)), tmp_path / "gru.pt2")
    torch.jit.save(torch.jit.trace(_Reset(gru), (torch.randn(5, 2, 3), torch.rand(5, 2) < 0.3)), tmp_path / "gru.pt")
    for load in ("torch.export.load(sys.argv[1] + '.pt2')", "torch.jit.load(sys.argv[1] + '.pt')"):
        command = [sys.executable, "-W", "ignore", "-c", f"import sys, torch; {load}", str(tmp_path / "gru")]
        process = subprocess.run(command, capture_output=True, text=True)
        assert process.returncode != 0
        assert "elman.scan" in process.stderr.replace("::", ".")
        command[4] = f"import sys, torch, elman; {load}"
        subprocess.run(command, check=True, capture_output=True)


class _Reset(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, reset: Tensor) -> Tensor:
        return self.network(x, reset=reset)[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles C++: no compiler here")
@every_kind
def test_ahead_of_time_compiled_it_is_the_eager_one(kind: Kind, tmp_path: Path) -> None:
    model, program = _exported(kind)
    file = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "compiled.pt2"))
    compiled = torch._inductor.aoti_load_package(file)
    for sizes in ((7, 3), (1, 1), (5, 2), (4, 0)):
        arguments = _draw(kind, *sizes)
        _assert_same(compiled(*arguments), model(*arguments))


class _Packing(nn.Module):
    """Packs what it is given, as models around torch.nn's layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = elman.GRU(3, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        output, _ = self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
        return nn.utils.rnn.pad_packed_sequence(output)[0]


def test_a_model_that_packs_is_told_to_pass_lengths() -> None:
    with pytest.raises(RuntimeError, match=r"torch\.export cannot record: give x and lengths= instead"):
        torch.export.export(_Packing(), (torch.randn(5, 2, 3), torch.tensor([5, 3])), strict=False)
