"""An ONNX model read as data: its nodes, and the numbers that it holds."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elman.layers.errors import brief

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elman.weights.layer import Array

# Operators that only lay numbers out in another way: exporters put them between a weight and the node that reads it.
_LAYOUT = {"Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
# Which inputs of an operator, all by default, have the numbers of its output; the others say which of them, or how many.
_NUMBERS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Constant", "ConstantOfShape", "If", "Loop", "Shape", "Size"), ()),  # what branches give is the model's
    **dict.fromkeys(("Div", "Dropout", "Expand", "Gather", "GatherElements", "GatherND", "Pad", "Reshape"), (0,)),
    **dict.fromkeys(("Slice", "Split", "Squeeze", "Tile", "Unsqueeze"), (0,)),
    "Where": (1, 2),
}
# Operators that make zeros of zeros.
_KEEP_ZEROS = _LAYOUT | {"Abs", "Add", "Div", "Dropout", "Expand", "GatherElements", "GatherND", "Max", "Min", "Neg", "Relu", "Sub", "Sum"}
_KEEP_ZEROS |= {"Tanh", "Tile", "Where"}
_TYPES = {"hidden_size": int, "layout": int, "linear_before_reset": int, "input_forget": int, "clip": float, "direction": bytes}
_TYPES |= {"activations": list, "perm": list, "axes": list}
_MOST_BYTES = 2**31  # of one array
_STANDARD = ("", "ai.onnx")


class Graph:
    """The main graph of a model.

    Attributes:
        nodes: its nodes, in order.
        producer: the node that computes a value, by the value's name.
    """

    def __init__(self, source: Any) -> None:
        """Read a file, or take a ModelProto.

        Raises:
            ImportError: onnx is not installed.
            OSError: the file cannot be opened.
            TypeError: the source is neither.
            ValueError: the file is not an ONNX model.
        """
        try:
            import onnx
        except ImportError as error:
            raise ImportError("reading an ONNX model needs onnx, which is not installed: pip install onnx") from error
        self._folder: str | None = None
        if isinstance(source, str | os.PathLike):
            path = Path(source)
            content = path.read_bytes()
            try:
                model = onnx.load_model_from_string(content)
            except Exception as error:  # protobuf's, which is not ours to import
                raise ValueError(f"expected {path} to be an ONNX model, got another kind of file: {error}") from error
            self._folder = str(path.parent)
        elif isinstance(source, onnx.ModelProto):
            model = source
        else:
            raise TypeError(f"expected a file's path or an onnx.ModelProto, got {brief(source)}")
        self._opsets = model.opset_import
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._values: dict[str, Array | None] = {}
        self.nodes = list(model.graph.node)
        self.producer = {name: node for node in self.nodes for name in node.output if name}

    def value(self, name: str) -> Array | None:
        """The numbers that a value has in every call: stored in the model, and perhaps laid out in another way; None if it has none.

        Raises:
            ValueError: they are damaged, or elsewhere.
        """
        with _within_reach(name):
            return self._value(name)

    def _value(self, name: str) -> Array | None:
        if name not in self._values:
            if name in self._stored:
                self._values[name] = self._read(name, self._stored[name])
            elif name in self.producer and self.producer[name].domain in _STANDARD:
                self._values[name] = self._compute(name, self.producer[name])
            else:
                self._values[name] = None
        array = self._values[name]
        if array is not None and array.nbytes > _MOST_BYTES:
            raise ValueError(f"expected {name} to take at most {_MOST_BYTES} bytes, got {array.nbytes}")
        return array

    def _read(self, name: str, tensor: Any) -> Array:
        """A tensor that the model stores, in itself or in a file beside its own."""
        from onnx import TensorProto, numpy_helper

        if tensor.data_location == TensorProto.EXTERNAL and self._folder is None:
            raise ValueError(f"expected {name} in the model itself, got it in a file beside it: pass the model's path, or onnx.load(path)")
        try:
            return np.asarray(numpy_helper.to_array(tensor, base_dir=self._folder or ""))
        except Exception as error:  # whatever a damaged tensor leads to
            raise ValueError(f"expected {name} to hold numbers, got a damaged tensor: {error}") from error

    def _compute(self, name: str, node: Any) -> Array | None:
        """What a node makes of stored numbers; None if something else goes into it, or it computes others of them."""
        from onnx import helper, numpy_helper
        from onnx.reference import ReferenceEvaluator

        if node.op_type in ("Expand", "ConstantOfShape"):
            if len(node.input) != (2 if node.op_type == "Expand" else 1):
                raise ValueError(f"expected {name} to hold numbers, got a damaged {node.op_type}, of {len(node.input)} inputs")
            return self._repeat(name, node)
        if node.op_type == "Constant":
            inputs: dict[str, Array] = {}
        elif node.op_type in _LAYOUT:
            arrays = {each: self._value(each) for each in node.input if each}
            inputs = {each: array for each, array in arrays.items() if array is not None}
            if len(inputs) < len(arrays):
                return None
        else:
            return None
        stored = [numpy_helper.from_array(array, each) for each, array in inputs.items()]
        graph = helper.make_graph([node], "one", [], [helper.make_empty_tensor_value_info(name)], stored)
        try:
            (array,) = ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets)).run(None, {})
        except Exception as error:  # whatever a damaged node leads to
            raise ValueError(f"expected {name} to hold numbers, got a damaged {node.op_type}: {error}") from error
        return np.asarray(array)

    def _repeat(self, name: str, node: Any) -> Array | None:
        """Stored numbers, repeated as an initial state is for the batch: along each axis whose size only a call tells, one time."""
        if node.op_type == "Expand":
            numbers, shape = self._value(node.input[0]), node.input[1]
        else:
            value = attributes(node).get("value")
            numbers, shape = np.zeros(1) if value is None else self._read(name, value), node.input[0]
        if numbers is None:
            return None
        try:
            sizes = self._sizes(shape)
            if sizes is not None:
                return np.broadcast_to(numbers, np.broadcast_shapes(numbers.shape, tuple(map(int, sizes))))
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected {name} to hold numbers, got a damaged {node.op_type}: {error}") from error
        if numbers.any():
            raise ValueError(f"expected {name} to be of a known shape but for the batch, got one that depends on the call")
        return None

    def _sizes(self, shape: str) -> Array | None:
        """A shape, with 1 for each axis whose size only a call tells."""
        node: Any = self.producer.get(shape)
        kind = "" if node is None else node.op_type
        if kind == "Concat":
            parts = [self._value(each) for each in node.input]
            return np.concatenate([np.ones(1, np.int64) if part is None else part for part in parts])
        if kind == "Reshape":  # torch's older exporter makes a shape flat once more
            return self._sizes(node.input[0])
        if kind == "Where" and len(node.input) == 3:  # and keeps an axis where it is -1
            sizes = self._sizes(node.input[2])
            return None if sizes is None else np.where(sizes == -1, 1, sizes)
        return self._value(shape)

    def made_by(self, name: str) -> str | None:
        """The operator that makes a value of numbers that the model holds; None if they are all zeros, or the caller gives some of them.

        Raises:
            ValueError: they are damaged, or elsewhere.
        """
        if self._is_of_call(name):
            return None
        with _within_reach(name):
            return None if self._is_zeros(name) else self.producer[name].op_type

    def _is_of_call(self, name: str) -> bool:
        """Whether the caller gives some of a value's numbers, not only how many there are, or which."""
        seen, left = set[str](), [name]
        while left:
            each = left.pop()
            if each in seen or not each or each in self._stored:
                continue
            seen.add(each)
            if each not in self.producer:
                return True
            left += _numbers_of(self.producer[each])
        return False

    def _is_zeros(self, name: str) -> bool:
        """Whether a value that no call gives is all zeros."""
        node = self.producer.get(name)
        if name in self._stored or node is None or node.op_type == "Constant":
            array = self._value(name)
            return array is not None and not array.any()
        if node.op_type == "ConstantOfShape":
            value = attributes(node).get("value")
            return value is None or not self._read(name, value).any()
        numbers = [each for each in _numbers_of(node) if each]
        if node.op_type in ("MatMul", "Mul"):
            return any(map(self._is_zeros, numbers))
        return node.op_type in _KEEP_ZEROS and bool(numbers) and all(map(self._is_zeros, numbers))

    def way_from(self, kinds: tuple[str, ...], name: str) -> tuple[Any, list[Any]] | None:
        """The node of one of these kinds whose first output a value is made of, and the nodes in between; None if there is no such node.

        They are followed along their first input.
        """
        way: list[Any] = []
        for node in self._upwards(name):
            if node.op_type in kinds:
                last = way[-1].input[0] if way else name
                return (node, way[::-1]) if node.output and node.output[0] == last else None
            way.append(node)
        return None

    def _upwards(self, name: str) -> Iterator[Any]:
        """The nodes before a value, along their first input."""
        for _ in range(len(self.nodes)):  # a damaged graph may be a ring
            node = self.producer.get(name)
            if node is None or not node.input:
                return
            yield node
            name = node.input[0]


@contextmanager
def _within_reach(name: str) -> Iterator[None]:
    """Operators are looked through one call within another."""
    try:
        yield
    except RecursionError as error:
        raise ValueError(f"expected {name} to be stored in the model, got it behind too many operators") from error


def _numbers_of(node: Any) -> list[str]:
    """The inputs that have the numbers of a node's output."""
    return [node.input[place] for place in _NUMBERS.get(node.op_type, range(len(node.input))) if place < len(node.input)]


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as Python's values. Raises a ValueError for one of a type that ONNX does not give it."""
    from onnx import helper

    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    for name, kind in _TYPES.items():
        if name in values and not isinstance(values[name], kind):
            raise ValueError(f"expected {name} of {label(node)} to be of type {kind.__name__}, got {brief(values[name])}")
    return values


def label(node: Any) -> str:
    """How a node is called: exporters often leave its name empty."""
    return str(node.name) or next((str(name) for name in node.output if name), "a node")


def is_standard(node: Any, kinds: tuple[str, ...]) -> bool:
    """Whether a node is one of these kinds of ONNX's own."""
    return node.op_type in kinds and node.domain in _STANDARD
