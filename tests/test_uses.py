"""What a cell declares but its step does not use is warned of, and nothing else."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import elman
import own_cells
from elman import zoo
from own_cells import cell

SOME = torch.linspace(0.5, 1, 4)


def build(made: Any) -> None:
    elman.Recurrent(made, 3, 4)


def unused(words: str) -> Any:
    """Expects the warning that these are not used, and how to mend it."""
    got, mend = words.split(": ", 1)
    here = rf"\(at {__file__}:\d+\)"
    return pytest.warns(
        UserWarning, match=rf"^expected the step of Mine to use all .*, got no use of {got} {here}: use (it|them), or declare {mend}$"
    )


def all_of(x: Any, r: Any, s: Any) -> Any:
    return torch.sigmoid(x.f + r.f) * s.h + torch.tanh(x.n + r.n), s.c


def forgets_f(self, x, r, s, p):
    f = torch.sigmoid(x.f + r.f)  # noqa: F841 - what is tested
    return torch.tanh(x.n + r.n) * s.h, s.c


def reads_n_twice(self, x, r, s, p):
    return torch.sigmoid(x.n + r.n) * s.h + torch.tanh(x.n + r.n), s.c


def no_recurrent_part(self, x, r, s, p):
    return torch.sigmoid(x.f + r.f) * s.h + torch.tanh(x.n), s.c


def no_input(self, x, r, s, p):
    return torch.sigmoid(x.f + r.f) * s.h + torch.tanh(r("n", s.h * s.c)), s.c


def no_rows_of_others(self, x, r, s, p):
    r("n", s.c)
    return torch.sigmoid(x.f + r.f) * s.h + torch.tanh(x.n), s.c


def nothing_beside(self, x, r, s, p):
    return all_of(x, r, s)


def prints(self, x, r, s, p):
    str(f"{x.f} {x.f.shape} {len(x.f)} {x.f.dtype} {x.f.size(-1)}")
    return torch.sigmoid(r.f) * s.h + torch.tanh(x.n + r.n), s.c


def no_draws(self, x, r, s, p, d):
    return all_of(x, r, s)


UNUSED: dict[Any, tuple[dict[str, Any], str]] = {
    forgets_f: ({}, r"x\.f and r\.f: gates = \('n',\)"),
    reads_n_twice: ({}, r"x\.f and r\.f: gates = \('n',\)"),
    no_recurrent_part: ({}, r"r\.n: recurrent_gates = \('f',\)"),
    no_input: ({}, r"x\.n: input_gates = \('f',\)"),
    no_rows_of_others: ({}, r"r\.n: recurrent_gates = \('f',\)"),
    nothing_beside: (
        {"parameters": {"a": "H", "b": ""}, "step_inputs": {"dt": "", "mask": "H"}},
        r"x\.dt, x\.mask, p\.a and p\.b: step_inputs = {} and parameters = {}",
    ),
    prints: ({}, r"x\.f: input_gates = \('n',\)"),
    no_draws: ({"draws": {"u": "step", "v": "sequence"}}, r"d\.u and d\.v: draws = {}"),
}


@pytest.mark.parametrize("step", UNUSED, ids=lambda step: step.__name__)
def test_what_a_step_does_not_use_is_warned_of(step: Any) -> None:
    declared, words = UNUSED[step]
    for _ in range(2):  # each network
        with unused(words) as caught:
            build(cell(step, **declared))
        assert [each.filename for each in caught] == [__file__]
    with unused(words):
        elman.RecurrentCell(cell(step, **declared), 3, 4)


def test_of_two_declared_the_one_that_is_used_stays() -> None:
    with unused(r"p\.b: parameters = {'a': 'H'}"):
        build(cell(lambda self, x, r, s, p: (all_of(x, r, s)[0] * p.a, s.c), parameters={"a": "H", "b": ""}))


def branches(self, x, r, s, p):
    return (x.f + r.f, s.c) if s.h.sum() > 0 else (x.n + r.n, s.c)


def asks_a_number(self, x, r, s, p):
    return (torch.tanh(x.n + r.n) * x.f.sum().item(), s.c * r.f)


def compares(self, x, r, s, p):
    return torch.where(x.f > r.f, x.n + r.n, s.h), s.c


def detaches(self, x, r, s, p):
    return (x.f + r.f).detach() * torch.tanh(x.n + r.n), s.c


def stacks(self, x, r, s, p):
    parts = torch.stack([x.f, r.f, torch.cat([x.n[:, :2], r.n[:, 2:]], dim=1)])
    return torch.einsum("kbh->bh", parts), s.c


def in_a_list(self, x, r, s, p):
    f, n = torch.cat([x.f + r.f, x.n + r.n], -1).chunk(2, -1)
    return f * n, s.c


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Any) -> Any:
        return value * 2

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:  # type: ignore[override]
        return gradient * 2


def by_a_function(self, x, r, s, p):
    return Doubled.apply(x.f + r.f) * Doubled.apply(x.n + r.n), s.c


def larger(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a > b


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    scripted = torch.jit.script(larger)


def by_script(self, x, r, s, p):
    return torch.where(scripted(x.f, r.f), x.n + r.n, s.h), s.c


def by_numpy(self, x, r, s, p):
    return torch.from_numpy((x.f + r.f).detach().numpy() * 2) * torch.tanh(x.n + r.n), s.c


def by_checkpoint(self, x, r, s, p):
    return torch.utils.checkpoint.checkpoint(lambda a, b: a * torch.tanh(b), x.f + r.f, x.n + r.n, use_reentrant=False), s.c


def by_vmap(self, x, r, s, p):
    return torch.func.vmap(lambda a, b: a * torch.tanh(b))(x.f + r.f, x.n + r.n), s.c


def by_a_loop(self, x, r, s, p):
    return torch.stack([a * torch.tanh(b) for a, b in zip(x.f + r.f, x.n + r.n, strict=True)]), s.c


def scaled_by_a_global(self, x, r, s, p):
    return torch.sigmoid(x.f + r.f) * SOME + torch.tanh(x.n + r.n), s.c


USED = [branches, asks_a_number, compares, detaches, stacks, in_a_list, by_a_function, by_script, by_numpy, by_checkpoint, by_vmap]


@pytest.mark.parametrize("step", [*USED, by_a_loop, scaled_by_a_global], ids=lambda step: step.__name__)
def test_nothing_is_said_of_what_is_used_in_whatever_way(step: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(cell(step))


def test_what_is_used_in_training_or_in_evaluation_alone_is_used() -> None:
    def step(self, x, r, s, p, d):
        return (torch.tanh(x.n + r.n + (x.f * d.u if d is not None else r.f)), s.c)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(cell(step, draws={"u": "step"}))


def test_a_tensor_that_the_cell_holds_hides_nothing() -> None:
    def step(self, x, r, s, p):
        return torch.tanh(x.n + r.n) * self.scale, s.c

    made = cell(step)
    made.scale = torch.ones(4)
    with unused(r"x\.f and r\.f: gates = \('n',\)"):
        build(made)


def test_of_a_wrapped_cell_is_warned_once() -> None:
    with unused(r"r\.n: recurrent_gates = \('f',\)") as caught:
        build(elman.Zoneout(cell(no_recurrent_part), h=0.1))
    assert len(caught) == 1


@pytest.mark.parametrize(
    "made",
    [*(made() for made in zoo.CELLS), own_cells.Peephole(), own_cells.Gru2014()],
    ids=lambda made: type(made).__name__,
)
def test_the_zoos_cells_use_all_that_they_declare(made: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(made)
        build(elman.Zoneout(made, **{made.states[0]: 0.1}))
