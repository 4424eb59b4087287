"""The class that a subclass of torch.nn's is converted to: one for each, nobody's registry hears of it, and it goes when nobody uses it."""

from __future__ import annotations

import copy
import gc
import sys
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import elman


class Registry(nn.GRU):
    """What clients write to find their classes by name."""

    known: dict[str, type] = {}  # noqa: RUF012 - one for all

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Registry.known[cls.__name__] = cls


class Encoder(Registry):
    pass


class Final(nn.GRU):
    def __init_subclass__(cls, **kwargs: Any) -> None:
        raise RuntimeError("this class is final")


class Once(type):
    """A metaclass that makes each class once."""

    def __new__(cls, name: str, bases: tuple[type, ...], names: dict[str, Any]) -> Any:
        if bases != (nn.GRU,):
            raise RuntimeError("made already")
        return super().__new__(cls, name, bases, names)


class Meanwhile(type):
    """A metaclass in whose other thread a client defines a class while a first class is converted."""

    def __new__(cls, name: str, bases: tuple[type, ...], names: dict[str, Any]) -> Any:
        if "_converted_from" in names:
            thread = threading.Thread(target=lambda: cls("Other", bases[:1], {}))
            thread.start()
            thread.join()
        return super().__new__(cls, name, bases, names)


class Watched(Registry, metaclass=Meanwhile):
    pass


class WithHook(Watched):
    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)


class Single(nn.GRU, metaclass=Once):
    pass


class Reduced(nn.GRU):
    """Says itself how it is copied."""

    def __reduce__(self) -> Any:
        return _made, ()


def _made() -> Reduced:
    rnn = Reduced(3, 4)
    rnn.is_made = True
    return rnn


def _some_class() -> type[nn.GRU]:
    class Some(nn.GRU):
        pass

    return Some


def test_a_clients_hook_hears_of_its_own_subclasses_only() -> None:
    x = torch.randn(5, 2, 3)
    with elman.patched():
        built = Final(3, 4), Encoder(3, 4)
    for rnn in (elman.convert(Encoder(3, 4)), elman.convert(Final(3, 4)), *built):
        assert isinstance(rnn, elman.GRU)
        assert elman.why(rnn, x).startswith("native")
    assert Registry.known["Encoder"] is Encoder

    class Deeper(type(built[1])):  # type: ignore[misc]
        pass

    assert Registry.known["Deeper"] is Deeper
    assert list(vars(Registry)).count("__init_subclass__") == 1
    assert "__init_subclass__" not in vars(Encoder)


@pytest.mark.parametrize("kind", [Watched, WithHook])
def test_a_clients_hook_hears_of_what_other_threads_define_in_the_meantime(kind: type[nn.GRU], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "known", {})
    assert isinstance(elman.convert(kind(3, 4)), elman.GRU)
    assert list(Registry.known) == ["Other"]


def test_a_class_that_refuses_to_have_subclasses_is_named_and_the_rest_converted() -> None:
    model, x = nn.ModuleDict({"first": nn.GRU(3, 4), "single": Single(3, 4), "last": nn.GRU(3, 4)}), torch.randn(5, 2, 3)
    expected = model["single"](x)[0]
    with pytest.warns(UserWarning, match=r"convert leaves .*: single \(Single cannot be subclassed: made already\)$"):
        elman.convert(model)
    assert [type(rnn) for rnn in model.values()] == [elman.GRU, Single, elman.GRU]
    assert torch.equal(model["single"](x)[0], expected)
    with elman.patched():
        assert type(Single(3, 4)) is Single


def test_a_class_that_says_how_it_is_copied_is_copied_so() -> None:
    assert copy.deepcopy(elman.convert(Reduced(3, 4))).is_made


def test_nothing_changes_if_a_plan_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    model = nn.Sequential(nn.GRU(3, 4), Single(3, 4))
    monkeypatch.setattr(Once, "__new__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        elman.convert(model)
    assert [type(rnn) for rnn in model] == [nn.GRU, Single]
    assert "__init_subclass__" not in vars(Single)


@pytest.mark.slow
def test_a_converted_class_is_freed_with_the_class_that_it_was_made_from() -> None:
    kind = _some_class()
    rnn = elman.convert(kind(3, 4))
    gone = weakref.ref(kind), weakref.ref(type(rnn))
    assert type(elman.convert(kind(3, 4))) is type(rnn)
    elman.to_torch(rnn)
    gc.collect()
    assert gone[1]() is None  # nobody uses it
    del kind, rnn
    gc.collect()
    assert gone[0]() is None


def test_two_threads_get_one_class() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            kind, converted, barrier = _some_class(), [], threading.Barrier(2)

            def convert(kind: Any = kind, converted: Any = converted, barrier: Any = barrier) -> None:
                rnn = kind(3, 4)
                barrier.wait()
                converted.append(elman.convert(rnn))

            threads = [threading.Thread(target=convert) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert type(converted[0]) is type(converted[1])
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("base", [elman.LSTM, elman.GRUCell, elman.Recurrent])
@pytest.mark.parametrize("name", ["stack", "_run", "_names"])
def test_a_subclass_of_elmans_is_told_which_names_are_taken(base: type, name: str) -> None:
    with pytest.raises(TypeError, match=f"expected Mine not to define {name}, which Elman's modules use: choose other names"):
        type("Mine", (base,), {name: None, "__module__": __name__})
    with pytest.raises(TypeError, match=f"expected Mixed not to define {name}"):
        type("Mixed", (type("Mix", (), {name: None, "__module__": __name__}), base), {"__module__": __name__})


def test_a_name_of_elmans_cannot_be_set_on_a_module() -> None:
    with elman.patched():
        gru = nn.GRU(3, 4)
    for name in ("_run", "_read", "_names"):
        with pytest.raises(AttributeError, match=f"expected another name than {name}, which Elman's GRU uses"):
            setattr(gru, name, 1)


@pytest.mark.parametrize("base", [elman.LSTM, elman.GRUCell, elman.Recurrent])
@pytest.mark.parametrize("name", ["forward", "trace", "extra_repr", "reset_parameters", "helper", "_helper", "_load_from_state_dict"])
def test_it_may_define_all_others(base: type, name: str) -> None:
    assert issubclass(type("Mine", (base,), {name: lambda *_: None, "__module__": __name__}), base)


@pytest.mark.parametrize("name", ["stack", "_run"])
@pytest.mark.parametrize("register", ["register_buffer", "register_parameter"])
def test_a_buffer_or_parameter_of_a_taken_name_leaves_the_module(register: str, name: str) -> None:
    gru = nn.GRU(3, 4)
    getattr(gru, register)(name, nn.Parameter(torch.ones(1)))
    with pytest.warns(UserWarning, match=name):
        assert type(elman.convert(gru)) is nn.GRU


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("back", [False, True], ids=["convert", "to_torch"])
def test_conversion_keeps_what_calls_take_in_place_of_a_parameter(kind: str, back: bool) -> None:
    rnn, x = getattr(elman if back else nn, kind)(3, 4), torch.randn(5, 2, 3)
    rnn._flat_weights[1] = torch.zeros_like(rnn.weight_hh_l0)
    expected, parameter = rnn(x)[0], rnn.weight_hh_l0
    (elman.to_torch if back else elman.convert)(rnn)
    torch.testing.assert_close(rnn(x)[0], expected, rtol=0, atol=1e-6)
    assert rnn.weight_hh_l0 is parameter
    rnn.to(torch.float64)  # ends it
    assert rnn._flat_weights[1] is rnn.weight_hh_l0


def _called_with_other_parameters(gru: nn.GRU, x: torch.Tensor) -> None:
    torch.func.functional_call(gru, {name: torch.zeros_like(p) for name, p in gru.named_parameters()}, (x,))


def _parametrized_for_a_while(gru: nn.GRU, x: torch.Tensor) -> None:
    parametrizations.weight_norm(gru, "weight_hh_l0")
    gru(x)
    parametrize.remove_parametrizations(gru, "weight_hh_l0")


def _normalized_for_a_while(gru: nn.GRU, x: torch.Tensor) -> None:
    nn.utils.spectral_norm(gru, "weight_hh_l0")
    gru(x)
    nn.utils.remove_spectral_norm(gru, "weight_hh_l0")


def _given_another_parameter(gru: nn.GRU, x: torch.Tensor) -> None:
    gru._flat_weights[1] = torch.zeros_like(gru.weight_hh_l0)
    gru._parameters["weight_hh_l0"] = nn.Parameter(torch.randn(12, 4))


def _given_a_parameter_in_the_list(gru: nn.GRU, x: torch.Tensor) -> None:
    gru._flat_weights[0] = nn.Parameter(torch.zeros(12, 3))


@pytest.mark.parametrize(
    "prepare",
    [
        _called_with_other_parameters,
        _parametrized_for_a_while,
        _normalized_for_a_while,
        _given_another_parameter,
        _given_a_parameter_in_the_list,
    ],
)
def test_convert_takes_what_torchs_next_call_would(prepare: Any) -> None:
    """Torch.nn makes its list anew where a parameter is another than when it was made."""
    x, made = torch.randn(5, 2, 3), []
    for _ in range(2):  # a copy would have a new list
        torch.manual_seed(0)
        made.append(nn.GRU(3, 4))
        prepare(made[-1], x)
    theirs, ours = made
    elman.convert(ours)
    for _ in range(2):
        torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=0, atol=1e-6)
        with torch.no_grad():
            for gru in made:
                gru.weight_hh_l0.add_(1)


@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_hh_l0"])
@pytest.mark.parametrize("drop", [delattr, lambda gru, name: gru.register_parameter(name, None)], ids=["deleted", "none"])
def test_a_parameter_that_is_gone_is_not_taken_from_the_list(drop: Any, name: str) -> None:
    """Torch.nn's list still holds it, and its calls take it."""
    gru = nn.GRU(3, 4)
    drop(gru, name)
    elman.convert(gru)
    with pytest.raises(TypeError, match=f"expected {name} to be a tensor of shape .*, got None"):
        gru(torch.randn(5, 2, 3))


def test_a_parameter_is_taken_where_the_list_has_none() -> None:
    """As it does after the attribute was None for a while, so that torch.nn's calls fail."""
    torch.manual_seed(0)
    gru, x = nn.GRU(3, 4), torch.randn(5, 2, 3)
    expected, weight = gru(x)[0], gru.weight_hh_l0
    gru.weight_hh_l0 = None
    gru.register_parameter("weight_hh_l0", weight)
    elman.convert(gru)
    torch.testing.assert_close(gru(x)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"])
def test_a_pickle_has_what_torchs_has_and_options_of_ours(name: str) -> None:
    """What follows from these is worked out again, as for a module whose class has been assigned."""
    ours, theirs = getattr(elman, name)(3, 4), getattr(nn, name)(3, 4)
    ours(torch.randn(2, 3))
    assert ours.__getstate__().keys() - vars(theirs).keys() <= {"learn_initial_state", "recompute"}
