"""Autocast to bfloat16: results of the dtypes that torch.nn gives, and of the values that a network in bfloat16 gives.

Torch's own operators keep an LSTM's c in the dtype that it comes in. But where it can, torch.nn runs an LSTM in oneDNN, and autocast makes
that bfloat16 altogether. The tests turn oneDNN off and on.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import approx
import bounds
import elman
from cases import Case, arguments, build, selection
from elman.backends import BACKENDS, Backend, registry
from elman.layers import lstm
from kinds import GRU, LSTM, PROJECTED, TANH, Kind, as_hx, as_states, every_kind
from native import named, native_alone, required

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("poisoned")
__all__ = ["native_alone"]

U = 2.0**-8  # half the distance from 1 to the next number of bfloat16
ONEDNN = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
needs_onednn = pytest.mark.skipif(not ONEDNN, reason="torch has no oneDNN that runs bfloat16 here")
either_way = pytest.mark.parametrize("onednn", [False, pytest.param(True, marks=needs_onednn)], ids=["torch's operators", "oneDNN"])
either_backend = pytest.mark.parametrize("backends", [BACKENDS, BACKENDS[-1:]], ids=["every backend", "reference"])

FORMS = ("padded", "packed", "packed evenly", "unbatched", "empty")
STATES = [None, *itertools.product((torch.float32, torch.bfloat16), repeat=2), (torch.float16, torch.float16)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _autocast(to: torch.dtype = torch.bfloat16) -> torch.autocast:
    return torch.autocast("cpu", dtype=to)


def _options() -> Iterator[tuple[bool, dict[str, object]]]:
    """Whether gradients are recorded, and a layer's options: half of the combinations, in which any four meet in every way."""
    for grad, deep, bidirectional, bias, batch_first in itertools.product((False, True), repeat=5):
        if (grad + deep + bidirectional + bias + batch_first) % 2:
            options = {"num_layers": 1 + deep, "dropout": deep / 2, "bidirectional": bidirectional}
            yield grad, options | {"bias": bias, "batch_first": batch_first}


def _call(
    kind: Kind, form: str, options: dict[str, object], dtype: torch.dtype, given: tuple[torch.dtype, ...] | None
) -> tuple[Tensor | PackedSequence, Tensor | tuple[Tensor, ...] | None]:
    """An input of two steps, two sequences if any, and three features; and its states, for four units."""
    x = torch.randn(2, 2, 3).to(dtype)
    states = tuple(torch.randn(options["num_layers"] * (1 + options["bidirectional"]), 2, width) for width in kind.widths(4))
    if form == "packed":
        x = pack_sequence([x[:, 0], x[:1, 1]])
    elif form == "packed evenly":
        x = pack_sequence([x[:, 0], x[:, 1]])
    elif form == "unbatched":
        x, states = x[0], tuple(state[:, 0] for state in states)
    elif form == "empty":
        x, states = x.narrow(0 if options["batch_first"] else 1, 0, 0), tuple(state[:, :0] for state in states)
    return x, None if given is None else as_hx(tuple(state.to(to) for state, to in zip(states, given, strict=False)))


# --- Dtypes -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GRU, LSTM, PROJECTED], ids=str)
@either_way
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("to", "backends"),
    [(torch.bfloat16, BACKENDS), (torch.bfloat16, BACKENDS[-1:]), (torch.float16, BACKENDS)],
    ids=["every backend", "reference", "float16"],
)
def test_dtypes_are_torchs_whatever_the_options(
    kind: Kind, onednn: bool, form: str, to: torch.dtype, backends: tuple[Backend, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An LSTM's are all autocast's where torch.nn runs it in oneDNN: not of several lengths, not empty and without a projection."""
    monkeypatch.setattr(registry, "BACKENDS", backends)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    for grad, options in _options():
        pair = kind.pair(3, 4, **options)
        for dtype, given in itertools.product((torch.float32, torch.bfloat16, torch.float16), STATES):
            if form.startswith("packed") and kind is PROJECTED and (given or (dtype,))[-1] is torch.float16:
                continue  # torch.nn raises an error
            x, states = _call(kind, form, options, dtype, given)
            with torch.set_grad_enabled(grad), _autocast(to):
                ours = [result.dtype for result in named(*pair[1](x, states)).values()]
                try:
                    theirs = [result.dtype for result in named(*pair[0](x, states)).values()]
                except RuntimeError:  # oneDNN has no gradients in float16, and on some processors no float16 at all
                    assert to is torch.float16
                    assert (kind is LSTM and onednn) or (kind is PROJECTED and form.startswith("packed"))  # bfloat16 with float16
                    continue
            assert ours == theirs, f"{options}, gradients {grad}, x in {dtype}, states in {given}"


@needs_onednn  # elsewhere Elman does not ask, and torch.nn itself fails from 2.13 on
def test_what_torch_does_with_packed_sequences_is_asked_in_float32() -> None:
    default = torch.get_default_dtype()
    lstm._onednn_runs_packed.cache_clear()
    theirs, ours = LSTM.pair(3, 4)
    packed = pack_sequence([torch.randn(5, 3)] * 2)
    try:
        torch.set_default_dtype(torch.float64)
        with _autocast():
            assert ours(packed)[0].data.dtype is theirs(packed)[0].data.dtype
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize("kind", [LSTM, PROJECTED], ids=str)
@either_way
@either_backend
def test_dtypes_are_the_same_with_lengths_with_resets_and_in_a_trace(
    kind: Kind, onednn: bool, backends: tuple[Backend, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "BACKENDS", backends)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    rnn, x = kind.build(elman, 3, 4, 2), torch.randn(5, 2, 3)
    with _autocast():
        for given in (x, x[:, 0], pack_sequence([x[:, 0], x[:2, 1]])):
            output, h_n, c_n = named(*rnn(given)).values()
            traced = rnn.trace(given)
            results = traced.output.data, *traced.final, traced.h, traced.last, traced.c
            assert [r.dtype for r in results] == [r.dtype for r in (output, h_n, c_n, output, h_n, c_n)]
        expected = [result.dtype for result in named(*rnn(x)).values()]
        for spans in ({"lengths": [5, 2]}, {"reset": torch.zeros(5, 2, dtype=torch.bool)}):
            assert [result.dtype for result in named(*rnn(x, **spans)).values()] == expected


@pytest.mark.parametrize("kind", [GRU, LSTM, PROJECTED], ids=str)
@either_way
@pytest.mark.parametrize("form", FORMS)
def test_float64_stays_as_it_is(kind: Kind, onednn: bool, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    for grad, options in _options():
        x, _ = _call(kind, form, options, torch.float64, None)
        found = []
        with torch.set_grad_enabled(grad), _autocast():
            for module in kind.pair(3, 4, **options):
                torch.manual_seed(1)
                found.append(named(*module.double()(x)))
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [TANH, LSTM, PROJECTED], ids=str)
@required
def test_float64_under_autocast_is_the_references(kind: Kind) -> None:
    module = kind.build(elman, 3, 4)
    with _autocast():
        assert elman.why(module.double(), torch.randn(5, 2, 3).double()) == "reference: native does not run float64 under autocast"


@either_way
@required
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_network_is_the_eager_one(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    theirs, ours = LSTM.pair(3, 4, 2)
    x = torch.randn(5, 2, 3)
    torch.compiler.reset()
    with _autocast():
        compiled, eager, torchs = (named(*run(x)) for run in (torch.compile(ours, fullgraph=True, backend="aot_eager"), ours, theirs))
    torch.compiler.reset()
    for name, value in eager.items():
        assert compiled[name].dtype is value.dtype is torchs[name].dtype
        assert torch.equal(compiled[name], value)


# --- Values -------------------------------------------------------------------------------------------------------------

WAYS = {
    "bfloat16, torch's operators": (torch.bfloat16, False),
    "bfloat16, oneDNN": pytest.param(torch.bfloat16, True, marks=needs_onednn),
    "float16, torch's operators": (torch.float16, False),  # oneDNN has no gradients in it
}
CALLS = {"fresh": (torch.float32, None), "in bfloat16": (torch.bfloat16, None), "given states": (torch.float32, torch.float32)}


@every_kind
@pytest.mark.parametrize(("to", "onednn"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("dtype", "given"), CALLS.values(), ids=CALLS)
@pytest.mark.usefixtures("native_alone")
@required
def test_the_kernels_give_what_they_give_in_its_dtype(
    kind: Kind, to: torch.dtype, onednn: bool, dtype: torch.dtype, given: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results and gradients, with torch's dtypes. A GRU, whose h stays in float32, runs in float32."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    theirs, ours = kind.pair(3, 4, 2, bidirectional=True)
    x = torch.randn(5, 2, 3).to(dtype)
    states = None if given is None else tuple(torch.randn(4, 2, width) for width in kind.widths(4))

    def run(module: nn.Module, x: Tensor, states: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        output, hx = module(x, None if states is None else as_hx(states))
        return output, *as_states(hx), *torch.autograd.grad(output.sum(), [x, *module.parameters()])

    with _autocast(to):
        expected, found = (run(module, x.detach().requires_grad_(), states) for module in (theirs, ours))
    assert [value.dtype for value in found] == [value.dtype for value in expected]
    computed = expected[0].dtype if kind is GRU else to
    plain = run(ours.to(computed), x.to(computed).requires_grad_(), None if states is None else tuple(s.to(computed) for s in states))
    for got, value in zip(found, plain, strict=True):
        assert torch.equal(got, value.to(got.dtype))


@pytest.mark.slow
@needs_onednn
@pytest.mark.parametrize("form", ["padded", "unbatched"])
def test_the_reference_gives_what_torchs_own_operators_give(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded to bfloat16 where torch.nn runs an LSTM in oneDNN, which rounds c at each step."""
    monkeypatch.setattr(registry, "BACKENDS", BACKENDS[-1:])
    for (grad, options), dtype, given in itertools.product(_options(), (torch.float32, torch.bfloat16), STATES):
        x, states = _call(LSTM, form, options, dtype, given)
        found = []
        for module, onednn in zip(LSTM.pair(3, 4, **options), (False, True), strict=True):
            monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
            torch.manual_seed(1)
            with torch.set_grad_enabled(grad), _autocast():
                found.append(named(*module(x, states)))
        theirs, ours = found
        for name, value in theirs.items():
            assert torch.equal(ours[name], value.bfloat16()), name


class _Stored(bounds.Lstm):
    """As float32 is computed, but that the biases' sum, and after each step h and c, may be rounded to bfloat16."""

    def forward(
        self, a: list[approx.Sum], q: list[approx.Sum], before: tuple[approx.Approx, ...]
    ) -> tuple[tuple[approx.Approx, ...], tuple[approx.Approx, ...]]:
        a, q = ([approx.Sum(s.value.rounded(U * s.magnitude), s.magnitude, s.terms) for s in sums] for sums in (a, q))
        (_, c), gates = super().forward(a, q, before)
        c = c.rounded(U * c.reach)
        h = self.output(gates[3], c)
        return (h.rounded(U * h.reach), c), gates


@needs_onednn
@required
@pytest.mark.parametrize("case", [case for case in selection() if case.kind is LSTM and case.form != "packed"], ids=str)
@pytest.mark.usefixtures("native_alone")
def test_the_kernels_are_as_near_to_onednn_as_rounding_allows(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is for each one's distance from what is exact: they may be twice as far from each other."""
    monkeypatch.setitem(bounds.CELLS, "lstm", _Stored())
    bound = bounds.run(*arguments(case, torch.bfloat16))
    numbers = case.numbers(torch.float32)
    x, states = numbers["x"], (numbers["h_0"], numbers["c_0"])
    if case.form == "unbatched":
        x, states = x[:, 0], tuple(state[:, 0] for state in states)
    elif case.batch_first:
        x = x.transpose(0, 1)
    with torch.no_grad(), _autocast():
        theirs, ours = (named(*build(lib, case, torch.float32)(x, states if case.given_state else None)) for lib in (nn, elman))
    for name, allowed in zip(theirs, (bound.output, *bound.finals), strict=True):
        error = (ours[name].double() - theirs[name].double()).abs()
        if name == "output" and case.form == "padded" and case.batch_first:
            error = error.transpose(0, 1)
        error = error.numpy().reshape(allowed.shape)
        assert (error <= 2 * allowed).all(), f"{name}: off by {np.max(error / allowed):.3g} times the bound"
