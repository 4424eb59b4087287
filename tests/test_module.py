"""A built module stays what it was built as, however it came to be: attributes, copies, pickles, torch.nn's modules, classes beside it."""

from __future__ import annotations

import abc
import copy
import io
import pickle
import re
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import elman
from elman.backends import Stack
from elman.cells import Gru
from kinds import GRU, LSTM, PROJECTED, RELU, TANH, Kind, as_states, every_cell, every_kind

if TYPE_CHECKING:
    from collections.abc import Callable

every_layer = pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])
every_class = pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"])

# Every public attribute of a module that says what it is, and values of another one's.
FIXED: dict[str, list[object]] = {
    "input_size": [2, 3, 8, 0, -1, 2**62, 6.0, "6", None, torch.tensor(3), np.int64(3)],
    "hidden_size": [1, 7, 9, 2**40, None],
    "num_layers": [1, 3, 0, -1, 2**31],
    "nonlinearity": ["relu", "gelu", None],
    "bias": [False, None],
    "bidirectional": [True, None],
    "proj_size": [1, 3, -1],
    "learn_initial_state": [True, None],
    "mode": ["LSTM ", "RNN", None],
    "stack": [Stack(Gru(), 3, 4), None],
}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.manual_seed(0)
    torch.compiler.reset()


def _flat(result: Any) -> tuple[Tensor, ...]:
    output, states = result if isinstance(result, tuple) and len(result) == 2 else (result, ())
    return output, *as_states(states)


def _same(got: Any, expected: Any) -> None:
    for one, two in zip(_flat(got), _flat(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def _build(name: str) -> nn.Module:
    return getattr(elman, name)(6, 8, **({} if name.endswith("Cell") else {"num_layers": 2}))


@every_class
def test_what_a_module_is_cannot_be_changed(name: str) -> None:
    """Its parameters are made for it: Python would check one size while the kernels run another."""
    module, x = _build(name), torch.randn(3, 6)
    expected, text = _flat(module(x)), repr(module)
    for attribute, values in FIXED.items():
        if not hasattr(module, attribute):
            continue
        now = getattr(module, attribute)
        for value in () if (name, attribute) == ("RNNCell", "nonlinearity") else values:
            if type(value) is type(now) and value == now:
                continue
            with pytest.raises(AttributeError, match=rf"expected {attribute} to stay .*, got .*: build another {name}"):
                setattr(module, attribute, value)
        with pytest.raises(AttributeError, match=f"expected {attribute} to stay, got it deleted"):
            delattr(module, attribute)
        setattr(module, attribute, now)  # the value that it has may be set
        assert getattr(module, attribute) == now
    assert repr(module) == text
    assert all(map(torch.equal, _flat(module(x)), expected))


def test_the_same_size_of_another_kind_may_be_set() -> None:
    gru = elman.GRU(6, 8)
    gru.input_size = np.int64(6)
    gru.bias = 1
    assert type(gru.input_size) is int
    assert gru.bias is True


def test_the_mode_may_be_set_to_the_other_nonlinearity() -> None:
    rnn, x = elman.RNN(3, 4), torch.randn(5, 2, 3)
    theirs = nn.RNN(3, 4)
    theirs.load_state_dict(rnn.state_dict())
    for mode in ("RNN_RELU", "RNN_TANH", "RNN_TANH"):
        rnn.mode = theirs.mode = mode
        assert (rnn.mode, rnn.nonlinearity) == (mode, mode[4:].lower())
        _same(rnn(x), theirs(x))
    for module in (elman.GRU(3, 4), elman.LSTM(3, 4)):
        module.mode = module.mode


def test_so_may_a_cells_nonlinearity() -> None:
    cell, theirs, x, h = elman.RNNCell(3, 4), nn.RNNCell(3, 4), torch.randn(2, 3), torch.randn(2, 4)
    theirs.load_state_dict(cell.state_dict())
    for nonlinearity in ("relu", "tanh", "tanh"):
        cell.nonlinearity = theirs.nonlinearity = nonlinearity
        assert cell.nonlinearity == nonlinearity
        assert repr(cell) == repr(theirs)
        _same(cell(x, h), theirs(x, h))
    with pytest.raises(RuntimeError, match="expected nonlinearity to be one of 'tanh', 'relu', got 'gelu'"):
        cell.nonlinearity = "gelu"
    _same(cell(x, h), theirs(x, h))


def test_attributes_of_ones_own_may_be_anything() -> None:
    class Mine(elman.GRUCell):
        def __init__(self) -> None:
            super().__init__(6, 8)
            self.num_layers, self.mode, self.dropout = 3, "mine", nn.Dropout(0.5)
            self.num_layers = 4

    assert Mine()(torch.randn(3, 6)).shape == (3, 8)


@every_layer
def test_dropout_batch_first_and_recompute_may_be_changed_and_are_checked(layer: str) -> None:
    rnn, x = getattr(elman, layer)(6, 8, 2), torch.randn(5, 3, 6)
    for name, values in {"dropout": (1.5, -0.1, True, "a", None, float("nan")), "batch_first": (1, None), "recompute": (0, "yes")}.items():
        for value in values:
            with pytest.raises((TypeError, ValueError), match=f"expected {name} to be"):
                setattr(rnn, name, value)
    expected = rnn(x)[0]
    rnn.batch_first = True
    torch.testing.assert_close(rnn(x.transpose(0, 1))[0], expected.transpose(0, 1))
    rnn.batch_first, rnn.dropout = False, 1
    assert type(rnn.dropout) is float
    assert not torch.equal(rnn(x)[0], expected)
    rnn.dropout = 0.0
    rnn.recompute = True
    assert rnn.stack.recompute
    gradients = [torch.autograd.grad(rnn(x)[0].square().sum(), list(rnn.parameters()))]
    rnn.recompute = False
    assert not rnn.stack.recompute
    gradients.append(torch.autograd.grad(rnn(x)[0].square().sum(), list(rnn.parameters())))
    assert all(map(torch.equal, *gradients))


@pytest.mark.slow
@every_class
def test_a_parameter_that_was_taken_away_is_named(name: str) -> None:
    module, x = _build(name), torch.randn(3, 6)
    bias = "bias_hh" if name.endswith("Cell") else "bias_hh_l0"
    setattr(module, bias, None)
    calls = (module, lambda x: elman.why(module, x), torch.compile(module, backend="eager"))
    for call in calls if bias == "bias_hh_l0" else ():  # torch.nn's cells run without it
        with pytest.raises(TypeError, match=rf"expected {bias} to be a tensor of shape \(\d+,\), got None: .* with bias=False"):
            call(x)
    delattr(module, bias)
    for call in calls:
        with pytest.raises(TypeError, match=f"expected {bias} to be a tensor"):
            call(x)
    weight = bias.replace("bias", "weight")
    delattr(module, weight)
    with pytest.raises(TypeError, match=rf"expected {weight} to be a tensor of shape \(.*\), got None: it was deleted or set to None"):
        module(x)


def test_a_learned_state_that_was_taken_away_is_named() -> None:
    lstm = elman.LSTM(6, 8, learn_initial_state=True)
    lstm.c_0 = None
    with pytest.raises(TypeError, match=r"expected c_0 to be a tensor of shape \(1, 8\), got None"):
        lstm(torch.randn(5, 3, 6))


# --- Where a module comes from ----------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "all at once": {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.3},
    "no bias": {"bias": False},
}


def _given_our_class(theirs: nn.Module) -> nn.Module:
    theirs.__class__ = getattr(elman, type(theirs).__name__)
    return theirs


def _unpickled_as_ours(theirs: nn.Module) -> nn.Module:
    """What a pickle does where the name in it means Elman's class."""

    class Renaming(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return getattr(elman, name) if module.startswith("torch.nn.modules.rnn") else super().find_class(module, name)

    return Renaming(io.BytesIO(pickle.dumps(theirs))).load()


every_way = pytest.mark.parametrize("way", [_given_our_class, _unpickled_as_ours], ids=["class assigned", "unpickled"])


def _is_like(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """It runs, learns, prints, copies and pickles as one that its constructor built."""
    assert type(ours).__module__.startswith("elman")
    assert repr(ours) == repr(theirs)
    _same(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    gradients = [
        torch.autograd.grad(sum(part.square().sum() for part in _flat(module(x))), list(module.parameters())) for module in (ours, theirs)
    ]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    with pytest.raises(AttributeError, match="expected input_size to stay"):
        ours.input_size = 4
    assert not [name for name in vars(ours) if "flat_weight" in name]


@pytest.mark.slow
@every_way
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@every_kind
def test_torchs_layer_may_become_ours(kind: Kind, options: dict[str, object], way: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    theirs = kind.build(nn, 3, 4, **options).eval() if "num_layers" in options else kind.build(nn, 3, 4, **options)
    x = torch.randn(2, 5, 3)
    ours = way(copy.deepcopy(theirs))
    _is_like(ours, theirs, x)
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):  # noqa: S301 - our own
        _is_like(again, theirs, x)


@every_way
@pytest.mark.parametrize("bias", [True, False])
@every_cell
def test_torchs_cell_may_become_ours(kind: Kind, bias: bool, way: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    theirs = kind.build_cell(nn, 3, 4, bias=bias)
    _is_like(way(copy.deepcopy(theirs)), theirs, torch.randn(2, 3))


@every_layer
@pytest.mark.parametrize("value", [1, 0, "yes", "", None], ids=repr)
@pytest.mark.parametrize("grad", [False, True])
def test_a_batch_first_set_past_its_check_counts_by_its_truth(layer: str, value: object, grad: bool) -> None:
    theirs, ours = getattr(nn, layer)(3, 4, batch_first=bool(value)), getattr(elman, layer)(3, 4)
    ours.load_state_dict(theirs.state_dict())
    vars(ours)["batch_first"] = value
    x = torch.randn(5, 2, 3)
    expected, final = theirs(x)
    with torch.set_grad_enabled(grad):
        output, (*states,) = ours(x)
        traced = ours.trace(x)
        cut, _ = ours(x, lengths=[2] * 5 if value else [5, 5])
    for got in (output, traced.output, cut):
        torch.testing.assert_close(got, expected)
    for got, want in zip(states, final, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("first", ["copy", "pickle", "repr", "compile", "why", "stream", "trace"])
def test_a_class_that_was_assigned_is_enough_whatever_comes_first(first: str) -> None:
    if first == "compile" and "2.12" <= torch.__version__ < "2.13":
        pytest.skip("torch 2.12 raises a KeyError for an attribute that a module loses while it compiles")
    theirs, x = nn.GRU(3, 4), torch.randn(5, 2, 3)
    ours: Any = _given_our_class(copy.deepcopy(theirs))
    run: dict[str, Callable[[], Any]] = {
        "copy": lambda: copy.deepcopy(ours)(x),
        "pickle": lambda: pickle.loads(pickle.dumps(ours))(x),  # noqa: S301 - our own
        "repr": lambda: repr(ours) and ours(x),
        "compile": lambda: torch.compile(ours, backend="eager")(x),
        "why": lambda: elman.why(ours, x) and ours(x),
        "stream": lambda: elman.stream(ours, 2).run(x) is not None and ours(x),
        "trace": lambda: ours.trace(x)[:2],
    }
    _same(run[first](), theirs(x))


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("GRU", "LSTM", r"expected weight_ih_l0 of shape \(16, 3\), got \(12, 3\)"),
        ("LSTM", "GRU", r"expected weight_ih_l0 of shape \(12, 3\), got \(16, 3\)"),
        ("GRU", "RNN", "expected a module with the attributes of elman's RNN, got one without nonlinearity: build a new RNN"),
        ("LSTMCell", "GRUCell", r"expected weight_ih of shape \(12, 3\), got \(16, 3\)"),
        ("GRUCell", "RNNCell", "the attributes of elman's RNNCell, got one without nonlinearity: build a new RNNCell"),
    ],
)
def test_a_class_of_another_kind_is_told(before: str, after: str, text: str, called: bool) -> None:
    module, x = getattr(elman, before)(3, 4), torch.randn(2, 3)
    if called:
        module(x)
    module.__class__ = getattr(elman, after)
    with pytest.raises((RuntimeError, TypeError), match=text):
        module(x)


@pytest.mark.parametrize("options", [{}, {"learn_initial_state": True, "recompute": True, "num_layers": 2}], ids=["plain", "ours"])
@every_layer
def test_a_whole_module_is_saved_and_loaded(layer: str, options: dict[str, object]) -> None:
    rnn, x = getattr(elman, layer)(3, 4, **options), torch.randn(5, 2, 3)
    for name in rnn._learned:
        nn.init.normal_(getattr(rnn, name))
    file = io.BytesIO()
    torch.save(nn.Sequential(rnn), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)[0]
    assert (repr(loaded), loaded.stack.recompute, loaded.training) == (repr(rnn), rnn.recompute, True)
    assert all(map(torch.equal, _flat(loaded(x)), _flat(rnn(x))))
    with pytest.raises(AttributeError, match="expected hidden_size to stay 4"):
        loaded.hidden_size = 5


# --- Classes beside it ------------------------------------------------------------------------------------------------

T = TypeVar("T")


class _Meta(type):
    pass


@every_class
def test_a_class_may_have_other_bases_in_any_order(name: str) -> None:
    base: Any = getattr(elman, name)

    class Abstract(abc.ABC):  # noqa: B024 - a base beside it
        pass

    class First(abc.ABC, base):
        @abc.abstractmethod
        def extra(self) -> int: ...

    class Last(base, abc.ABC):
        pass

    class Between(Abstract, base, Generic[T]):
        pass

    class WithMetaclass(base, metaclass=_Meta):
        pass

    with pytest.raises(TypeError, match="abstract"):
        First(3, 4)
    whole = type("Whole", (First,), {"extra": lambda self: 1})
    for kind in (whole, Last, Between, WithMetaclass):
        module = kind(3, 4)
        assert isinstance(module, base)
        assert _flat(module(torch.randn(2, 3)))[0].shape == (2, 4)


# --- What torch does to modules ---------------------------------------------------------------------------------------


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize("kind", [TANH, RELU, GRU, LSTM, PROJECTED], ids=str)
def test_what_torch_does_to_modules_still_works(kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 4, num_layers=2), torch.randn(5, 2, 3)
    expected = rnn(x)[0]
    rnn.share_memory()
    assert torch.equal(rnn(x)[0], expected)
    torch.testing.assert_close(rnn.double()(x.double())[0].float(), expected, rtol=1e-4, atol=1e-5)
    rnn.float()
    parametrize.register_parametrization(rnn, "weight_hh_l0", _Doubled())
    assert not torch.equal(rnn(x)[0], expected)
    torch.testing.assert_close(copy.deepcopy(rnn)(x)[0], rnn(x)[0])
    parametrize.remove_parametrizations(rnn, "weight_hh_l0", leave_parametrized=False)
    torch.testing.assert_close(rnn(x)[0], expected)
    parametrizations.weight_norm(rnn, "weight_ih_l1")
    torch.testing.assert_close(rnn(x)[0], expected)
    prune.random_unstructured(rnn, "bias_hh_l0", 1)
    assert rnn(x)[0].isfinite().all()
    meta = kind.build(elman, 3, 4, device="meta").to_empty(device="cpu")
    meta.load_state_dict(kind.build(elman, 3, 4).state_dict())
    assert meta(x)[0].isfinite().all()


def test_a_compiled_module_is_copied_and_pickled_without_what_compiled_it() -> None:
    rnn = elman.RNN(3, 4)
    rnn.compile(backend="eager")
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):  # noqa: S301 - our own
        assert other._compiled_call_impl is None


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@every_class
def test_torch_script_is_told_what_to_use_instead(name: str) -> None:
    for module in (_build(name), nn.Sequential(_build(name))):
        with pytest.raises(
            RuntimeError, match=re.escape(f"elman's {name}, which calls its kernels from Python: use torch.export, torch.onnx.export")
        ):
            torch.jit.script(module)
