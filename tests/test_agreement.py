"""elman's networks, torch.nn's and the loops of ``oracle`` agree: output, final states and every gradient, whatever the options."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import elman
from cases import Case, allow, assert_same, assert_within, build, evaluate, expect, selection

CASES = selection()

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_is_torchs_and_the_loops_to_1e12(backend: object, case: Case) -> None:
    got = evaluate(build(elman, case, torch.float64), case, torch.float64)
    assert_same(got, evaluate(build(nn, case, torch.float64), case, torch.float64), 1e-12)
    assert_same(got, expect(case), 1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_is_within_the_derived_bound_of_the_loops(backend: object, case: Case) -> None:
    assert_within(evaluate(build(elman, case, torch.float32), case, torch.float32), expect(case), allow(case))
