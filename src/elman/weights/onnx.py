"""Weights of ONNX's nodes RNN, GRU and LSTM. Source: ONNX operators, RNN (22), GRU (22), LSTM (22)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from elman.layers.errors import brief, brief_list
from elman.weights.choice import choose
from elman.weights.layer import WAYS, Direction, Layer, build, reordered
from elman.weights.onnx_graph import Graph, attributes, is_standard, label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from elman.layers import GRU, LSTM, RNN
    from elman.weights.layer import Array

KINDS = ("RNN", "GRU", "LSTM")
# By cell, the letters that torch has for the gates, in ONNX's order: z, r, h and i, o, f, c.
_GATES = {"rnn_tanh": "", "rnn_relu": "", "gru": "zrn", "lstm": "iofg"}
_ACTIVATIONS = {"GRU": ("sigmoid", "tanh"), "LSTM": ("sigmoid", "tanh", "tanh")}
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_STATES = {"RNN": ("initial_h",), "GRU": ("initial_h",), "LSTM": ("initial_h", "initial_c")}


def from_onnx(source: Any, node: str | Sequence[str] | None = None, *, reverse_as_forward: bool = False) -> RNN | GRU | LSTM:
    """Build a module that computes what a recurrent node of an ONNX model does.

    >>> import elman
    >>> from onnx import helper, numpy_helper
    >>> import numpy as np
    >>> weights = {"W": np.ones((1, 16, 3)), "R": np.ones((1, 16, 4))}
    >>> node = helper.make_node("LSTM", ["X", *weights], ["Y"], hidden_size=4)
    >>> graph = helper.make_graph([node], "model", [], [], [numpy_helper.from_array(array, name) for name, array in weights.items()])
    >>> elman.from_onnx(helper.make_model(graph))  # or the path of a file
    LSTM(3, 4, bias=False)

    An RNN node becomes an ``elman.RNN``, and so on. A node runs one layer; consecutive nodes, as PyTorch's exporters write a network of
    several layers, become one module with that many layers. The weights are copied, in the model's dtype. The module takes the input as the
    node does: (T, B, I), or with layout=1 (B, T, I). You pass to the module what the graph passes to the node: its input, lengths (the
    node's sequence_lens) and initial states. An initial state stored in the model becomes the module's learned initial state.

    Args:
        source: the path of an ONNX file, which may have its weights in a file beside it, or an ``onnx.ModelProto``. ``pip install
            '.[onnx]'`` installs onnx. It is read as data: nothing in it is run.
        node: the node's name, or that of its first output; or several, from the lowest up, to make one module of. Default: all recurrent
            nodes of the graph, which must follow one another.
        reverse_as_forward: take a node with direction="reverse", too. The module runs forward: call it with the steps of x in reverse
            order, and put those of its output in reverse order.

    Returns:
        The module, in training mode.

    Raises:
        ImportError: onnx is not installed.
        OSError: the file cannot be read.
        TypeError: the source is neither a path nor a model, or node is neither a name nor a list of names.
        ValueError: the file is damaged; or the node is not there, is not one of several, or computes what the module does not: a GRU with
            linear_before_reset=0, peepholes, clip, input_forget, or other activations.
    """
    graph = Graph(source)
    chosen = _choose(graph, node)
    layouts = {attributes(each).get("layout", 0) for each in chosen}
    if len(layouts) != 1 or not layouts <= {0, 1}:
        raise ValueError(f"expected nodes of one layout, 0 or 1, for one module, got {brief(layouts)}")
    return build([_layer(graph, each, reverse_as_forward) for each in chosen], batch_first=layouts == {1})


# --- Which nodes ------------------------------------------------------------------------------------------------------


def _choose(graph: Graph, names: str | Sequence[str] | None) -> list[Any]:
    """The nodes of these names, or all recurrent ones, from the lowest up."""
    recurrent = [node for node in graph.nodes if is_standard(node, KINDS)]
    if not recurrent:
        raise ValueError("expected a node RNN, GRU or LSTM in the model's graph, got none")
    if names is None:
        return _in_a_row(graph, recurrent)
    return choose(recurrent, names, lambda node: (label(node), *node.output[:1]), "node")


def _in_a_row(graph: Graph, recurrent: list[Any]) -> list[Any]:
    """All the nodes, if each but the first takes what the one before puts out."""
    below = {id(node): _below(graph, node) for node in recurrent}
    row = [node for node in recurrent if below[id(node)] is None][:1]
    while row and len(row) < len(recurrent):
        above = [node for node in recurrent if below[id(node)] is row[-1]]
        if len(above) != 1:
            break
        row += above
    if len(row) != len(recurrent):
        known = brief_list([label(node) for node in recurrent])
        raise ValueError(
            f"expected one recurrent node, or several that follow one another, got {known}: choose with node=, by a name, or by a list of "
            "names from the lowest up"
        )
    return row


def _below(graph: Graph, node: Any) -> Any | None:
    """The recurrent node whose output, with both directions side by side, is a node's input; None if there is none."""
    reached = graph.way_from(KINDS, node.input[0]) if node.input else None
    if reached is None:
        return None
    below, way = reached
    options = attributes(below)
    directions = _DIRECTIONS.get(_text(options.get("direction", b"forward")), 0)
    axes: list[str] | None = ["B", "T", "D", "H"] if options.get("layout", 0) == 1 else ["T", "D", "B", "H"]
    for each in way:
        axes = None if axes is None else _laid_out(graph, each, axes, directions)
    expected = ["B", "T", "DH"] if attributes(node).get("layout", 0) == 1 else ["T", "B", "DH"]
    return below if axes == expected else None


def _laid_out(graph: Graph, node: Any, axes: list[str], directions: int) -> list[str] | None:
    """What an operator makes of the axes of an output; None if it does something else to it."""
    if node.op_type in ("Identity", "Dropout"):  # which does nothing in inference
        return axes
    if node.op_type == "Transpose":
        perm = attributes(node).get("perm", range(len(axes))[::-1])
        return [axes[axis] for axis in perm] if sorted(perm) == list(range(len(axes))) else None
    if node.op_type == "Squeeze" and directions == 1 and "D" in axes:
        squeezed = attributes(node).get("axes") or (graph.value(node.input[1]) if len(node.input) > 1 else None)
        if squeezed is None or [int(axis) % len(axes) for axis in squeezed] == [axes.index("D")]:
            return _joined([axis for axis in axes if axis != "D"])
    if node.op_type == "Reshape" and len(axes) == 4 and len(node.input) > 1:
        shape = graph.value(node.input[1])
        if shape is None or shape.shape == (3,):
            if directions == 1:
                return _joined([axis for axis in axes if axis != "D"])
            return [*axes[:2], "DH"] if axes[2:] == ["D", "H"] else None
    return None


def _joined(axes: list[str]) -> list[str]:
    """The axes of a single direction's output."""
    return ["DH" if axis == "H" else axis for axis in axes]


# --- One node ---------------------------------------------------------------------------------------------------------


def _layer(graph: Graph, node: Any, reverse_as_forward: bool) -> Layer:
    """A node as a layer in torch's terms. Raises a ValueError if it computes what no module of Elman's does."""
    name, options = label(node), attributes(node)
    direction = _text(options.get("direction", b"forward"))
    if direction not in _DIRECTIONS:
        raise ValueError(f"expected {name} to have direction='forward', 'reverse' or 'bidirectional', got {direction!r}")
    if direction == "reverse" and not reverse_as_forward:
        raise ValueError(
            f"expected {name} to run forward or in both directions, got direction='reverse': with reverse_as_forward=True its module runs "
            "forward, and you call it with the steps of x in reverse order"
        )
    count = _DIRECTIONS[direction]
    _check_options(name, node.op_type, options)
    cell = _cell(name, node.op_type, options, count)
    inputs = dict(zip(("X", "W", "R", "B", "sequence_lens", *_STATES[node.op_type], "P"), node.input, strict=False))
    weights = [_weight(graph, name, inputs, kind, count) for kind in ("W", "R")]
    if inputs.get("B"):
        biases = np.split(_weight(graph, name, inputs, "B", count), 2, axis=1)
        weights += biases
    peepholes = graph.value(inputs["P"]) if inputs.get("P") else np.zeros(0)
    if peepholes is None or peepholes.any():
        raise ValueError(f"expected {name} without peepholes, which torch.nn's and Elman's LSTM do not have, got an input P")
    directions = [Direction(*[reordered(array[index], cell, _GATES[cell]) for array in weights]) for index in range(count)]
    layer = Layer(name, cell, tuple(directions), _initial(graph, name, inputs, options, node.op_type))
    if options.get("hidden_size", layer.hidden_size) != layer.hidden_size:
        raise ValueError(f"expected {name} to have weights for hidden_size={options['hidden_size']}, got them for {layer.hidden_size}")
    return layer


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _check_options(name: str, kind: str, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for an option that changes what is computed to what no module computes."""
    if options.get("clip"):
        raise ValueError(f"expected {name} without clip, which torch.nn's and Elman's modules do not have, got clip={options['clip']}")
    if options.get("input_forget"):
        raise ValueError(f"expected {name} to have input_forget=0, gates i and f of their own, got {options['input_forget']}")
    before = options.get("linear_before_reset", 0)
    if kind == "GRU" and before != 1:
        raise ValueError(
            f"expected {name} to be a GRU with linear_before_reset=1, got {before}: its reset gate multiplies the "
            "state before the product with the weights, Elman's and torch.nn's multiplies the product, and no weights make one of the "
            "other; run it in ONNX Runtime, or train it with linear_before_reset=1 (in Keras reset_after=True)"
        )


def _cell(name: str, kind: str, options: Mapping[str, Any], directions: int) -> str:
    """The cell with a node's activations. Raises a ValueError if there is none."""
    given = [_text(each).lower() for each in options.get("activations", ())]
    if kind == "RNN":
        if given in ([], ["tanh"] * directions, ["relu"] * directions):
            return f"rnn_{given[0] if given else 'tanh'}"
        raise ValueError(f"expected {name} to have the activation Tanh or Relu in all directions, got {brief_list(given)}")
    expected = list(_ACTIVATIONS[kind]) * directions
    if given not in ([], expected):
        raise ValueError(f"expected {name} to have the activations {brief_list(expected)}, as Elman's {kind} does, got {brief_list(given)}")
    return kind.lower()


def _weight(graph: Graph, name: str, inputs: Mapping[str, str], kind: str, directions: int) -> Array:
    """The input W, R or B of a node: an array for each direction."""
    array = graph.value(inputs[kind]) if inputs.get(kind) else None
    if array is None:
        raise ValueError(f"expected {kind} of {name} to be stored in the model, got none, or one that is computed in each call")
    if array.ndim != (2 if kind == "B" else 3) or len(array) != directions:
        raise ValueError(f"expected {kind} of {name} to be for {WAYS[directions - 1]}, got an array of shape {array.shape}")
    return array


def _initial(graph: Graph, name: str, inputs: Mapping[str, str], options: Mapping[str, Any], kind: str) -> tuple[Array, ...] | None:
    """The states that the model starts a node from, if it holds them itself, each (D, H); None where they are zeros or the caller's."""
    arrays = {state: graph.value(inputs[state]) for state in _STATES[kind] if inputs.get(state)}
    for state, array in arrays.items():
        if array is None and (operator := graph.made_by(inputs[state])) is not None:
            raise ValueError(
                f"expected {state} of {name} to be zeros, the caller's, or stored in the model as one state for all sequences, got numbers "
                f"that the model computes with {operator}: export the network without them, and set them in the module"
            )
    states = {state: array for state, array in arrays.items() if array is not None and array.any()}
    if not states:
        return None
    axis = 0 if options.get("layout", 0) == 1 else 1
    for state, array in states.items():
        if array.ndim != 3 or not array.shape[axis] or (array != array.take([0], axis)).any():
            raise ValueError(f"expected {state} of {name} to be one state for all sequences, got an array of shape {array.shape}")
    ones = {state: np.asarray(array.take(0, axis)) for state, array in states.items()}
    one = next(iter(ones.values()))
    return tuple([ones.get(state, np.zeros_like(one)) for state in _STATES[kind]])
