"""A subclass that overrides what torch.nn's forward asks takes and refuses what its layer does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
from kinds import Kind, as_hx, as_states, every_kind


def _asked(kind: Kind, **options: Any) -> tuple[Any, Any]:
    """A layer, and one of a subclass with the same parameters."""

    class Asked(getattr(elman, kind.layer)):  # type: ignore[misc]
        def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
            return super().permute_hidden(hx, permutation)

    plain, asked = kind.build(elman, 3, 4, **options), Asked(3, 4, **kind.options, **options)
    asked.load_state_dict(plain.state_dict())
    return plain, asked


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("form", ["padded", "packed", "unbatched"])
@pytest.mark.parametrize("batch_first", [False, True])
@every_kind
def test_resets_are_taken(kind: Kind, batch_first: bool, form: str, as_array: bool) -> None:
    x: Any = torch.randn(4, 3, 3)
    reset: Any = torch.rand(4, 3) < 0.4
    if form == "unbatched":
        x, reset = x[:, 0], reset[:, 0]
    elif batch_first:
        x, reset = x.transpose(0, 1), reset.t()
    if form == "packed":
        x = pack_padded_sequence(x, [2, 4, 3], batch_first, enforce_sorted=False)
    (one, one_hx), (two, two_hx) = (
        rnn(x, reset=reset.numpy() if as_array else reset) for rnn in _asked(kind, batch_first=batch_first, num_layers=2)
    )
    outputs = (one.data, two.data) if form == "packed" else (one, two)
    for expected, got in zip((outputs[0], *as_states(one_hx)), (outputs[1], *as_states(two_hx)), strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected)


X = torch.zeros(5, 2, 3)
WRONG: dict[str, tuple[Any, ...]] = {
    "a list": ([1, 2],),
    "one axis": (torch.zeros(3),),
    "four axes": (torch.zeros(2, 2, 2, 3),),
    "sparse": (X.to_sparse(),),
    "packed in one axis": (PackedSequence(torch.zeros(3), torch.tensor([3])),),
    "packed without steps": (PackedSequence(torch.zeros(0, 3), torch.tensor([], dtype=torch.int64)),),
    "no step": (X[:0],),
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
@every_kind
def test_a_wrong_x_is_told_as_by_the_layer(kind: Kind, given: tuple[Any, ...]) -> None:
    errors = []
    for rnn in _asked(kind):
        with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
            rnn(*given)
        errors.append((error.type, str(error.value)))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("state", [3, torch.zeros(4), torch.zeros(1, 2, 4)], ids=["a number", "one axis", "batched"])
@every_kind
def test_a_wrong_state_is_told_as_by_the_layer(kind: Kind, state: Any) -> None:
    errors, count = [], len(kind.widths(4))
    for rnn in _asked(kind):
        with pytest.raises((TypeError, RuntimeError)) as error:
            rnn(X[:, 0], state if count == 1 else (state,) * count)
        errors.append((error.type, str(error.value)))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("batch_first", [False, True])
@every_kind
def test_a_state_of_one_sequence_is_told_how_many_there_are(kind: Kind, batch_first: bool) -> None:
    widths, errors = kind.widths(4), []
    for rnn in _asked(kind, batch_first=batch_first):
        with pytest.raises(RuntimeError, match=rf"of shape \(1, {5 if batch_first else 2}, {widths[0]}\)") as error:
            rnn(X, as_hx(tuple(torch.zeros(1, width) for width in widths)))
        errors.append(str(error.value))
    assert errors[0] == errors[1]
