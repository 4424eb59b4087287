"""Inside patched(), torch.nn's names build Elman's modules; after it, torch.nn's again."""

from __future__ import annotations

import abc
import io
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import LSTM as IMPORTED_BEFORE

import elman
from elman.conversion.classes import PAIRS

NAMES = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
every_class = pytest.mark.parametrize("name", NAMES)
CONSTRUCTORS = {theirs: theirs.__init__ for theirs in PAIRS}


@pytest.fixture(autouse=True)
def _undone() -> Any:
    yield
    assert {theirs: theirs.__init__ for theirs in PAIRS} == CONSTRUCTORS


class Scaled(nn.GRU):
    """A client's class, written before any block."""

    def __init__(self, size: int) -> None:
        self.scale = 2
        super().__init__(size, 4, bidirectional=True)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Any:
        output, h_n = super().forward(input, hx)
        return self.scale * output, h_n


class Bookkeeping(nn.GRU):
    def _init_flat_weights(self) -> None:
        super()._init_flat_weights()


class Direct(nn.LSTM):
    def __init__(self) -> None:
        nn.RNNBase.__init__(self, "LSTM", 3, 4)


@every_class
def test_torchs_names_build_ours_inside_and_theirs_after(name: str) -> None:
    theirs = getattr(nn, name)
    torch.manual_seed(0)
    with elman.patched():
        assert getattr(nn, name) is theirs
        inside = theirs(3, 4)
    assert type(inside) is getattr(elman, name)
    assert isinstance(inside, theirs)
    torch.manual_seed(0)
    after = theirs(3, 4)
    assert type(after) is theirs
    assert all(map(torch.equal, inside.parameters(), after.parameters()))


def test_names_that_were_imported_before_are_covered() -> None:
    with elman.patched():
        assert type(IMPORTED_BEFORE(3, 4, 2, proj_size=2)) is elman.LSTM


def test_arguments_arrive_as_they_are_given() -> None:
    with elman.patched():
        rnn = nn.RNN(3, 4, 2, "relu", batch_first=True, dtype=torch.float64)
        assert (rnn.mode, rnn.num_layers, rnn.batch_first, rnn.weight_ih_l0.dtype) == ("RNN_RELU", 2, True, torch.float64)
        with pytest.raises(ValueError, match="expected hidden_size to be at least 1"):
            nn.GRU(3, 0)


def test_subclasses_build_on_ours_wherever_they_were_written() -> None:
    with elman.patched():

        class Within(abc.ABC, nn.LSTMCell):
            pass

        scaled, within = Scaled(3), Within(3, 4)
    assert isinstance(scaled, Scaled)
    assert isinstance(scaled, elman.GRU)
    assert isinstance(within, Within)
    assert isinstance(within, elman.LSTMCell)
    assert type(Within(3, 4)) is Within
    theirs, x = Scaled(3), torch.randn(5, 2, 3)
    assert type(theirs) is Scaled
    scaled.load_state_dict(theirs.state_dict())
    for one, two in zip(scaled(x), theirs(x), strict=True):
        torch.testing.assert_close(one, two)
    assert elman.why(scaled, x).startswith("native")


def test_what_is_not_covered_is_torchs() -> None:
    x = torch.randn(5, 2, 3)
    with elman.patched():
        bookkeeping, direct = Bookkeeping(3, 4), Direct()
    assert (type(bookkeeping), type(direct)) == (Bookkeeping, Direct)
    assert bookkeeping(x)[0].shape == direct(x)[0].shape


def test_blocks_nest_and_end_with_an_exception() -> None:
    with elman.patched():
        with elman.patched():
            assert type(nn.GRU(3, 4)) is elman.GRU
        with pytest.raises(ZeroDivisionError), elman.patched():
            1 / 0  # noqa: B018
        assert type(nn.GRU(3, 4)) is elman.GRU
    assert type(nn.GRU(3, 4)) is nn.GRU


def test_blocks_of_two_threads_may_overlap() -> None:
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with elman.patched():
            entered.set()
            left.wait()

    thread = threading.Thread(target=other)
    with elman.patched():
        thread.start()
        entered.wait()
    assert type(nn.GRU(3, 4)) is elman.GRU
    left.set()
    thread.join()
    assert type(nn.GRU(3, 4)) is nn.GRU


def test_what_was_built_inside_is_saved_and_loaded_after() -> None:
    with elman.patched():
        model, x = nn.ModuleList([nn.LSTM(3, 4, 2), Scaled(3)]), torch.randn(5, 2, 3)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for loaded in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(model))):  # noqa: S301 - our own
        assert [type(module) for module in loaded] == [type(module) for module in model]
        assert all(torch.equal(one(x)[0], two(x)[0]) for one, two in zip(loaded, model, strict=True))
    plain = nn.ModuleList([nn.LSTM(3, 4, 2), Scaled(3)])
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain[1](x)[0], model[1](x)[0])


def test_torchs_own_attributes_stay_readable() -> None:
    before = nn.GRU(3, 4)
    with elman.patched():
        assert isinstance(before, nn.GRU)
        assert nn.GRU.__init__.__doc__ == CONSTRUCTORS[nn.GRU].__doc__
        assert pickle.loads(pickle.dumps(before)).hidden_size == 4  # noqa: S301 - our own
