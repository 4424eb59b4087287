"""A network run over a sequence that comes bit by bit: its state kept, its weights packed once, a step in microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

import torch
from torch import Tensor

from elman.backends.stepper import Stepper, can_step, count_write, decline, is_usual
from elman.layers.arguments import check_input
from elman.layers.errors import brief, check_unmasked, wrong_kind
from elman.layers.initial_state import as_states
from elman.layers.options import as_size
from elman.streaming.network import check_network
from elman.streaming.out import check_out, write
from elman.streaming.rows import as_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    import numpy.typing as npt

    from elman.layers import GRU, LSTM, RNN

Array: TypeAlias = "npt.NDArray[Any]"
Values = TypeVar("Values", bound="Tensor | Array")


def stream(rnn: RNN | GRU | LSTM, batch_size: int = 1) -> Stream:
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

    The numbers are those of the whole run, to the bit on the native backend in float32 and float64, however the sequence is cut. (In
    bfloat16 an LSTM's c is rounded wherever a call ends, so its bits depend on the cuts.)

    Args:
        rnn: an RNN, GRU or LSTM of one direction. It stays the owner of its parameters: what is written to them, by an optimizer or by
            load_state_dict, acts from the next step on. (torch does not count what is written by way of ``parameter.data``, of a NumPy
            array that shares its memory, or by a fused optimizer: such writes are seen by sixteen numbers of each parameter, all over it,
            and are missed if they change none of these.)
        batch_size: B, how many sequences run side by side.

    Returns:
        A ``Stream`` at the start of a fresh sequence.

    Raises:
        TypeError: rnn is not one of Elman's layers, or batch_size is not an int.
        ValueError: rnn is bidirectional, or batch_size is below 1.
    """
    return Stream(rnn, batch_size)


class Stream:
    """A network, and the state in which it waits for the next step of its sequences. ``elman.stream(rnn)`` makes one.

    >>> import elman, numpy as np
    >>> stream = elman.stream(elman.LSTM(10, 20), batch_size=3)
    >>> y = stream.step(np.zeros((3, 10), dtype=np.float32))  # arrays in, arrays out
    >>> type(y).__name__, y.shape
    ('ndarray', (3, 20))

    What ``step`` and ``run`` return is yours: fresh memory each time, or ``out``, where you give one.

    Kernels of our own run the steps of a network in float32 or float64 on the CPU, on the caller's thread; else, and for a ``run``, the
    layer itself is called, with the same results. It is also called where gradients are wanted (they are enabled, x is a tensor, and x,
    the state or a parameter requires them: the state then carries the graph, until ``detach``), where dropout acts between layers (in
    training mode), under torch's modes (autocast, transforms), and where a parameter is computed (weight norm). Hooks on the layer
    run when it is called only. NumPy arrays know of no gradients and of no autocast: steps and runs of them are in the parameters' dtype.

    A copy or a pickle has a state of its own, without a graph; ``copy.copy`` shares the network, ``copy.deepcopy`` copies it.
    After an error the state is what it was. A stream is not for several threads at once: nothing breaks, but steps mix.
    """

    def __init__(self, rnn: RNN | GRU | LSTM, batch_size: int = 1) -> None:
        check_network(rnn, "a stream does")
        batch_size = as_size("batch_size", batch_size, 1)
        import numpy as np  # not before: it takes as long to import as all of ours

        self._rnn = rnn
        self._batch_size = batch_size
        self._array_class = np.ndarray
        self._stepper: Stepper | None = None
        self._parameters: dict[str, Any] | None = None  # the network's, as the stepper has it: another may be put in its place
        self._next: Callable[[Any, Any], Any] = decline  # the stepper's step, if it has the weights and the state
        self._has_layers = rnn.num_layers > 1
        weight = rnn._params()[0]
        stack = rnn.stack
        self._states = tuple([weight.new_zeros((stack.num_layers, batch_size, width)) for width in stack.state_sizes])
        self._fresh: Tensor | None = torch.ones(batch_size, dtype=torch.bool, device="cpu")  # rows that begin a sequence; None: none does

    def __repr__(self) -> str:
        return f"Stream({self._rnn!r}, batch_size={self._batch_size})"

    @property
    def rnn(self) -> RNN | GRU | LSTM:
        """The network. Another one needs another stream, with ``stream.state`` to be taken along where it fits."""
        return self._rnn

    @rnn.setter
    def rnn(self, rnn: object) -> NoReturn:
        raise AttributeError("expected rnn to stay the network that the stream was made for: make another with elman.stream(rnn)")

    @property
    def batch_size(self) -> int:
        """B, how many sequences run side by side."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, batch_size: object) -> NoReturn:
        told = f"expected batch_size to stay {self._batch_size}, got {brief(batch_size)}"
        raise AttributeError(f"{told}: make another stream with elman.stream(stream.rnn, batch_size)")

    def step(self, x: Values, out: Values | None = None) -> Values:
        """Take one step of every sequence.

        >>> import elman, torch
        >>> stream = elman.stream(elman.GRU(10, 20))
        >>> with torch.no_grad():  # else the state carries a graph that every step makes longer
        ...     for x_t in torch.randn(5, 1, 10):
        ...         y = stream.step(x_t)

        With gradients enabled, a step on a tensor adds to the graph that the state carries where x, the state or a parameter requires
        them, as the parameters do unless they are frozen: the graph, and with it the memory, grows until ``detach``, or until a ``reset``
        of all rows. Arrays build none.

        Args:
            x: (B, I), with batch_size 1 also (I,): a tensor or a NumPy array, of the parameters' dtype.
            out: where the output is written, of the kind of x and of the output's shape, dtype and device, its rows contiguous. It may be x
                itself, or overlap it: x is read first. It cannot carry a graph, so none may be wanted.

        Returns:
            The last layer's new state, (B, H) or (H,), with a projection P for H, of the kind of x: ``out``, or fresh memory.

        Raises:
            TypeError: x is neither a tensor nor an array, or out is of another kind.
            ValueError: x has the wrong number of dimensions or the wrong dtype; out has the wrong dtype or is read-only.
            RuntimeError: x has the wrong number of features or rows, or is on another device; out has the wrong shape, layout or device,
                overlaps the state or a weight, or would need a graph.
        """
        if self._rnn._parameters is self._parameters and not (self._has_layers and self._drops()):
            y: Values | None = None
            if type(x) is self._array_class:
                y = self._next(x, out)
            elif self._is_usual(x, out, self._states):
                y = self._next(x, out)
                if out is not None and y is not None:
                    count_write(out)  # type: ignore[arg-type]  # is_usual has seen that it is a tensor
            if y is not None:
                return y
        return self._step(x, out)

    def run(self, chunk: Values, out: Values | None = None) -> Values:
        """Take all steps of a chunk of the sequences.

        Args:
            chunk: as the network takes it, (T, B, I), or (B, T, I) with batch_first; with batch_size 1 also unbatched, (T, I): a tensor
                or a NumPy array, of the parameters' dtype.
            out: where the outputs are written, as for ``step``.

        Returns:
            The outputs, laid out as the chunk, (T, B, H) or (T, H), with a projection P for H, of its kind: ``out``, or fresh memory.

        Raises:
            TypeError: chunk is neither a tensor nor an array, or out is of another kind.
            ValueError: chunk has the wrong number of dimensions or the wrong dtype; out has the wrong dtype or is read-only.
            RuntimeError: chunk has no step, the wrong number of features or rows, or is on another device; out as for ``step``.
        """
        batch = 0 if self._rnn.batch_first else 1
        x = self._check(chunk, {3: "(B, T, I)" if batch == 0 else "(T, B, I)", 2: "(T, I)"}, batch)
        return self._call(chunk, x, [] if x.dim() == 3 else [batch], out)  # type: ignore[no-any-return]

    @property
    def state(self) -> Any:
        """The state before the next step, as the network's hx: h, (L, B, H), or for an LSTM (h, c); with a projection h is (L, B, P).

        >>> import elman, torch
        >>> stream = elman.stream(elman.RNN(10, 20))
        >>> before = stream.state
        >>> y = stream.run(torch.randn(7, 1, 10))
        >>> stream.state = before

        What is read is a copy, of tensors; what is set, tensors or NumPy arrays, is copied. So ``stream.state[:, 0] = 1`` writes into a
        copy, and changes nothing: change what you have read, and set it. With gradients enabled both keep a graph. Setting raises a
        TypeError, RuntimeError or ValueError if it does not look so.
        """
        states = tuple([state.clone() for state in self._current()])
        return states[0] if len(states) == 1 else states

    @state.setter
    def state(self, state: Tensor | Array | tuple[Tensor | Array, ...]) -> None:
        if state is None:
            raise TypeError("expected a state as the network's hx, got None: reset() goes back to the start of a fresh sequence")
        names, given = self._rnn.stack.cell.states, state
        if len(names) == 1:
            names, given = ("state",), (state,)  # type: ignore[assignment]  # what it is comes next
        expected = f"a tuple ({', '.join(names)})"
        if not isinstance(given, tuple | list):
            raise wrong_kind("state", expected, given)
        if len(given) != len(names):
            raise RuntimeError(f"expected state to be {expected}, got {len(given)} of them")
        self._set(tuple([self._check_state(*pair) for pair in zip(names, given, self._rnn.stack.state_sizes, strict=True)]))

    def reset(self, rows: int | bool | Sequence[int] | AbstractSet[int] | Sequence[bool] | Tensor | Array | None = None) -> None:
        """Go back to the start of a fresh sequence: zeros, or the network's h_0 and c_0 where it learns them.

        >>> import elman, numpy as np
        >>> stream = elman.stream(elman.RNN(10, 20), batch_size=3)
        >>> y = stream.step(np.ones((3, 10), dtype=np.float32))
        >>> stream.reset([0, 2])
        >>> stream.state.any(dim=2).tolist()
        [[False, True, False]]

        Args:
            rows: which rows, all by default: a number, or numbers in a list, a tuple, a tensor, an array, a set or a range, each once; or a
                mask of B bools, with batch_size 1 also the bool itself. Integers are never a mask: B zeros and ones in a list, a tensor
                or an array, as an environment may give its ``dones``, are refused, and with batch_size 1 so is a bare 0 or 1. A mask is
                always one as bools, numbers are always numbers as a set.

        Raises:
            TypeError: rows are neither numbers nor bools, or may be either.
            IndexError: a number is not from 0 to B-1, the mask has not B values, or rows have more than one axis.
            ValueError: a number is there twice.
        """
        mask = as_mask(range(self._batch_size) if rows is None else rows, self._batch_size)
        if self._fresh is not None:
            mask |= self._fresh
        self._fresh = mask
        if mask.all():
            self.detach()  # no row has a past
        self._next = decline

    def detach(self) -> None:
        """Cut the graph that the state carries: gradients of what follows end here. As in truncated backpropagation through time.

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
        if any(state.requires_grad for state in self._states):
            self._states = tuple([state.detach() for state in self._states])

    def state_dict(self) -> dict[str, Array]:
        """The state as NumPy arrays of their own: "h", (L, B, H), and for an LSTM "c". bfloat16 becomes float32."""
        states = [state.detach().cpu() for state in self._current()]
        wide = [state.float() if state.dtype is torch.bfloat16 else state for state in states]
        return {name: state.numpy().copy() for name, state in zip(self._rnn.stack.cell.states, wide, strict=True)}

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Take the state that ``state_dict`` gave: copies of it.

        Raises:
            RuntimeError: there are other names in it, or an array has the wrong shape.
            TypeError: it is no mapping, or holds something else than arrays.
            ValueError: one has the wrong dtype.
        """
        names = self._rnn.stack.cell.states
        if not isinstance(state_dict, Mapping):
            raise wrong_kind("state_dict", "a dict of arrays, as state_dict() gives it", state_dict)
        if set(state_dict) != set(names):
            raise RuntimeError(f"expected a state of {' and '.join(names)}, got {', '.join(map(str, state_dict)) or 'nothing'}")
        for name in names:
            check_unmasked(name, state_dict[name])
        given = [torch.from_numpy(v).bfloat16() if self._is_bfloat16(v) else v for v in map(state_dict.__getitem__, names)]
        self._set(tuple([self._check_state(*pair) for pair in zip(names, given, self._rnn.stack.state_sizes, strict=True)]))

    def __getstate__(self) -> dict[str, Any]:
        states = tuple([state.detach().clone() for state in self._states])
        fresh = None if self._fresh is None else self._fresh.clone()
        return {"rnn": self._rnn, "batch_size": self._batch_size, "states": states, "fresh": fresh}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["rnn"], state["batch_size"])  # type: ignore[misc]
        self._states, self._fresh = state["states"], state["fresh"]

    # --- A step ---

    def _is_usual(self, x: Any, out: Any, states: tuple[Tensor, ...]) -> bool:
        """Whether the kernels may run a step on a tensor."""
        if not is_usual(x, out):
            return False
        if not torch.is_grad_enabled():
            return True
        params = self._rnn._own_params()
        return params is not None and not any(t.requires_grad for t in (x, *params, *states))

    def _drops(self) -> bool:
        """Whether dropout acts."""
        return bool(self._has_layers and self._rnn.training and self._rnn.dropout)

    def _step(self, given: Values, out: Values | None) -> Values:
        """A step that is not as quick as most: the first, or one that the kernels do not run, or a wrong one."""
        x = self._check(given, {2: "(B, I)", 1: "(I,)"}, 0)
        is_tensor = isinstance(given, Tensor)
        if not self._drops() and (not is_tensor or self._is_usual(given, out, self._current())) and self._settle():
            if out is not None:
                self._check_out(out, given, (*x.shape[:-1], self._rnn.stack.output_size), x)
            dense = x.detach().resolve_neg().contiguous()
            y: Values | None = self._next(dense if is_tensor else dense.numpy(), out)
            if y is not None:
                if is_tensor and out is not None:
                    count_write(out)  # type: ignore[arg-type]  # of the kind of x
                return y
        time = 1 if self._rnn.batch_first else 0
        return self._call(given, x, [time] if x.dim() == 2 else [0, time], out)  # type: ignore[no-any-return]

    def _settle(self) -> bool:
        """Bring the weights and the state to where the kernels have them; False if they cannot run this network."""
        rnn = self._rnn
        params = rnn._own_params()
        if params is None or not can_step(rnn.stack, params):
            return False
        stepper = self._stepper
        if stepper is None or stepper.states[0].dtype is not params[0].dtype:
            stepper = Stepper(rnn.stack, self._batch_size, params[0].dtype)
        parameters = rnn._parameters
        if parameters is not self._parameters or not stepper.is_current:
            stepper.pack(parameters, rnn._names)
        states = self._current()
        if states is not stepper.states:
            with torch.no_grad():
                for to, state in zip(stepper.states, states, strict=True):
                    to.copy_(state)
        self._stepper, self._parameters, self._next = stepper, parameters, stepper.step
        self._states, self._fresh = stepper.states, None
        return True

    def _call(self, given: Values, x: Tensor, lacking: list[int], out: Values | None) -> Any:
        """Call the layer on x, and keep the state.

        Args:
            given: what a caller gave as x; the output is of its kind.
            x: that as a tensor.
            lacking: the axes of one that it lacks to be as the layer takes it, in the order in which they are put in.
            out: where the caller wants the output.
        """
        for axis in lacking:
            x = x.unsqueeze(axis)
        with nullcontext() if isinstance(given, Tensor) else _for_arrays(x.device.type):
            states = self._current()
            if self._stepper is not None and states is self._stepper.states:  # written over by the next step, while a graph may need it
                states = tuple([state.clone() for state in states])
            output, hx = self._rnn(x, states[0] if len(states) == 1 else states)
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

    # --- The state ---

    def _set(self, states: tuple[Tensor, ...]) -> None:
        self._states, self._fresh, self._next = states, None, decline

    def _current(self) -> tuple[Tensor, ...]:
        """The states before the next step, like the parameters in dtype and device; fresh rows begin with the network's own."""
        rnn, weight = self._rnn, self._rnn._params()[0]
        states, fresh = self._states, self._fresh
        if states[0].dtype is not weight.dtype or states[0].device != weight.device:
            states = tuple([state.to(weight) for state in states])
        if states[0].is_inference() and not torch.is_inference_mode_enabled():
            states = tuple([state.clone() for state in states])  # no graph may hold the others
        if fresh is None:
            return states
        if not rnn.learn_initial_state:
            begin = tuple([torch.zeros_like(state) for state in states])
        else:
            begin = tuple(
                [getattr(rnn, f"{name}_0").unsqueeze(1).expand_as(state) for name, state in zip(rnn.stack.cell.states, states, strict=True)]
            )
        if fresh.all():
            return begin
        rows = fresh.to(weight.device)[:, None]
        return tuple([torch.where(rows, start, state) for start, state in zip(begin, states, strict=True)])

    # --- What is wrong ---

    def _check(self, x: Any, axes: dict[int, str], batch: int) -> Tensor:
        """Raise what is wrong with x, if anything is.

        Args:
            x: what a caller gave.
            axes: the names of its axes, by their number: with a batch axis, and without.
            batch: where the batch axis is.

        Returns:
            The tensor that it is, or a copy as a tensor of the array that it is, where the parameters are.
        """
        if self._batch_size > 1:
            axes = {rank: names for rank, names in axes.items() if "B" in names}
        weight = self._rnn._params()[0]
        given = x if isinstance(x, Tensor) else self._as_tensor("x", x, weight)
        check_input(given, weight, self._rnn.input_size, axes, ValueError)
        shape = tuple(given.shape)
        if "B" in axes[len(shape)] and shape[batch] != self._batch_size:
            raise RuntimeError(
                f"expected x of {self._batch_size} rows (batch_size), got {shape[batch]}: x has shape {shape}; make a stream for its size"
            )
        return given

    def _check_out(self, out: Any, given: Any, shape: tuple[int, ...], like: Tensor) -> None:
        """Raise what is wrong with out, if anything is, for an output of this shape, and of the dtype and on the device of another."""
        device = like.device if isinstance(given, Tensor) else torch.device("cpu")
        weights = [pair for pair in self._rnn.named_parameters() if pair[0] not in ("h_0", "c_0")]
        check_out(out, given, shape, like.dtype, device, [*weights, *(("the stream's state", state) for state in self._states)])

    def _check_state(self, name: str, state: Any, width: int) -> Tensor:
        """Raise what is wrong with a state, if anything is; return it as a tensor that is ours."""
        weight = self._rnn._params()[0]
        given = state if isinstance(state, Tensor) else self._as_tensor(name, state, weight)
        stack = self._rnn.stack
        shape = (stack.num_layers, self._batch_size, width)
        axes = "(L, B, H)" if width == stack.hidden_size else "(L, B, P)"
        if given.shape != shape:
            raise RuntimeError(f"expected {name} of shape {shape}, {axes}, got {tuple(given.shape)}")
        if given.dtype is not weight.dtype:
            raise ValueError(
                f"expected {name} of {weight.dtype}, the parameters' dtype, got {given.dtype}: convert it with {name}.to({weight.dtype})"
            )
        if given.device != weight.device:
            raise RuntimeError(f"expected {name} on {weight.device}, where the parameters are, got {given.device}")
        return given.clone()

    def _as_tensor(self, name: str, array: Any, weight: Tensor) -> Tensor:
        """A copy of an array, as a tensor where the parameters are."""
        import numpy as np

        check_unmasked(name, array)
        if not isinstance(array, np.ndarray):
            raise wrong_kind(name, "a torch tensor or a NumPy array", array)
        expected = getattr(np, str(weight.dtype).removeprefix("torch."), None)
        if expected is None:
            raise ValueError(f"expected {name} to be a torch tensor: the parameters are {weight.dtype}, which NumPy does not have")
        if array.dtype != expected:
            raise ValueError(
                f"expected {name} of {np.dtype(expected)}, the parameters' dtype, got {array.dtype}: convert it with "
                f"{name}.astype(numpy.{np.dtype(expected)})"
            )
        return torch.from_numpy(np.array(array)).to(weight.device)

    def _is_bfloat16(self, value: Any) -> bool:
        """Whether a state in bfloat16 came as float32, since NumPy has no bfloat16."""
        return self._rnn._params()[0].dtype is torch.bfloat16 and isinstance(value, self._array_class) and value.dtype == "float32"


@contextmanager
def _for_arrays(device_type: str) -> Iterator[None]:
    """Without gradients and without autocast: arrays know of neither."""
    autocast = torch.autocast(device_type, enabled=False) if torch.amp.is_autocast_available(device_type) else nullcontext()
    with torch.no_grad(), autocast:
        yield
