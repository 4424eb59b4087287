"""A stream's state is read, set, copied and pickled, and nothing that was read or set shares its memory."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import elman
from kinds import Kind, as_hx, every_kind
from streams import VIEWS, assert_same_state, every_view, follow, freed, masked

if TYPE_CHECKING:
    from collections.abc import Callable


@every_kind
@torch.no_grad()
def test_a_state_is_read_and_set(kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 5, 2), torch.randn(6, 2, 3)
    expected = rnn(x)[0]
    stream = elman.stream(rnn, 2)
    for view in VIEWS.values():
        stream.reset()
        follow(stream, x[:3], [0, 0, 0], view)
        state, arrays = stream.state, stream.state_dict()
        assert_same_state(stream, rnn(x[:3])[1])
        for put_back in (lambda s=state: setattr(stream, "state", s), lambda d=arrays: stream.load_state_dict(d)):
            assert torch.equal(follow(stream, x[3:], [0, 0, 0], view), expected[3:])
            put_back()
        stream.state = as_hx(tuple(array for array in arrays.values()))
        assert torch.equal(follow(stream, x[3:], [2, 0], view), expected[3:])


def test_a_state_that_was_read_or_set_is_a_copy() -> None:
    stream = elman.stream(elman.LSTM(3, 5))
    stream.step(np.ones((1, 3), np.float32))
    read, arrays = stream.state, stream.state_dict()
    before = [state.clone() for state in read]
    mine = [torch.ones(1, 1, 5), torch.ones(1, 1, 5)]
    stream.state = tuple(mine)
    mine[0].zero_()
    stream.step(np.ones((1, 3), np.float32))
    assert all(map(torch.equal, read, before))
    assert all(torch.equal(torch.from_numpy(a), b) for a, b in zip(arrays.values(), before, strict=True))
    read[0].fill_(9)
    assert not (stream.state[0] == 9).any()


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda stream: pickle.loads(pickle.dumps(stream))}  # noqa: S301


@every_kind
@pytest.mark.parametrize("way", COPIES)
@torch.no_grad()
def test_a_copy_has_a_state_of_its_own(way: str, kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 5, 2), torch.randn(6, 2, 3)
    expected = rnn(x)[0]
    for before in ([0, 0, 0], [3]):
        stream = elman.stream(rnn, 2)
        follow(stream, x[:3], before, VIEWS["arrays"])
        other = COPIES[way](stream)
        assert (other.rnn is rnn) == (way == "copy")
        assert torch.equal(follow(stream, x[3:], [0, 0, 0], VIEWS["arrays"]), expected[3:])
        assert torch.equal(follow(other, x[3:], [0, 0, 0], VIEWS["arrays"]), expected[3:])


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_stream_in_training_has_no_graph(way: str) -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    stream.run(torch.randn(4, 2, 3))
    stream.reset([0])
    other = COPIES[way](stream)
    assert torch.equal(other.state, stream.state)
    assert stream.state.requires_grad
    assert not other.state.requires_grad


in_process = pytest.mark.parametrize("way", ["copy", "deepcopy"])


@in_process
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap])
def test_a_stream_is_copied_in_a_transform(transform: Any, way: str) -> None:
    rnn, x = elman.LSTM(3, 5), torch.randn(2, 2, 3)

    def last(copied: Callable[[elman.Stream], elman.Stream], x: torch.Tensor) -> torch.Tensor:
        stream = elman.stream(rnn)
        stream.step(x[:1])
        return copied(stream).step(x[1:]).square().sum()

    found = transform(partial(last, COPIES[way]))(x if transform is torch.func.vmap else x[0])
    expected = transform(partial(last, _restarted))(x if transform is torch.func.vmap else x[0])
    torch.testing.assert_close(found, expected)


def _restarted(stream: elman.Stream) -> elman.Stream:
    """A copy by way of the state that a caller reads."""
    other = elman.stream(stream.rnn)
    other.state = tuple(state.detach() for state in stream.state)
    return other


@in_process
@torch.no_grad()
def test_a_stream_is_copied_in_a_compiled_function(way: str) -> None:
    stream, x = elman.stream(elman.GRU(3, 5)), torch.randn(1, 3)
    stream.step(x)
    torch.compiler.reset()
    found = torch.compile(lambda x: COPIES[way](stream).step(x), backend="eager")(x)
    torch.compiler.reset()
    torch.testing.assert_close(found, stream.step(x))


def test_a_stream_of_fake_tensors_is_copied() -> None:
    with FakeTensorMode():
        stream = elman.stream(elman.GRU(3, 5))
        stream.state = torch.ones(1, 1, 5)
        assert copy.copy(stream).state.shape == (1, 1, 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("hidden_size", [1, 5])
def test_a_pickle_has_every_dtype_and_size(hidden_size: int, dtype: torch.dtype) -> None:
    stream = elman.stream(elman.GRU(3, hidden_size, dtype=dtype), 2)
    stream.state = torch.randn(1, 2, 2 * hidden_size, dtype=dtype)[:, :, ::2]
    other = COPIES["pickle"](stream)
    assert other.state.dtype is dtype
    assert torch.equal(other.state, stream.state)


def test_outputs_and_states_outlive_their_stream() -> None:
    stream = elman.stream(elman.RNN(3, 5))
    y, state = stream.step(np.ones((1, 3), np.float32)), stream.state
    before = y.copy()
    del stream
    gc.collect()
    [elman.stream(elman.RNN(3, 5)).step(np.zeros((1, 3), np.float32)) for _ in range(50)]
    np.testing.assert_array_equal(y, before)
    np.testing.assert_array_equal(state[0].numpy(), before)


@every_view
@torch.no_grad()
@pytest.mark.slow
def test_a_stream_that_its_own_parameter_refers_to_is_freed(view: Any) -> None:
    rnn = elman.LSTM(3, 5)
    stream = elman.stream(rnn)
    stream.step(view(torch.ones(1, 3)))
    rnn.weight_hh_l0.mine = stream
    gone = weakref.ref(stream), weakref.ref(rnn)
    del stream
    gc.collect()
    rnn.weight_hh_l0.mine.step(view(torch.ones(1, 3)))  # what is still in use is not
    del rnn
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


H = torch.zeros(2, 2, 5)
STATES = {
    "no tuple": (H, TypeError, r"expected state to be a tuple \(h, c\), got Tensor"),
    "nothing": (None, TypeError, r"expected a state like the network's hx, got None: reset\(\)"),
    "one of two": ((H,), RuntimeError, r"expected state to be a tuple \(h, c\), got one of length 1"),
    "shape": ((H, H[0]), RuntimeError, r"expected c of shape \(2, 2, 5\), \(L, B, H\), got \(2, 5\)"),
    "dtype": ((H.double(), H), ValueError, "expected h of torch.float32, the parameters' dtype, got torch.float64"),
    "sparse": ((H, H.to_sparse()), RuntimeError, "expected c to be dense, torch.strided, got torch.sparse_coo"),
    "in oneDNN's layout": ((H, H.to_mkldnn()), RuntimeError, "expected c to be dense, torch.strided, got torch._mkldnn"),
    "nested": (
        (H, torch.nested.nested_tensor([H[0], H[1]], layout=torch.jagged)),
        RuntimeError,
        "expected c to be a tensor with one size for each axis",
    ),
    "masked": ((H, masked(H)), TypeError, "expected c to be a tensor or an array without a mask, got MaskedTensor"),
    "freed": ((H, freed(2, 2, 5)), RuntimeError, "expected c to lie in memory, got a null pointer: was its storage freed"),
    "a list": ((H, [0.0]), TypeError, "expected c to be a torch tensor or a NumPy array, got list"),
}


@pytest.mark.parametrize("wrong", STATES)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(wrong: str) -> None:
    hx, error, message = STATES[wrong]
    stream = elman.stream(elman.LSTM(3, 5, 2), 2)
    stream.step(np.ones((2, 3), np.float32))
    state = stream.state
    with pytest.raises(error, match=message):
        stream.state = hx
    assert_same_state(stream, state)
    with pytest.raises(RuntimeError, match="expected a state of h and c, got h"):
        stream.load_state_dict({"h": state[0].numpy()})
    with pytest.raises(RuntimeError, match=r"expected c of shape \(2, 2, 5\), \(L, B, H\), got \(2, 1, 5\)"):
        stream.load_state_dict({"h": state[0].numpy(), "c": state[0].numpy()[:, :1]})
    with pytest.raises(ValueError, match="expected h of float32, the parameters' dtype, got float64"):
        stream.load_state_dict({"h": state[0].double().numpy(), "c": state[0].numpy()})
    assert_same_state(stream, state)


def test_a_state_is_as_the_network_was_built_whatever_its_attributes_say() -> None:
    rnn = elman.GRU(3, 5, 2)
    stream = elman.stream(rnn)
    vars(rnn)["num_layers"] = 1
    with pytest.raises(RuntimeError, match=r"expected state of shape \(2, 1, 5\), \(L, B, H\), got \(1, 1, 5\)"):
        stream.state = torch.zeros(1, 1, 5)
    with pytest.raises(RuntimeError, match=r"expected h of shape \(2, 1, 5\)"):
        stream.load_state_dict({"h": np.zeros((1, 1, 5), np.float32)})


@pytest.mark.parametrize("given", [None, ["h"], 3], ids=str)
def test_a_state_dict_is_a_dict(given: object) -> None:
    with pytest.raises(TypeError, match="expected state_dict to be a dict of arrays"):
        elman.stream(elman.GRU(3, 5)).load_state_dict(given)


def test_only_float32_stands_for_bfloat16() -> None:
    stream = elman.stream(elman.GRU(3, 5, dtype=torch.bfloat16))
    stream.load_state_dict({"h": np.ones((1, 1, 5), np.float32)})
    with pytest.raises(ValueError, match=r"expected h to be a torch tensor: the parameters are torch\.bfloat16, which NumPy does not have"):
        stream.load_state_dict({"h": np.zeros((1, 1, 5))})
    assert torch.equal(stream.state, torch.ones(1, 1, 5, dtype=torch.bfloat16))


def test_a_state_of_one_is_called_state() -> None:
    stream = elman.stream(elman.GRU(3, 5))
    stream.step(np.ones((1, 3), np.float32))
    before = stream.state
    with pytest.raises(TypeError, match="expected state to be a torch tensor or a NumPy array, got list"):
        stream.state = [[0]]
    with pytest.raises(RuntimeError, match=r"expected state of shape \(1, 1, 5\), \(L, B, H\), got \(1, 5\)"):
        stream.state = before[0]
    with pytest.raises(ValueError, match=r"expected state of torch.float32, .*: convert it with state.to\(torch.float32\)"):
        stream.state = before.double()
    assert_same_state(stream, before)


def test_threads_that_step_one_stream_break_nothing() -> None:
    stream = elman.stream(elman.LSTM(8, 16), 2)
    failed = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((2, 8)).astype(np.float32)
        try:
            for i in range(2000):
                stream.step(x if seed % 2 else torch.from_numpy(x)) if i % 50 else stream.reset([seed % 2])
        except Exception as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failed == []
    assert np.isfinite(stream.step(np.zeros((2, 8), np.float32))).all()


def put_next_step(queue: Any, stream: elman.Stream) -> None:
    """In another process: what a stream that was sent there gives next."""
    queue.put(stream.step(np.ones((2, 3), np.float32)).tolist())


@pytest.mark.slow
@torch.no_grad()
def test_a_stream_can_be_sent_to_another_process() -> None:
    """By value: torch.multiprocessing shares tensors' memory, which the sender must keep."""
    stream = elman.stream(elman.LSTM(3, 5), 2)
    stream.step(np.ones((2, 3), np.float32))
    spawn = torch.multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    process = spawn.Process(target=put_next_step, args=(queue, stream))
    process.start()
    found = queue.get(timeout=120)
    process.join()
    assert process.exitcode == 0
    assert found == stream.step(np.ones((2, 3), np.float32)).tolist()


def test_a_copy_of_a_state_of_width_one_may_have_any_strides() -> None:
    stream = elman.stream(elman.GRU(4, 1), 1)
    stream.state = torch.full((1, 1, 8), 3.0)[:, :, ::8]
    assert copy.deepcopy(stream).state.item() == 3


def test_a_stream_on_the_meta_device_is_copied() -> None:
    assert copy.deepcopy(elman.stream(elman.GRU(3, 4, device="meta"), 2)).state.shape == (1, 2, 4)


def test_a_pickle_keeps_no_memory_of_the_caller() -> None:
    """Whoever takes large buffers out of a pickle, as some schedulers do, may write into them."""
    stream, buffers = elman.stream(elman.GRU(3, 4), 2), list[pickle.PickleBuffer]()
    stream.state = torch.ones(1, 2, 4)
    pickled = pickle.dumps(stream, 5, buffer_callback=buffers.append)
    raw = [bytearray(buffer.raw()) for buffer in buffers]
    one = pickle.loads(pickled, buffers=raw)  # noqa: S301
    for each in raw:
        each[:] = bytes(len(each))
    assert one.state.eq(1).all()
