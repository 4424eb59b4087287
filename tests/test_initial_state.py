"""learn_initial_state=True: the states that a sequence begins from are parameters, and only then."""

from __future__ import annotations

import copy
import pickle
import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence

import elman
from kinds import GRU, LSTM, PROJECTED, Kind, as_hx, as_states, every_kind

if TYPE_CHECKING:
    from elman.backends import Backend

pytestmark = pytest.mark.usefixtures("poisoned")


def _networks(kind: Kind, **options: object) -> tuple[nn.Module, nn.Module, dict[str, nn.Parameter]]:
    """torch.nn's and elman's with the same weights, and elman's learned states, which are not zero any more."""
    theirs = kind.build(nn, 3, 4, **options, dtype=torch.float64)
    ours = kind.build(elman, 3, 4, **options, learn_initial_state=True, dtype=torch.float64)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert missing == [f"{name}_0" for name in kind.states]
    assert not unexpected
    learned = {name: ours.get_parameter(name) for name in missing}
    with torch.no_grad():
        for state in learned.values():
            nn.init.normal_(state)
    return theirs, ours, learned


@every_kind
@pytest.mark.parametrize("form", ["padded", "batch first", "packed", "unbatched", "trace"])
def test_it_is_an_hx_that_every_row_shares(backend: Backend, kind: Kind, form: str) -> None:
    theirs, ours, learned = _networks(kind, num_layers=2, bidirectional=True, batch_first=form == "batch first")
    x = torch.randn(5, 3, 3, dtype=torch.float64, requires_grad=True)
    given = {"packed": lambda: pack_padded_sequence(x, [2, 5, 1], enforce_sorted=False), "unbatched": lambda: x[:, 0]}.get(
        form, lambda: x
    )()
    batch_size = {"unbatched": None, "batch first": 5}.get(form, 3)
    hx = as_hx(tuple(s if batch_size is None else s.unsqueeze(1).expand(-1, batch_size, -1).contiguous() for s in learned.values()))
    expected, expected_last = theirs(given, hx)
    output, last = ours.trace(given)[:2] if form == "trace" else ours(given)
    if form == "packed":
        output, expected = output.data, expected.data
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(last, expected_last, rtol=0, atol=1e-12)
    results, expected_results = (output, *as_states(last)), (expected, *as_states(expected_last))
    grad_outputs = [torch.randn_like(result) for result in results]
    got = torch.autograd.grad(results, [x, *ours.parameters()], grad_outputs, retain_graph=True)
    expected_grads = torch.autograd.grad(expected_results, [x, *theirs.parameters(), *learned.values()], grad_outputs)
    for (name, _), one, other in zip([("x", x), *ours.named_parameters()], got, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12, msg=lambda message, name=name: f"{name}: {message}")


@every_kind
def test_a_given_hx_takes_its_place(backend: Backend, kind: Kind) -> None:
    theirs, ours, _ = _networks(kind)
    x, hx = torch.randn(5, 3, 3, dtype=torch.float64), as_hx(tuple(torch.randn(1, 3, w, dtype=torch.float64) for w in kind.widths(4)))
    torch.testing.assert_close(ours(x, hx), theirs(x, hx), rtol=0, atol=1e-12)


@every_kind
def test_in_inference_it_is_there_too(backend: Backend, kind: Kind) -> None:
    _, ours, _ = _networks(kind, num_layers=2)
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    with torch.inference_mode():
        got = ours(x)
    torch.testing.assert_close(got, ours(x), rtol=0, atol=1e-12)


@every_kind
def test_a_row_without_steps_ends_where_it_begins(backend: Backend, kind: Kind) -> None:
    _, ours, learned = _networks(kind, num_layers=2, bidirectional=True)
    _, last = ours(torch.randn(5, 3, 3, dtype=torch.float64), lengths=[2, 0, 5])
    for final, state in zip(as_states(last), learned.values(), strict=True):
        assert torch.equal(final[:, 1], state)


@every_kind
def test_it_is_learned(backend: Backend, kind: Kind) -> None:
    """From zeros, and towards what a loss asks for."""
    torch.manual_seed(0)
    rnn = kind.build(elman, 3, 4, num_layers=2, learn_initial_state=True)
    names = [f"{name}_0" for name in kind.states]
    assert not any(rnn.get_parameter(name).any() for name in names)
    optimizer = torch.optim.SGD([rnn.get_parameter(name) for name in names], lr=0.1)
    x, losses = torch.randn(2, 3, 3), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (rnn(x)[0][0] - 0.1).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(rnn.get_parameter(name).any() for name in names)


# --- The parameters ---------------------------------------------------------------------------------------------------


@every_kind
def test_only_when_asked_for_there_are_more_parameters(kind: Kind) -> None:
    options = {"num_layers": 2, "bidirectional": True}
    torch.manual_seed(0)
    theirs = kind.build(nn, 3, 4, **options)
    torch.manual_seed(0)
    ours = kind.build(elman, 3, 4, **options, learn_initial_state=True)
    plain = kind.build(elman, 3, 4, **options)
    names = list(theirs.state_dict())
    assert list(plain.state_dict()) == names
    assert list(ours.state_dict()) == names + [f"{name}_0" for name in kind.states]
    assert [tuple(ours.get_parameter(f"{name}_0").shape) for name in kind.states] == [(4, width) for width in kind.widths(4)]
    plain.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(plain.state_dict())
    for name in names:
        assert torch.equal(ours.get_parameter(name), theirs.get_parameter(name))
    assert [len(weights) for weights in ours.all_weights] == [len(weights) for weights in theirs.all_weights]


@every_kind
def test_drawn_again_it_is_zero_and_the_rest_is_torchs(kind: Kind) -> None:
    theirs, ours, learned = _networks(kind, num_layers=2)
    for module in (theirs, ours):
        torch.manual_seed(1)
        module.reset_parameters()
    assert not any(state.any() for state in learned.values())
    for name, parameter in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter)


def test_it_shows() -> None:
    assert repr(elman.GRU(3, 4, learn_initial_state=True)) == "GRU(3, 4, learn_initial_state=True)"
    assert repr(elman.GRU(3, 4)) == "GRU(3, 4)"
    message = repr(elman.LSTM(3, 4, 2, proj_size=2, recompute=True, learn_initial_state=True))
    assert message == "LSTM(3, 4, proj_size=2, num_layers=2, recompute=True, learn_initial_state=True)"


def test_it_goes_where_the_module_goes() -> None:
    rnn = elman.LSTM(3, 4, proj_size=2, learn_initial_state=True, device="meta", dtype=torch.float16)
    assert {(rnn.h_0.device.type, rnn.h_0.dtype), (rnn.c_0.device.type, rnn.c_0.dtype)} == {("meta", torch.float16)}
    assert rnn.double().c_0.dtype is torch.float64


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda rnn: pickle.loads(pickle.dumps(rnn))], ids=["copied", "pickled"])  # noqa: S301 - our own
def test_a_copy_has_its_own(copied: object) -> None:
    _, rnn, _ = _networks(PROJECTED)
    other, x = copied(rnn), torch.randn(5, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(other(x), rnn(x), rtol=0, atol=0)
    with torch.no_grad():
        other.c_0 += 1
    assert not torch.allclose(other(x)[0], rnn(x)[0])


def test_swapped_parameters_are_used(backend: Backend) -> None:
    _, rnn, _ = _networks(GRU)
    x, state = torch.randn(5, 3, 3, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    got = functional_call(rnn, {"h_0": state}, (x,))
    torch.testing.assert_close(got, rnn(x, state.unsqueeze(1).expand(1, 3, 4)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("flag", [1, None, "yes"])
def test_the_flag_is_a_bool(layer: str, flag: object) -> None:
    with pytest.raises(TypeError, match=f"expected learn_initial_state to be True or False, got {re.escape(repr(flag))}"):
        getattr(elman, layer)(3, 4, learn_initial_state=flag)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (torch.zeros(1, 5), r"expected c_0 of shape \(1, 4\), got \(1, 5\): it does not fit the module's class and sizes"),
        (torch.zeros(4), r"expected c_0 of shape \(1, 4\), got \(4,\)"),
        (torch.zeros(1, 4).half(), "expected c_0 of torch.float32, as weight_ih_l0 is, got torch.float16"),
        (torch.zeros(1, 4, device="meta"), "expected c_0 on cpu, where weight_ih_l0 is, got meta"),
    ],
    ids=["width", "rank", "dtype", "device"],
)
def test_a_state_that_was_replaced_by_what_does_not_fit_is_an_error(backend: Backend, state: torch.Tensor, message: str) -> None:
    rnn = LSTM.build(elman, 3, 4, learn_initial_state=True)
    rnn.c_0 = nn.Parameter(state)
    for call in (rnn, rnn.trace):
        with pytest.raises(RuntimeError, match=message):
            call(torch.zeros(5, 3, 3))
