"""The stream of any network: of a cell of your own, steps take its step inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from elman import scan
from elman.layers.layer import RecurrentLayer
from elman.layers.step_inputs import as_step_inputs, in_order
from elman.streaming.arguments import array_as_tensor, as_input
from elman.streaming.network import check_network
from elman.streaming.stream import Stream

if TYPE_CHECKING:
    from elman.layers import Recurrent
    from elman.streaming.stream import Values


@overload
def stream(rnn: RecurrentLayer[Any], batch_size: int = 1) -> Stream: ...  # type: ignore[overload-overlap]  # takes no step inputs


@overload
def stream(rnn: Recurrent[Any], batch_size: int = 1) -> RecurrentStream: ...


def stream(rnn: Recurrent[Any], batch_size: int = 1) -> Stream:
    """Run a network a step or a chunk at a time, with its state kept in between.

    >>> import elman, torch
    >>> rnn = elman.GRU(10, 20)
    >>> x = torch.randn(5, 1, 10)
    >>> stream = elman.stream(rnn)
    >>> with torch.no_grad():
    ...     outputs = [stream.step(x_t) for x_t in x[:3]]
    ...     outputs += stream.run(x[3:])
    ...     torch.equal(torch.stack(outputs), rnn(x)[0])
    True

    On the native backend, in float32 and float64, the results have the same bits as a run over the whole sequence, however you divide it.
    In bfloat16 an LSTM's c is rounded at the end of each call, so its bits depend on where you divide.

    Args:
        rnn: a network with one direction. The stream does not copy it: changes to its parameters, by an optimizer or by
            load_state_dict, take effect with the next step. (torch does not count writes through ``parameter.data``, through a NumPy array
            that shares the memory, or by a fused optimizer. The stream finds these by comparing sixteen numbers of each parameter, and
            misses a write that changes none of them until ``reset()``, which reads all weights again.)
        batch_size: B, the number of sequences that run side by side.

    Returns:
        A ``Stream`` at the start of a fresh sequence; its steps take the step inputs of a cell of your own by name.

    Raises:
        TypeError: rnn is not one of Elman's layers, or batch_size is not an int.
        ValueError: rnn is bidirectional, or batch_size is below 1.
    """
    return Stream(rnn, batch_size) if isinstance(rnn, RecurrentLayer) else RecurrentStream(rnn, batch_size)


class RecurrentStream(Stream):
    """A stream of an ``elman.Recurrent``. ``elman.stream(net)`` returns one.

    >>> import elman, torch
    >>> class Decaying(elman.Cell):
    ...     gates = ("h",)
    ...     step_inputs = {"dt": ""}
    ...     def step(self, x, r, s, p):
    ...         return torch.exp(-x.dt) * s.h + torch.tanh(x.h + r.h)
    >>> stream = elman.stream(elman.Recurrent(Decaying(), 10, 20), batch_size=3)
    >>> with torch.no_grad():
    ...     y = stream.step(torch.randn(3, 10), dt=torch.rand(3))
    >>> y.shape
    torch.Size([3, 20])

    In training, random numbers that the cell draws once per sequence are drawn again in each call.
    """

    def step(self, x: Values, out: Values | None = None, **step_inputs: Any) -> Values:
        """Run one step of every sequence, as ``Stream.step`` does.

        Args:
            x: (B, I), with batch_size 1 also (I,): a tensor or a NumPy array, of the parameters' dtype.
            out: memory for the output, as ``Stream.step`` takes it.
            step_inputs: what the cell declares as step_inputs, by name: (B,), or with "H" (B, H); without the axis B where x has none.
        """
        if out is None and (y := self._step_unchecked(x, step_inputs)) is not None:
            return y  # type: ignore[no-any-return]
        if not step_inputs and not self._rnn.stack.cell.step_inputs:
            return super().step(x, out)
        check_network(self._rnn, "a stream does")
        given = as_input(self._rnn, self._batch_size, x, {2: "(B, I)", 1: "(I,)"}, 0)
        time = 1 if self._rnn.batch_first else 0
        beside = self._beside(step_inputs, given, "(B" if given.dim() == 2 else "(")
        return self._call(x, given, [time] if given.dim() == 2 else [0, time], out, beside)  # type: ignore[no-any-return]

    def _step_unchecked(self, x: Any, step_inputs: dict[str, Any]) -> Any:
        """A step whose operands a backend checks itself. None, with nothing done, if they must first be checked, or the layer called."""
        if type(x) is not self._array_class:
            return self._step_tensors(x, step_inputs)
        arrays: tuple[Any, ...] = (x, *step_inputs.values())
        if not all(type(each) is self._array_class and each.flags.carray and each.dtype == x.dtype for each in arrays):
            return None
        if x.dtype not in ("float32", "float64") or torch.is_autocast_enabled("cpu"):
            return None
        first, *others = map(torch.from_numpy, arrays)
        with torch.no_grad():  # arrays know of no gradients
            y = self._step_tensors(first, dict(zip(step_inputs, others, strict=True)))
        return None if y is None else y.numpy()

    def _step_tensors(self, x: Any, step_inputs: dict[str, Any]) -> Tensor | None:
        rnn, states = self._rnn, self._state.begun()
        is_built_in = bool(rnn.stack.cell.name)  # which a ``Stepper`` runs
        if states is None or is_built_in or _has_hooks(rnn) or not rnn._is_plain() or not self._is_usual(x, None, states):
            return None
        params, beside = rnn._own_params(), in_order(rnn.stack.cell, step_inputs, False, rnn.training)
        if params is None or beside is None or not all(map(_is_strided, (x, *beside))):
            return None
        lacking = 3 - x.dim()  # axes, all of size one and in front, the same in the step inputs
        if lacking not in (1, 2):
            return None
        for _ in range(lacking):
            x, beside = x.unsqueeze(0), tuple([value.unsqueeze(0) for value in beside])
        done = scan.run_unchecked(rnn.stack, x, states, params, rnn.dropout if rnn.training else 0.0, False, beside)
        if done is None:
            return None
        output, finals = done
        self._set(finals)
        return output[0] if lacking == 1 else output[0, 0]

    def run(self, chunk: Values, out: Values | None = None, **step_inputs: Any) -> Values:
        """Run all steps of a chunk of the sequences, as ``Stream.run`` does.

        Args:
            chunk: (T, B, I), or (B, T, I) with batch_first; with batch_size 1 also (T, I).
            out: memory for the outputs, as ``Stream.run`` takes it.
            step_inputs: what the cell declares as step_inputs, by name, as the network takes them.
        """
        if not step_inputs and not self._rnn.stack.cell.step_inputs:
            return super().run(chunk, out)
        check_network(self._rnn, "a stream does")
        batch = 0 if self._rnn.batch_first else 1
        x = as_input(self._rnn, self._batch_size, chunk, {3: "(B, T, I)" if batch == 0 else "(T, B, I)", 2: "(T, I)"}, batch)
        beside = self._beside(step_inputs, x, "(T" if x.dim() == 2 else "(B, T" if batch == 0 else "(T, B")
        return self._call(chunk, x, [] if x.dim() == 3 else [batch], out, beside)  # type: ignore[no-any-return]

    def _beside(self, given: dict[str, Any], x: Tensor, axes: str) -> dict[str, Tensor]:
        """The step inputs as tensors, checked."""
        weight, stack = self._rnn._params()[0], self._rnn.stack
        tensors = {name: value if isinstance(value, Tensor) else array_as_tensor(name, value, weight) for name, value in given.items()}
        return dict(zip(stack.cell.step_inputs, as_step_inputs(stack, tensors, x, x.shape[:-1], axes, 0, 0), strict=True))


def _is_strided(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested


def _has_hooks(module: torch.nn.Module) -> bool:
    """Whether something else runs with a call of the module."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)
