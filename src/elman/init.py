"""Initial values, gate by gate, for layers and cells.

>>> import elman
>>> lstm = elman.init.forget_bias(elman.LSTM(10, 20, num_layers=2), 1.0)
>>> gru = elman.init.orthogonal(elman.init.xavier(elman.GRU(10, 20)))

A weight of a GRU or an LSTM stacks its gates' matrices, and each layer and direction has two biases that are added up. So ``torch.nn.init``
on a whole weight uses a shape other than a gate's, and setting a whole bias to 1 affects every gate, twice if both biases are set. These
functions set only what they name. They take Elman's modules and torch.nn's, change them in place and return them. In a network of your own
cell they find the gates by name.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from elman.cells import ElmanTanh, Gru, Lstm, take_step
from elman.layers.module import RecurrentModule
from elman.layers.options import as_finite, as_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

M = TypeVar("M", bound=nn.Module)

_LSTM = (nn.LSTM, nn.LSTMCell)
_GRU = (nn.GRU, nn.GRUCell)
_RNN = (nn.RNN, nn.RNNCell)


def forget_bias(module: M, value: float = 1.0) -> M:
    """Set the forget gate's bias of an LSTM, so that it remembers from the start.

    >>> import elman
    >>> lstm = elman.init.forget_bias(elman.LSTM(10, 20, bidirectional=True), 1.0)
    >>> (lstm.bias_ih_l0 + lstm.bias_hh_l0)[20:40].unique()  # i, f, g, o: f is the second
    tensor([1.], grad_fn=<Unique2Backward0>)

    It sets the sum of the two biases: the forget gate's part of ``bias_ih`` becomes the value and that of ``bias_hh`` zero, in every layer
    and direction.

    Source: F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to Forget", Neural Computation 12 (2000); 1 is the value of R. Jozefowicz,
    W. Zaremba, I. Sutskever, "An Empirical Exploration of Recurrent Network Architectures", ICML (2015).

    Args:
        module: an LSTM or an LSTMCell, or a network of a cell with a gate "f" that keeps the state.
        value: the bias.

    Returns:
        The same module.

    Raises:
        TypeError: it is another module, or the value is not a number.
        ValueError: it has no biases, or they are computed (parametrized).
    """
    _check_keeps(module, _LSTM, "an LSTM or an LSTMCell, which have a forget gate")
    number = as_finite("value", value)
    _set_biases(module, {"f": lambda bias: bias.fill_(number)})
    return module


def chrono(module: M, max_steps: int) -> M:
    """Draw the biases of an LSTM or a GRU so that its units remember over times from 1 to about ``max_steps`` steps.

    >>> import elman
    >>> lstm = elman.init.chrono(elman.LSTM(10, 20), max_steps=784)

    With u drawn for each unit from the uniform distribution over [1, max_steps - 1], the forget gate's bias of an LSTM becomes log(u) and
    the input gate's -log(u). A GRU's update gate z, which keeps the old state, gets log(u). What is set is the sum of the two biases: the
    gate's part of ``bias_ih`` becomes the value, that of ``bias_hh`` zero, in every layer and direction.

    Source: C. Tallec, Y. Ollivier, "Can Recurrent Neural Networks Warp Time?", ICLR (2018).

    Args:
        module: a layer or a cell of kind LSTM or GRU, or a network of a cell with a gate "f" that keeps the state; its gate "i", if it
            has one, is set as an LSTM's.
        max_steps: the longest time, in steps, over which the network is to remember: at least 3.

    Returns:
        The same module.

    Raises:
        TypeError: it is another module, or max_steps is not an int.
        ValueError: max_steps is below 3, or the module has no biases, or they are computed (parametrized).
    """
    _check_keeps(module, _LSTM + _GRU, "an LSTM, a GRU or a cell of these, which have gates that keep the state")
    longest = as_size("max_steps", max_steps, 3)
    drawn: list[Tensor] = []

    def keep(bias: Tensor) -> None:
        drawn.append(torch.empty_like(bias).uniform_(1.0, longest - 1.0).log_())
        bias.copy_(drawn[-1])

    gates = {"z": keep} if isinstance(module, _GRU) else {"f": keep, "i": lambda bias: bias.copy_(-drawn[-1])}
    _set_biases(module, {gate: fill for gate, fill in gates.items() if gate in _all_gates(module)})
    return module


def orthogonal(module: M, gain: float = 1.0) -> M:
    """Draw each gate's recurrent matrix as an orthogonal one.

    >>> import elman, torch
    >>> gru = elman.init.orthogonal(elman.GRU(10, 20))
    >>> r, z, n = gru.weight_hh_l0.detach().chunk(3)
    >>> torch.allclose(r @ r.T, torch.eye(20), atol=1e-5)
    True

    ``weight_hh`` of every layer and direction is set, each gate's (H, H) by itself, or its (H, P) with a projection.

    Source: A. M. Saxe, J. L. McClelland, S. Ganguli, "Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural
    Networks", ICLR (2014).

    Args:
        module: a layer or a cell of any kind.
        gain: the factor that multiplies the matrix.

    Returns:
        The same module.

    Raises:
        TypeError: it is another module, or the gain is not a number.
        ValueError: its weights are computed (parametrized).
    """
    number = as_finite("gain", gain)
    return _set_gates(module, "weight_hh", lambda matrix: nn.init.orthogonal_(matrix, number))


def xavier(module: M, gain: float = 1.0) -> M:
    """Draw each gate's input matrix from the uniform distribution over ±gain·sqrt(6 / (I + H)).

    >>> import elman
    >>> lstm = elman.init.xavier(elman.LSTM(10, 20))
    >>> bool(lstm.weight_ih_l0.abs().max() <= (6 / (10 + 20)) ** 0.5)
    True

    ``weight_ih`` of every layer and direction is set, each gate's (H, I) by itself; in higher layers I is the size of the output of the
    layer below.

    Source: X. Glorot, Y. Bengio, "Understanding the Difficulty of Training Deep Feedforward Neural Networks", AISTATS (2010).

    Args:
        module: a layer or a cell of any kind.
        gain: the factor that multiplies the bound.

    Returns:
        The same module.

    Raises:
        TypeError: it is another module, or the gain is not a number.
        ValueError: its weights are computed (parametrized).
    """
    number = as_finite("gain", gain)
    return _set_gates(module, "weight_ih", lambda matrix: nn.init.xavier_uniform_(matrix, number))


def _check(module: object, kinds: tuple[type[nn.Module], ...], expected: str) -> None:
    if not isinstance(module, kinds) and not _is_own(module):
        raise TypeError(f"expected {expected}, got {type(module).__name__}")


def _check_keeps(module: Any, kinds: tuple[type[nn.Module], ...], expected: str) -> None:
    """Raise a TypeError unless the module is of one of these kinds, or its cell has a gate f that keeps the state."""
    if isinstance(module, kinds):
        return
    if not _is_own(module):
        raise TypeError(f"expected {expected}, got {type(module).__name__}")
    if "f" not in module.stack.cell.gates:
        cell, gates = type(module.stack.cell).__name__, ", ".join(module.stack.cell.gates)
        raise TypeError(f"expected a cell with a gate f, got {cell} with {gates}: set the biases yourself, or in the cell's init")
    if not _keeps(module):
        raise TypeError(
            f"expected a cell whose gate f keeps the state, got {type(module.stack.cell).__name__}, which keeps less of it with a "
            "large bias of f: set the biases yourself, or in the cell's init"
        )


_OPEN = 20.0  # a gate's sum at which its sigmoid is 1, and at its negative 0
_SMALL = 1e-9  # as rounding is


def _keeps(module: Any) -> bool:
    """Whether a step of the first layer keeps no less of the states with a large sum of the gate f than with a small one.

    It is tried on the CPU in float64, with step inputs of 1 and of 0; where that cannot be, the answer is yes.
    """
    cell, hidden = module.stack.cell, module.stack.hidden_size
    like = torch.empty(0, dtype=torch.float64, device="cpu")
    generator = torch.Generator().manual_seed(0)

    def kept(sum_of_f: float, step_input: float, state: int) -> Tensor:
        """How far each state after the step differs where this one does before it."""
        x, bias_hh = (like.new_zeros(1, len(gates), hidden) for gates in (cell.input_gates, cell.recurrent_gates))
        part, gates = (x, cell.input_gates) if "f" in cell.input_gates else (bias_hh, cell.recurrent_gates)
        part[:, gates.index("f")] = sum_of_f
        weights = {name: getattr(module, name if hasattr(module, name) else f"{name}_l0").to(like) for name in cell.parameters}
        if cell.recurrent_gates:
            weights |= {"weight_hh": like.new_zeros(bias_hh.numel(), hidden), "bias_hh": bias_hh.flatten()}
        step_inputs = [like.new_full((1, hidden) if size else (1,), step_input) for size in cell.step_inputs.values()]
        projected = x.flatten(1) if cell.input_gates else None
        changed = [each + difference if index == state else each for index, each in enumerate(states)]
        one, other = (take_step(cell, projected, tuple(each), weights, step_inputs) for each in (states, changed))
        return torch.stack([(a - b).norm() for a, b in zip(one, other, strict=True)])

    with torch.no_grad():
        *states, difference = (like.new_empty(1, hidden).uniform_(0.02, 0.08, generator=generator) for _ in (*cell.states, None))
        try:
            tries = itertools.product((1.0, 0.0), range(len(states)))
            more = torch.stack([kept(_OPEN, *each) - kept(-_OPEN, *each) for each in tries])
            return bool(more.max() > _SMALL or more.min() > -_SMALL)
        except Exception:  # an option on another device, a parameter without numbers
            return True


def _is_own(module: object) -> bool:
    """Whether it is a network of a cell, and not of torch.nn's kinds."""
    return isinstance(module, RecurrentModule) and not isinstance(module, nn.RNNBase | nn.RNNCellBase)


def _parameters(module: nn.Module, kind: str) -> Iterator[Tensor]:
    """The parameters of a kind, ``bias_ih`` for example, of all layers and directions."""
    called = re.compile(rf"{kind}(_l\d+(_reverse)?)?")  # not one of a cell's own whose name begins so
    parameters = [parameter for name, parameter in module._parameters.items() if called.fullmatch(name) and parameter is not None]
    if len(parameters) < getattr(module, "num_layers", 1) * (2 if getattr(module, "bidirectional", False) else 1):
        reason = "computed: remove the parametrization first"
        if kind.startswith("bias") and (not module.bias or getattr(module, kind, "") is None):
            reason = "built with bias=False" if not module.bias else "None"
        raise ValueError(f"expected a module with {kind} among its parameters, got {type(module).__name__}, in which it is {reason}")
    yield from parameters


def _all_gates(module: nn.Module) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*_gates(module, "bias_ih"), *_gates(module, "bias_hh"))))


def _gates(module: Any, kind: str) -> tuple[str, ...]:
    """The gates, in the order in which they lie in a kind of parameter."""
    if isinstance(module, RecurrentModule):
        cell = module.stack.cell
        return cell.input_gates if kind.endswith("ih") else cell.recurrent_gates
    return Lstm.gates if isinstance(module, _LSTM) else Gru.gates if isinstance(module, _GRU) else ElmanTanh.gates


def _set_biases(module: nn.Module, gates: dict[str, Callable[[Tensor], object]]) -> None:
    """Set these gates' biases, the sum of ``bias_ih`` and ``bias_hh``, in the order given: what there is of it first, the rest to zero."""
    kinds = [kind for kind in ("bias_ih", "bias_hh") if any(gate in _gates(module, kind) for gate in gates)]
    with torch.no_grad():
        for biases in zip(*[_parameters(module, kind) for kind in kinds], strict=True):
            for gate, fill in gates.items():
                blocks = [
                    bias.chunk(len(order))[order.index(gate)]
                    for kind, bias in zip(kinds, biases, strict=True)
                    if gate in (order := _gates(module, kind))
                ]
                fill(blocks[0])
                for block in blocks[1:]:
                    block.zero_()


def _set_gates(module: M, kind: str, draw: Callable[[Tensor], object]) -> M:
    """Draw each gate's matrix in a kind of weight; in float32 or float64, which torch can factorize."""
    _check(module, _RNN + _LSTM + _GRU, "an RNN, a GRU, an LSTM or a cell of these")
    if not _gates(module, kind):
        raise TypeError(f"expected a cell with {kind}, got {type(module.stack.cell).__name__}, which has none")  # type: ignore[union-attr]
    with torch.no_grad():
        for weight in _parameters(module, kind):
            for gate in weight.chunk(len(_gates(module, kind))):
                matrix = torch.empty_like(gate, dtype=torch.promote_types(gate.dtype, torch.float32))
                draw(matrix)
                gate.copy_(matrix)
    return module
