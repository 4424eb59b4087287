"""bfloat16 on the kernels: stored in 16 bits, computed in float32.

What is stored is known exactly, so each step is held against float64 loops from the very state that it started from: to float32's bound for
one step, and one rounding to bfloat16, u = 2^-8. What is made of several steps, layers or sequences is held to the same bits as its parts.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import bounds
import elman
import narrow
import oracle
from cases import Case, allow, as_layers, build, evaluate, expect, selection
from elman.backends import kernels
from kinds import GRU, KINDS, RELU, TANH, Kind, as_hx, as_states, every_kind
from narrow import every_isa, seeded_and_on_one_thread
from native import native_alone, on_every_isa, required, threads
from slow import slow

pytestmark = [required, pytest.mark.usefixtures("poisoned", "native_alone", "seeded_and_on_one_thread")]
__all__ = ["every_isa", "native_alone", "seeded_and_on_one_thread"]
PROCESSOR = Path("/proc/cpuinfo")  # of Linux

# --- Numbers ----------------------------------------------------------------------------------------------------------


def test_pairs_are_multiplied_by_all_makers_processors_but_intels() -> None:
    """On Intel's, that instruction of AVX-512 BF16 is slower than widening the numbers and multiplying them as float32."""
    processor = PROCESSOR.read_text(encoding="utf-8") if PROCESSOR.exists() else ""
    if kernels.isa() != "avx512" or "avx512_bf16" not in processor:
        pytest.skip("the processor has no AVX-512 BF16, or its kernels were not built")
    module, x = narrow.build(GRU, 100, 70), narrow.randn(6, 5, 100)
    found = []
    try:
        for allowed in (0, 1, -1):
            kernels._native.allow_pairs(allowed)
            found.append(torch.autograd.grad(module(x)[0].float().square().sum(), list(module.parameters())))
    finally:
        kernels._native.allow_pairs(-1)
    never, always, by_itself = found
    assert not all(map(torch.equal, never, always))
    assert all(map(torch.equal, by_itself, never if "GenuineIntel" in processor else always))


@pytest.mark.slow
@on_every_isa
@every_kind
@pytest.mark.parametrize("H", [3, 7, 16, 17, 32, 65])
@pytest.mark.parametrize(("I", "B"), [(1, 1), (2, 9), (15, 5), (16, 8), (33, 2), (64, 17)])
def test_each_step_is_one_rounding_from_float32(kind: Kind, I: int, H: int, B: int) -> None:  # noqa: E741
    module, T = narrow.build(kind, I, H), 4
    x, states = narrow.randn(T, B, I), narrow.states_of(kind, 1, B, H)
    output, *finals = narrow.results(module, x, states)
    layers = as_layers([narrow.array(p) for p in module.parameters()], 1, 1, True)
    before, slack = tuple(map(narrow.array, states)), np.zeros((1, B, H))
    w_hr = layers[0][0].w_hr
    for t in range(T):
        grad_output, grad_finals = np.zeros((1, B, before[0].shape[-1])), tuple(map(np.zeros_like, before))
        call = kind.cell, layers, narrow.array(x[t : t + 1]), before, [1] * B, grad_output, grad_finals
        step, bound = oracle.run(*call), bounds.run(*call)
        # c is not stored between steps: its error reaches h by slopes of at most 1, as the next c. A projection reads what is stored.
        units = slack if w_hr is None else (narrow.U + slack) @ np.abs(w_hr).T
        h, allowed = step.finals[0], bound.finals[0] + units + narrow.LEAST * (I + H)
        error = np.abs(narrow.array(output[t : t + 1]) - h)
        assert (error <= allowed + narrow.U * (np.abs(h) + allowed)).all(), f"step {t}: off by {error.max():.3g}"
        before = narrow.array(output[t : t + 1]), *step.finals[1:]
        if len(before) == 2:
            slack = slack + bound.finals[1] + narrow.LEAST * (I + H)
    assert torch.equal(finals[0][0], output[-1])
    for final, c in zip(finals[1:], before[1:], strict=True):
        assert (np.abs(narrow.array(final) - c) <= slack + narrow.U * (np.abs(c) + slack)).all()


@on_every_isa
def test_every_number_is_rounded_to_the_nearest_even() -> None:
    """One relu unit whose weight is 1: h is x + b, for each normal number of bfloat16, with ties among them."""
    x = torch.arange(2**16).to(torch.int32).to(torch.int16).view(torch.bfloat16)
    x = x[(x.float().abs() >= narrow.LEAST) | (x == 0) | x.isnan()].view(1, -1, 1)
    module = narrow.build(RELU, 1, 1)
    for b in (0.0, 1.0, 2.0**-7 + 2.0**-14, 1.0 + 2.0**-7, -3.0, 1e30):
        with torch.no_grad():
            for p, value in zip(module.parameters(), (1.0, 0.0, b, 0.0), strict=True):
                p.fill_(value)
        output, _ = narrow.results(module, x)
        expected = (x.float() + torch.tensor(b).bfloat16().float()).relu().bfloat16()
        assert torch.equal(output.isnan(), expected.isnan())
        assert torch.equal(output.nan_to_num(-1.0), expected.nan_to_num(-1.0))


@on_every_isa
@pytest.mark.parametrize("kind", [TANH, *slow(*(kind for kind in KINDS if kind != TANH))], ids=str)
def test_results_and_gradients_are_nearer_to_float64_than_torchs(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Than torch.nn's in bfloat16, operator by operator."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)

    def run(seed: int) -> tuple[list[str], list[Tensor], list[Tensor], list[Tensor]]:
        torch.manual_seed(seed)
        theirs, ours = (module.bfloat16() for module in kind.pair(20, 33, 2, bidirectional=True))
        exact, x = kind.build(nn, 20, 33, 2, bidirectional=True).double(), narrow.randn(30, 5, 20)
        exact.load_state_dict(ours.state_dict())
        names, results = ["output", *kind.states, "d x", *dict(exact.named_parameters())], []
        for module, dtype in ((exact, torch.float64), (ours, torch.bfloat16), (theirs, torch.bfloat16)):
            data = x.to(dtype).requires_grad_()
            output, hx = module(data)
            values = output, *as_states(hx)
            gradients = torch.autograd.grad([v.sum() for v in values], [data, *module.parameters()])
            results.append([value.detach() for value in (*values, *gradients)])
        return names, *results

    narrow.assert_nearer(map(run, range(20)))


@on_every_isa
@pytest.mark.parametrize("case", selection(), ids=str)
@pytest.mark.slow
def test_gradients_are_as_near_to_float64_as_rounding_allows(case: Case) -> None:
    """What is kept between two products is bfloat16, at most: h, the gradients of gates and of h, those between layers."""
    got = evaluate(build(elman, case, torch.bfloat16), case, torch.bfloat16)
    expected, allowed = expect(case, torch.bfloat16), allow(case, torch.bfloat16, narrow.U)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype is torch.bfloat16
        error, bound = (got[name].double() - value).abs(), allowed[name] + narrow.LEAST
        assert (error <= bound + narrow.U * (value.abs() + bound)).all(), f"{name}: off by {error.max():.3g}"


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("where", ["x", "hx", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0"])
def test_nan_and_infinity_go_where_torchs_go(kind: Kind, where: str, value: float) -> None:
    ours, theirs = narrow.build(kind, 3, 9), kind.build(nn, 3, 9)
    x, states = narrow.randn(5, 3, 3), narrow.states_of(kind, 1, 3, 9)
    with torch.no_grad():
        {"x": x, "hx": states[0], **dict(ours.named_parameters())}[where].view(-1)[5] = value
    theirs.load_state_dict(ours.state_dict())
    wide = x.float(), tuple(state.float() for state in states)
    for got, expected in zip(narrow.results(ours, x, states), narrow.results(theirs, *wide), strict=True):
        assert torch.equal(got.isnan(), expected.isnan())
        assert torch.equal(got.isinf(), expected.isinf())


# --- Parts and wholes ---------------------------------------------------------------------------------------------------


@on_every_isa
@every_kind
def test_layers_and_directions_are_what_they_are_alone(kind: Kind) -> None:
    """So also where layers and directions share threads, and a reverse direction runs the other way."""
    H, P = 17, kind.widths(17)[0]
    whole, parts = narrow.build(kind, 5, H, 2, bidirectional=True), [narrow.build(kind, width, H) for width in (5, 5, 2 * P, 2 * P)]
    params, each = list(whole.parameters()), len(list(parts[0].parameters()))
    with torch.no_grad():
        for i, part in enumerate(parts):
            for to, value in zip(part.parameters(), params[i * each : (i + 1) * each], strict=True):
                to.copy_(value)
    x, states = narrow.randn(9, 4, 5), narrow.states_of(kind, 4, 4, H)
    layer, finals = x, []
    for i in (0, 2):
        ways = [narrow.results(parts[i + d], layer.flip(0) if d else layer, tuple(s[i + d : i + d + 1] for s in states)) for d in (0, 1)]
        layer = torch.cat((ways[0][0], ways[1][0].flip(0)), -1)
        finals += [way[1:] for way in ways]
    expected = layer, *(torch.cat(state) for state in zip(*finals, strict=True))
    narrow.assert_same_bits(narrow.results(whole, x, states), expected)
    with threads(3):
        narrow.assert_same_bits(narrow.results(whole, x, states), expected)


@every_kind
@torch.no_grad()
def test_a_rows_results_do_not_depend_on_the_batch_nor_on_how_it_is_given(kind: Kind) -> None:
    """Padded of every height, batch first, unbatched, packed."""
    module, first = narrow.build(kind, 5, 17, 2, bidirectional=True), narrow.build(kind, 5, 17, 2, bidirectional=True, batch_first=True)
    first.load_state_dict(module.state_dict())
    x = narrow.randn(9, 20, 5)
    output, *finals = narrow.results(module, x)
    batch_first = narrow.results(first, x.transpose(0, 1))
    narrow.assert_same_bits((batch_first[0].transpose(0, 1), *batch_first[1:]), (output, *finals))
    for B in range(1, 20):
        narrow.assert_same_bits(narrow.results(module, x[:, 20 - B :]), (output[:, 20 - B :], *(f[:, 20 - B :] for f in finals)))
    lengths = [9, 9, 7, 4, 4, 3, 1]
    packed, hx = module(pack_sequence([x[:length, b] for b, length in enumerate(lengths)]))
    padded, _ = pad_packed_sequence(packed)
    for b, length in enumerate(lengths):
        alone = narrow.results(module, x[:length, b].contiguous())
        narrow.assert_same_bits(alone, (padded[:length, b], *(f[:, b] for f in as_states(hx))))


@every_kind
@pytest.mark.parametrize(("shape", "H"), [((60, 13, 40), 70), ((40, 1, 8), 350), ((30, 2, 7), 350)], ids=str)
def test_results_and_gradients_do_not_depend_on_the_number_of_threads(kind: Kind, shape: tuple[int, ...], H: int) -> None:
    module, x = narrow.build(kind, shape[2], H), narrow.randn(*shape).requires_grad_()

    def run() -> tuple[Tensor, ...]:
        output, hx = module(x)
        results = output, *as_states(hx)
        gradients = torch.autograd.grad(results, [x, *module.parameters()], [torch.ones_like(r) for r in results])
        return *(r.detach() for r in results), *gradients

    expected = run()
    for count in (2, 3):
        with threads(count):
            narrow.assert_same_bits(run(), expected)


@pytest.mark.parametrize("kind", [TANH, RELU, GRU], ids=str)
def test_a_sequence_run_in_pieces_is_the_sequence_run_whole(kind: Kind) -> None:
    """But for an LSTM, whose c is rounded where a call ends."""
    module, x, states = narrow.build(kind, 5, 33, 2), narrow.randn(40, 3, 5), narrow.states_of(kind, 2, 3, 33)
    whole = narrow.results(module, x, states)
    for size in (1, 7, 39):
        outputs = []
        after = states
        for piece in x.split(size):
            output, *after = narrow.results(module, piece, tuple(after))
            outputs.append(output)
        narrow.assert_same_bits((torch.cat(outputs), *after), whole)


@every_kind
def test_recording_gradients_changes_no_result(kind: Kind) -> None:
    module, x, states = narrow.build(kind, 5, 17, 2, bidirectional=True), narrow.randn(9, 4, 5), narrow.states_of(kind, 4, 4, 17)
    output, hx = module(x.requires_grad_(), as_hx(states))
    narrow.assert_same_bits(tuple(t.detach() for t in (output, *as_states(hx))), narrow.results(module, x, states))


# --- Memory -------------------------------------------------------------------------------------------------------------


@on_every_isa
@pytest.mark.skipif(not hasattr(mmap, "MAP_ANONYMOUS"), reason="needs anonymous memory maps")
@every_kind
@pytest.mark.parametrize("size", [1, 3, 17, 33])
def test_nothing_is_read_past_the_last_number(kind: Kind, size: int) -> None:
    """Every operand ends where a page ends, and the page after it may not be touched."""
    page, alive = mmap.PAGESIZE, []

    def at_the_edge(tensor: Tensor) -> Tensor:
        pages = -(-tensor.nbytes // page)
        memory = mmap.mmap(-1, (pages + 1) * page)
        alive.append(memory)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + pages * page), ctypes.c_size_t(page), 0) == 0
        offset = pages * page - tensor.nbytes
        return torch.frombuffer(memory, dtype=torch.bfloat16, count=tensor.numel(), offset=offset).view(tensor.shape).copy_(tensor)

    H, steps = max(size, 3), 3
    module, x, states = narrow.build(kind, size, H), narrow.randn(steps, 2, size), narrow.states_of(kind, 1, 2, H)
    random = [narrow.randn(steps, 2, kind.widths(H)[0]), *narrow.states_of(kind, 1, 2, H)]

    def results(x: Tensor, states: tuple[Tensor, ...], gradients: list[Tensor]) -> tuple[Tensor, ...]:
        given = [tensor.requires_grad_() for tensor in (x, *states)]
        output, hx = module(given[0], as_hx(tuple(given[1:])))
        found = output, *as_states(hx)
        return *(t.detach() for t in found), *torch.autograd.grad(found, [*given, *module.parameters()], gradients)

    expected = results(x, states, random)
    with torch.no_grad():
        for name, parameter in list(module.named_parameters()):
            setattr(module, name, nn.Parameter(at_the_edge(parameter)))
    x, states, random = at_the_edge(x.detach()), tuple(at_the_edge(state.detach()) for state in states), list(map(at_the_edge, random))
    narrow.assert_same_bits(results(x, states, random), expected)


# --- Operators ----------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_network_is_the_eager_one(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # a traced gradient may not be watched for refusals
    module, x = narrow.build(kind, 3, 4, 2), narrow.randn(5, 2, 3).requires_grad_()
    torch.compiler.reset()
    results = []
    for run in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
        output, hx = run(x)
        values = output, *as_states(hx)
        results.append((*values, *torch.autograd.grad(output.float().sum(), [x, *module.parameters()])))
    torch.compiler.reset()
    narrow.assert_same_bits(*results)
