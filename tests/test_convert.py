"""convert makes torch.nn's recurrent modules Elman's, to_torch makes them torch.nn's again: the same objects, the same numbers."""

from __future__ import annotations

import abc
import copy
import io
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

import cases
import elman
from cases import Case
from kinds import GRU, LSTM, PROJECTED, RELU, TANH, Kind, as_states, every_cell

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
every_class = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.manual_seed(0)


def flat(result: Any) -> tuple[Tensor, ...]:
    """What a layer or a cell returns, as a tuple of tensors."""
    return as_states(result) if not isinstance(result, tuple) or isinstance(result[1], Tensor) else (result[0], *result[1])


def close(got: Any, expected: Any) -> None:
    for one, two in zip(flat(got), flat(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def is_ours(module: nn.Module) -> bool:
    return elman.why(module, torch.zeros(2, 3)).startswith("native")


# --- Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", cases.selection(), ids=str)
def test_what_comes_out_has_torchs_numbers_and_gradients(case: Case) -> None:
    module = cases.build(nn, case, torch.float32)
    theirs = type(module)
    parameters = dict(module.named_parameters())
    assert elman.convert(module) is module
    assert type(module) is getattr(elman, theirs.__name__)
    cases.assert_within(cases.evaluate(module, case, torch.float32), cases.expect(case), cases.allow(case))
    assert elman.to_torch(module) is module
    assert type(module) is theirs
    cases.assert_within(cases.evaluate(module, case, torch.float32), cases.expect(case), cases.allow(case))
    assert all(one is parameters[name] for name, one in module.named_parameters())


@pytest.mark.parametrize("kind", [TANH, RELU, GRU, LSTM, PROJECTED], ids=str)
def test_it_gives_the_numbers_that_it_gave_before(kind: Kind) -> None:
    module, x = kind.build(nn, 3, 4, num_layers=2, bidirectional=True, batch_first=True), torch.randn(2, 5, 3)
    expected, message, state = module(x), repr(module), module.state_dict()
    close(elman.convert(module)(x), expected)
    assert repr(module) == message
    assert list(module.state_dict()) == list(state)
    close(elman.to_torch(module)(x), expected)


@pytest.mark.parametrize("bias", [True, False])
@every_cell
def test_a_cell_gives_the_numbers_that_it_gave_before(kind: Kind, bias: bool) -> None:
    cell, x = kind.build_cell(nn, 3, 4, bias=bias), torch.randn(2, 3)
    expected, theirs = cell(x), type(cell)
    gradients = torch.autograd.grad(sum(state.sum() for state in flat(expected)), list(cell.parameters()))
    close(elman.convert(cell)(x), expected)
    assert isinstance(cell, theirs)
    assert isinstance(cell, nn.RNNCellBase)
    assert is_ours(cell)
    again = torch.autograd.grad(sum(state.sum() for state in flat(cell(x))), list(cell.parameters()))
    for one, two in zip(again, gradients, strict=True):
        torch.testing.assert_close(one, two)
    close(elman.to_torch(cell)(x), expected)
    assert type(cell) is theirs


def test_dropout_draws_torchs_masks() -> None:
    lstm, x = nn.LSTM(3, 4, 3, dropout=0.5), torch.randn(5, 2, 3)
    results = []
    for module in (lstm, elman.convert(lstm), elman.to_torch(lstm)):
        torch.manual_seed(1)
        results.append(module(x))
    close(results[0], results[1])
    close(results[0], results[2])


# --- What stays -------------------------------------------------------------------------------------------------------


@every_class
def test_an_optimizer_keeps_working(name: str) -> None:
    """Three steps, converted after the first and back after the second, end where three of torch.nn's do."""
    ends = []
    for changes in ((lambda module: module,) * 2, (elman.convert, elman.to_torch)):
        torch.manual_seed(0)
        module, x = getattr(nn, name)(3, 4), torch.randn(2, 3)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        for change in (*changes, lambda module: module):
            optimizer.zero_grad()
            sum(part.square().sum() for part in flat(module(x))).backward()
            optimizer.step()
            change(module)
        ends.append(list(module.parameters()))
    for one, two in zip(*ends, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_everything_else_stays_the_same_object() -> None:
    seen = []
    gru = nn.GRU(3, 4).double().eval()
    gru.extra, gru.child = object(), nn.Linear(1, 1)
    gru.register_buffer("counter", torch.zeros(1))
    gru.weight_hh_l0.requires_grad_(False)
    gru.bias_hh_l0.register_hook(seen.append)
    hook = gru.register_forward_hook(lambda module, given, result: seen.append(type(module)))
    before = dict(vars(gru))
    objects = [*gru.parameters(), *gru.buffers(), *gru.modules()]
    for change, kind in ((elman.convert, elman.GRU), (elman.to_torch, nn.GRU)):
        change(gru)
        assert all(one is two for one, two in zip([*gru.parameters(), *gru.buffers(), *gru.modules()], objects, strict=True))
        assert gru.extra is before["extra"]
        assert not gru.training
        assert gru.weight_ih_l0.dtype is torch.float64
        seen.clear()
        gru(torch.zeros(5, 2, 3, dtype=torch.float64))[0].sum().backward()
        assert [one if isinstance(one, type) else "gradient" for one in seen] == [kind, "gradient"]
    hook.remove()
    assert set(vars(gru)) == set(before)


def test_a_module_that_is_used_twice_stays_one() -> None:
    rnn = nn.RNN(3, 3)
    model = nn.ModuleDict({"first": rnn, "second": nn.Sequential(rnn)})
    elman.convert(model)
    assert model["first"] is model["second"][0] is rnn
    assert len(list(model.parameters())) == 4


def test_nothing_is_copied() -> None:
    model = nn.ModuleList([nn.LSTM(3, 4, 2) for _ in range(100)])
    memory = [parameter.data_ptr() for parameter in model.parameters()]
    elman.convert(model)
    assert {type(module) for module in model} == {elman.LSTM}
    assert [parameter.data_ptr() for parameter in model.parameters()] == memory


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


REPARAMETRISATIONS: dict[str, Callable[[nn.Module], object]] = {
    "parametrization": lambda module: parametrize.register_parametrization(module, "weight_hh_l0", _Doubled()),
    "weight_norm": lambda module: parametrizations.weight_norm(module, "weight_hh_l0"),
    "orthogonal": lambda module: parametrizations.orthogonal(module, "weight_hh_l0"),
    "old weight_norm": lambda module: weight_norm(module, "weight_hh_l0"),
    "pruning": lambda module: prune.l1_unstructured(module, "weight_hh_l0", 0.5),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("reparametrize", REPARAMETRISATIONS.values(), ids=REPARAMETRISATIONS)
@pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])
def test_reparametrisations_stay(layer: str, reparametrize: Callable[[nn.Module], object]) -> None:
    module, x = getattr(nn, layer)(3, 4), torch.randn(5, 2, 3)
    reparametrize(module)
    expected, before, names = module(x), module.weight_hh_l0.detach().clone(), list(module.state_dict())
    for change in (elman.convert, elman.to_torch, elman.convert):
        close(change(module)(x), expected)
        assert list(module.state_dict()) == names
        assert torch.equal(module.weight_hh_l0, before)
    if parametrize.is_parametrized(module):
        close(copy.deepcopy(module)(x), expected)
        parametrize.remove_parametrizations(module, "weight_hh_l0")
        assert type(module) is getattr(elman, layer)
    elman.to_torch(module)
    assert module.weight_hh_l0.shape[1] == 4


def test_the_mode_that_was_set_counts() -> None:
    rnn, x = nn.RNN(3, 4), torch.randn(5, 2, 3)
    rnn.mode = "RNN_RELU"
    expected = rnn(x)
    close(elman.convert(rnn)(x), expected)
    close(elman.to_torch(rnn)(x), expected)


def test_a_whole_model_from_a_file_is_converted() -> None:
    model, x = nn.Sequential(nn.LSTM(3, 4, 2, bidirectional=True)), torch.randn(5, 2, 3)
    files = []
    for each in (model, elman.convert(copy.deepcopy(model))):
        file = io.BytesIO()
        torch.save(each, file)
        file.seek(0)
        files.append(torch.load(file, weights_only=False))
    for loaded in files:
        close(elman.convert(loaded)(x), model(x))
        assert type(loaded[0]) is elman.LSTM
    missing, unexpected = files[0].load_state_dict(model.state_dict())
    assert missing == unexpected == []


def test_a_model_on_the_meta_device_is_converted() -> None:
    model = nn.Sequential(nn.GRU(3, 4, device="meta"))
    filled = elman.convert(model).to_empty(device="cpu")
    weights = nn.Sequential(nn.GRU(3, 4))
    filled.load_state_dict(weights.state_dict())
    close(filled(torch.ones(5, 2, 3)), weights(torch.ones(5, 2, 3)))


# --- Subclasses -------------------------------------------------------------------------------------------------------


class Mine(nn.LSTM):
    """What clients write: a constructor of its own, more attributes, a method that is overridden."""

    def __init__(self, width: int, *, scale: float = 1.0) -> None:
        super().__init__(width, 4, batch_first=True)
        self.scale = scale

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        h, c = super().permute_hidden(hx, permutation)
        return h * self.scale, c


class MineToo(abc.ABC, nn.GRUCell):
    pass


def test_a_subclass_keeps_its_class_and_its_methods() -> None:
    mine, x = Mine(3, scale=3.0), torch.randn(2, 5, 3)
    expected = mine(x)
    close(elman.convert(mine)(x), expected)
    assert isinstance(mine, Mine)
    assert isinstance(mine, elman.LSTM)
    assert type(mine).__name__ == "Mine"
    assert is_ours(mine)
    for again in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):  # noqa: S301 - our own
        assert type(again) is type(mine)
        close(again(x), expected)
    assert type(elman.to_torch(mine)) is Mine
    close(mine(x), expected)
    cell = elman.convert(MineToo(3, 4))
    assert isinstance(cell, (MineToo, elman.GRUCell))
    assert type(elman.to_torch(cell)) is MineToo


class Doubling(nn.GRU):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Any:
        return super().forward(2 * input, hx)


class ByName(nn.GRU):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Any:
        return nn.GRU.forward(self, 2 * input, hx)


@pytest.mark.parametrize("kind", [Doubling, ByName])
def test_a_subclass_that_overrides_forward_is_named_and_its_super_is_ours(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.ModuleDict({"own": kind(3, 4)}), torch.randn(5, 2, 3)
    expected, calls = model["own"](x), []
    with pytest.warns(UserWarning, match=rf"override forward; only .* super\(\) runs on Elman's kernels: own \({kind.__name__}\)$"):
        elman.convert(model)
    run = elman.GRU.forward
    monkeypatch.setattr(elman.GRU, "forward", lambda self, *given: calls.append(self) or run(self, *given))
    close(model["own"](x), expected)
    assert len(calls) == (kind is Doubling)
    assert type(elman.to_torch(model)["own"]) is kind
    close(model["own"](x), expected)


def test_the_class_that_comes_out_may_be_subclassed() -> None:
    kind: Any = type(elman.convert(nn.LSTM(3, 4)))

    class More(kind, abc.ABC):
        def forward(self, x: Tensor, hx: Any = None) -> Any:
            return super().forward(2 * x, hx)

    more, x = More(3, 4), torch.randn(5, 2, 3)
    plain = elman.LSTM(3, 4)
    plain.load_state_dict(more.state_dict())
    close(more(x), plain(2 * x))


@pytest.mark.slow
def test_a_converted_model_is_compiled_and_exported() -> None:
    torch.compiler.reset()
    model, x = elman.convert(nn.ModuleList([Mine(3), nn.GRU(3, 4)])), torch.randn(2, 5, 3)
    parametrizations.weight_norm(model[1], "weight_hh_l0")
    for module in model:
        expected = module(x)
        close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), expected)
        close(torch.export.export(module, (x,)).module()(x), expected)


# --- What is named ----------------------------------------------------------------------------------------------------


class Bookkeeping(nn.GRU):
    def _update_flat_weights(self) -> None:
        super()._update_flat_weights()


class Alone(nn.RNNCellBase):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight_ih.T


def _with_forward() -> nn.Module:
    gru = nn.GRU(3, 4)
    gru.forward = gru.forward
    return gru


def _unknown_nonlinearity() -> nn.Module:
    cell = nn.RNNCell(3, 4)
    cell.nonlinearity = "gelu"
    return cell


def _with(name: str, value: object) -> nn.Module:
    gru = nn.GRU(3, 4)
    setattr(gru, name, value)
    return gru


_MIXED = type("Mixed", (nn.GRU, type("Mix", (), {"_prepare": None})), {})
_OWN = type("Own", (nn.GRU,), {"stack": lambda self: self._run(), "_run": lambda _: 7})
LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "forward of the object": (_with_forward, r"left \(an attribute forward replaces its method\)"),
    "bookkeeping": (lambda: Bookkeeping(3, 4), r"left \(Bookkeeping overrides _update_flat_weights\)"),
    "another cell": (lambda: Alone(3, 4, True, 1), r"left \(Alone is not torch.nn's RNN, GRU, LSTM or a cell of these\)"),
    "nonlinearity": (_unknown_nonlinearity, r"left \(expected nonlinearity to be one of 'tanh', 'relu', got 'gelu'\)"),
    "a name of Elman's": (lambda: _OWN(3, 4), r"left \(Own has _run, stack, which Elman's modules use\)"),
    "an attribute of Elman's": (lambda: _with("recompute", 1), r"left \(it has recompute, which Elman's modules use\)"),
    "a submodule of Elman's name": (lambda: _with("stack", nn.Linear(4, 4)), r"left \(it has stack, which Elman's modules use\)"),
    "a mixin": (lambda: _MIXED(3, 4), r"left \(Mixed has _prepare, which Elman's modules use\)"),
    "script": (lambda: torch.jit.script(nn.GRUCell(3, 4)), r"left \(torch.jit.script compiled it\)"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("build", "message"), LEFT.values(), ids=LEFT)
def test_what_is_left_is_named_and_works_as_before(build: Callable[[], nn.Module], message: str) -> None:
    model, x = nn.ModuleDict({"left": build(), "right": nn.GRU(3, 4)}), torch.randn(2, 3)
    left = model["left"]
    kind, attributes = type(left), dict(getattr(left, "__dict__", {}))
    expected = None if "gelu" in message else left(x)
    with pytest.warns(UserWarning, match=f"convert leaves these modules as they are: {message}$"):
        elman.convert(model)
    assert type(left) is kind
    assert vars(left) == attributes
    assert type(model["right"]) is elman.GRU
    if expected is not None:
        assert all(map(torch.equal, flat(left(x)), flat(expected)))


def test_the_way_back_names_what_torch_has_not() -> None:
    class Ours(elman.GRU):
        pass

    model = nn.ModuleDict(
        {"learned": elman.LSTM(3, 4, learn_initial_state=True), "ours": Ours(3, 4), "plain": elman.GRU(3, 4, recompute=True)}
    )
    message = r"to_torch leaves .*: learned \(it has a learned initial state\); ours \(Ours is a class of its own, not one of torch.nn's\)$"
    with pytest.warns(UserWarning, match=message):
        elman.to_torch(model)
    assert type(model["learned"]) is elman.LSTM
    assert type(model["plain"]) is nn.GRU
    assert "recompute" not in vars(model["plain"])


def test_what_is_no_module_is_refused() -> None:
    for change, name in ((elman.convert, "convert"), (elman.to_torch, "to_torch")):
        with pytest.raises(TypeError, match=f"expected {name} to get a module, got dict"):
            change({})


def test_nothing_to_convert_is_no_mistake() -> None:
    linear = nn.Linear(3, 4)
    assert elman.convert(linear) is elman.to_torch(linear) is linear
