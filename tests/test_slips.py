"""Slips that a newcomer makes: the error names the call that was meant."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import elman


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rnn, x: rnn(x.numpy()), "got ndarray: convert it with torch.from_numpy(x)"),
        (lambda rnn, x: rnn(x, [5, 3, 0]), "got list of integers: did you mean lengths=?"),
        (lambda rnn, x: elman.LSTM(10, 20)(x, [5, 3]), "got list of integers: did you mean lengths=?"),
        (lambda rnn, x: rnn(x, lengths=5), "of 3 integers, one for each sequence of x, got int"),
        (lambda rnn, x: rnn(x, reset=[2]), "make it with reset = torch.zeros(5, 3).bool(), and mark step 2 with reset[2] = True"),
        (lambda rnn, x: rnn(x[:, 0], reset=[2]), "make it with reset = torch.zeros(5,).bool(), and mark step 2 with reset[2] = True"),
        (lambda rnn, x: elman.stream(torch.nn.GRU(10, 20)), "got torch.nn.GRU: elman.convert(rnn) makes it one"),
        (lambda rnn, x: elman.why(torch.nn.GRUCell(10, 20), x), "got torch.nn.GRUCell: elman.convert(rnn) makes it one"),
    ],
)
def test_a_slip_of_the_kind_is_told_how_to_mend(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call(elman.GRU(10, 20), torch.randn(5, 3, 10))
