"""Two processes train to the weights of one, by torch's own DDP, FSDP2 and distributed checkpoints, over gloo on this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import elman
from torchrun import torchrun

STEPS, BATCH, PROCESSES = 7, 4, 2
KINDS, DTYPES, WAYS = ("GRU", "LSTM"), (torch.float64, torch.float32), ("ddp", "fsdp")

pytestmark = [
    pytest.mark.slow,  # two processes that import torch
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without torch.distributed or gloo"),
]


class Model(nn.Module):
    """A stack with all that may be particular about its parameters, and a head."""

    def __init__(self, kind: str, dtype: torch.dtype) -> None:
        super().__init__()
        options: dict[str, Any] = {"bidirectional": True, "learn_initial_state": True, "dtype": dtype}
        self.rnn = getattr(elman, kind)(3, 5, 2, **options)
        self.head = nn.Linear(10, 2, dtype=dtype)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        output: Tensor = self.head(self.rnn(x, lengths=lengths)[0])
        return output


def built(kind: str, dtype: torch.dtype) -> tuple[Model, tuple[Tensor, Tensor, Tensor]]:
    """The same model and the same global batch in every process: x, lengths, targets."""
    torch.manual_seed(0)
    model = Model(kind, dtype)
    return model, (torch.randn(STEPS, BATCH, 3, dtype=dtype), torch.tensor([7, 2, 0, 5]), torch.randn(STEPS, BATCH, 2, dtype=dtype))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor, Tensor], part: slice = slice(None)) -> None:
    """Three steps on a part of the global batch."""
    x, lengths, target = batch
    for _ in range(3):
        optimizer.zero_grad()
        (model(x[:, part], lengths[part]) - target[:, part]).square().mean().backward()
        optimizer.step()


def in_two_processes(rank: int, folder: Path) -> None:
    """What each process does: every kind, dtype and way; the first one writes down the weights, and what ran them."""
    from torch.distributed import checkpoint, fsdp
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=PROCESSES)
    part = slice(rank * BATCH // PROCESSES, (rank + 1) * BATCH // PROCESSES)
    found: dict[Any, Any] = {}
    for kind in KINDS:
        for dtype in DTYPES:
            for way in WAYS:
                model, batch = built(kind, dtype)
                ran: list[str] = []  # asked in the call, where the weights are whole
                model.rnn.register_forward_hook(lambda rnn, inputs, _, ran=ran: ran.append(elman.why(rnn, *inputs)))
                if way == "fsdp":
                    mesh = dist.device_mesh.init_device_mesh("cpu", (PROCESSES,))
                    fsdp.fully_shard(model.rnn, mesh=mesh)
                    fsdp.fully_shard(model, mesh=mesh)
                trained = DistributedDataParallel(model) if way == "ddp" else model
                optimizer = optimizer_of(trained)
                train(trained, optimizer, batch, part)
                weights = {name: p.full_tensor() if way == "fsdp" else p for name, p in model.named_parameters()}
                share = sum((p.to_local() if way == "fsdp" else p).numel() for p in model.rnn.parameters())
                asked = _asked_outside(model.rnn, batch[0]) if way == "fsdp" else ran[0]
                sharded = elman.why(model.rnn, batch[0]) if way == "fsdp" else ""
                found[kind, dtype, way] = {"weights": weights, "ran": {*ran, asked}, "share": share, "sharded": sharded}
                if way == "fsdp":
                    states = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
                    checkpoint.save(states, checkpoint_id=folder / f"{kind}-{dtype}")
    if rank == 0:
        torch.save(found, folder / "found")
    dist.destroy_process_group()
    # torch 2.13 aborts now and then as such a process ends ("terminate called without an active exception"), of its own modules alone, too.
    os._exit(0)


def _asked_outside(rnn: Any, x: Tensor) -> str:
    rnn.unshard()
    reason = elman.why(rnn, x)
    rnn.reshard()
    return reason


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two processes left what they found, and their checkpoints."""
    path = tmp_path_factory.mktemp("distributed")
    torch.multiprocessing.spawn(in_two_processes, (path,), nprocs=PROCESSES)
    return path


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[Any, Any]:
    numbers: dict[Any, Any] = torch.load(folder / "found", weights_only=False)
    return numbers


def assert_same(weights: dict[str, Tensor], model: nn.Module) -> None:
    expected = dict(model.named_parameters())
    assert weights.keys() == expected.keys()
    bound = {"rtol": 0.0, "atol": 1e-12} if next(iter(expected.values())).dtype == torch.float64 else {}  # else torch's for float32
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, msg=lambda reason, name=name: f"{name}: {reason}", **bound)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_to_the_weights_of_one(found: dict[Any, Any], kind: str, dtype: torch.dtype, way: str) -> None:
    model, batch = built(kind, dtype)
    train(model, optimizer_of(model), batch)
    assert_same(found[kind, dtype, way]["weights"], model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_they_run_on_the_backend_that_one_process_runs_on(found: dict[Any, Any], kind: str, way: str) -> None:
    model, batch = built(kind, torch.float32)
    assert found[kind, torch.float32, way]["ran"] == {elman.why(model.rnn, batch[0])}


@pytest.mark.parametrize("kind", KINDS)
def test_of_shards_it_says_that_a_call_has_whole_weights(found: dict[Any, Any], kind: str) -> None:
    told = found[kind, torch.float32, "fsdp"]["sharded"]
    assert "FSDP gathers them for a call: ask between rnn.unshard() and rnn.reshard()" in told


@pytest.mark.parametrize("kind", KINDS)
def test_fsdp_shares_the_weights_out(found: dict[Any, Any], kind: str) -> None:
    whole, share = (found[kind, torch.float32, way]["share"] for way in WAYS)
    assert whole / PROCESSES <= share < 0.7 * whole


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # one process loads
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_one_process_goes_on_from_what_two_have_saved(folder: Path, kind: str, dtype: torch.dtype) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model, batch = built(kind, dtype)
    optimizer = optimizer_of(model)
    train(model, optimizer, batch)
    train(model, optimizer, batch)
    torch.manual_seed(1)
    loaded = Model(kind, dtype)
    its_optimizer = optimizer_of(loaded)
    states = dict(zip(("model", "optimizer"), get_state_dict(loaded, its_optimizer), strict=True))
    checkpoint.load(states, checkpoint_id=folder / f"{kind}-{dtype}")
    set_state_dict(loaded, its_optimizer, model_state_dict=states["model"], optim_state_dict=states["optimizer"])
    train(loaded, its_optimizer, batch)
    assert_same(dict(loaded.named_parameters()), model)


def test_the_script_of_the_page_trains_two_processes_to_the_loss_of_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    [command] = re.findall(r"^torchrun (.* train\.py)$", page, re.MULTILINE)
    assert script.count("  # True True\n") == 1
    (tmp_path / "train.py").write_text(script.replace("print(", "print(f'{loss.item():.4f}', "), encoding="utf-8")
    one = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    two = torchrun(*command.split(), cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    assert one == two.stdout
    assert re.fullmatch(r"\d\.\d{4} True True\n", one)
