"""What is done under torch.func's transforms, for tests to do on either backend: the transforms, and numbers for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vjp, vmap

from elman.backends import registry
from elman.backends.native import NativeBackend
from elman.backends.reference import ReferenceBackend
from kinds import as_hx, as_states
from own_cells import Gru2014, Independent, Layered, Peephole

if TYPE_CHECKING:
    import elman

TOLERANCE = 1e-12
V, T, B, I, H = 3, 4, 2, 2, 5  # noqa: E741
EVERYTHING: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True}

Run = Callable[[nn.Module, dict[str, Any]], Any]


@dataclass(frozen=True)
class Own:
    """A cell of one's own, built as a ``Kind`` is."""

    cell: elman.Cell

    def __str__(self) -> str:
        return type(self.cell).__name__

    @property
    def states(self) -> tuple[str, ...]:
        return self.cell.states

    def build(self, library: Any, *sizes: int, **options: Any) -> nn.Module:
        return library.Recurrent(self.cell, *sizes, **options)

    def build_cell(self, library: Any, *sizes: int) -> nn.Module:
        return library.RecurrentCell(self.cell, *sizes)


PEEPHOLE, RESET_FIRST, INDEPENDENT, LAYERED = map(Own, (Peephole(), Gru2014(), Independent(), Layered()))
OWN = (PEEPHOLE, RESET_FIRST, INDEPENDENT, LAYERED)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that ran something, in order."""
    names: list[str] = []
    for kind, method in ((NativeBackend, "run"), (NativeBackend, "run_unchecked"), (ReferenceBackend, "run")):
        run = getattr(kind, method)

        def spy(self: Any, *args: Any, _run: Any = run, **options: Any) -> Any:
            done = _run(self, *args, **options)
            if done is not None:
                names.append(self.name)
            return done

        monkeypatch.setattr(kind, method, spy)
    return names


@contextmanager
def only(name: str) -> Iterator[None]:
    """One backend is all there is."""
    before = registry.BACKENDS
    registry.BACKENDS = tuple(backend for backend in before if backend.name == name)
    try:
        yield
    finally:
        registry.BACKENDS = before


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def parameters(rnn: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in rnn.named_parameters()}


def loss(rnn: nn.Module, values: dict[str, Tensor], x: Tensor, *states: Tensor, **spans: Any) -> Tensor:
    output, hx = functional_call(rnn, values, (x, as_hx(states)) if states else (x,), spans)
    return output.square().sum() + sum((1 + i) * state.sin().sum() for i, state in enumerate(as_states(hx)))


def states_of(rnn: nn.Module, *before: int) -> tuple[Tensor, ...]:
    directions = rnn.num_layers * rnn.stack.num_directions
    return tuple(doubles(*before, directions, B, width) for width in rnn.stack.state_sizes)


# What is done with a network, its parameters and numbers for several examples. Each gives tensors, in a list or a dict.
def mapped(rnn: nn.Module, given: dict[str, Any]) -> Any:
    return vmap(lambda x, states: rnn(x, as_hx(states), **given["spans"]))(given["x"], given["states"])


def mapped_states(rnn: nn.Module, given: dict[str, Any]) -> Any:
    return vmap(lambda states: rnn(given["x"][0], as_hx(states), **given["spans"]), in_dims=2, out_dims=1)(
        tuple(state.movedim(0, 2) for state in given["states"])
    )


def mapped_twice(rnn: nn.Module, given: dict[str, Any]) -> Any:
    x = torch.stack([given["x"], 2 * given["x"]], -1)
    inner = vmap(lambda x: rnn(x, **given["spans"])[0], in_dims=-1, out_dims=2)
    finals = vmap(vmap(lambda x: rnn(x, **given["spans"])[1]), in_dims=(3,))
    return vmap(inner, in_dims=0, out_dims=1)(x), finals(x.movedim(-1, 0).movedim(1, 3))


def gradient(rnn: nn.Module, given: dict[str, Any]) -> Any:
    def of(values: dict[str, Tensor], x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
        return loss(rnn, values, x, *states, **given["spans"])

    return grad(of, argnums=(0, 1, 2))(parameters(rnn), given["x"][0], tuple(state[0] for state in given["states"]))


def example_gradients(rnn: nn.Module, given: dict[str, Any]) -> Any:
    def of(values: dict[str, Tensor], x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
        return loss(rnn, values, x, *states, **given["spans"])

    return vmap(grad(of, argnums=(0, 1, 2)), in_dims=(None, 0, 0))(parameters(rnn), given["x"], given["states"])


def example_gradients_twice(rnn: nn.Module, given: dict[str, Any]) -> Any:
    """Of each sequence of each example, (V, B) of them, unbatched and whole."""
    x = given["x"].nan_to_num() if rnn.batch_first else given["x"].nan_to_num().transpose(1, 2)
    of = grad(lambda values, x: loss(rnn, values, x))
    return vmap(vmap(of, in_dims=(None, 0)), in_dims=(None, 0))(parameters(rnn), x)


def jacobian(rnn: nn.Module, given: dict[str, Any]) -> Any:
    return jacrev(lambda values, x: functional_call(rnn, values, (x,), given["spans"])[1], argnums=(0, 1))(parameters(rnn), given["x"][0])


def ensemble(rnn: nn.Module, given: dict[str, Any]) -> Any:
    values = {name: torch.stack([value, 2 * value, -value]) for name, value in parameters(rnn).items()}
    of = lambda values, x: loss(rnn, values, x, **given["spans"])  # noqa: E731
    return (
        vmap(lambda values: functional_call(rnn, values, (given["x"][0],), given["spans"]))(values),
        vmap(grad(of, argnums=(0, 1)))(values, given["x"]),
        vmap(vmap(grad(of), in_dims=(None, 0)), in_dims=(0, None))(values, given["x"]),
        vmap(vmap(grad(of), in_dims=(0, None)), in_dims=(None, 0))(values, given["x"]),
    )


def norms_of_gradients(rnn: nn.Module, given: dict[str, Any]) -> Any:
    """A second derivative, by plain autograd, of each example's gradient."""
    values = {name: value.requires_grad_() for name, value in parameters(rnn).items()}
    x = given["x"].clone().requires_grad_()
    of = grad(lambda values, x: loss(rnn, values, x, **given["spans"]), argnums=(0, 1))
    found, grad_x = vmap(of, in_dims=(None, 0))(values, x)
    norms = sum((value.square().flatten(1).sum(1) + 1e-3).sqrt() for value in found.values())  # some are zero
    norms = norms + grad_x.sin().flatten(1).sum(1)
    return torch.autograd.grad((norms * torch.arange(1, V + 1)).sum(), [*values.values(), x])


def pulled_back_later(rnn: nn.Module, given: dict[str, Any]) -> Any:
    """Behind the transform's end, and as often as one likes."""
    output, pull = vjp(lambda values, x: functional_call(rnn, values, (x,), given["spans"])[0], parameters(rnn), given["x"][0])
    return pull(output), pull(torch.ones_like(output)), vmap(pull)(torch.stack([output, output.cos()]))


TRANSFORMS: tuple[Run, ...] = (
    mapped,
    mapped_states,
    mapped_twice,
    gradient,
    example_gradients,
    example_gradients_twice,
    jacobian,
    ensemble,
    norms_of_gradients,
    pulled_back_later,
)
SPANS: dict[str, dict[str, Any]] = {
    "whole": {},
    "ragged": {"lengths": [4, 2]},
    "reset": {"reset": torch.tensor([[0, 1], [0, 0], [1, 1], [0, 0]], dtype=torch.bool)},
    "ragged and reset": {"lengths": [1, 3], "reset": torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.bool)},
}


def numbers(rnn: nn.Module, spans: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(1)
    x = doubles(V, B, T, I) if rnn.batch_first else doubles(V, T, B, I)
    if "reset" in spans and rnn.batch_first:
        spans = spans | {"reset": spans["reset"].t()}
    if "lengths" in spans:  # the padding is nobody's concern
        for b, length in enumerate(spans["lengths"]):
            (x[:, b, length:] if rnn.batch_first else x[:, length:, b]).fill_(torch.nan)
    return {"x": x, "states": states_of(rnn, V), "spans": spans}
