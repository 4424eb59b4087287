"""torch.func's transforms run on the kernels, alone and inside one another, and give what the reference gives.

The reference runs the same transform in plain torch. Which of the two ran is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, functionalize, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
from func_transforms import (
    EVERYTHING,
    LAYERED,
    OWN,
    PEEPHOLE,
    SPANS,
    TOLERANCE,
    TRANSFORMS,
    B,
    H,
    I,
    Own,
    Run,
    T,
    V,
    doubles,
    loss,
    norms_of_gradients,
    numbers,
    only,
    parameters,
    ran,
    states_of,
)
from kinds import GRU, LSTM, PROJECTED, RELU, TANH, Kind, as_hx, as_states
from native import required

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [required, pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")]
__all__ = ["ran"]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: transform.__name__)
@pytest.mark.parametrize(
    ("kind", "options", "spans"),
    [
        *[(kind, {}, "whole") for kind in (TANH, RELU, GRU, LSTM, PROJECTED)],
        *[(kind, EVERYTHING, spans) for kind in (TANH, GRU, LSTM, PROJECTED) for spans in ("ragged and reset",)],
        *[(LSTM, {"num_layers": 2, "bidirectional": True}, spans) for spans in ("ragged", "reset")],
        (GRU, {"bias": False, "recompute": True, "num_layers": 2}, "reset"),
        (LSTM, {"recompute": True, "learn_initial_state": True}, "ragged and reset"),
        *[(own, {}, "whole") for own in OWN],
        *[(own, EVERYTHING, "ragged and reset") for own in OWN],
        (PEEPHOLE, {"bias": False, "recompute": True, "learn_initial_state": True}, "ragged and reset"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
@pytest.mark.slow
def test_a_transform_gives_what_the_reference_gives(
    transform: Run, kind: Kind | Own, options: dict[str, Any], spans: str, ran: list[str]
) -> None:
    if kind is LAYERED and transform is norms_of_gradients:
        pytest.skip("torch itself: what it makes of vmap(grad(layer_norm)) has a wrong derivative")
    torch.manual_seed(0)
    rnn = kind.build(elman, I, H, **options, dtype=torch.float64)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.copy_(doubles(*parameter.shape) / 2)
    given = numbers(rnn, SPANS[spans])
    got = transform(rnn, given)
    assert set(ran) == {"native"} | ({"reference"} if transform is norms_of_gradients else set())
    with only("reference"):
        expected = transform(rnn, given)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", [TANH, GRU, LSTM, PROJECTED], ids=str)
def test_packed_sequences_are_mapped_and_differentiated(kind: Kind, ran: list[str]) -> None:
    rnn, x, states = kind.build(elman, I, H, 2, bidirectional=True).double(), doubles(V, T, B, I), None
    states = states_of(rnn, V)
    _, batch_sizes, *_ = pack_padded_sequence(x[0], torch.tensor([4, 2]))
    data = torch.stack([pack_padded_sequence(each, torch.tensor([4, 2])).data for each in x])

    def of(values: dict[str, Tensor], data: Tensor, states: tuple[Tensor, ...]) -> Tensor:
        output, hx = functional_call(rnn, values, (PackedSequence(data, batch_sizes), as_hx(states)))
        return output.data.square().sum() + sum(state.sin().sum() for state in as_states(hx))

    def run() -> Any:
        mapped = vmap(lambda data, states: rnn(PackedSequence(data, batch_sizes), as_hx(states))[0].data)(data, states)
        return mapped, vmap(grad(of, argnums=(0, 1, 2)), in_dims=(None, 0, 0))(parameters(rnn), data, states)

    got = run()
    assert set(ran) == {"native"}
    with only("reference"):
        torch.testing.assert_close(got, run(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_examples_have_the_bits_of_one_batch(dtype: torch.dtype, ran: list[str]) -> None:
    """So do gradients by x; those of the parameters are the examples' own, in bfloat16 those of one call after another."""
    rnn, x = elman.LSTM(I, H, 2, dtype=dtype), torch.randn(V, T, B, I).to(dtype)
    batch = x.movedim(0, 1).flatten(1, 2).requires_grad_()
    output, _ = rnn(batch)
    assert torch.equal(vmap(rnn)(x)[0].movedim(0, 1).flatten(1, 2), output)
    (expected,) = torch.autograd.grad(output.sum(), batch)
    by_x = vmap(grad(lambda x: rnn(x)[0].sum()))(x)
    assert torch.equal(by_x.movedim(0, 1).flatten(1, 2), expected)
    found = vmap(grad(lambda values, x: functional_call(rnn, values, (x,))[0].float().square().sum()), in_dims=(None, 0))(
        parameters(rnn), x
    )
    for index, example in enumerate(x):
        gradients = torch.autograd.grad(rnn(example)[0].float().square().sum(), list(rnn.parameters()))
        for name, gradient in zip(found, gradients, strict=True):
            torch.testing.assert_close(found[name][index], gradient, rtol=0, atol=0 if dtype is torch.bfloat16 else 1e-5)
    assert set(ran) <= {"native"}


@pytest.mark.parametrize("kind", [TANH, RELU, GRU, LSTM, *OWN], ids=str)
def test_a_cell_is_mapped_and_differentiated(kind: Kind | Own, ran: list[str]) -> None:
    cell, x = kind.build_cell(elman, I, H).double(), doubles(V, B, I)
    states = tuple(doubles(V, B, H) for _ in kind.states)

    def of(values: dict[str, Tensor], x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
        after = as_states(functional_call(cell, values, (x, as_hx(states))))
        return sum((1 + i) * state.square().sum() for i, state in enumerate(after))

    def run() -> Any:
        return vmap(cell)(x), vmap(grad(of, argnums=(0, 1, 2)), in_dims=(None, 0, 0))(parameters(cell), x, states)

    got = run()
    assert set(ran) == {"native"}
    with only("reference"):
        torch.testing.assert_close(got, run(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", [LSTM, PEEPHOLE], ids=str)
def test_each_example_may_have_lengths_and_resets_of_its_own(kind: Kind | Own, ran: list[str]) -> None:
    rnn, x = kind.build(elman, I, H, bidirectional=True).double(), doubles(V, T, B, I)
    lengths, reset = torch.tensor([[4, 2], [1, 0], [3, 4]]), torch.rand(V, T, B) < 0.3
    got = vmap(lambda x, lengths, reset: rnn(x, lengths=lengths, reset=reset)[0])(x, lengths, reset)
    assert ran == ["native"]
    for example in zip(got, x, lengths, reset, strict=True):
        assert torch.equal(example[0], rnn(example[1], lengths=example[2], reset=example[3])[0])


def test_examples_of_one_sequence_may_share_its_length(ran: list[str]) -> None:
    rnn, x = elman.GRU(I, H, bidirectional=True).double(), doubles(V, T, 1, I)
    values = parameters(rnn)
    of = grad(lambda values, x: loss(rnn, values, x, lengths=[3]))
    for each in (x, x.squeeze(2)):  # a batch of one, and unbatched
        got, found = vmap(lambda x: rnn(x, lengths=[3])[0])(each), vmap(of, in_dims=(None, 0))(values, each)
        for index, example in enumerate(each):
            assert torch.equal(got[index], rnn(example, lengths=[3])[0])
            for name, gradient in of(values, example).items():
                torch.testing.assert_close(found[name][index], gradient, rtol=0, atol=TOLERANCE)
    assert set(ran) == {"native"}


def test_packing_inside_vmap_is_told_what_to_do_instead() -> None:
    rnn, lengths = elman.RNN(I, H), torch.tensor([4, 2])
    with (
        pytest.raises(RuntimeError, match="packing inside vmap: pass a padded x and lengths= instead"),
        pytest.warns(UserWarning, match="batching rule"),
    ):
        vmap(lambda x: rnn(pack_padded_sequence(x, lengths))[0].data)(torch.randn(V, T, B, I))


def test_lengths_of_the_members_of_an_ensemble_may_lie_across(ran: list[str]) -> None:
    members, x, lengths = [elman.GRU(I, H).double() for _ in range(V)], doubles(T, B, I), torch.tensor([[4, 1, 3], [2, 0, 4]])
    stacked, _ = stack_module_state(members)
    got = vmap(lambda values, lengths: functional_call(members[0], values, (x,), {"lengths": lengths})[0], in_dims=(0, 1))(stacked, lengths)
    assert set(ran) == {"native"}
    for index, member in enumerate(members):
        assert torch.equal(got[index], member(x, lengths=lengths[:, index])[0])


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_dropout_is_drawn_as_vmap_is_told(randomness: str, ran: list[str]) -> None:
    rnn, x = elman.RNN(I, 64, 2, dropout=0.5), torch.ones(2, T, B, I)
    first, second = vmap(lambda x: rnn(x)[0], randomness=randomness)(x)
    assert torch.equal(first, second) == (randomness == "same")
    assert set(ran) == {"native"}
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(rnn)(x)


@pytest.mark.parametrize("kind", [TANH, LSTM], ids=str)
def test_the_output_may_be_written_into_before_the_gradient(kind: Kind) -> None:
    rnn, x = kind.build(elman, I, H).double(), doubles(V, T, B, I)

    def gradients(relu: Callable[[Tensor], Tensor]) -> Any:
        of = grad(lambda values, x: relu(functional_call(rnn, values, (x,))[0]).square().sum(), argnums=(0, 1))
        return vmap(of, in_dims=(None, 0))(parameters(rnn), x)

    torch.testing.assert_close(gradients(torch.relu_), gradients(torch.relu), rtol=0, atol=0)


def test_resets_may_be_written_into_before_the_gradient() -> None:
    rnn, x, reset = elman.RNN(I, H).double(), doubles(T, B, I), torch.arange(T * B).view(T, B) % 3 == 0
    output, pull = vjp(lambda x: rnn(x, reset=reset)[0], x)
    expected = pull(output)
    reset.zero_()
    torch.testing.assert_close(pull(output), expected, rtol=0, atol=0)


def test_private_training_sees_what_it_sees_of_torchs() -> None:
    """A hook keeps inputs, another gets the gradients of outputs in a tuple; from both come each example's gradients."""
    x = torch.linspace(-1, 1, V * T * I, dtype=torch.float64).view(V, T, I).requires_grad_()
    found = []
    for rnn in LSTM.pair(I, H, batch_first=True, dtype=torch.float64):
        seen: dict[str, Any] = {}
        rnn.register_forward_hook(lambda module, args, output, seen=seen: seen.update(x=args[0].detach()))
        rnn.register_full_backward_hook(lambda module, grad_input, grad_output, seen=seen: seen.update(grad_output=grad_output))
        output, (h, c) = rnn(x)
        (output.square().sum() + h.sin().sum() + c.sum()).backward()
        found.append((seen["x"], seen["grad_output"][0]))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=TOLERANCE)
    bare = LSTM.build(elman, I, H, batch_first=True).double()

    def combined(values: dict[str, Tensor], x: Tensor, grad_output: Tensor) -> Tensor:
        return (functional_call(bare, values, (x.unsqueeze(0),))[0] * grad_output).sum()

    got = vmap(grad(combined), in_dims=(None, 0, 0))(parameters(bare), *found[1])
    for name, value in bare.named_parameters():
        of_each = [torch.autograd.grad((bare(x[None])[0] * grad_output).sum(), value)[0] for x, grad_output in zip(*found[1], strict=True)]
        torch.testing.assert_close(got[name], torch.stack(of_each), rtol=0, atol=TOLERANCE)


def with_a_tangent(run: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with forward_ad.dual_level():
        run(forward_ad.make_dual(x, x))


CONTEXTS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], object]] = {
    "nothing": lambda run, x: run(x),
    "vmap": lambda run, x: vmap(run)(torch.stack([x, x])),
    "grad": lambda run, x: grad(run)(x),
    "vmap of grad": lambda run, x: vmap(grad(run))(torch.stack([x, x])),
    "jacrev": lambda run, x: jacrev(run)(x),
    "grad of vmap": lambda run, x: grad(lambda x: vmap(run)(torch.stack([x, x])).sum())(x),
    "grad of grad": lambda run, x: grad(lambda x: grad(run)(x).sum())(x),
    "hessian": lambda run, x: hessian(run)(x),
    "jvp": lambda run, x: jvp(run, (x,), (x,)),
    "jacfwd": lambda run, x: jacfwd(run)(x),
    "dual tensors": lambda run, x: with_a_tangent(run, x),
    "functionalize": lambda run, x: functionalize(run)(x),
}


@pytest.mark.parametrize("kind", [TANH, PEEPHOLE], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("context", CONTEXTS)
def test_why_says_what_runs(context: str, dtype: torch.dtype, kind: Kind | Own, ran: list[str]) -> None:
    rnn, said = kind.build(elman, I, H, dtype=dtype), []

    def run(x: Tensor) -> Tensor:
        said.append(elman.why(rnn, x).replace(":", "").split()[0])
        return rnn(x)[0].sum()

    CONTEXTS[context](run, torch.randn(T, B, I).to(dtype))
    assert ran[: len(said)] == said
    expected = context in ("nothing", "vmap", "grad", "vmap of grad", "jacrev", "grad of vmap")
    assert said[0] == ("native" if expected else "reference")
