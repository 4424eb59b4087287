"""The contestants for a cell: Elman, and the same step in a Python loop of torch's operators, in that loop compiled, and in JAX's scan."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch

import elman
from elman.bench.contestants import Job, jax_with, those_installed
from elman.bench.jax_tensor import JaxTensor
from elman.bench.loop import LoopedStep, gates_of_other_vectors, loop

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Protocol

    from torch import Tensor

    from elman.bench.case import Arrays, Mode
    from elman.cells import Cell

    Network = Callable[[dict[str, Tensor]], tuple[Tensor, tuple[Tensor, ...]]]

    class CellContestant(Protocol):
        name: ClassVar[str]
        packages: ClassVar[tuple[str, ...]]

        def job(self, case: CellCase, mode: Mode) -> Job: ...


@dataclass(frozen=True)
class CellCase:
    """One layer of a cell, with biases, without random numbers."""

    cell: Cell
    steps: int
    batch: int
    size: int  # I and H

    @property
    def finals(self) -> tuple[str, ...]:
        """The final states' names."""
        return tuple([f"{state}_n" for state in self.cell.states])

    def arrays(self) -> tuple[Arrays, Arrays]:
        """The input and what comes with the steps, by name; and the initial parameters, by their names in a network."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = elman.Recurrent(self.cell, self.size, self.size)
        draw = np.random.default_rng(0)
        given: Arrays = {"x": draw.standard_normal((self.steps, self.batch, self.size)).astype(np.float32)}
        for name, of in self.cell.step_inputs.items():
            given[name] = draw.uniform(size=(self.steps, self.batch, *[self.size] * len(of))).astype(np.float32)
        return given, {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}

    def columns(self, given: dict[str, Any]) -> list[Any]:
        """What comes with the steps, (T, B, 1) or (T, B, H) each, in the order in which the cell declares it."""
        return [given[name] if of else given[name][..., None] for name, of in self.cell.step_inputs.items()]


class _InTorch:
    """Runs a network of torch's tensors.

    Args of the constructor:
        device, dtype: of its tensors.
    """

    packages: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self._device, self.dtype = device, dtype
        self._loop: Callable[..., tuple[Tensor, tuple[Tensor, ...]]] = loop

    def _network(self, case: CellCase, parameters: dict[str, Tensor]) -> Network:
        """What gives the output and the final states, (B, H) each, of the arrays by name."""
        others = gates_of_other_vectors(case.cell)
        weights = {name.removesuffix("_l0"): parameter for name, parameter in parameters.items()}
        return lambda given: self._loop(case.cell, others, weights, case.size, given["x"], case.columns(given))

    @property
    def is_usual(self) -> bool:
        """Whether it computes in float32 on the CPU, as JAX does."""
        return (self._device, self.dtype) == ("cpu", torch.float32)

    def _tensors(self, arrays: Arrays, in_float64: bool = False) -> dict[str, Tensor]:
        """Rounded to the contestant's dtype, and ``in_float64`` of float64 then."""
        computed = torch.float64 if in_float64 else self.dtype
        return {name: torch.from_numpy(array).to(self._device, self.dtype).to(computed) for name, array in arrays.items()}

    def job(self, case: CellCase, mode: Mode, in_float64: bool = False) -> Job:
        """A case's work. ``in_float64``: computed in float64, from numbers of the contestant's dtype."""
        given, parameters = (self._tensors(arrays, in_float64) for arrays in case.arrays())
        for tensor in (*given.values(), *parameters.values()):
            tensor.requires_grad_(mode == "train")
        network = self._network(case, parameters)
        leaves = given | parameters
        tensors = tuple(leaves.values())
        gradient: Tensor | None = None
        if not self.is_usual:  # a sum's gradient would make others grow with steps and sequences, beyond float16's numbers
            random = np.random.default_rng(1).standard_normal((case.steps, case.batch, case.size), np.float32)
            gradient = self._tensors({"output": random}, in_float64)["output"]

        def train() -> None:
            for tensor in tensors:
                tensor.grad = None
            output = network(given)[0]
            (output.sum() if gradient is None else output).backward(gradient)  # type: ignore[no-untyped-call]

        def results(result: Any) -> Arrays:
            output, finals = result
            return {name: _array(value) for name, value in zip(("output", *case.finals), (output, *finals), strict=True)}

        def gradients(_: Any) -> Arrays:
            return {name: _array(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad) for name, leaf in leaves.items()}

        return Job(train, gradients) if mode == "train" else Job(lambda: network(given), results)


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    return tensor.detach().double().cpu().numpy()


@final
class Loop(_InTorch):
    """A Python loop of torch's operators. The others' numbers are compared with its numbers."""

    name: ClassVar[str] = "loop"


@final
class CompiledLoop(_InTorch):
    """That loop over a step that ``torch.compile`` has compiled. A graph of all hundred steps takes minutes to compile."""

    name: ClassVar[str] = "compile"

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        super().__init__(device, dtype)
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")  # the compiler looks at each operand's
        self._loop = partial(loop, take=torch.compile(LoopedStep.__call__, dynamic=False))

    def job(self, case: CellCase, mode: Mode, in_float64: bool = False) -> Job:
        torch.compiler.reset()  # all cells have one step's code, and torch compiles the same code eight times at most
        return super().job(case, mode, in_float64)


@final
class ElmanNetwork(_InTorch):
    name: ClassVar[str] = "elman"
    packages: ClassVar[tuple[str, ...]] = ("elman",)

    def _network(self, case: CellCase, parameters: dict[str, Tensor]) -> Network:
        network: Any = elman.Recurrent(case.cell, case.size, case.size).eval()
        for name, parameter in parameters.items():
            parameters[name] = torch.nn.Parameter(parameter, requires_grad=parameter.requires_grad)
            network.register_parameter(name, parameters[name])

        def run(given: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
            output, hx = network(**{"input" if name == "x" else name: value for name, value in given.items()})
            return output, tuple([state.squeeze(0) for state in (hx if isinstance(hx, tuple) else (hx,))])

        return run

    def why(self, case: CellCase, mode: Mode) -> str:
        """Which backend runs the case."""
        given = self._tensors(case.arrays()[0])
        network = elman.Recurrent(case.cell, case.size, case.size).to(self._device, self.dtype).eval().requires_grad_(mode == "train")
        return elman.why(network, given.pop("x"), **given)


@final
class JaxScan:
    """``jax.lax.scan`` under ``jax.jit`` over the cell's own step, the input projected in one product before the loop."""

    name: ClassVar[str] = "jax"
    packages: ClassVar[tuple[str, ...]] = ("jax", "jaxlib")

    def __init__(self, threads: int) -> None:
        self._jax = jax_with(threads)

    def _forward(self, case: CellCase, leaves: dict[str, Any]) -> tuple[Any, Any]:
        """The output, and the final states."""
        cell, x = case.cell, leaves["x"]
        weights = {name.removesuffix("_l0"): JaxTensor(value) for name, value in leaves.items()}
        step = LoopedStep(cell, gates_of_other_vectors(cell), weights)
        projected = x @ leaves["weight_ih_l0"].T + leaves["bias_ih_l0"] if cell.input_gates else None

        def taken(states: Any, of_step: Any) -> tuple[Any, Any]:
            projected, step_inputs = of_step
            given = None if projected is None else JaxTensor(projected)
            after = step(given, tuple(map(JaxTensor, states)), list(map(JaxTensor, step_inputs)))
            return tuple([state.array for state in after]), after[0].array

        fresh = (self._jax.numpy.zeros((case.batch, case.size), x.dtype),) * len(cell.states)
        finals, output = self._jax.lax.scan(taken, fresh, (projected, case.columns(leaves)), length=case.steps)
        return output, finals

    def job(self, case: CellCase, mode: Mode) -> Job:
        jax = self._jax
        given, parameters = case.arrays()
        leaves = jax.device_put(given | parameters)
        if mode == "train":
            run = jax.jit(jax.value_and_grad(lambda leaves: self._forward(case, leaves)[0].sum()))
        else:
            run = jax.jit(lambda leaves: self._forward(case, leaves))

        def numbers(result: Any) -> Arrays:
            first, others = result
            named = others if mode == "train" else dict(zip(("output", *case.finals), (first, *others), strict=True))
            return {name: np.asarray(value) for name, value in named.items()}

        return Job(lambda: jax.block_until_ready(run(leaves)), numbers)


def rivals(
    names: Collection[str], threads: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[list[CellContestant], list[str]]:
    """The contestants in ``names`` that are installed, the loop first, and a line about each that is not; all there are if it is empty.

    JAX takes part in float32 on the CPU, with so many threads.

    Raises:
        ValueError: a name that is none of theirs.
    """
    known: dict[str, Callable[[], CellContestant]] = {
        "loop": lambda: Loop(device, dtype),
        "compile": lambda: CompiledLoop(device, dtype),
    }
    if (device, dtype) == ("cpu", torch.float32):
        known["jax"] = lambda: JaxScan(threads)
    names = {"loop", *names} if names else set(known)
    return those_installed(known, names)
