"""Weights from ONNX: the module computes what ONNX Runtime computes of the node, and what PyTorch exported comes back bit by bit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import elman
from elman.weights import onnx_graph
from slow import slow

if TYPE_CHECKING:
    from pathlib import Path

T, B, I, H = 5, 2, 3, 4  # noqa: E741
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
OPTIONS = {"GRU": {"linear_before_reset": 1}}

Arrays = dict[str, np.ndarray]


def numbers(kind: str, directions: int, bias: bool = True, inputs: int = I) -> Arrays:
    generator = np.random.default_rng(0)
    rows = GATES[kind] * H
    shapes = {"W": (directions, rows, inputs), "R": (directions, rows, H)} | ({"B": (directions, 2 * rows)} if bias else {})
    return {name: generator.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def model(kind: str, arrays: Arrays, names: list[str] | None = None, **attributes: Any) -> onnx.ModelProto:
    """A model of one node, called "it"."""
    node = helper.make_node(kind, names or ["X", *arrays], ["Y"], name="it", **(OPTIONS.get(kind, {}) | {"hidden_size": H} | attributes))
    return of([node], arrays)


def of(nodes: list[onnx.NodeProto], arrays: Arrays) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, ["T", "B", I])
    y = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "model", [x], [y], [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def x() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (T, B, I)).astype(np.float32)


def run(proto: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"X": x(), **inputs})[0]


def side_by_side(output: np.ndarray) -> np.ndarray:
    """ONNX's (T, D, B, H) as torch's (T, B, D·H)."""
    return output.transpose(0, 2, 1, 3).reshape(T, B, -1)


def assert_same(module: nn.Module, expected: np.ndarray) -> None:
    """Two float32 runs of a short sequence, whose values are at most 1, but for relu's."""
    np.testing.assert_allclose(module(torch.from_numpy(x()))[0].detach(), expected, rtol=2e-6, atol=1e-6)


# --- One node ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_node_makes_a_module_that_computes_the_same(kind: str, direction: str, bias: bool) -> None:
    proto = model(kind, numbers(kind, 1 + (direction == "bidirectional"), bias), direction=direction)
    module = elman.from_onnx(proto)
    assert type(module) is getattr(elman, kind)
    assert (module.bias, module.bidirectional, module.batch_first) == (bias, direction == "bidirectional", False)
    assert_same(module, side_by_side(run(proto)))


def test_a_relu_network_has_its_activation() -> None:
    proto = model("RNN", numbers("RNN", 2), direction="bidirectional", activations=["Relu", "Relu"])
    module = elman.from_onnx(proto)
    assert module.nonlinearity == "relu"
    assert_same(module, side_by_side(run(proto)))


def test_a_node_that_runs_in_reverse_runs_forward_on_a_reversed_input() -> None:
    proto = model("GRU", numbers("GRU", 1), direction="reverse")
    module = elman.from_onnx(proto, reverse_as_forward=True)
    output = module(torch.from_numpy(x()).flip(0))[0].flip(0)
    np.testing.assert_allclose(output.detach(), side_by_side(run(proto)), rtol=0, atol=1e-6)


def test_layout_1_is_batch_first() -> None:
    assert elman.from_onnx(model("LSTM", numbers("LSTM", 1), layout=1)).batch_first is True


def test_an_initial_state_of_the_model_becomes_a_learned_one() -> None:
    states = {"h": np.full((1, B, H), 0.5, np.float32), "c": np.full((1, 1, H), -0.5, np.float32)}
    arrays = {**numbers("LSTM", 1), "h": states["h"][:, :1], "c": states["c"], "size": np.array([1, B, H])}
    expand = [helper.make_node("Expand", [state, "size"], [f"{state}_all"]) for state in "hc"]
    names = ["X", "W", "R", "B", "", "h_all", "c_all"]
    repeated = of([*expand, helper.make_node("LSTM", names, ["Y"], name="it", hidden_size=H)], arrays)
    assert elman.from_onnx(repeated).h_0.tolist() == [[0.5] * H]
    several = numbers("GRU", 1) | {"h": np.arange(B * H, dtype=np.float32).reshape(1, B, H)}
    with pytest.raises(ValueError, match=r"expected initial_h of it to be one state for all sequences, got an array of shape \(1, 2, 4\)"):
        elman.from_onnx(model("GRU", several, ["X", "W", "R", "B", "", "h"]))
    by_batch = [
        helper.make_node("Shape", ["X"], ["batch"], start=1, end=2),
        helper.make_node("Concat", ["one", "batch", "width"], ["size"], axis=0),
    ]
    arrays |= {"one": np.array([1]), "width": np.array([H])}
    del arrays["size"]
    proto = of([*by_batch, *expand, helper.make_node("LSTM", names, ["Y"], name="it", hidden_size=H)], arrays)
    module = elman.from_onnx(proto)
    assert module.h_0.tolist() == [[0.5] * H]
    assert module.c_0.tolist() == [[-0.5] * H]
    assert_same(module, side_by_side(run(proto)))


def test_states_of_zero_and_of_the_caller_stay_out_of_the_module() -> None:
    arrays = numbers("GRU", 1)
    zero = model("GRU", arrays | {"h": np.zeros((1, B, H), np.float32)}, ["X", "W", "R", "B", "", "h"])
    caller = model("GRU", arrays, ["X", "W", "R", "B", "lengths", "h"])
    assert not elman.from_onnx(zero).learn_initial_state
    assert not elman.from_onnx(caller).learn_initial_state


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_module_has_the_models_dtype(dtype: type) -> None:
    arrays = {name: array.astype(dtype) for name, array in numbers("RNN", 1).items()}
    weight = elman.from_onnx(model("RNN", arrays)).weight_ih_l0
    np.testing.assert_array_equal(weight.detach(), arrays["W"][0])


# --- Several nodes ----------------------------------------------------------------------------------------------------


def stack(kind: str, directions: int, reshape: list[int] | None = None) -> onnx.ModelProto:
    """Two layers, the lower one's output laid out for the upper one as exporters do it."""
    first, second = numbers(kind, directions), numbers(kind, directions, inputs=directions * H)
    arrays = {f"{name}0": array for name, array in first.items()} | {f"{name}1": array for name, array in second.items()}
    attributes = OPTIONS.get(kind, {}) | {"hidden_size": H, "direction": "bidirectional" if directions == 2 else "forward"}
    if directions == 2:
        arrays["shape"] = np.array(reshape or [0, 0, -1])
        between = [
            helper.make_node("Transpose", ["Y0"], ["t"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["t", "shape"], ["X1"]),
        ]
    else:
        arrays["axes"] = np.array([1])
        between = [helper.make_node("Squeeze", ["Y0", "axes"], ["t"]), helper.make_node("Identity", ["t"], ["X1"])]
    below = helper.make_node(kind, ["X", "W0", "R0", "B0"], ["Y0"], name="below", **attributes)
    above = helper.make_node(kind, ["X1", "W1", "R1", "B1"], ["Y1"], **attributes)
    return of([below, *between, above], arrays)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("directions", [1, 2])
def test_nodes_that_follow_one_another_become_one_module(kind: str, directions: int) -> None:
    proto = stack(kind, directions)
    module = elman.from_onnx(proto)
    assert module.num_layers == 2
    assert_same(module, side_by_side(run(proto)))


def test_nodes_are_chosen_by_name_or_output() -> None:
    proto = stack("LSTM", 1)
    assert elman.from_onnx(proto, "below").input_size == I
    assert elman.from_onnx(proto, "Y1").input_size == H
    assert elman.from_onnx(proto, ["below", "Y1"]).num_layers == 2
    for name in ("above", "", 3):
        with pytest.raises(ValueError, match=r"expected node to name one of the recurrent nodes, \['below', 'Y1'\], got"):
            elman.from_onnx(proto, [name])
    with pytest.raises(ValueError, match="got no name"):
        elman.from_onnx(proto, [])


def test_nodes_that_do_not_follow_one_another_are_not_stacked() -> None:
    """The upper one takes the lower one's output in another way, or with something done to it."""
    across = stack("GRU", 2)
    across.graph.node[1].attribute[0].ints[:] = [2, 0, 1, 3]
    without = stack("GRU", 2)
    without.graph.node[1].attribute[0].ints[:] = [0, 1, 2, 3]
    changed = stack("GRU", 1)
    changed.graph.node[2].op_type = "Tanh"
    last = stack("GRU", 1)
    last.graph.node[0].output.insert(0, "")
    ring = stack("GRU", 1)
    ring.graph.node[1].input[0] = "X1"
    for proto in (across, without, changed, last, ring):
        with pytest.raises(ValueError, match=r"expected one recurrent node, or several that follow one another, got .*: choose with node="):
            elman.from_onnx(proto)


# --- What PyTorch exports ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(("layers", "bidirectional", "bias"), [(1, False, True), (2, False, False), (1, True, False), (2, True, True)])
def test_what_torch_exports_comes_back_bit_by_bit(kind: str, layers: int, bidirectional: bool, bias: bool, tmp_path: Path) -> None:
    theirs = getattr(nn, kind)(I, H, num_layers=layers, bidirectional=bidirectional, bias=bias)
    torch.onnx.export(theirs, (torch.from_numpy(x()),), tmp_path / "it.onnx", dynamo=False, input_names=["X"], dynamic_axes={"X": [0, 1]})
    ours = elman.from_onnx(tmp_path / "it.onnx")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])  # an RNN it writes as other operators
def test_what_torchs_newer_exporter_writes_comes_back_too(kind: str, tmp_path: Path) -> None:
    """With the weights in a file beside the model's."""
    theirs = getattr(nn, kind)(I, H, num_layers=2, bidirectional=True)
    path = tmp_path / "it.onnx"
    torch.onnx.export(theirs, (torch.from_numpy(x()),), path, dynamo=True, verbose=False, external_data=True)
    ours = elman.from_onnx(path)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("newer", [False, *slow(True)], ids=["older", "newer"])
@pytest.mark.parametrize("kind", GATES)
def test_what_elman_exports_comes_back_too(kind: str, newer: bool, tmp_path: Path) -> None:
    """With the initial states that it has learned, which the model repeats for the batch."""
    network = getattr(elman, kind)(I, H, num_layers=2, bidirectional=True, learn_initial_state=True)
    for name in network._learned:
        nn.init.normal_(getattr(network, name))
    path = tmp_path / "it.onnx"
    shapes = {"dynamic_shapes": ({0: torch.export.Dim("T"), 1: torch.export.Dim("B")},)}
    sizes = {"input_names": ["X"], "dynamic_axes": {"X": [0, 1]}}
    torch.onnx.export(network, (torch.from_numpy(x()),), path, dynamo=newer, verbose=False, **(shapes if newer else sizes))
    again = elman.from_onnx(path)
    assert again.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "attributes", "said"),
    [
        (
            "GRU",
            {"linear_before_reset": 0},
            "it to be a GRU with linear_before_reset=1, got 0: its reset gate multiplies the state",
        ),
        ("LSTM", {"clip": 3.0}, "expected it without clip, .* got clip=3.0"),
        ("LSTM", {"input_forget": 1}, "expected it to have input_forget=0"),
        (
            "LSTM",
            {"activations": ["HardSigmoid", "Tanh", "Tanh"]},
            r"the activations \['sigmoid', 'tanh', 'tanh'\], .* \['hardsigmoid'",
        ),
        ("RNN", {"activations": ["Elu"]}, r"expected it to have the activation Tanh or Relu in all directions, got \['elu'\]"),
        (
            "RNN",
            {"direction": "reverse"},
            "to run forward or in both directions, got direction='reverse': with reverse_as",
        ),
        ("RNN", {"direction": "sideways"}, "to have direction='forward', 'reverse' or 'bidirectional', got 'sideways'"),
        ("RNN", {"direction": "bidirectional"}, r"expected W of it to be for both directions, got an array of shape \(1, 4, 3\)"),
        ("RNN", {"hidden_size": 5}, "expected it to have weights for hidden_size=5, got them for 4"),
        ("RNN", {"layout": 2}, "expected nodes of one layout, 0 or 1"),
        ("RNN", {"activations": 3}, "expected activations of it to be of type list, got 3"),
        ("LSTM", {"direction": 1.5}, "expected direction of it to be of type bytes, got 1.5"),
        ("LSTM", {"hidden_size": 4, "op": "GRU"}, "expected weight_ih of it to be"),
    ],
)
def test_a_node_that_computes_something_else_is_refused(kind: str, attributes: dict[str, Any], said: str) -> None:
    proto = model(kind, numbers(kind, 1), **{name: value for name, value in attributes.items() if name != "op"})
    if "op" in attributes:
        proto.graph.node[0].op_type = attributes["op"]
        proto.graph.node[0].attribute.append(helper.make_attribute("linear_before_reset", 1))
    with pytest.raises(ValueError, match=said):
        elman.from_onnx(proto)


def test_so_is_one_whose_second_direction_does() -> None:
    proto = model("GRU", numbers("GRU", 2), direction="bidirectional", activations=["Sigmoid", "Tanh", "Sigmoid", "Relu"])
    with pytest.raises(ValueError, match=r"expected it to have the activations .* got \['sigmoid', 'tanh', 'sigmoid', 'relu'\]"):
        elman.from_onnx(proto)


def test_peepholes_are_refused_unless_they_are_zero() -> None:
    arrays, names = numbers("LSTM", 1), ["X", "W", "R", "B", "", "", "", "P"]
    assert elman.from_onnx(model("LSTM", arrays | {"P": np.zeros((1, 3 * H), np.float32)}, names)).hidden_size == H
    for more in ({"P": np.ones((1, 3 * H), np.float32)}, {}):
        with pytest.raises(ValueError, match="expected it without peepholes"):
            elman.from_onnx(model("LSTM", arrays | more, names))


def test_weights_that_the_model_does_not_hold_are_said() -> None:
    arrays = numbers("RNN", 1)
    weight = arrays.pop("W")
    missing = model("RNN", arrays, ["X", "W", "R"])
    computed = of([helper.make_node("Tanh", ["V"], ["W"]), missing.graph.node[0]], {**arrays, "V": weight})
    nothing = model("RNN", arrays, ["X"])
    for proto in (missing, computed, nothing):
        with pytest.raises(ValueError, match="expected W of it to be stored in the model, got none, or one that is computed in each call"):
            elman.from_onnx(proto)
    with pytest.raises(ValueError, match="expected a node RNN, GRU or LSTM in the model's graph, got none"):
        elman.from_onnx(of([helper.make_node("Tanh", ["X"], ["Y"])], {}))
    other = model("RNN", numbers("RNN", 1))
    other.graph.node[0].domain = "com.example"
    with pytest.raises(ValueError, match="expected a node RNN, GRU or LSTM"):
        elman.from_onnx(other)


def test_damage_is_said(tmp_path: Path) -> None:
    path = tmp_path / "it.onnx"
    content = model("LSTM", numbers("LSTM", 1)).SerializeToString()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="to be an ONNX model, got another kind of file"):
        elman.from_onnx(path)
    for size in ([2**40, 2**40, 4], [1, 16, 4], [-1, 16, 3]):
        proto = model("LSTM", numbers("LSTM", 1))
        proto.graph.initializer[0].dims[:] = size
        proto.graph.initializer[0].raw_data = bytes(64)
        with pytest.raises(ValueError, match=r"expected W to hold numbers, got a damaged tensor|expected W of it"):
            elman.from_onnx(proto)
    with pytest.raises(FileNotFoundError):
        elman.from_onnx(tmp_path / "none.onnx")
    for source in (3, None, content):
        with pytest.raises(TypeError, match=r"expected a file's path or an onnx.ModelProto, got"):
            elman.from_onnx(source)


def test_weights_beside_the_model_are_read_from_there_only(tmp_path: Path) -> None:
    arrays = {"W": np.ones((1, 4 * 64, 64), np.float32), "R": np.ones((1, 4 * 64, 64), np.float32)}
    proto = model("LSTM", arrays, hidden_size=64)
    onnx.save_model(proto, tmp_path / "it.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    assert elman.from_onnx(tmp_path / "it.onnx").hidden_size == 64
    with pytest.raises(ValueError, match="expected W in the model itself, got it in a file beside it: pass the model's path"):
        elman.from_onnx(onnx.load(tmp_path / "it.onnx", load_external_data=False))
    (tmp_path / "inner").mkdir()
    outside = onnx.load(tmp_path / "it.onnx", load_external_data=False)
    for tensor in outside.graph.initializer:
        tensor.external_data[0].value = "../weights"
    (tmp_path / "inner" / "it.onnx").write_bytes(outside.SerializeToString())
    with pytest.raises(ValueError, match="expected W to hold numbers, got a damaged tensor"):
        elman.from_onnx(tmp_path / "inner" / "it.onnx")


def test_a_weight_that_grows_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "_MOST_BYTES", 2**20)
    arrays = numbers("RNN", 1) | {"v0": np.zeros((1, 2**12), np.float32)}
    double = [helper.make_node("Concat", [f"v{n}"] * 16, [f"v{n + 1}"], axis=0) for n in range(3)]
    node = helper.make_node("RNN", ["X", "v3", "R"], ["Y"], hidden_size=H)
    with pytest.raises(ValueError, match="expected v2 to take at most 1048576 bytes, got 4194304"):
        elman.from_onnx(of([*double, node], arrays))


def test_without_onnx_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="pip install onnx"):
        elman.from_onnx("it.onnx")
