"""Initial states that an ONNX model computes: zeros and the caller's stay out of the module, what the model holds is read or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import elman
from test_weights_onnx import B, H, assert_same, model, numbers, of, run, side_by_side, stack

# What models make of a state, s, as wide as the batch of a call: "op": nodes of (operator, inputs, output), the last one of h.
COMPUTED: dict[str, list[tuple[str, list[str], str]]] = {
    "Tile": [("Concat", ["1", "batch", "1"], "times"), ("Tile", ["s", "times"], "h")],
    "Tanh": [("Expand", ["s", "size"], "all"), ("Tanh", ["all"], "h")],
    "Add": [("ConstantOfShape", ["size"], "zeros"), ("Add", ["s", "zeros"], "h")],
    "Gather": [("Expand", ["s", "size"], "all"), ("Where", ["is_empty", "0", "all"], "apart"), ("Gather", ["apart", "order"], "h")],
    "Mul": [("Expand", ["s", "size"], "all"), ("Mul", ["all", "two"], "h")],
    "Div": [("Expand", ["s", "size"], "all"), ("Div", ["all", "two"], "h")],
    "Neg": [("Expand", ["s", "size"], "all"), ("Neg", ["all"], "h")],
    "Max": [("Expand", ["s", "size"], "all"), ("Max", ["all", "0"], "h")],
    "MatMul": [("Expand", ["s", "size"], "all"), ("MatMul", ["all", "square"], "h")],
    "Sub": [("ConstantOfShape", ["size"], "zeros"), ("Sub", ["s", "zeros"], "h")],
}


def proto(nodes: list[tuple[str, list[str], str]], s: float | None) -> onnx.ModelProto:
    """A GRU that starts from h; without s it is the caller's."""
    made = [
        helper.make_node("Shape", ["X"], ["batch"], start=1, end=2),
        helper.make_node("Concat", ["1", "batch", "H"], ["size"], axis=0),
        helper.make_node("Range", ["none", "sequences", "1s"], ["order"]),
        helper.make_node("ReduceMax", ["X"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "1000"], ["is_empty"]),
    ]
    axes: dict[str, dict[str, Any]] = {"Concat": {"axis": 0}, "Gather": {"axis": 1}}
    made += [helper.make_node(kind, inputs, [output], **axes.get(kind, {})) for kind, inputs, output in nodes]
    gru = helper.make_node("GRU", ["X", "W", "R", "B", "", "h"], ["Y"], name="it", hidden_size=H, linear_before_reset=1)
    arrays = numbers("GRU", 1) | {"1": np.array([1]), "H": np.array([H]), "none": np.array(0), "sequences": np.array(B), "1s": np.array(1)}
    arrays |= {"0": np.zeros(1, np.float32), "two": np.full(1, 2, np.float32), "1000": np.array(1000, np.float32)}
    arrays |= {"square": np.eye(H, dtype=np.float32)}
    if s is not None:
        arrays["s"] = np.full((1, 1, H), s, np.float32)
    return of([*made, gru], arrays)


@pytest.mark.parametrize("operator", COMPUTED)
def test_a_state_that_the_model_holds_is_not_left_out(operator: str) -> None:
    held = proto(COMPUTED[operator], 0.5)
    assert np.abs(run(held) - run(model("GRU", numbers("GRU", 1)))).max() > 0.1  # it counts
    with pytest.raises(ValueError, match=f"expected initial_h of it .* got numbers that the model computes with {operator}: export"):
        elman.from_onnx(held)


@pytest.mark.parametrize("operator", COMPUTED)
def test_zeros_and_the_callers_state_stay_out(operator: str) -> None:
    zeros = proto(COMPUTED[operator], 0.0)
    module = elman.from_onnx(zeros)
    assert not module.learn_initial_state
    assert_same(module, side_by_side(run(zeros)))
    assert not elman.from_onnx(proto(COMPUTED[operator], None)).learn_initial_state


def test_a_factor_of_zero_makes_zeros_of_anything() -> None:
    assert not elman.from_onnx(proto([("Expand", ["s", "size"], "all"), ("Mul", ["all", "0"], "h")], 0.5)).learn_initial_state


def test_the_upper_layer_alone_may_have_a_state() -> None:
    proto = stack("GRU", 2)
    proto.graph.node[-1].input.extend(["", "h"])
    proto.graph.initializer.append(numpy_helper.from_array(np.full((2, B, H), 0.5, np.float32), "h"))
    module = elman.from_onnx(proto)
    assert module.h_0.tolist() == [[0.0] * H] * 2 + [[0.5] * H] * 2
    assert_same(module, side_by_side(run(proto)))


def test_what_branches_give_is_the_models() -> None:
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.FLOAT, (1, B, H), [0.5] * B * H))],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, (1, B, H))],
    )
    either = proto([], None)
    either.graph.node.insert(
        len(either.graph.node) - 1, helper.make_node("If", ["is_empty"], ["h"], then_branch=branch, else_branch=branch)
    )
    with pytest.raises(ValueError, match="got numbers that the model computes with If: export"):
        elman.from_onnx(either)


def test_damaged_graphs_are_refused() -> None:
    for nodes in ([("ConstantOfShape", [], "h")], [("Expand", ["s"], "h")]):
        with pytest.raises(ValueError, match="expected h to hold numbers, got a damaged"):
            elman.from_onnx(proto(nodes, 0.5))
    ring = [("Tanh", ["b"], "a"), ("Tanh", ["a"], "b"), ("Tanh", ["b"], "h")]
    with pytest.raises(ValueError, match="expected h to be stored in the model, got it behind too many operators"):
        elman.from_onnx(proto(ring, 0.5))
    deep = [("Tanh", ["s" if k == 0 else f"v{k}"], f"v{k + 1}") for k in range(5000)] + [("Tanh", ["v5000"], "h")]
    with pytest.raises(ValueError, match="expected h to be stored in the model, got it behind too many operators"):
        elman.from_onnx(proto(deep, 0.5))
