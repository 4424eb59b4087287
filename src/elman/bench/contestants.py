"""The libraries that are compared. Each offers two jobs: inference and training.

Every contestant gets the same numbers, and is written as its own users would write it at their best. To add a library, write one class and
name it in ``peers``; to add a cell, its line in the tables here and in ``case``, and its equation in JAX.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch

import elman

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from types import ModuleType
    from typing import TypeVar

    from elman.bench.case import Arrays, Case, Mode

    AnyContestant = TypeVar("AnyContestant")


@dataclass(frozen=True)
class Job:
    """A callable to time, and another one, not timed, that reads its results.

    Attributes:
        run: one call, done when it returns.
        numbers: from what ``run`` returned, the arrays to compare. Inference: ``output`` (T, B, D·H), and the final states ``h_n``
            and the LSTM's ``c_n``, (L·D, B, H); training: the gradients of x and of every parameter, by name.
    """

    run: Callable[[], Any]
    numbers: Callable[[Any], Arrays]


class Contestant(ABC):
    """A library to race, whose constructor raises an ImportError if it is not installed."""

    name: ClassVar[str]
    modes: ClassVar[tuple[Mode, ...]] = ("infer", "train")
    packages: ClassVar[tuple[str, ...]]

    @abstractmethod
    def infer(self, case: Case) -> Job:
        """Forward alone, on input and weights that need no gradient."""

    @abstractmethod
    def train(self, case: Case) -> Job:
        """Forward and backward of ``output.sum()`` to x and to every parameter."""

    def job(self, case: Case, mode: Mode) -> Job:
        return self.infer(case) if mode == "infer" else self.train(case)


class Torch(Contestant):
    name = "torch"
    packages = ("torch",)
    _layers: ClassVar[ModuleType] = torch.nn

    def _build(self, case: Case, gradients: bool) -> tuple[Any, Any]:
        arrays, parameters = case.arrays()
        layer = getattr(self._layers, case.cell.upper())(
            case.input_size, case.hidden_size, num_layers=case.num_layers, bidirectional=case.bidirectional
        )
        layer.load_state_dict({name: torch.from_numpy(array) for name, array in parameters.items()})
        return self._ready(layer.requires_grad_(gradients)), torch.from_numpy(arrays["x"]).requires_grad_(gradients)

    def _ready(self, layer: Any) -> Any:
        """The layer as it is called."""
        return layer

    def infer(self, case: Case) -> Job:
        layer, x = self._build(case, gradients=False)

        def numbers(result: Any) -> Arrays:
            output, finals = result
            finals = finals if isinstance(finals, tuple) else (finals,)
            return {"output": output.numpy(), **{name: state.numpy() for name, state in zip(case.finals, finals, strict=True)}}

        return Job(lambda: layer(x), numbers)

    def train(self, case: Case) -> Job:
        layer, x = self._build(case, gradients=True)
        leaves = {"x": x, **dict(layer.named_parameters())}
        tensors = tuple(leaves.values())

        def run() -> None:
            for tensor in tensors:
                tensor.grad = None
            layer(x)[0].sum().backward()

        return Job(run, lambda _: {name: leaf.grad.numpy() for name, leaf in leaves.items()})


@final
class CompiledTorch(Torch):
    """torch.nn's layer as ``torch.compile`` takes it: the graph breaks, and the layer runs as it does in eager mode."""

    name = "torch compiled"

    def _ready(self, layer: Any) -> Any:
        layer.compile()
        return layer


class Elman(Torch):
    name = "elman"
    packages = ("elman",)
    _layers: ClassVar[ModuleType] = elman

    def kernels(self, case: Case, mode: Mode) -> Job:
        """A case's work without torch's own operators, whose threads would be measured too: in training the gradient of a sum, unsummed."""
        if mode == "infer":
            return self.infer(case)
        layer, x = self._build(case, gradients=True)
        leaves = {"x": x, **dict(layer.named_parameters())}
        tensors, one = tuple(leaves.values()), torch.ones(1)

        def run() -> Any:
            output = layer(x)[0]
            return torch.autograd.grad(output, tensors, one.expand_as(output))

        return Job(run, lambda gradients: {name: gradient.numpy() for name, gradient in zip(leaves, gradients, strict=True)})

    def why(self, case: Case, mode: Mode) -> str:
        """Which backend runs the case."""
        return str(elman.why(*self._build(case, gradients=mode == "train")))


@final
class CompiledElman(Elman):
    """Elman's layer compiled by Inductor, as one graph."""

    name = "elman compiled"

    def _ready(self, layer: Any) -> Any:
        layer.compile(fullgraph=True)
        return layer


@final
class Jax(Contestant):
    """``jax.lax.scan`` under ``jax.jit``, the input projected in one product before the loop (which is faster than inside it)."""

    name = "jax"
    packages = ("jax", "jaxlib")

    def __init__(self, threads: int) -> None:
        self._jax = jax_with(threads)
        self._cells: dict[str, Callable[..., tuple[Any, ...]]] = {"rnn": self._rnn, "gru": self._gru, "lstm": self._lstm}

    def _rnn(self, projected: Any, recurrent: Any, h: Any) -> tuple[Any, ...]:
        return (self._jax.numpy.tanh(projected + recurrent),)

    def _gru(self, projected: Any, recurrent: Any, h: Any) -> tuple[Any, ...]:
        jnp, sigmoid = self._jax.numpy, self._jax.nn.sigmoid
        (r, z, n), (r_of_h, z_of_h, n_of_h) = jnp.split(projected, 3, -1), jnp.split(recurrent, 3, -1)
        n = jnp.tanh(n + sigmoid(r + r_of_h) * n_of_h)
        return (n + sigmoid(z + z_of_h) * (h - n),)

    def _lstm(self, projected: Any, recurrent: Any, h: Any, c: Any) -> tuple[Any, ...]:
        jnp, sigmoid = self._jax.numpy, self._jax.nn.sigmoid
        i, f, g, o = jnp.split(projected + recurrent, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return sigmoid(o) * jnp.tanh(c), c

    def _scan(self, case: Case, x: Any, weights: Iterable[Any], reverse: bool) -> tuple[Any, Any]:
        """One direction of one layer: the final states and the output."""
        w_ih, w_hh, b_ih, b_hh = weights
        cell, transposed = self._cells[case.cell], w_hh.T
        if case.cell == "gru":  # r gates what n gets from h, with its bias
            projected, inside = x @ w_ih.T + b_ih, b_hh
        else:
            projected, inside = x @ w_ih.T + (b_ih + b_hh), None

        def step(states: Any, projected: Any) -> tuple[Any, Any]:
            recurrent = states[0] @ transposed
            states = cell(projected, recurrent if inside is None else recurrent + inside, *states)
            return states, states[0]

        fresh = (self._jax.numpy.zeros((case.batch, case.hidden_size), x.dtype),) * len(case.finals)
        result: tuple[Any, Any] = self._jax.lax.scan(step, fresh, projected, reverse=reverse)
        return result

    def _forward(self, case: Case, x: Any, parameters: dict[str, Any]) -> tuple[Any, list[Any]]:
        """The output, and the final states in the order of ``case.finals``."""
        jnp = self._jax.numpy
        finals = []
        for suffixes in case.suffixes:
            outputs = []
            for direction, suffix in enumerate(suffixes):
                weights = (parameters[kind + suffix] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
                final, output = self._scan(case, x, weights, reverse=direction == 1)
                finals.append(final)
                outputs.append(output)
            x = jnp.concatenate(outputs, axis=-1)
        return x, [jnp.stack(state) for state in zip(*finals, strict=True)]

    def infer(self, case: Case) -> Job:
        jax = self._jax
        arrays, parameters = jax.device_put(case.arrays())
        forward = jax.jit(lambda x, parameters: self._forward(case, x, parameters))
        return Job(
            lambda: jax.block_until_ready(forward(arrays["x"], parameters)),
            lambda result: dict(zip(("output", *case.finals), map(np.asarray, (result[0], *result[1])), strict=True)),
        )

    def train(self, case: Case) -> Job:
        jax = self._jax
        arrays, parameters = jax.device_put(case.arrays())
        leaves = {**arrays, **parameters}
        gradient = jax.jit(jax.value_and_grad(lambda leaves: self._forward(case, leaves["x"], leaves)[0].sum()))
        return Job(
            lambda: jax.block_until_ready(gradient(leaves)),
            lambda result: {name: np.asarray(grad) for name, grad in result[1].items()},
        )


@final
class OnnxRuntime(Contestant):
    """ONNX Runtime: a graph of one node for each layer. It only infers. Its threads spin between calls, as they do by default."""

    name = "ort"
    modes = ("infer",)
    packages = ("onnxruntime", "onnx")

    # Which of torch's gates (r, z, n; i, f, g, o) ONNX has in each place (z, r, h; i, o, f, c).
    _gates: ClassVar[dict[str, tuple[int, ...]]] = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
    # r gates what n gets from h after the product, as torch has it.
    _attributes: ClassVar[dict[str, dict[str, int]]] = {"gru": {"linear_before_reset": 1}}

    def __init__(self, threads: int) -> None:
        self._onnx = import_module("onnx")
        self._runtime = import_module("onnxruntime")
        self._threads = threads

    def _model(self, case: Case, parameters: Arrays) -> bytes:
        helper, to_tensor, float32 = self._onnx.helper, self._onnx.numpy_helper.from_array, self._onnx.TensorProto.FLOAT
        nodes, initializers, source = [], [], "x"

        def sorted_gates(name: str) -> Any:
            gates = np.split(parameters[name], len(self._gates[case.cell]))
            return np.concatenate([gates[index] for index in self._gates[case.cell]])

        for layer, suffixes in enumerate(case.suffixes):
            weights = {
                f"W{layer}": np.stack([sorted_gates("weight_ih" + suffix) for suffix in suffixes]),
                f"R{layer}": np.stack([sorted_gates("weight_hh" + suffix) for suffix in suffixes]),
                f"B{layer}": np.stack([np.concatenate([sorted_gates("bias_ih" + s), sorted_gates("bias_hh" + s)]) for s in suffixes]),
            }
            initializers += [to_tensor(array, name) for name, array in weights.items()]
            nodes.append(
                helper.make_node(
                    case.cell.upper(),
                    [source, *weights],
                    [f"output{layer}", *(f"{name}{layer}" for name in case.finals)],
                    hidden_size=case.hidden_size,
                    direction="bidirectional" if case.bidirectional else "forward",
                    **self._attributes.get(case.cell, {}),
                )
            )
            if layer < case.num_layers - 1:
                # (T, D, B, H), as ONNX has it, to (T, B, D·H), as the next layer reads it.
                source = f"x{layer + 1}"
                initializers.append(to_tensor(np.array([0, 0, -1]), f"shape{layer}"))
                nodes.append(helper.make_node("Transpose", [f"output{layer}"], [f"apart{layer}"], perm=[0, 2, 1, 3]))
                nodes.append(helper.make_node("Reshape", [f"apart{layer}", f"shape{layer}"], [source]))
        results = [f"output{case.num_layers - 1}", *(f"{name}{layer}" for name in case.finals for layer in range(case.num_layers))]
        graph = helper.make_graph(
            nodes,
            "layers",
            [helper.make_tensor_value_info("x", float32, [case.steps, case.batch, case.input_size])],
            [helper.make_tensor_value_info(name, float32, None) for name in results],
            initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        return bytes(model.SerializeToString())

    def infer(self, case: Case) -> Job:
        arrays, parameters = case.arrays()
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        session = self._runtime.InferenceSession(self._model(case, parameters), options, providers=["CPUExecutionProvider"])

        def numbers(result: Any) -> Arrays:
            output = result[0].transpose(0, 2, 1, 3).reshape(case.steps, case.batch, case.num_directions * case.hidden_size)
            layers = [result[first : first + case.num_layers] for first in range(1, len(result), case.num_layers)]
            return {"output": output, **dict(zip(case.finals, map(np.concatenate, layers), strict=True))}

        return Job(lambda: session.run(None, arrays), numbers)

    def train(self, case: Case) -> Job:
        raise NotImplementedError("ONNX Runtime's CPU package does not train")


def peers(names: Collection[str], threads: int) -> tuple[list[Contestant], list[str]]:
    """The contestants in ``names`` that are installed, and a line about each that is not.

    Args:
        threads: of JAX and ONNX Runtime; torch's number is a setting of the process.

    Raises:
        ValueError: a name that is none of theirs.
    """
    known: dict[str, Callable[[], Contestant]] = {
        Torch.name: Torch,
        Jax.name: lambda: Jax(threads),
        OnnxRuntime.name: lambda: OnnxRuntime(threads),
    }
    return those_installed(known, names)


def those_installed(known: Mapping[str, Callable[[], AnyContestant]], names: Collection[str]) -> tuple[list[AnyContestant], list[str]]:
    """Make those of the known contestants that are in ``names``, in the known order; and a line about each that is not installed.

    Raises:
        ValueError: a name that is none of theirs.
    """
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--against: expected libraries from {', '.join(known)}, got {unknown[0]!r}")
    installed: list[AnyContestant] = []
    absent: list[str] = []
    for name, make in known.items():
        if name in names:
            try:
                installed.append(make())
            except ImportError as error:
                absent.append(f"{name} is skipped ({error}); to install it: pip install '.[peers]'")
    return installed, absent


def jax_with(threads: int) -> Any:
    """JAX on the CPU. XLA sizes its thread pool by NPROC, when JAX first computes; its CPU client heeds no other switch."""
    os.environ["NPROC"] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return import_module("jax")
