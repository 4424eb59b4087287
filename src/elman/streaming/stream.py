"""A network run step by step: its state stays between calls, its weights are packed once, and a step takes microseconds."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from elman.backends.stepper import Stepper, can_step, count_write, decline, is_usual
from elman.layers.errors import brief
from elman.layers.initial_state import as_states
from elman.layers.options import as_size
from elman.streaming.arguments import as_input
from elman.streaming.network import check_network
from elman.streaming.out import check_out, write
from elman.streaming.sequences import as_mask
from elman.streaming.state import StreamState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    import numpy.typing as npt

    from elman.backends import Stack
    from elman.layers import Recurrent

Array: TypeAlias = "npt.NDArray[Any]"
Values = TypeVar("Values", bound="Tensor | Array")


class Stream:
    """A network and its state between two steps. ``elman.stream(rnn)`` returns one.

    >>> import elman, numpy as np
    >>> stream = elman.stream(elman.LSTM(10, 20), batch_size=3)
    >>> y = stream.step(np.zeros((3, 10), dtype=np.float32))  # arrays in, arrays out
    >>> type(y).__name__, y.shape
    ('ndarray', (3, 20))

    ``step`` and ``run`` return fresh memory each time, or ``out`` if you pass it.

    On the CPU, in float32 and float64, steps run on the kernels, on the calling thread. For ``run``, and for steps in all other cases, the
    stream calls the layer, with the same results. These cases are:

    - A gradient is needed: gradients are enabled, x is a tensor, and x, the state or a parameter requires one. The state then carries the
      graph until ``detach``.
    - Dropout acts between layers (in training mode).
    - Autocast or one of torch.func's transforms is active.
    - A parameter is computed (weight norm).
    - A subclass or an attribute of the layer overrides its forward or a method that it calls.

    Hooks on the layer run only when it is called. NumPy arrays need no gradients and ignore autocast: they are processed in the parameters'
    dtype.

    A copy or a pickle has its own state, without a graph. ``copy.copy`` shares the network, ``copy.deepcopy`` copies it. After an error the
    state is unchanged. Do not use a stream from several threads at once: memory stays intact, but steps mix.
    """

    def __init__(self, rnn: Recurrent[Any], batch_size: int = 1) -> None:
        check_network(rnn, "a stream does")
        batch_size = as_size("batch_size", batch_size, 1)
        self._rnn = rnn
        self._batch_size = batch_size
        self._array_class = np.ndarray
        self._stepper: Stepper | None = None
        self._stack: Stack | None = None  # the network's, as the stepper has it: an RNN's nonlinearity may be set
        self._parameters: dict[str, Any] | None = None  # the network's, as the stepper has it: another may be put in its place
        self._next: Callable[[Any, Any], Any] = decline  # the stepper's step, if it has the weights and the state
        self._has_layers = rnn.num_layers > 1
        self._state = StreamState(rnn, batch_size)

    def __repr__(self) -> str:
        return f"Stream({self._rnn!r}, batch_size={self._batch_size})"

    @property
    def rnn(self) -> Recurrent[Any]:
        """The network. For another network, make another stream; you can copy ``stream.state`` if it fits."""
        return self._rnn

    @rnn.setter
    def rnn(self, rnn: object) -> NoReturn:
        raise AttributeError("expected rnn to stay the network that the stream was made for: make another with elman.stream(rnn)")

    @property
    def batch_size(self) -> int:
        """B, the number of sequences that run side by side."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, batch_size: object) -> NoReturn:
        message = f"expected batch_size to stay {self._batch_size}, got {brief(batch_size)}"
        raise AttributeError(f"{message}: make another stream with elman.stream(stream.rnn, batch_size)")

    def step(self, x: Values, out: Values | None = None) -> Values:
        """Run one step of every sequence.

        >>> import elman, torch
        >>> stream = elman.stream(elman.GRU(10, 20))
        >>> with torch.no_grad():  # else the state carries a graph that every step makes longer
        ...     for x_t in torch.randn(5, 1, 10):
        ...         y = stream.step(x_t)

        With gradients enabled, a step on a tensor extends the graph that the state carries if x, the state or a parameter requires them, as
        parameters do unless they are frozen. The graph, and so the memory in use, grows until ``detach`` or a ``reset`` of all sequences.
        Arrays build no graph.

        Args:
            x: (B, I), with batch_size 1 also (I,): a tensor or a NumPy array, of the parameters' dtype.
            out: memory for the output: of the same kind as x, with the output's shape, dtype and device, contiguous along the last axis.
                It may be x itself or overlap it: x is read first. Not allowed if the output needs a graph.

        Returns:
            The last layer's h after the step, (B, H) or (H,), with a projection P wide: ``out``, or fresh memory of the same kind as x.

        Raises:
            TypeError: x is neither a tensor nor an array, or out is of another kind.
            ValueError: x has the wrong number of dimensions or the wrong dtype; out has the wrong dtype or is read-only.
            RuntimeError: x has the wrong number of features or sequences, or is on another device; out has the wrong shape, layout or
                device, overlaps the state or a weight, or would need a graph.
        """
        rnn = self._rnn
        if rnn._parameters is self._parameters and rnn.stack is self._stack and not (self._has_layers and self._drops()):
            y: Values | None = None
            if type(x) is self._array_class:
                if out is None or type(out) is self._array_class:
                    y = self._next(x, out)
            elif self._is_usual(x, out, self._state.values):
                y = self._next(x, out)
                if out is not None and y is not None:
                    count_write(out)  # type: ignore[arg-type]  # is_usual has seen that it is a tensor
            if y is not None:
                return y
        return self._step(x, out)

    def run(self, chunk: Values, out: Values | None = None) -> Values:
        """Run all steps of a chunk of the sequences.

        Args:
            chunk: as the network takes it, (T, B, I), or (B, T, I) with batch_first; with batch_size 1 also unbatched, (T, I): a tensor
                or a NumPy array, of the parameters' dtype.
            out: memory for the outputs, as for ``step``.

        Returns:
            The outputs, laid out as the chunk, (T, B, H) or (T, H), with a projection P wide: ``out``, or fresh memory of the same kind.

        Raises:
            TypeError: chunk is neither a tensor nor an array, or out is of another kind.
            ValueError: chunk has the wrong number of dimensions or the wrong dtype; out has the wrong dtype or is read-only.
            RuntimeError: chunk has no step, the wrong number of features or sequences, or is on another device; out as for ``step``.
        """
        check_network(self._rnn, "a stream does")
        batch = 0 if self._rnn.batch_first else 1
        x = as_input(self._rnn, self._batch_size, chunk, {3: "(B, T, I)" if batch == 0 else "(T, B, I)", 2: "(T, I)"}, batch)
        return self._call(chunk, x, [] if x.dim() == 3 else [batch], out)  # type: ignore[no-any-return]

    @property
    def state(self) -> Any:
        """The state before the next step, as the network's hx: h, (L, B, H), or for an LSTM (h, c); with a projection h is (L, B, P).

        >>> import elman, torch
        >>> stream = elman.stream(elman.RNN(10, 20))
        >>> before = stream.state
        >>> y = stream.run(torch.randn(7, 1, 10))
        >>> stream.state = before

        Reading returns a copy, as tensors. Setting copies too, from tensors or NumPy arrays. So ``stream.state[:, 0] = 1`` changes a copy
        only: read the state, change it, and set it. With gradients enabled both keep the graph. Setting raises a TypeError, RuntimeError or
        ValueError if the state has the wrong type, shape or dtype.
        """
        states = tuple([state.clone() for state in self._state.current()])
        return states[0] if len(states) == 1 else states

    @state.setter
    def state(self, state: Tensor | Array | tuple[Tensor | Array, ...]) -> None:
        self._set(self._state.as_own(state))

    def reset(self, sequences: int | bool | Sequence[int] | AbstractSet[int] | Sequence[bool] | Tensor | Array | None = None) -> None:
        """Go back to the start of a fresh sequence: zeros, or the network's h_0 and c_0 where it learns them.

        Without an argument it also reads all weights again with the next step.

        >>> import elman, numpy as np
        >>> stream = elman.stream(elman.RNN(10, 20), batch_size=3)
        >>> y = stream.step(np.ones((3, 10), dtype=np.float32))
        >>> stream.reset([0, 2])
        >>> stream.state.any(dim=2).tolist()
        [[False, True, False]]

        Args:
            sequences: which sequences, all by default: a number, or numbers in a list, a tuple, a tensor, an array, a set or a range, each
                once; or a mask of B bools, with batch_size 1 also the bool itself. Integers are never a mask: B zeros and ones in a list, a
                tensor or an array, as an environment may report ``dones``, are refused as ambiguous, and with batch_size 1 so is a single
                0 or 1. Pass a mask as bools, or numbers as a set.

        Raises:
            TypeError: they are neither numbers nor bools, or may be either.
            IndexError: a number is not from 0 to B-1, the mask does not have B values, or there is more than one axis.
            ValueError: a number occurs twice.
        """
        self._state.reset(as_mask(range(self._batch_size) if sequences is None else sequences, self._batch_size))
        self._next = decline
        if sequences is None:
            self._parameters = None  # torch may have missed a write, and the stream too: pack the weights again

    def detach(self) -> None:
        """Cut the graph that the state carries, so that gradients of later steps end here, as in truncated backpropagation through time.

        >>> import elman, torch
        >>> rnn = elman.RNN(10, 20)
        >>> stream, optimizer = elman.stream(rnn), torch.optim.SGD(rnn.parameters(), lr=0.1)
        >>> for chunk in torch.randn(100, 1, 10).split(25):
        ...     loss = stream.run(chunk).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     stream.detach()
        """
        self._state.detach()

    def state_dict(self) -> dict[str, Array]:
        """The state as NumPy arrays of their own: "h", (L, B, H), and for an LSTM "c". bfloat16 becomes float32."""
        return self._state.to_arrays()

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Set the state to copies of what ``state_dict`` returned.

        Raises:
            RuntimeError: it holds other names, or an array has the wrong shape.
            TypeError: it is not a mapping, or a value is not an array.
            ValueError: an array has the wrong dtype.
        """
        self._set(self._state.from_arrays(state_dict))

    def __getstate__(self) -> dict[str, Any]:
        return {"rnn": self._rnn, "batch_size": self._batch_size, "state": self._state.held()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["rnn"], state["batch_size"])  # type: ignore[misc]
        self._state.take(state["state"])

    # --- A step ---

    def _is_usual(self, x: Any, out: Any, states: tuple[Tensor, ...]) -> bool:
        """Whether the kernels may run a step on a tensor: a plain one, and no gradient is needed."""
        if not is_usual(x, out):
            return False
        if not torch.is_grad_enabled():
            return True
        params = self._rnn._own_params()
        return params is not None and not any(t is None or t.requires_grad for t in (x, *params, *states))

    def _drops(self) -> bool:
        """Whether dropout acts between layers."""
        return bool(self._has_layers and self._rnn.training and self._rnn.dropout)

    def _step(self, given: Values, out: Values | None) -> Values:
        """A step that cannot take the quick path: the first, one that the kernels do not run, or one with wrong arguments."""
        check_network(self._rnn, "a stream does")  # again: to_torch may have been there
        x = as_input(self._rnn, self._batch_size, given, {2: "(B, I)", 1: "(I,)"}, 0)
        is_tensor = isinstance(given, Tensor)
        may_step = not self._drops() and (not is_tensor or self._is_usual(given, out, self._state.current()))
        if may_step and (stepper := self._ready()) is not None:
            if out is not None:
                self._check_out(out, given, (*x.shape[:-1], self._rnn.stack.output_size), x)
            dense = x.detach().resolve_neg().contiguous()
            y: Values | None = stepper.step(dense if is_tensor else dense.numpy(), out)
            if y is not None:
                self._state.set(stepper.states)
                self._next = stepper.step
                if is_tensor and out is not None:
                    count_write(out)  # type: ignore[arg-type]  # of the kind of x
                return y
        time = 1 if self._rnn.batch_first else 0
        return self._call(given, x, [time] if x.dim() == 2 else [0, time], out)  # type: ignore[no-any-return]

    def _ready(self) -> Stepper | None:
        """The kernels, with the weights and a copy of the state. None if they cannot run this network."""
        rnn = self._rnn
        params = rnn._own_params()
        if params is None or not can_step(rnn.stack, params) or not rnn._is_plain():
            return None
        stepper = self._stepper
        if stepper is None or stepper.stack != rnn.stack or stepper.states[0].dtype is not params[0].dtype:
            stepper = Stepper(rnn.stack, self._batch_size, params[0].dtype)
        parameters = rnn._parameters
        if parameters is not self._parameters or not stepper.is_current:
            stepper.pack(parameters, rnn._names)
        states = self._state.current()
        if states is not stepper.states:
            with torch.no_grad():
                for to, state in zip(stepper.states, states, strict=True):
                    to.copy_(state)
        self._stepper, self._stack, self._parameters, self._next = stepper, rnn.stack, parameters, decline
        return stepper

    def _call(self, given: Values, x: Tensor, lacking: list[int], out: Values | None, beside: Mapping[str, Tensor] | None = None) -> Any:
        """Call the layer on x and store the state.

        Args:
            given: x as the caller gave it; the output is of the same kind.
            x: given as a tensor.
            lacking: the axes of size one that x lacks, in the order in which they are inserted.
            out: where the output is written, or None.
            beside: the cell's step inputs, which lack the same axes.
        """
        beside = beside or {}
        for axis in lacking:
            x = x.unsqueeze(axis)
            beside = {name: value.unsqueeze(axis) for name, value in beside.items()}
        with nullcontext() if isinstance(given, Tensor) else _for_arrays(x.device.type):
            states = self._state.current()
            if self._stepper is not None and states is self._stepper.states:  # written over by the next step, while a graph may need it
                states = tuple([state.clone() for state in states])
            output, hx = self._rnn(x, states[0] if len(states) == 1 else states, **beside)
            finals = as_states(self._rnn._state_names, hx)
            finals = tuple([final.to(state.dtype) for final, state in zip(finals or (), states, strict=True)])
            for axis in reversed(lacking):
                output = output.squeeze(axis)
            # Before the state is set: it may fail.
            if out is not None:
                self._check_out(out, given, tuple(output.shape), output)
                write(out, output)
            result = output if isinstance(given, Tensor) else output.cpu().numpy()
            self._set(finals)
            return result if out is None else out

    def _check_out(self, out: Any, given: Any, shape: tuple[int, ...], like: Tensor) -> None:
        """Raise an error if out cannot take an output of this shape, and of the dtype and on the device of ``like``."""
        device = like.device if isinstance(given, Tensor) else torch.device("cpu")
        weights = [pair for pair in self._rnn.named_parameters() if pair[0] not in self._rnn._learned]
        check_out(out, given, shape, like.dtype, device, [*weights, *(("the stream's state", state) for state in self._state.values)])

    def _set(self, states: tuple[Tensor, ...]) -> None:
        self._state.set(states)
        self._next = decline


@contextmanager
def _for_arrays(device_type: str) -> Iterator[None]:
    """Without gradients and without autocast: arrays know of neither."""
    autocast = torch.autocast(device_type, enabled=False) if torch.amp.is_autocast_available(device_type) else nullcontext()
    with torch.no_grad(), autocast:
        yield
