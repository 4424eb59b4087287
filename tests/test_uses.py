"""What a cell declares but its step does not use is warned of, and nothing else."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
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
    mend = mend if mend.startswith("return") else f"use (it|them), or declare {mend}"
    here = rf"\(at {__file__}:\d+\)"
    return pytest.warns(
        UserWarning,
        match=rf"^expected the states after the step of Mine to depend on all .*, got none that depends on {got} {here}: {mend}$",
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


def old_states(self, x, r, s, p):
    c = torch.sigmoid(x.f + r.f) * s.c + torch.tanh(x.n + r.n)  # noqa: F841
    return s.h, s.c


def scaled_by_a_global(self, x, r, s, p):
    return SOME * torch.tanh(x.n + r.n) * s.h, s.c


def prints(self, x, r, s, p):
    str(f"{x.f} {x.f.shape} {len(x.f)} {x.f.dtype} {x.f.size(-1)}")
    return torch.sigmoid(r.f) * s.h + torch.tanh(x.n + r.n), s.c


def no_draws(self, x, r, s, p, d):
    return all_of(x, r, s)


UNUSED: dict[Any, tuple[dict[str, Any], str]] = {
    forgets_f: ({}, r"x\.f, r\.f: gates = \('n',\)"),
    reads_n_twice: ({}, r"x\.f, r\.f: gates = \('n',\)"),
    no_recurrent_part: ({}, r"r\.n: recurrent_gates = \('f',\)"),
    no_input: ({}, r"x\.n: input_gates = \('f',\)"),
    no_rows_of_others: ({}, r"r\.n: recurrent_gates = \('f',\)"),
    nothing_beside: (
        {"parameters": {"a": "H", "b": ""}, "step_inputs": {"dt": "", "mask": "H"}},
        r"x\.dt, x\.mask, p\.a, p\.b: step_inputs = {}, parameters = {}",
    ),
    old_states: ({}, "x\\.f, x\\.n, r\\.f, r\\.n: return the new states"),
    scaled_by_a_global: ({}, r"x\.f, r\.f: gates = \('n',\)"),
    prints: ({}, r"x\.f: input_gates = \('n',\)"),
    no_draws: ({"draws": {"u": "step", "v": "sequence"}}, r"d\.u, d\.v: draws = {}"),
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


def how_many(self, x, r, s, p):
    k = (torch.sigmoid(x.f + r.f) > 0.5).nonzero().shape[0]
    return torch.tanh(x.n + r.n) * k, s.c


def how_many_of_a_mask(self, x, r, s, p):
    return torch.tanh(x.n + r.n) * (x.f[x.f > 0].numel() + len(torch.unique(r.f))), s.c


def branches_on_how_many(self, x, r, s, p):
    return (x.f + r.f if len(s.h[s.h > 0]) > 2 else x.n + r.n), s.c


def slices(self, x, r, s, p):
    k = (x.f + r.f).sum(0).argmax()
    return torch.tanh(x.n + r.n)[:, k : k + 1] * s.h, s.c


def in_another_thread(self, x, r, s, p):
    with ThreadPoolExecutor(1) as pool:
        scale = pool.submit(lambda: (x.f + r.f).sum().item()).result()
    return torch.tanh(x.n + r.n) * scale, s.c


def by_a_string(self, x, r, s, p):
    return torch.tanh(x.n + r.n) * float(f"{(x.f + r.f).sum():.3f}"), s.c


MIXED = [how_many, how_many_of_a_mask, branches_on_how_many, slices, in_another_thread, by_a_string]
USED = [branches, asks_a_number, compares, detaches, stacks, in_a_list, by_a_function, by_script, by_numpy, by_checkpoint, by_vmap]


@pytest.mark.parametrize("step", [*USED, *MIXED, by_a_loop], ids=lambda step: step.__name__)
def test_nothing_is_said_of_what_is_used_in_whatever_way(step: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if step in MIXED or step is asks_a_number:
            warnings.filterwarnings("ignore", "expected the step of Mine to treat each sequence by itself")
        build(cell(step))


def softmax_over_the_batch(self, x, r, s, p):
    return torch.softmax(x.n + r.n, 0) * torch.sigmoid(x.f + r.f), s.c


def mean_of_all(self, x, r, s, p):
    n = x.n + r.n
    return (n - n.mean()) * torch.sigmoid(x.f + r.f), s.c


def batch_norm(self, x, r, s, p):
    return torch.nn.functional.batch_norm(x.n + r.n, None, None, training=True) * torch.sigmoid(x.f + r.f), s.c


def a_little(self, x, r, s, p):
    return torch.tanh(x.n + r.n) * torch.sigmoid(x.f + r.f) + 1e-5 * s.h.mean(0), s.c


def by_how_many(self, x, r, s, p):
    return torch.tanh(x.n + r.n) * torch.sigmoid(x.f + r.f) / len(x.n), s.c


@pytest.mark.parametrize("step", [softmax_over_the_batch, mean_of_all, batch_norm, a_little, by_how_many], ids=lambda step: step.__name__)
@pytest.mark.parametrize("wrap", [lambda made: made, lambda made: elman.Zoneout(made, h=0.1)], ids=["alone", "wrapped"])
def test_a_step_that_mixes_sequences_is_warned_of(step: Any, wrap: Any) -> None:
    words = "^expected the step of Mine to treat each sequence by itself, got .* others of the batch or on how many there are"
    sentence = rf"{words} \(at {__file__}:\d+\): .* dim=-1, and keepdim=True in a sum or mean$"
    with pytest.warns(UserWarning, match=sentence) as caught:
        build(wrap(cell(step)))
    assert [each.filename for each in caught] == [__file__]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"input_gates": ("f", "n")}, r"x\.f, r\.f: gates = \('n',\), input_gates = \('n',\)"),
        ({"input_gates": ("n",)}, r"r\.f: gates = \('n',\)"),
        ({"input_gates": ("n",), "recurrent_gates": ("f", "n")}, r"r\.f: gates = \('n',\), recurrent_gates = \('n',\)"),
    ],
)
def test_what_is_to_be_declared_instead_can_be(declared: dict[str, Any], words: str) -> None:
    def step(self, x, r, s, p):
        return torch.tanh(x.n + r.n) * s.h, s.c

    with unused(words) as caught:
        build(cell(step, **declared))
    said = str(caught[0].message).split("or declare ")[1]
    mended = eval(f"dict({said})")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(cell(step, **{**declared, **mended}))


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
    with unused(r"x\.f, r\.f: gates = \('n',\)"):
        build(made)


def test_of_a_wrapped_cell_is_warned_once() -> None:
    with unused(r"r\.n: recurrent_gates = \('f',\)") as caught:
        build(elman.Zoneout(cell(no_recurrent_part), h=0.1))
    assert [each.filename for each in caught] == [__file__]
    with unused(r"r\.n: recurrent_gates = \('f',\)") as caught:
        build(elman.Zoneout(elman.Zoneout(cell(no_recurrent_part), h=0.1), h=0.1))
    assert [each.filename for each in caught] == [__file__]


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
