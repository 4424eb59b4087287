"""Cells of one's own in ONNX, run by ONNX Runtime: any number of steps and sequences, from a module or from an exported program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import hardtanh, relu6

import elman
import own_cells
from elman import zoo
from elman.backends import registry
from elman.backends.program.lookup import program_of
from elman.backends.program.recorded_cell import RecordedCell
from elman.backends.reference import ReferenceBackend
from kinds import as_states
from native import required
from slow import slow
from test_onnx import _quiet
from test_onnx import pytestmark as of_exporters

if TYPE_CHECKING:
    from collections.abc import Callable

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = [required, *of_exporters]
__all__ = ["_quiet"]
ROUNDINGS = 2.0**-24 * 200  # of sums of some dozens of numbers of about 1, over some steps


class Powers(elman.Cell):
    """Clamps, exponents, the largest of the units, a number that is the same for all of them, and a state that is an argument."""

    gates = ("a", "b")
    states = ("h", "last", "same")
    parameters = {"tau": ""}  # noqa: RUF012

    def step(self, x: Any, r: Any, s: Any, p: Any) -> tuple[Tensor, ...]:
        v = torch.sigmoid(hardtanh(x.a + r.a) + relu6(x.a + r.a))
        largest = v.amax(-1, keepdim=True)
        h = torch.where(x.b > 0, v**3 / largest, v**0.5) - torch.softmax(r("b", v), -1)
        return h * torch.tanh(s.last + p.tau), s.h, s.same + largest - largest


class NoInputGates(elman.Cell):
    """What it reads beside its state comes with each step."""

    gates = ("a",)
    input_gates = ()
    step_inputs = {"u": "H"}  # noqa: RUF012

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Tensor:
        return torch.tanh(r.a + x.u)


class Network(nn.Module):
    """All of a call by place, as exporters take it."""

    def __init__(self, rnn: elman.Recurrent, names: tuple[str, ...]) -> None:
        super().__init__()
        self.rnn, self.names = rnn, names

    def forward(self, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        output, hx = self.rnn(x, **dict(zip(self.names, given, strict=True)))
        return output, *as_states(hx)


def arguments(rnn: elman.Recurrent, names: tuple[str, ...], steps: int, batch: int) -> tuple[Tensor, ...]:
    """x, and what is named. Behind a sequence's end there are no numbers."""
    sizes = (batch, steps) if rnn.batch_first else (steps, batch)
    lengths = torch.randint(0, steps + 1, (batch,))
    x = torch.randn(*sizes, rnn.input_size)
    if "lengths" in names:
        time = torch.arange(steps)
        over = time >= lengths[:, None] if rnn.batch_first else time[:, None] >= lengths
        x[over] = torch.nan
    made = {"lengths": lengths, "reset": torch.rand(sizes) < 0.3}
    made |= {name: torch.rand(*sizes, *([rnn.hidden_size] if size else [])) for name, size in rnn.stack.cell.step_inputs.items()}
    return x, *(made[name] for name in names)


def shapes(rnn: elman.Recurrent, names: tuple[str, ...]) -> tuple[Any, ...]:
    steps, batch = Dim("steps"), Dim("batch")
    laid = {0: batch, 1: steps} if rnn.batch_first else {0: steps, 1: batch}
    if not names:
        return (laid,)
    return laid, tuple({0: batch} if name == "lengths" else laid for name in names)


def exported(network: Network, example: tuple[Tensor, ...], from_program: bool) -> tuple[Any, set[str]]:
    dynamic = shapes(network.rnn, network.names)
    if from_program:
        made = torch.onnx.export(torch.export.export(network, example, dynamic_shapes=dynamic), dynamo=True, verbose=False)
    else:
        made = torch.onnx.export(network, example, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert made is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of initializers that it removes
    session = onnxruntime.InferenceSession(made.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, {node.op_type for node in made.model.graph}


CASES: dict[str, tuple[Callable[[], elman.Cell], dict[str, Any], tuple[str, ...], bool]] = {
    "two products": (own_cells.Gru2014, {}, (), False),
    "an exported program, both ways": (own_cells.Peephole, {"num_layers": 2, "bidirectional": True}, ("lengths",), True),
    "step inputs": (own_cells.Decay, {"batch_first": True, "num_layers": 2}, ("dt", "mask", "lengths"), False),
    "resets and learned states": (
        own_cells.Decay,
        {"bidirectional": True, "learn_initial_state": True},
        ("dt", "mask", "reset", "lengths"),
        True,
    ),
    "sums over the units": (zoo.LayerNormLSTM, {"bias": False, "bidirectional": True}, ("reset",), False),
    "no product": (own_cells.Independent, {"num_layers": 2}, ("lengths",), False),
    "powers, the largest, and copies": (Powers, {}, ("lengths",), False),
    "no part of x": (NoInputGates, {"num_layers": 2}, ("u",), True),
    "random numbers in training alone": (lambda: elman.Zoneout(own_cells.Gru(), h=0.1), {}, (), False),
}


@pytest.mark.parametrize("name", ["two products", *slow(*list(CASES)[1:])])
def test_onnx_runtime_gives_the_references_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, options, names, from_program = CASES[name]
    torch.manual_seed(0)
    rnn = elman.Recurrent(cell(), 3, 5, **options)
    network = Network(rnn, names).eval()
    session, nodes = exported(network, arguments(rnn, names, 4, 2), from_program)
    assert "Scan" in nodes
    monkeypatch.setattr(registry, "BACKENDS", (ReferenceBackend(),))
    exact = Network(rnn, names).double().eval()
    for steps, batch in ((1, 1), (9, 3)):
        given = arguments(rnn, names, steps, batch)
        read = {each.name for each in session.get_inputs()}  # not an x of which nothing is read
        places = ["x", *(f"given_{index}" for index in range(len(names)))]
        got = session.run(None, {place: number.numpy() for place, number in zip(places, given, strict=True) if place in read})
        with torch.no_grad():
            expected = exact(*(each.double() if each.is_floating_point() else each for each in given))
        for one, other in zip(map(torch.from_numpy, got), expected, strict=True):
            assert one.shape == other.shape
            assert float((one.double() - other).norm()) <= ROUNDINGS * max(1.0, float(other.norm()))


def test_random_numbers_are_not_exported() -> None:
    rnn = elman.Recurrent(elman.Zoneout(own_cells.Gru(), h=0.1), 3, 5).train()
    program = torch.export.export(Network(rnn, ()), (torch.randn(4, 2, 3),))
    with pytest.raises(Exception, match=r"cell draws random numbers: call eval\(\) before it is exported"):
        torch.onnx.export(program, dynamo=True, verbose=False)


@pytest.mark.parametrize("make", [*zoo.CELLS, own_cells.Decay, own_cells.Gru2014, Powers], ids=lambda make: make.__name__)
def test_a_recorded_cell_is_the_cell(make: Callable[[], elman.Cell]) -> None:
    torch.manual_seed(0)
    cell = make()
    mine = elman.Recurrent(cell, 3, 5, dtype=torch.float64).eval()
    program = program_of(cell, torch.float64, False, units=5)
    again = elman.Recurrent(RecordedCell(program), 3, 5, dtype=torch.float64).eval()
    for one, other in zip(again.parameters(), mine.parameters(), strict=True):
        one.data.copy_(other)
    given = {name: torch.rand(6, 2, *([5] if size else []), dtype=torch.float64) for name, size in cell.step_inputs.items()}
    renamed = dict(zip(again.stack.cell.step_inputs, given.values(), strict=True))
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    (found, last), (expected, end) = again(x, **renamed), mine(x, **given)
    for one, other in zip([found, *as_states(last)], [expected, *as_states(end)], strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
