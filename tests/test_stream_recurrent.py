"""Streams and chunks of cells of one's own: the numbers of one run over the whole sequence, with step inputs by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import elman
import own_cells
from kinds import as_states
from native import required
from own_cells import OWN

T, B, I, H = 6, 2, 3, 4  # noqa: E741
TOLERANCE = {"rtol": 0, "atol": 1e-14}

every_cell = pytest.mark.parametrize("cell", [own.cell for own in OWN.values()], ids=OWN)


def made(cell: elman.Cell, batch: int = B, **options: Any) -> tuple[elman.Recurrent, Tensor, dict[str, Tensor]]:
    """A network, x and its step inputs, time first."""
    torch.manual_seed(0)
    rnn = elman.Recurrent(cell, I, H, num_layers=2, dtype=torch.float64, learn_initial_state=True, **options)
    shapes = {name: (T, batch, *([H] if size else [])) for name, size in cell.step_inputs.items()}
    beside = {name: torch.rand(shape, dtype=torch.float64) for name, shape in shapes.items()}
    return rnn, torch.randn(T, batch, I, dtype=torch.float64), beside


def at(beside: dict[str, Tensor], steps: int | slice) -> dict[str, Tensor]:
    return {name: value[steps] for name, value in beside.items()}


@every_cell
def test_steps_and_chunks_are_the_whole_sequence(cell: elman.Cell) -> None:
    rnn, x, beside = made(cell)
    stream = elman.stream(rnn, B)
    with torch.no_grad():
        output, hx = rnn(x, **beside)
        outputs = [stream.step(x[t], **at(beside, t)) for t in range(3)]
        outputs += stream.run(x[3:], **at(beside, slice(3, None)))
    torch.testing.assert_close(torch.stack(outputs), output, **TOLERANCE)
    torch.testing.assert_close(as_states(stream.state), as_states(hx), **TOLERANCE)
    assert set(stream.state_dict()) == set(cell.states)


@every_cell
def test_a_stream_of_arrays_gives_arrays(cell: elman.Cell) -> None:
    rnn, x, beside = made(cell)
    stream, arrays = elman.stream(rnn, B), {name: value.numpy() for name, value in beside.items()}
    with torch.no_grad():
        output, _ = rnn(x, **beside)
    for t in range(T):
        y = stream.step(x[t].numpy(), **{name: value[t] for name, value in arrays.items()})
        torch.testing.assert_close(torch.from_numpy(y), output[t], **TOLERANCE)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_stream_of_one_sequence_takes_it_without_a_batch(batch_first: bool) -> None:
    rnn, x, beside = made(own_cells.Decay(), 1, batch_first=batch_first)
    alone = {name: value[:, 0] for name, value in beside.items()}
    with torch.no_grad():
        output, _ = rnn(x[:, 0], **alone)
        stream = elman.stream(rnn)
        outputs = [stream.step(x[t, 0], **at(alone, t)) for t in range(3)]
        outputs += stream.run(x[3:, 0], **at(alone, slice(3, None)))
    torch.testing.assert_close(torch.stack(outputs), output, **TOLERANCE)


@pytest.mark.parametrize("batch_first", [False, True])
def test_chunks_are_the_whole_sequence(batch_first: bool) -> None:
    rnn, x, beside = made(own_cells.Decay(), batch_first=batch_first)
    reset = torch.rand(T, B) < 0.3
    if batch_first:
        x, reset, beside = x.transpose(0, 1), reset.t(), {name: value.transpose(0, 1) for name, value in beside.items()}
    output, _ = rnn(x, lengths=[6, 3], reset=reset, **beside)
    found = [each for _, each in elman.chunks(rnn, x, 4, lengths=[6, 3], reset=reset, **beside)]
    torch.testing.assert_close(torch.cat(found, 1 if batch_first else 0), output, **TOLERANCE)


def test_what_is_wrong_with_step_inputs_is_said() -> None:
    rnn, x, beside = made(own_cells.Decay())
    stream = elman.stream(rnn, B)
    with pytest.raises(TypeError, match="expected dt, which Decay needs at every step, got none"):
        stream.step(x[0])
    with pytest.raises(RuntimeError, match=r"expected dt of shape \(2,\), \(B,\), got \(3,\)"):
        stream.step(x[0], dt=torch.zeros(3, dtype=torch.float64), mask=beside["mask"][0])
    with pytest.raises(RuntimeError, match=r"expected mask of shape \(6, 2, 4\), \(T, B, H\), got \(5, 2, 4\)"):
        stream.run(x, dt=beside["dt"], mask=beside["mask"][:5])
    with pytest.raises(TypeError, match="expected no argument to, got one"):
        elman.chunks(rnn, x, 2, to=beside["dt"], **beside)
    with pytest.raises(RuntimeError, match=r"expected dt to be a tensor whose first axes are those of x, \(6, 2\), got \(6, 3\)"):
        elman.chunks(rnn, x, 2, dt=torch.zeros(6, 3), mask=beside["mask"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'dt'"):
        elman.stream(elman.LSTM(I, H)).step(x[0].float(), dt=beside["dt"])


def test_a_bidirectional_network_has_no_stream() -> None:
    with pytest.raises(ValueError, match="expected a network with one direction"):
        elman.stream(elman.Recurrent(own_cells.Gru(), I, H, bidirectional=True))


def _refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("the layer was called")


@required
@every_cell
@pytest.mark.parametrize("batch", [1, B])
def test_steps_that_need_no_gradient_do_not_call_the_layer(cell: elman.Cell, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rnn, x, beside = made(cell, batch)
    stream, alone = elman.stream(rnn, batch), elman.stream(rnn)
    with torch.no_grad():
        output, hx = rnn(x, **beside)
        outputs = [stream.step(x[0], **at(beside, 0))]  # begins all sequences
        only = [alone.step(x[0, 0], **{name: value[0, 0] for name, value in beside.items()})]
        monkeypatch.setattr(rnn, "_call_impl", _refuse)
        outputs += [stream.step(x[t], **at(beside, t)) for t in range(1, T)]
        only += [alone.step(x[t, 0], **{name: value[t, 0] for name, value in beside.items()}) for t in range(1, T)]
    assert torch.equal(torch.stack(outputs), output)
    assert all(map(torch.equal, as_states(stream.state), as_states(hx)))
    assert torch.equal(torch.stack(only), output[:, 0])
    assert outputs[1].is_contiguous()


def test_what_changes_between_two_steps_is_seen() -> None:
    cell = own_cells.Decay()
    rnn, x, beside = made(cell)
    stream, calls = elman.stream(rnn, B), []

    def step(t: int) -> Tensor:
        return stream.step(x[t], **at(beside, t))

    def expected(t: int, state: Any) -> Tensor:
        return rnn(x[t : t + 1], state, **at(beside, slice(t, t + 1)))[0][0]

    with torch.no_grad():
        step(0)
        cell.floor = 0.5
        state = stream.state
        assert torch.equal(step(1), expected(1, state))
        rnn.weight_ih_l1.data.mul_(2)
        state = stream.state
        assert torch.equal(step(2), expected(2, state))
        stream.reset([1])
        state = stream.state
        assert torch.equal(step(3), expected(3, state))
        handle = rnn.register_forward_hook(lambda *_: calls.append(1))
        state = stream.state
        assert torch.equal(step(4), stream.rnn.forward(x[4:5], state, **at(beside, slice(4, 5)))[0][0])  # calls the layer for the hook
        handle.remove()
    with torch.inference_mode():
        step(5)
    y = step(0)  # with a graph, which holds no tensor of inference mode
    y.sum().backward()
    assert rnn.weight_hh_l0.grad is not None
    assert calls == [1]


def test_random_numbers_are_drawn_at_each_step() -> None:
    rnn = elman.Recurrent(elman.Zoneout(own_cells.Gru(), h=0.5), I, H)
    stream, x = elman.stream(rnn), torch.randn(1, I)
    with torch.no_grad():
        stream.step(x)
        state, found = stream.state, []
        for _ in range(20):
            stream.state = state
            found.append(stream.step(x))
        assert len({tuple(each.flatten().tolist()) for each in found}) > 1
        rnn.eval()
        stream.state = state
        assert torch.equal(stream.step(x), rnn(x.unsqueeze(0), state)[0][0])


@pytest.mark.parametrize("begun", [False, True])
def test_a_step_of_another_shape_is_told(begun: bool) -> None:
    rnn, x, _ = made(own_cells.Gru())
    stream = elman.stream(rnn, B)
    with torch.no_grad():
        if begun:
            stream.step(x[0])
            stream.step(x[1])
        before = stream.state
        for wrong, words in (
            (x[0, :1], "expected x of 2 sequences"),
            (x[0, 0], "dimensions"),
            (x[:1], "dimensions"),
            (x[0, :, 1:], "features"),
        ):
            with pytest.raises((RuntimeError, ValueError), match=words):
                stream.step(wrong)
        with pytest.raises(ValueError, match="float32"):
            stream.step(x[0].float())
        assert torch.equal(stream.state, before)


@pytest.mark.parametrize("cell", [elman.cells.Lstm(), elman.cells.Gru()], ids=lambda cell: cell.name)
def test_a_built_in_cell_steps_with_and_without_memory_for_its_output(cell: elman.Cell) -> None:
    rnn, x, out = elman.Recurrent(cell, I, H), torch.randn(T, B, I), torch.empty(B, H)
    stream = elman.stream(rnn, B)
    with torch.no_grad():
        expected = rnn(x)[0]
        found = [stream.step(x[t], out=out).clone() if t % 3 == 0 else stream.step(x[t]) for t in range(T)]
    assert torch.equal(torch.stack(found), expected)


def test_what_cannot_be_stepped_is_told_as_of_a_call() -> None:
    stream = elman.stream(elman.Recurrent(own_cells.Gru(), I, H), B)
    with torch.no_grad():
        stream.step(torch.randn(B, I))
        stream.step(torch.randn(B, I))
        with pytest.raises(RuntimeError, match="got a nested tensor"):
            stream.step(torch.nested.nested_tensor([torch.ones(I), torch.ones(I)], layout=torch.jagged))
        with pytest.raises(RuntimeError, match=r"expected x to be dense, torch\.strided"):
            stream.step(torch.randn(B, I).to_mkldnn())
    stream.rnn.weight_ih_l0 = None
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled), pytest.raises(TypeError, match="expected weight_ih_l0 to be a tensor"):
            stream.step(torch.randn(B, I))
