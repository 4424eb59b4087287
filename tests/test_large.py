"""Sizes past what 32 bits count, and sequences of a million steps: the same bits, in memory that grows with what is saved and no more.

No index of the kernels may be counted in 32 bits. What they work on themselves grows beyond 2^31 numbers in a network of two layers in
bfloat16, whose input is one sequence for all. What they are given, and what is saved, lies in memory that is mapped but for a few pages
never touched: so sequences can lie 2^31 numbers apart in sequences of some steps, and a trace of 2^33 numbers have some thousand that
count.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import elman
import raw
from elman.backends import kernels
from kinds import GRU, LSTM, TANH, Kind
from native import assert_same_bits, evaluate, native_alone, required, results

if TYPE_CHECKING:
    from collections.abc import Callable

    from raw import Call

pytestmark = [required, pytest.mark.usefixtures("native_alone"), pytest.mark.slow]
__all__ = ["native_alone"]

MANY = 2**31
NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE, which Python has a name for since 3.13
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory that is mapped and not there is Linux's to give")
every_cell = pytest.mark.parametrize("cell", range(len(raw.CELLS)), ids=raw.CELLS)


# --- More than 2^31 numbers -------------------------------------------------------------------------------------------


def _available() -> int:
    """Bytes that can be had without swapping."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        pytest.skip("how much memory there is is read from /proc/meminfo, which is not here")
    (line,) = (line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def test_outputs_of_more_than_2_to_the_31_numbers_are_right() -> None:
    """Of both layers, one of which is the kernels' own."""
    steps, batch, units = MANY // (65_536 * 16) + 1, 65_536, 16
    if _available() < 10 * 2**30:
        pytest.skip("takes 8.2 GiB of memory, which is not here")
    rnn = elman.RNN(1, units, 2, dtype=torch.bfloat16)
    sequence = torch.randn(steps, 1, 1).bfloat16()
    whole, alone = results(rnn, sequence.expand(steps, batch, 1)), results(rnn, sequence)
    assert whole["output"].numel() > MANY
    for at in (0, batch // 2, batch - 1):
        assert_same_bits({name: value[:, at : at + 1] for name, value in whole.items()}, alone)
    assert torch.equal(whole["output"][-1], alone["output"][-1].expand(batch, units))


def _mapped(shape: tuple[int, ...], strides: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
    """Zeros, so many elements apart, in memory that is there only where somebody touches it."""
    size = np.dtype(kind).itemsize
    extent = (sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1) * size
    try:
        memory = mmap.mmap(-1, extent, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    except OSError as error:
        pytest.skip(f"{extent >> 30} GiB of address space are not to be had: {error}")
    return np.ndarray(shape, kind, memory, strides=tuple(stride * size for stride in strides))


def _dense(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


class _Network:
    """A network on the kernels' raw interface, whose operands lie where a test wants them. Two layers, both ways, one thread."""

    def __init__(self, cell: int, steps: int, batch: int, inputs: int = 2, units: int = 5) -> None:
        self.rng = np.random.default_rng(0)
        self.sizes: Call = {"cell": cell, "I": inputs, "H": units, "P": 0, "L": 2, "D": 2, "bias": True}
        self.params = [self.numbers(*shape) for k in range(4) for shape in raw.shapes(self.sizes, k).values()]
        self.fresh = [self.numbers(4, units) for _ in range(raw.STATES[cell])]

    def numbers(self, *shape: int) -> np.ndarray:
        return self.rng.uniform(-0.5, 0.5, shape).astype(np.float32)

    def call(self, kind: str, **operands: Any) -> None:
        """Operands by name; None for the rest."""
        given = dict.fromkeys(raw.ARGUMENTS[kind]) | {"batch_first": False, "pad_saved": False, "threads": 1}
        given |= {"params": self.params, "fresh": self.fresh} | operands
        getattr(kernels._native, kind)(raw.stack_of(self.sizes), *given.values())


def _like(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [np.full_like(array, np.nan) for array in arrays]


def _results(cell: int, form: str, apart: int | None) -> dict[str, np.ndarray]:
    """What a run and its gradient give; ``apart``: so many numbers are from sequence to sequence of each tensor, and four times as many
    from step to step; None: one sequence comes after another.
    """
    network = _Network(cell, 3, 3)
    rng, packed = network.rng, form == "packed"

    def sequence(columns: int, kind: type = np.float32) -> np.ndarray:
        shape = (6, columns) if packed else (3, 3, columns)
        if apart is None:
            return np.zeros(shape, kind)
        return _mapped(shape, (apart, 1) if packed else (4 * apart, apart, 1), kind)

    x, output, grad_output, grad_x = (sequence(columns) for columns in (2, 10, 10, 2))
    x[...], grad_output[...] = network.numbers(*x.shape), network.numbers(*grad_output.shape)
    resets = np.zeros((3, 3), np.uint8) if apart is None else _mapped((3, 3), (4 * apart, apart), np.uint8)
    resets[...] = rng.random((3, 3)) < 0.4
    counts = {"packed": {"batch_sizes": np.array([3, 2, 1])}, "ragged": {"lengths": np.array([1, 3, 0])}}.get(form, {})
    rows = {"packed": 6, "ragged": 4}.get(form, 9)
    numbers = raw.SAVED[cell]
    saved = {"hidden": np.zeros((1, rows, 10), np.float32), "saved": np.zeros((4, rows, numbers, 5), np.float32)}
    states = [network.numbers(4, 3, 5) for _ in network.fresh]
    final, grad_initial, grad_fresh, grad_params = map(_like, (states, states, network.fresh, network.params))
    given = {"x": x, "initial": states, "output": output, "reset": resets, **counts, **saved}
    network.call("forward", **given, final=final)
    grads = {"grad_output": grad_output, "grad_final": states}
    network.call("backward", **given, **grads, grad_x=grad_x, grad_initial=grad_initial, grad_fresh=grad_fresh, grad_params=grad_params)
    lists = {"final": final, "grad_initial": grad_initial, "grad_fresh": grad_fresh, "grad_params": grad_params}
    found = {f"{name} {k}": array for name, arrays in lists.items() for k, array in enumerate(arrays)}
    return {"output": output.copy(), "grad_x": grad_x.copy(), **saved, **found}


@on_linux
@every_cell
@pytest.mark.parametrize("form", ["padded", "packed", "ragged"])
def test_sequences_may_lie_2_to_the_31_numbers_apart(form: str, cell: int) -> None:
    near, far = _results(cell, form, None), _results(cell, form, MANY + 24)
    for name, value in near.items():
        assert np.isfinite(value).all(), name
        np.testing.assert_array_equal(far[name], value, err_msg=name)


@on_linux
@every_cell
def test_a_trace_of_more_than_2_to_the_31_numbers_has_its_gradient(cell: int) -> None:
    """Of 2^30 sequences and steps some thousand are run; those of what is saved are the same packed."""
    steps, batch, numbers = 1024, 2**20, raw.SAVED[cell]
    network, lengths = _Network(cell, steps, batch), np.zeros(batch, np.int64)
    lengths[[5, 77, batch // 3, -1]] = 900, 3, 40, steps
    run = raw.Steps.of(lengths.tolist())
    t, r = run.each()

    def sequence(columns: int) -> np.ndarray:
        return _mapped((steps, batch, columns), (batch * columns, columns, 1))

    x, output = np.lib.stride_tricks.as_strided(network.numbers(steps, 2), (steps, batch, 2), (8, 0, 4)), sequence(10)
    output[t, r] = network.numbers(run.count, 10)
    found = []
    packed = {
        name: network.numbers(*shape)
        for shape, names in (((1, run.count, 10), ("hidden", "grad_hidden")), ((4, run.count, numbers, 5), ("saved", "grad_saved")))
        for name in names
    }
    padded: dict[str, np.ndarray] = {}
    for name, value in packed.items():
        if value.size:
            count, _, *row = value.shape
            shape = (count, steps, batch, *row)
            padded[name] = _mapped(shape, raw.dense(shape))
            padded[name][:, t, r] = value
    assert padded["hidden"].size > MANY
    for pad_saved, saved in ((False, packed), (True, padded)):
        grad_fresh, grad_params = map(_like, (network.fresh, network.params))
        gradients = {"grad_output": output, "grad_fresh": grad_fresh, "grad_params": grad_params}
        network.call("backward", x=x, output=output, lengths=lengths, pad_saved=pad_saved, **saved, **gradients)
        found.append(grad_params + grad_fresh)
    for near, far in zip(*found, strict=True):
        assert np.isfinite(near).all()
        np.testing.assert_array_equal(far, near)


# --- A million steps --------------------------------------------------------------------------------------------------

SLACK = 64 * 2**20  # what the gradient works in: some chunks of 8 MiB
UNITS = 16


def _status(what: str) -> int:
    """Bytes that the process has in memory (VmRSS), or had at most (VmHWM)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def _peak(call: Callable[[], object]) -> int:
    """How many bytes the process has more, at most, while the call lasts."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the most memory a call takes is read from /proc/self, which is not here")
    gc.collect()
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "malloc_trim"):
        allocator.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _train(rnn: torch.nn.Module, x: torch.Tensor) -> None:
    rnn(x)[0].sum().backward()


every_length = pytest.mark.parametrize("steps", [65_536, 1_000_000])
with_kinds = pytest.mark.parametrize("kind", [TANH, GRU, LSTM], ids=str)


@every_length
@with_kinds
def test_a_long_sequence_takes_no_more_memory_than_its_outputs(kind: Kind, steps: int) -> None:
    rnn, x = kind.build(elman, 2, UNITS), torch.randn(steps, 1, 2)
    assert _peak(lambda: results(rnn, x)) < 4 * steps * UNITS + 2**22


@every_length
@with_kinds
def test_nor_does_its_gradient_with_recompute(kind: Kind, steps: int) -> None:
    """Beyond the gradient of x, and what does not grow with the steps."""
    rnn, x = kind.build(elman, 2, UNITS, recompute=True), torch.randn(steps, 1, 2, requires_grad=True)
    assert _peak(lambda: _train(rnn, x)) < 4 * steps * (UNITS + 2) + SLACK


@pytest.mark.parametrize("kind", [GRU, LSTM], ids=str)
def test_the_peak_sees_what_is_kept_otherwise(kind: Kind) -> None:
    rnn, x = kind.build(elman, 2, UNITS), torch.randn(1_000_000, 1, 2, requires_grad=True)
    assert _peak(lambda: _train(rnn, x)) > 4 * 1_000_000 * (UNITS + 2) + 2 * SLACK


@with_kinds
def test_a_million_steps_are_right(kind: Kind) -> None:
    """The outputs are those of pieces, and the gradient that of what is run again that of what is saved."""
    steps = 1_000_000
    rnn, again = kind.build(elman, 2, UNITS), kind.build(elman, 2, UNITS, recompute=True)
    again.load_state_dict(rnn.state_dict())
    x, reset = torch.randn(steps, 1, 2), torch.zeros(steps, 1, dtype=torch.bool)
    reset[steps - 1000] = True
    whole = evaluate(rnn, x, lengths=[steps - 1], reset=reset)
    assert_same_bits(evaluate(again, x, lengths=[steps - 1], reset=reset), whole)
    assert all(value.isfinite().all() for value in whole.values())
    last = results(rnn, x[-1000:-1])
    assert torch.equal(last["output"], whole["output"][-1000:-1])
    assert not whole["output"][-1].any()
