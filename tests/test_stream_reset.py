"""Sequences begin afresh, by number or by mask; what may be either is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

import elman
from kinds import Kind, every_kind
from native import random_like
from streams import VIEWS, assert_same_state, follow, tensor

if TYPE_CHECKING:
    from collections.abc import Callable


@torch.no_grad()
def test_sequences_are_reset_one_by_one() -> None:
    rnn, x = elman.GRU(3, 5, 2), torch.randn(8, 4, 3)
    masks = {"a number": 2, "numbers": [1, 2], "a mask": [False, True, True, False], "an array": np.array([3]), "none of them": []}
    masks |= {"a tensor": torch.tensor([True, False, False, True]), "an array of truth": np.array([True, True, False, True])}
    masks |= {kind: np.array([3, 0], kind) for kind in ("uint8", "int16", "uint16", "uint32", "uint64", ">i8")}
    masks |= {"backwards": np.arange(4)[2::-1], "truth backwards": np.array([True, True, False, False])[::-1]}
    masks |= {
        "a set": {0, 3},
        "a range": range(1, 3),
        "a tuple": (2,),
        "NumPy's": [np.int64(1), np.int32(3)],
        "NumPy's one": np.int64(1),
    }
    masks |= {"a number in a tensor": torch.tensor(3), "NumPy's truth": [np.True_, np.False_, np.True_, np.False_]}
    masks |= {"all of them": np.array([3, 0, 2, 1], "uint8")}
    masks |= {"a number in an array": np.array(2), "a tensor of uint16": torch.tensor([1, 3], dtype=torch.uint16)}
    for sequences in masks.values():
        for view in VIEWS.values():
            stream = elman.stream(rnn, 4)
            follow(stream, x[:4], [0, 3], view)
            stream.reset(sequences)
            chosen = torch.zeros(4, dtype=torch.bool)
            chosen[
                np.array(list(sequences)).tolist()
                if isinstance(sequences, list | tuple | set | range)
                else torch.as_tensor(sequences).long()
                if np.ndim(sequences) == 0
                else sequences.tolist()
            ] = True
            state = torch.where(chosen[:, None], 0, rnn(x[:4])[1])
            assert torch.equal(stream.state, state)
            assert torch.equal(follow(stream, x[4:], [0, 0, 2], view), rnn(x[4:], state)[0])


def learned(kind: Kind) -> nn.Module:
    """A network that learns its initial states, with some."""
    rnn = kind.build(elman, 3, 5, 2, learn_initial_state=True).double()
    for name in kind.states:
        nn.init.normal_(getattr(rnn, f"{name}_0"))
    return rnn


@every_kind
def test_a_fresh_sequence_begins_with_what_the_network_learned(kind: Kind) -> None:
    rnn, x = learned(kind), torch.randn(5, 3, 3, dtype=torch.float64)
    for view in VIEWS.values():
        stream = elman.stream(rnn, 3)
        with torch.no_grad():
            assert torch.equal(follow(stream, x, [0, 0, 3], view), rnn(x)[0])
            stream.reset([1])
            rnn.h_0.add_(1)  # before the sequence begins
            assert torch.equal(tensor(stream.step(view(x[0])))[1], rnn(x)[0][0, 1])


@every_kind
@pytest.mark.parametrize("frozen", [False, True], ids=["all", "initial states alone"])
def test_what_a_fresh_sequence_begins_with_is_learned_through_a_stream(frozen: bool, kind: Kind) -> None:
    rnn, x = learned(kind), torch.randn(5, 3, 3, dtype=torch.float64)
    for name, parameter in rnn.named_parameters():
        parameter.requires_grad_(not frozen or name in ("h_0", "c_0"))
    parameters = [parameter for parameter in rnn.parameters() if parameter.requires_grad]
    stream = elman.stream(rnn, 3)
    output = torch.cat([stream.step(x[0])[None], stream.run(x[1:3]), stream.step(x[3])[None], stream.run(x[4:])])
    expected = rnn(x)[0]
    weights = random_like(expected)
    got = torch.autograd.grad(output, parameters, weights)
    for a, b in zip(got, torch.autograd.grad(expected, parameters, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize(
    ("sequences", "error", "message"),
    [
        (2, IndexError, r"expected sequences to be numbers from 0 to 1, each once, or a mask of 2 bools, got 2"),
        ([-1], IndexError, r"got \[-1\]"),
        ([True], IndexError, r"got a mask of shape \(1,\)"),
        ([0.5], TypeError, r"got \[0.5\]"),
        ("all", TypeError, r"got 'all'"),
        ([2**63], IndexError, r"got \[9223372036854775808\]"),
        (-(2**70), IndexError, r"got -1180591620717411303424"),
        (np.array([2**64 - 1], np.uint64), IndexError, r"got \[18446744073709551615\]"),
        (np.array([7], np.uint16), IndexError, r"got \[7\]"),
        ([[0], [1]], IndexError, r"got numbers of shape \(2, 1\)$"),
        (torch.tensor([False, True]).nonzero(), IndexError, r"got numbers of shape \(1, 1\): give it one axis with sequences.flatten\(\)"),
        (np.array([[True], [False]]), IndexError, r"got a mask of shape \(2, 1\): give it one axis with sequences.flatten\(\)"),
        (np.array([True, True]).nonzero(), IndexError, r"got numbers of shape \(1, 2\): give what is in it, sequences\[0\]"),
        (torch.where(torch.tensor([False, True])), IndexError, r"got numbers of shape \(1, 1\): give what is in it, sequences\[0\]"),
        (np.zeros((2, 2), np.int64), IndexError, r"got numbers of shape \(2, 2\)$"),
        (np.zeros((1, 0), np.int64), IndexError, r"got numbers of shape \(1, 0\)"),
        ([1, 1], TypeError, r"got \[1, 1\], which is likely a mask"),
        ([1, 0, 1], ValueError, r"got \[1, 0, 1\]: give each once, as a set does, set\(sequences\)"),
        (torch.tensor([0, 0, 1]), ValueError, r"give each once, as a set does, set\(sequences.tolist\(\)\)"),
        ([True, 0], TypeError, r"got \[True, 0\], some of each"),
        ({True, False}, TypeError, r"got \[False, True\]"),
        (True, IndexError, r"got True: give one bool for each sequence, or call reset\(\) for all of them"),
        (np.bool_(False), IndexError, r"got False: give one bool for each sequence"),
        (torch.tensor(True), IndexError, r"got True: give one bool for each sequence"),
        ([1.0, 0.0], TypeError, r"got \[1.0, 0.0\]: give a mask as bools, list\(map\(bool, sequences\)\)"),
        (torch.tensor([1.0, 0.0]), TypeError, r"give a mask as bools, sequences.bool\(\)"),
        (range(1, 3), IndexError, r"got \[1, 2\]"),
        ({5}, IndexError, r"got \[5\]"),
    ],
)
def test_sequences_that_are_not_there_are_refused(sequences: object, error: type[Exception], message: str) -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    stream.step(np.ones((2, 3), np.float32))
    state = stream.state
    with pytest.raises(error, match=message):
        stream.reset(sequences)
    assert_same_state(stream, state)


INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DONES = {4: ([0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]), 2: ([0, 1], [1, 0], [0, 0], [1, 1]), 1: ([0], [1])}


@pytest.mark.parametrize("batch_size", DONES)
def test_zeros_and_ones_for_all_given_may_be_numbers_or_a_mask_and_are_refused(batch_size: int) -> None:
    stream = elman.stream(elman.RNN(3, 5), batch_size)
    stream.step(np.ones((batch_size, 3), np.float32))
    state = stream.state
    for dones in DONES[batch_size]:
        given = {"list(map(bool, sequences))|set(sequences)": [dones, tuple(dones)]}
        given["sequences.astype(bool)|set(sequences.tolist())"] = [np.array(dones, dtype) for dtype in (*INTEGERS, ">i4")]
        given["sequences.bool()|set(sequences.tolist())"] = [torch.tensor(dones, dtype=getattr(torch, dtype)) for dtype in INTEGERS]
        for spellings, all_given in given.items():
            as_bools, as_numbers = spellings.split("|")
            for sequences in all_given:
                kind = "may be either" if sorted(dones) == list(range(batch_size)) else "is likely a mask"
                message = f"got {dones}, which {kind}: give a mask as bools, {as_bools}, and numbers as a set, {as_numbers}"
                with pytest.raises(TypeError, match=re.escape(message)):
                    stream.reset(sequences)
                assert_same_state(stream, state)
                for spelling, expected in ((as_bools, {sequence for sequence, done in enumerate(dones) if done}), (as_numbers, set(dones))):
                    if max(expected, default=0) < batch_size:  # each reading, as the error says to write it
                        stream.reset(eval(spelling, {"sequences": sequences}))
                        assert {sequence for sequence in range(batch_size) if not stream.state[0, sequence].any()} == expected
                        stream.state = state


def test_sequences_may_be_named_one_at_a_time() -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    stream.step(np.ones((2, 3), np.float32))
    for sequence in [0, 1]:
        stream.reset(sequence)
    assert not stream.state.any()


SCALARS = {"Python": int, "NumPy": np.int64, "array": np.array, "uint8 array": lambda n: np.array(n, np.uint8), "tensor": torch.tensor}


@pytest.mark.parametrize("make", SCALARS.values(), ids=SCALARS)
def test_of_a_single_row_a_bare_zero_or_one_is_refused(make: Callable[[int], object]) -> None:
    stream = elman.stream(elman.RNN(3, 5))
    stream.step(np.ones(3, np.float32))
    state = stream.state
    for done in (0, 1):
        hint = "this stream has one sequence: call reset(), or reset({0}); give a mask as a bool, bool(sequences)"
        message = f"got {done}, which may be either: {hint}"
        with pytest.raises(TypeError, match=re.escape(message)):
            stream.reset(make(done))
        assert_same_state(stream, state)
    with pytest.raises(IndexError, match="got 2"):
        stream.reset(make(2))
    stream.reset({0})
    assert not stream.state.any()


@pytest.mark.parametrize(
    "make", [bool, np.bool_, np.array, torch.tensor, lambda done: [done]], ids=["bool", "NumPy", "array", "tensor", "in a list"]
)
def test_of_a_single_row_a_bare_bool_is_its_mask(make: Callable[[bool], object]) -> None:
    stream = elman.stream(elman.RNN(3, 5))
    stream.step(np.ones(3, np.float32))
    state = stream.state
    stream.reset(make(False))
    assert_same_state(stream, state)
    stream.reset(make(True))
    assert not stream.state.any()
