"""A stream's state between two steps, and the sequences that are yet to begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from elman.layers.errors import check_layout, check_memory, check_unmasked, wrong_kind
from elman.streaming.arguments import array_as_tensor
from elman.streaming.network import check_network

if TYPE_CHECKING:
    import numpy.typing as npt

    from elman.layers import Recurrent


class StreamState:
    """A network's states between two steps. At first all sequences are yet to begin.

    Attributes:
        values: a tensor (L, B, H) for each of the cell's states, or as wide as ``stack.state_sizes`` says.
    """

    def __init__(self, rnn: Recurrent[Any], batch: int) -> None:
        self._network = rnn
        self._batch = batch
        weight, stack = rnn._params()[0], rnn.stack
        self.values: tuple[Tensor, ...] = tuple([weight.new_zeros((stack.num_layers, batch, width)) for width in stack.state_sizes])
        self._fresh: Tensor | None = torch.ones(batch, dtype=torch.bool, device="cpu")  # the sequences yet to begin; None for none

    @property
    def _rnn(self) -> Recurrent[Any]:
        """The network. Raises an error if it is no longer Elman's: ``to_torch`` may have converted it."""
        check_network(self._network, "a stream does")
        return self._network

    def set(self, values: tuple[Tensor, ...]) -> None:
        """Hold these states, of sequences that have begun."""
        self.values, self._fresh = values, None

    def reset(self, sequences: Tensor) -> None:
        """Let the sequences of a mask begin with the next step. The mask becomes this object's own."""
        if self._fresh is not None:
            sequences |= self._fresh
        self._fresh = sequences
        if sequences.all():
            self.detach()  # no sequence has a past

    def detach(self) -> None:
        """Cut the graph that the states carry."""
        if any(value.requires_grad for value in self.values):
            self.values = tuple([value.detach() for value in self.values])

    def begun(self) -> tuple[Tensor, ...] | None:
        """The states before the next step as they are held; None where ``current`` would make others of them."""
        if self._fresh is not None or (self.values[0].is_inference() and not torch.is_inference_mode_enabled()):
            return None
        return self.values

    def current(self) -> tuple[Tensor, ...]:
        """The states before the next step, with the parameters' dtype and device. Sequences yet to begin have their initial state."""
        rnn, weight = self._rnn, self._rnn._params()[0]
        states, fresh = self.values, self._fresh
        if states[0].dtype is not weight.dtype or states[0].device != weight.device:
            states = tuple([state.to(weight) for state in states])
        if states[0].is_inference() and not torch.is_inference_mode_enabled():
            states = tuple([state.clone() for state in states])  # no graph may hold the others
        if fresh is None:
            return states
        if not rnn.learn_initial_state:
            initial = tuple([torch.zeros_like(state) for state in states])
        else:
            learned = [getattr(rnn, f"{name}_0") for name in rnn.stack.cell.states]
            initial = tuple([state_0.unsqueeze(1).expand_as(state) for state_0, state in zip(learned, states, strict=True)])
        if fresh.all():
            return initial
        fresh = fresh.to(weight.device)[:, None]
        return tuple([torch.where(fresh, start, state) for start, state in zip(initial, states, strict=True)])

    # --- In and out ---

    def as_own(self, state: Any) -> tuple[Tensor, ...]:
        """Copies of states that a caller gave as the network's hx, tensors or arrays, checked."""
        if state is None:
            raise TypeError("expected a state like the network's hx, got None: reset() goes back to the start of a fresh sequence")
        names, given = self._rnn.stack.cell.states, state
        if len(names) == 1:
            names, given = ("state",), (state,)
        expected = f"a tuple ({', '.join(names)})"
        if not isinstance(given, tuple | list):
            raise wrong_kind("state", expected, given)
        if len(given) != len(names):
            raise RuntimeError(f"expected state to be {expected}, got one of length {len(given)}")
        return self._as_own(names, given)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The states as NumPy arrays of their own, by name. bfloat16, which NumPy does not have, becomes float32."""
        states = [state.detach().cpu() for state in self.current()]
        wide = [state.float() if state.dtype is torch.bfloat16 else state for state in states]
        return {name: state.numpy().copy() for name, state in zip(self._rnn.stack.cell.states, wide, strict=True)}

    def from_arrays(self, arrays: Any) -> tuple[Tensor, ...]:
        """Copies of the states that ``to_arrays`` gave, checked."""
        names = self._rnn.stack.cell.states
        if not isinstance(arrays, Mapping):
            raise wrong_kind("state_dict", "a dict of arrays, as state_dict() gives it", arrays)
        if set(arrays) != set(names):
            raise RuntimeError(f"expected a state of {' and '.join(names)}, got {', '.join(map(str, arrays)) or 'nothing'}")
        for name in names:
            check_unmasked(name, arrays[name])
        return self._as_own(names, [self._narrowed(arrays[name]) for name in names])

    def held(self) -> HeldStates:
        """The states, to be pickled or taken by another object."""
        return HeldStates(self.values, self._fresh)

    def take(self, held: HeldStates) -> None:
        """Hold copies without a graph of states that another object held, on the network's device."""
        device = self._rnn._params()[0].device
        self.values = tuple([value.detach().to(device, copy=True) for value in held.values])
        self._fresh = held.fresh  # never written to

    def _narrowed(self, value: Any) -> Any:
        """A value as bfloat16 if the network is of that dtype, and the value is an array in float32, as ``to_arrays`` gives it."""
        is_wide = self._rnn._params()[0].dtype is torch.bfloat16 and isinstance(value, np.ndarray) and value.dtype == "float32"
        return torch.from_numpy(value).bfloat16() if is_wide else value

    def _as_own(self, names: tuple[str, ...], given: Any) -> tuple[Tensor, ...]:
        return tuple([self._copied(*each) for each in zip(names, given, self._rnn.stack.state_sizes, strict=True)])

    def _copied(self, name: str, state: Any, width: int) -> Tensor:
        weight, stack = self._rnn._params()[0], self._rnn.stack
        if isinstance(state, torch.masked.MaskedTensor):
            raise wrong_kind(name, "a tensor or an array without a mask", state)
        given = state if isinstance(state, Tensor) else array_as_tensor(name, state, weight)
        check_layout(name, given)
        check_memory(name, given)
        shape = (stack.num_layers, self._batch, width)
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


class HeldStates:
    """States on their way to a copy of what holds them: tensors within a process, bytes in a pickle.

    In place of a tensor torch.multiprocessing sends where it lies in shared memory, which must stay; what a copy is made of would not.
    """

    def __init__(self, values: tuple[Tensor, ...], fresh: Tensor | None) -> None:
        self.values, self.fresh = values, fresh

    def __deepcopy__(self, memo: object) -> HeldStates:
        return self  # whoever takes it makes copies

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (tuple(map(_as_bytes, self.values)), None if self.fresh is None else _as_bytes(self.fresh))


# A tensor's numbers, shape and dtype; no numbers on the meta device.
_Bytes: TypeAlias = tuple[bytes | None, torch.Size, torch.dtype]
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size: NumPy has no bfloat16


def _as_bytes(tensor: Tensor) -> _Bytes:
    if tensor.is_meta:
        return None, tensor.shape, tensor.dtype
    return tensor.detach().cpu().view(_INTEGERS[tensor.itemsize]).numpy().tobytes(), tensor.shape, tensor.dtype


def _from_bytes(numbers: bytes | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    if numbers is None:
        return torch.empty(shape, dtype=dtype, device="meta")
    own = np.frombuffer(numbers, np.uint8).copy()
    return torch.from_numpy(own).view(dtype).view(shape)


def _unpickled(values: tuple[_Bytes, ...], fresh: _Bytes | None) -> HeldStates:
    return HeldStates(tuple([_from_bytes(*value) for value in values]), None if fresh is None else _from_bytes(*fresh))
