"""A cell fills its own parameters, and says which: an init that does otherwise is told so."""

from __future__ import annotations

import pytest
import torch

import elman
import own_cells


class Filling(elman.Cell):
    gates = ("f",)
    parameters = {"tau": "H"}  # noqa: RUF012

    def __init__(self, number: float | None, says: object) -> None:
        self.number, self.says = number, says

    def init(self, name, tensor):
        if name == "tau" and self.number is not None:
            tensor[1:].fill_(self.number)
            tensor[0] = 0.0
        return self.says if name == "tau" else False

    def step(self, x, r, s, p):
        return s.h * p.tau + x.f + r.f


@pytest.mark.parametrize(
    ("filling", "words"),
    [
        (
            Filling(1.0, None),
            "expected Filling.init to return True for tau, which it fills, got None: "
            "return True after filling it, and False for all other names",
        ),
        (Filling(None, True), "expected Filling.init to fill all of tau, got numbers that are NaN: return True only for what it fills"),
        (Filling(float("nan"), True), "expected Filling.init to fill all of tau"),
    ],
)
def test_an_init_that_does_not_do_what_it_says_is_an_error(filling: elman.Cell, words: str) -> None:
    for module in (elman.Recurrent, elman.RecurrentCell):
        with pytest.raises(RuntimeError, match=words):
            module(filling, 3, 4)
    elman.Recurrent(filling, 3, 4, device="meta")
    assert elman.Recurrent(Filling(1.0, True), 3, 4).tau_l0.tolist() == [0.0, 1.0, 1.0, 1.0]
    assert not elman.Recurrent(Filling(None, False), 3, 4).tau_l0.isnan().any()


class Misfilling(Filling):
    def init(self, name, tensor):
        if self.says is None:
            tensor.copy_(torch.ones(5))
        return torch.ones(4)


@pytest.mark.parametrize(
    ("filling", "words"),
    [
        (
            Misfilling(1.0, None),
            r"expected Misfilling.init to fill weight_ih, of shape \(4, 3\), in place, got RuntimeError: .* \(at .*:\d+\)",
        ),
        (Misfilling(1.0, True), "expected Misfilling.init to return whether it filled weight_ih, got .*: fill it in place and return True"),
    ],
)
def test_an_init_that_fails_is_told_by_its_parameter(filling: elman.Cell, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        elman.Recurrent(filling, 3, 4)


def test_a_network_is_built_on_the_meta_device_and_in_inference_mode() -> None:
    assert elman.Recurrent(own_cells.Peephole(), 3, 4, device="meta").p_i_l0.is_meta
    with torch.device("meta"):
        assert elman.Recurrent(own_cells.Peephole(), 3, 4).p_i_l0.is_meta
    with torch.inference_mode():
        elman.Recurrent(own_cells.Peephole(), 3, 4)
