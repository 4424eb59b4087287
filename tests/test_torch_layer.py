"""A layer is one of torch.nn's class of the same name, with the attributes and methods that code reads, and is compiled nevertheless."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any, Generic, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
from kinds import GRU, LSTM, PROJECTED, RELU, TANH, Kind, as_hx, as_states, every_kind

every_layer = pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])
T = TypeVar("T")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.manual_seed(0)
    torch.compiler.reset()


def flat(result: Any) -> tuple[Tensor, ...]:
    output, hx = result
    return (output.data if isinstance(output, PackedSequence) else output), *as_states(hx)


def close(got: Any, expected: Any) -> None:
    for one, two in zip(flat(got), flat(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


# --- What code reads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}], ids=str)
@every_kind
def test_it_has_what_torchs_has(kind: Kind, options: dict[str, Any]) -> None:
    theirs, ours = kind.pair(3, 4, **options)
    for name in ("mode", "_flat_weights_names", "_all_weights", "training", *vars(type(theirs).__mro__[1])["__constants__"]):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("_flat_weights", "_flat_weight_refs"):
        assert len(getattr(ours, name)) == len(getattr(theirs, name))
    assert all(one is two for one, two in zip(ours._flat_weights, ours.parameters(), strict=True))
    assert all(ref() is one for ref, one in zip(ours._flat_weight_refs, ours.parameters(), strict=True))
    assert [[w.shape for w in weights] for weights in ours.all_weights] == [[w.shape for w in weights] for weights in theirs.all_weights]
    assert sorted(set(dir(theirs)) - set(dir(ours))) == []


@every_kind
def test_its_checks_are_torchs(kind: Kind) -> None:
    theirs, ours = kind.pair(3, 4, 2)
    x = torch.randn(5, 2, 3)
    hx = as_hx(tuple(torch.zeros(2, 2, width) for width in kind.widths(4)))
    wrong = as_hx(tuple(torch.zeros(2, 3, width) for width in kind.widths(4)))
    batch_sizes = torch.tensor([2, 2, 1])
    for rnn in (theirs, ours):
        rnn.check_forward_args(x, hx, None)
        rnn.check_forward_args(x.flatten(0, 1), hx, batch_sizes=batch_sizes)
        assert rnn.get_expected_hidden_size(x, None) == (2, 2, kind.widths(4)[0])
        with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 3, got 4"):
            rnn.check_input(torch.randn(5, 2, 4), None)
        with pytest.raises(RuntimeError, match=r"Expected hidden"):
            rnn.check_forward_args(x, wrong, None)
        order = torch.tensor([1, 0])
        turned = as_states(rnn.permute_hidden(as_hx(tuple(state + torch.arange(2.0)[:, None] for state in as_states(hx))), order))
        assert all(torch.equal(state[0, :, 0], torch.tensor([1.0, 0.0])) for state in turned)


def test_a_weight_that_is_set_in_the_list_is_set_in_the_layer() -> None:
    gru, x = elman.GRU(3, 4), torch.randn(5, 2, 3)
    before = gru(x)[0]
    gru._flat_weights[0] = nn.Parameter(gru.weight_ih_l0.detach() * 2)
    assert not torch.equal(gru(x)[0], before)
    gru._flat_weights = [nn.Parameter(weight.detach().clone()) for weight in elman.GRU(3, 4)._flat_weights]
    assert all(one is two for one, two in zip(gru._flat_weights, gru.parameters(), strict=True))
    gru._flat_weights_names = list(gru._flat_weights_names)
    gru._all_weights = gru._all_weights
    weights = gru._flat_weights
    for change in (weights.clear, weights.pop, lambda: weights.append(weights[0]), lambda: weights.__delitem__(0)):
        with pytest.raises(TypeError, match="expected the 4 parameters of this GRU to stay"):
            change()
    with pytest.raises(AttributeError, match="expected _flat_weights_names to stay"):
        gru._flat_weights_names = ["weight_ih_l0"]
    assert type(copy.deepcopy(gru._flat_weights)) is list
    parameters, others = list(gru.parameters()), list(elman.GRU(3, 4).parameters())
    for wrong in (others[:3], [*others, others[0]]):
        with pytest.raises(ValueError, match=f"expected 4 of the 4 parameters of this GRU, got {len(wrong)}$"):
            gru._flat_weights = wrong
    assert all(one is two for one, two in zip(gru.parameters(), parameters, strict=True))


@every_kind
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_tensor_in_the_list_takes_a_parameters_place_in_calls_alone(kind: Kind, compiled: bool) -> None:
    """As where weights are dropped, quantized or generated: each step makes them from the parameters, which are trained."""
    torch.compiler.reset()
    pair, x = kind.pair(3, 4, 2, bidirectional=True), torch.randn(5, 2, 3)
    for factor in (0.5, 2.0):
        found = []
        for module in pair:
            before = [parameter.detach().clone() for parameter in module.parameters()]
            module._flat_weights = [parameter * 0.5 for parameter in module.parameters()]
            module._flat_weights[1] = module.weight_hh_l0 * factor
            call = torch.compile(module, backend="eager") if compiled else module
            output = call(x)[0]
            found.append((output, *torch.autograd.grad(output.square().sum(), list(module.parameters()))))
            assert all(map(torch.equal, module.parameters(), before))
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)
    for change in (
        lambda m: setattr(m, "bias_ih_l0", nn.Parameter(torch.ones_like(m.bias_ih_l0))),
        lambda m: m.double().float(),
        lambda m: m.register_parameter("bias_hh_l0", nn.Parameter(torch.ones_like(m.bias_hh_l0))),
        lambda m: torch.func.functional_call(m, {name: p * 0.9 for name, p in m.named_parameters()}, (x,)),
    ):
        for module in pair:
            module._flat_weights[0] = torch.zeros_like(module.weight_ih_l0)
        (of_change, expected), (ours_of_change, found) = ((change(module), module(x)) for module in pair)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        if isinstance(of_change, tuple):
            torch.testing.assert_close(ours_of_change, of_change, rtol=0, atol=1e-6)
    for order in (slice(None), slice(None, None, -1)):  # a parameter that is set keeps the tensors in the list, whichever comes first
        mixed = elman.RNN(3, 4)
        values = [(0, torch.zeros(4, 3)), (1, nn.Parameter(torch.eye(4)))]
        for index, value in values[order]:
            mixed._flat_weights[index] = value
        assert mixed._flat_weights[0] is values[0][1]
        assert mixed._flat_weights[1] is mixed.weight_hh_l0 is values[1][1]
    normed = nn.utils.parametrizations.weight_norm(elman.RNN(3, 4), "weight_hh_l0")
    before = normed.weight_hh_l0.detach().clone()
    normed._flat_weights[1] = torch.zeros(4, 4)  # computed anew at each call, in torch.nn, too
    assert torch.equal(normed.weight_hh_l0, before)
    fresh = elman.RNN(3, 4)
    stream = elman.stream(fresh, 2)
    with torch.no_grad():
        stream.step(x[0])
        fresh._flat_weights[1] = torch.zeros(4, 4)
        torch.testing.assert_close(stream.step(x[1]), fresh(x[1:2])[0][0], rtol=0, atol=0)  # no state counts with these weights
    fresh._flat_weights[1] = torch.zeros(5, 4)
    with pytest.raises(RuntimeError, match=r"expected weight_hh_l0 of shape \(4, 4\)"):
        fresh(x)


def test_a_replica_of_data_parallel_runs_with_the_parameters_that_it_is_given() -> None:
    lstm, x = elman.LSTM(3, 4, 2), torch.randn(5, 2, 3)
    replica = lstm._replicate_for_data_parallel()
    for name, parameter in lstm.named_parameters():
        setattr(replica, name, parameter.detach().clone())
    assert list(replica.parameters()) == []
    assert all(map(torch.equal, flat(replica(x)), flat(lstm(x))))


@every_layer
def test_a_class_may_be_generic_in_any_order(layer: str) -> None:
    base: Any = getattr(elman, layer)

    class First(Generic[T], base):
        pass

    class Last(base, Generic[T]):
        pass

    for kind in (First, Last):
        assert kind[int].__origin__ is kind
        assert kind[int](3, 4)(torch.randn(5, 2, 3))[0].shape == (5, 2, 4)


# --- What a subclass overrides ----------------------------------------------------------------------------------------


def _recording(base: Any) -> Any:
    """A subclass that writes down what it is asked, and turns the batch around where it permutes states."""

    class Recording(base):
        def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
            self.asked.append(("check", tuple(input.shape), *[state.sum().item() for state in as_states(hidden)], batch_sizes is None))
            super().check_forward_args(input, hidden, batch_sizes)

        def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
            self.asked.append(("permute", *[tuple(state.shape) for state in as_states(hx)], permutation is None))
            turned = tuple(state.flip(-1) for state in as_states(super().permute_hidden(hx, permutation)))
            return as_hx(turned)

    return Recording


@pytest.mark.parametrize("form", ["padded", "packed", "unbatched"])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [TANH, RELU, GRU, LSTM, PROJECTED], ids=str)
def test_what_a_subclass_overrides_is_asked_as_torch_asks_it(kind: Kind, batch_first: bool, given: bool, form: str) -> None:
    theirs, ours = (_recording(getattr(library, kind.layer))(3, 4, 2, **kind.options, batch_first=batch_first) for library in (nn, elman))
    ours.load_state_dict(theirs.state_dict())
    x: Any = torch.randn(3, 3, 3)
    states = [torch.randn(2, 3, width) for width in kind.widths(4)]
    if form == "packed":
        x = pack_padded_sequence(x, [1, 3, 2], batch_first, enforce_sorted=False)
    elif form == "unbatched":
        x, states = x[:, 0], [state[:, 0] for state in states]
    arguments = (x, as_hx(tuple(states))) if given else (x,)
    results, asked = [], []
    for rnn in (theirs, ours):
        rnn.asked = []
        results.append(rnn(*arguments))
        asked.append(rnn.asked)
    close(*results)
    assert asked[0] == asked[1] != []
    if form == "packed":
        assert torch.equal(results[0][0].unsorted_indices, results[1][0].unsorted_indices)


@every_layer
def test_what_is_set_on_an_object_is_asked_too(layer: str) -> None:
    x, asked = torch.randn(5, 2, 3), []
    for build in (getattr(elman, layer), lambda *sizes: elman.convert(_setting(getattr(nn, layer)(*sizes), asked))):
        rnn = _setting(build(3, 4), asked)
        for each in (rnn, copy.deepcopy(rnn)):
            asked.clear()
            each(x)
            assert asked == [(5, 2, 3)]
    rnn.check_forward_args = type(rnn).check_forward_args.__get__(rnn)
    asked.clear()
    assert rnn(x)[0].shape == (5, 2, 4)
    assert asked == []


def _setting(rnn: nn.Module, asked: list[Any]) -> nn.Module:
    rnn.check_forward_args = lambda input, hidden, batch_sizes: asked.append(tuple(input.shape))
    return rnn


def test_with_lengths_and_resets_it_is_asked_too() -> None:
    gru, plain = _recording(elman.GRU)(3, 4), elman.GRU(3, 4)
    plain.load_state_dict(gru.state_dict())
    gru.asked = []
    x, reset = torch.randn(5, 2, 3), torch.rand(5, 2) > 0.5
    output, h_n = gru(x, lengths=[3, 5], reset=reset)
    expected = plain(x, lengths=[3, 5], reset=reset)
    close((output, h_n.flip(-1)), expected)
    packed = pack_padded_sequence(x, [3, 5], enforce_sorted=False)
    output, h_n = gru(packed, reset=reset)
    close((output, h_n.flip(-1)), plain(packed, reset=reset))
    assert len(gru.asked) == 4


def test_a_subclass_that_overrides_what_is_not_there_is_refused() -> None:
    with pytest.raises(TypeError, match="expected Mine not to override _update_flat_weights"):
        type("Mine", (elman.LSTM,), {"_update_flat_weights": lambda self: None})


def test_flatten_parameters_is_called_where_torch_calls_it() -> None:
    class Mine(elman.GRU):
        def flatten_parameters(self) -> None:
            vars(self)["flattened"] = vars(self).get("flattened", 0) + 1

    mine = Mine(3, 4)
    before = mine.flattened
    assert before > 0
    mine.double()
    assert mine.flattened == before + 1


# --- torch.compile ----------------------------------------------------------------------------------------------------


class Model(nn.Module):
    """Goes the right way only if torch.compile knows what its layer is."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        output, hx = self.rnn(x)
        if isinstance(self.rnn, nn.LSTM):
            return output, *hx
        return (output, hx) if isinstance(self.rnn, nn.RNNBase) else (output,)


@every_layer
def test_a_compiled_model_has_one_graph_and_knows_what_its_layer_is(layer: str) -> None:
    model, x = Model(getattr(elman, layer)(3, 4)), torch.randn(5, 2, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected = model(x)
    for got, each in zip(compiled(x), expected, strict=True):
        torch.testing.assert_close(got, each)
    gradients = [torch.autograd.grad(run(x)[0].sum(), list(model.parameters())) for run in (model, compiled)]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_torchs_own_layers_are_compiled_as_before() -> None:
    compiled = torch.compile(elman.LSTM(3, 4), fullgraph=True, backend="eager")
    compiled(torch.randn(5, 2, 3))
    assert not torch._dynamo.config.allow_rnn
    with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN, GRU, or LSTM"):
        torch.compile(nn.LSTM(3, 4), fullgraph=True, backend="eager")(torch.randn(5, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import torch._dynamo", "import elman"])
def test_it_compiles_whichever_is_imported_first(first: str) -> None:
    code = f"""
{first}
import elman, sys, torch
model = torch.nn.Sequential(elman.GRU(3, 4))
torch.compile(model, fullgraph=True, backend="eager")(torch.randn(5, 2, 3))
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("elman")]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.slow
def test_it_compiles_if_another_thread_imports_dynamo_meanwhile() -> None:
    """A module that has begun to run is waited for."""
    code = """
import sys, threading, time, elman, torch
from elman.layers import dynamo

class Slow:
    def find_spec(self, name, path, target=None):
        if name == "torch._dynamo.variables.dicts":  # which the builder imports before it has a class
            begun.set()
            time.sleep(0.5)

begun = threading.Event()
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=__import__, args=("torch._dynamo",))
thread.start()
begun.wait(60)
dynamo.allow(elman.GRU)
thread.join()
torch.compile(elman.GRU(3, 4), fullgraph=True, backend="eager")(torch.randn(5, 2, 3))
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("elman")]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=300)


def test_export_takes_it() -> None:
    model, x = Model(elman.LSTM(3, 4)), torch.randn(5, 2, 3)
    for strict in (False, True):
        program = torch.export.export(model, (x,), strict=strict)
        for got, each in zip(program.module()(x), model(x), strict=True):
            torch.testing.assert_close(got, each)


@every_layer
def test_functional_call_takes_it(layer: str) -> None:
    rnn, x = getattr(elman, layer)(3, 4), torch.randn(5, 2, 3)
    doubled = {name: parameter * 2 for name, parameter in rnn.named_parameters()}
    plain = copy.deepcopy(rnn)
    plain.load_state_dict(doubled)
    close(torch.func.functional_call(rnn, doubled, (x,)), plain(x))


class _Calls(nn.Module):
    """Calls a layer and a cell, with states, by position and by name."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.cell = elman.LSTM(3, 4), elman.GRUCell(4, 4)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        output, (h_n, _) = self.rnn(x, hx=(h, c))
        return self.cell(output[-1], h_n[0]) + self.cell(output[0])


def test_torch_fx_records_a_call_as_one_node() -> None:
    model = _Calls()
    graph = torch.fx.symbolic_trace(model)
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert calls == ["rnn", "cell", "cell"]
    given = torch.randn(5, 2, 3), torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    assert torch.equal(graph(*given), model(*given))

    class Ragged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = elman.GRU(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x, lengths=[5, 3])[0]

    ragged = Ragged()
    assert torch.equal(torch.fx.symbolic_trace(ragged)(given[0]), ragged(given[0]))
