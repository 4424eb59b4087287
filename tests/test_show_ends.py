"""What is shown of sequences with lengths and resets is true of a run, and what is not true is noticed."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

import elman
from changed import changed
from elman._files import to_json
from elman.language import LANGUAGES, speaking
from elman.show import network
from elman.show.network import Network
from elman.show.pages import explain_page
from elman.show.specification import Run, Spec, rounding

LENGTHS, RESETS = (5, 3, 0), ((None, 2), (0, 4), (1, 1), (2, 0))
# Of each sequence, its segments by LENGTHS and RESETS.
SEGMENTS = [((0, 1), (2, 3), (4, 4)), ((0, 0), (1, 1), (2, 2)), ()]

SPECS = {
    "rnn": Spec("rnn", 4, 6),
    "gru, both directions": Spec("gru", 4, 6, bidirectional=True),
    "gru, two layers, both directions": Spec("gru", 4, 6, num_layers=2, bidirectional=True, batch_first=True),
    "lstm, projected": Spec("lstm", 4, 6, num_layers=2, bidirectional=True, proj_size=3, dtype="float64"),
    "lstm, batch_first": Spec("lstm", 4, 6, batch_first=True),
    "gru, bfloat16": Spec("gru", 4, 6, bidirectional=True, dtype="bfloat16"),
}


Resets = Sequence[tuple[int | None, int]]


def told(spec: Spec, lengths: tuple[int, ...] | None, reset: Resets) -> Network:
    return Network(replace(spec, lengths=lengths, reset=tuple(reset)))


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def spec(request: pytest.FixtureRequest) -> Spec:
    return request.param


def typed(facts: Network) -> dict[str, Any]:
    """The names there are after typing the code in."""
    names: dict[str, Any] = {"elman": elman, "torch": torch}
    with torch.random.fork_rng(devices=[]):
        *lines, call, last = facts.code
        exec("\n".join(lines), names)
        names["x"].requires_grad_()
        exec(f"{call}\n{last}", names)
    return names


# --- The facts --------------------------------------------------------------------------------------------------------


def test_every_sequence_has_its_segments_and_padding(spec: Spec) -> None:
    found = told(spec, LENGTHS, RESETS).unrolled
    assert [each.segments for each in found] == SEGMENTS
    assert [each.padding for each in found] == [
        "",
        *(("output[1, 3:]", "output[2]") if spec.batch_first else ("output[3:, 1]", "output[:, 2]")),
    ]


def test_where_both_directions_end() -> None:
    facts = told(SPECS["gru, both directions"], LENGTHS, [(None, 2)])
    assert [(end.state, end.trace, end.where, end.segment) for each in facts.unrolled for end in each.ends] == [
        ("h_n[0, 0]", "last[0, :6]", "output[4, 0, :6]", (2, 4)),
        ("h_n[1, 0]", "last[0, 6:]", "output[0, 0, 6:]", (0, 1)),
        ("h_n[0, 1]", "last[1, :6]", "output[2, 1, :6]", (2, 2)),
        ("h_n[1, 1]", "last[1, 6:]", "output[0, 1, 6:]", (0, 1)),
        ("h_n[0, 2]", "last[2, :6]", None, None),
        ("h_n[1, 2]", "last[2, 6:]", None, None),
    ]


def test_whole_sequences_are_one_segment_and_end_where_torch_ends_them() -> None:
    spec = Spec("rnn", 4, 6, bidirectional=True)
    found = told(spec, (5, 5, 5), []).unrolled
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(spec.seed)
        network = spec.build(torch.nn.RNN)
        _, h_n = network(torch.randn(5, 3, 4))
    for each in found:
        assert (each.segments, each.padding) == (((0, 4),), "")
        for end, state in zip(each.ends, h_n[:, each.sequence], strict=True):
            torch.testing.assert_close(torch.tensor(end.numbers), state, rtol=0, atol=1e-6)


def test_typing_the_code_gives_the_numbers_shown(spec: Spec) -> None:
    facts = told(spec, LENGTHS, RESETS)
    names = typed(facts)
    for each in facts.unrolled:
        if each.padding:
            assert not eval(each.padding, names).any()
        for end in each.ends:
            state = eval(end.state, names)
            assert tuple(state[:8].tolist()) == end.numbers
            atol = rounding(state.detach()) if spec.dtype == "bfloat16" else 0.0  # which a trace runs otherwise than a call
            torch.testing.assert_close(eval(end.trace, names), state, rtol=0, atol=atol)
            assert state.equal(eval(end.where, names) if end.where is not None else torch.zeros_like(state))


def test_a_state_depends_on_the_steps_of_its_piece_and_no_others(spec: Spec) -> None:
    facts = told(spec, LENGTHS, RESETS)
    names = typed(facts)
    for each in facts.unrolled:
        for end in each.ends:
            (slope,) = torch.autograd.grad(eval(end.state, names).sum(), names["x"], retain_graph=True)
            slope = slope if spec.batch_first else slope.transpose(0, 1)
            first, last = end.segment or (0, -1)
            assert slope.any(dim=2).nonzero().tolist() == [[each.sequence, step] for step in range(first, last + 1)]


def test_what_is_told_holds(spec: Spec) -> None:
    found = told(spec, LENGTHS, RESETS).unrolled
    assert all(end.holds for each in found for end in each.ends)
    assert all(each.padding_is_zero for each in found)


@pytest.mark.parametrize("wrong", ["output", "last", "final", "padding"])
def test_wrong_numbers_are_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(*given: Any) -> Run:
        run = Run(*given)
        at = {"output": ("output", (2, 1)), "last": ("last", 1), "final": ("h_n", (0, 1)), "padding": ("output", (3, 1))}
        name, place = at[wrong]
        run[name][place] += 1e-3
        return run

    monkeypatch.setattr(network, "Run", spoiled)
    found = told(SPECS["rnn"], LENGTHS, RESETS).unrolled
    assert [each.ends[0].holds for each in found] == [True, wrong == "padding", True]
    assert [each.padding_is_zero for each in found] == [True, wrong != "padding", True]


def test_a_reset_that_is_not_heeded_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = Spec.code
    monkeypatch.setattr(Spec, "code", property(lambda spec: tuple(line.replace(", reset=reset", "") for line in code.fget(spec))))
    found = told(SPECS["rnn"], LENGTHS, [(0, 2)]).unrolled
    assert [each.ends[0].holds for each in found] == [False, True, True]


def test_the_random_generator_is_left_as_it_was() -> None:
    before = torch.random.get_rng_state()
    told(SPECS["rnn"], LENGTHS, RESETS)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("lengths", "reset", "message"),
    [
        ((5, 3), [], "a length for each sequence of the batch, 3 in all, got 2"),
        ((5, 6, 0), [], "--lengths must be between 0 and 5, got 6"),
        ((5, -1, 0), [], "--lengths must be between 0 and 5, got -1"),
        (None, [(None, 5)], "--reset step must be between 0 and 4, got 5"),
        (None, [(0, -1)], "--reset step must be between 0 and 4, got -1"),
        (None, [(3, 0)], "--reset sequence must be between 0 and 2, got 3"),
    ],
)
def test_sequences_that_cannot_be_are_refused(lengths: tuple[int, ...] | None, reset: list[tuple[int | None, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        told(SPECS["rnn"], lengths, reset)


def test_the_facts_are_plain_data() -> None:
    facts = told(SPECS["rnn"], LENGTHS, [(None, 2)])
    assert json.loads(to_json(facts))["spec"]["reset"] == [[None, 2]]
    assert type(facts.unrolled[0].padding_is_zero) is type(facts.unrolled[0].ends[0].holds) is bool


# --- On the terminal --------------------------------------------------------------------------------------------------


def shown(facts: Network, width: int = 80, language: str = "en", *, encoding: str = "utf-8", numbers: bool = False) -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    with speaking(language):
        Console(file=file, width=width, highlight=False).print(explain_page(facts, numbers))
    file.seek(0)
    return [line.rstrip() for line in file]


@pytest.fixture(scope="module")
def both() -> Network:
    return told(Spec("gru", 10, 20, bidirectional=True), LENGTHS, [(None, 2)])


@pytest.fixture(scope="module")
def long() -> Network:
    spec = Spec("lstm", 3, 4, num_layers=2, bidirectional=True, batch_first=True, seq_len=60, batch=12)
    return told(spec, (60, 40, 2, *(0,) * 9), [(0, step) for step in range(1, 60, 2)])


DIAGRAM = """\
                      t=0   t=1   t=2   t=3   t=4
  sequence 0 forward  ○ ──▶ ○  ┃  ○ ──▶ ○ ──▶ ◆  h_n[0, 0]
             reverse  ◆ ◀── ○  ┃  ○ ◀── ○ ◀── ○  h_n[1, 0]
  sequence 1 forward  ○ ──▶ ○  ┃  ◆     ·     ·  h_n[0, 1]
             reverse  ◆ ◀── ○  ┃  ○     ·     ·  h_n[1, 1]
  sequence 2 forward  ·     ·     ·     ·     ·  h_n[0, 2]
             reverse  ·     ·     ·     ·     ·  h_n[1, 2]"""


def test_the_diagram_of_three_sequences_in_both_directions(both: Network) -> None:
    assert DIAGRAM in "\n".join(shown(both))


def test_a_terminal_without_the_marks_has_others(both: Network) -> None:
    swapped = DIAGRAM
    for drawn, ascii_mark in (("──▶", "-->"), ("◀──", "<--"), ("○", "o"), ("◆", "*"), ("·", "."), ("┃", "|")):
        swapped = swapped.replace(drawn, ascii_mark)
    assert swapped.isascii()
    for encoding in ("ascii", "latin-1"):
        lines = "\n".join(shown(both, encoding=encoding))
        assert swapped in lines
        assert "| reset" in lines


def test_the_words_say_where_each_sequence_ends(both: Network) -> None:
    text = "\n".join(shown(both, 120))
    for said in (
        "sequence 0  2 segments: steps 0 to 1, steps 2 to 4",
        "h_n[0, 0] = last[0, :20] = output[4, 0, :20]  forward: depends on steps 2 to 4 only",
        "h_n[1, 1] = last[1, 20:] = output[0, 1, 20:]  reverse: depends on steps 0 to 1 only",
        "h_n[0, 1] = last[1, :20] = output[2, 1, :20]  forward: depends on step 2 only",
        "output[3:, 1] = 0  padding",
        "sequence 2  no steps",
        "h_n[1, 2] = last[2, 20:]  the initial state, here 0",
        "output[-1, 1] is padding, not the end of sequence 1",
        "✓ Checked in this run",
    ):
        assert said in text


def test_nothing_is_said_of_what_is_not_there() -> None:
    text = "\n".join(shown(told(Spec("rnn", 4, 6), (5, 5, 5), [])))
    for unsaid in ("┃", "·", "padding", "segments", "reverse", "layer"):
        assert unsaid not in text


def test_many_steps_sequences_and_segments_are_folded(long: Network) -> None:
    lines = shown(long, 80)
    first = next(line for line in lines if line.startswith("  sequence 0 forward"))
    assert first.startswith("  sequence 0 forward   ○┃○─○┃○─○┃")
    assert first.endswith("… ◆  h_n[2, 0]")
    assert next(line for line in lines if line.strip().startswith("0         5         10")).endswith("… 59")
    text = " ".join(" ".join(lines).split())
    assert "31 segments: step 0, steps 1 to 2, steps 3 to 4, steps 5 to 6, …, step 59" in text
    assert "sequence 5" in text
    assert "sequence 6" not in text
    assert "… 5 more sequences: --json lists all of them sequence 11" in text


def test_an_lstm_and_lower_layers_have_a_word_said(long: Network) -> None:
    text = " ".join(" ".join(shown(long, 80)).replace("│", " ").split())
    assert "end of this direction: h_n, c_n and last" in text
    assert "c_n is not in output at any step" in text
    assert "the final states of lower layers are in h_n only" in text
    assert "output[1, -1] is padding" in text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(both: Network, long: Network, language: str, width: int) -> None:
    for facts in (both, long):
        for numbers in (True, False):
            assert max(map(cell_len, shown(facts, width, language, numbers=numbers))) <= width


def test_numbers_are_shown_where_they_are_asked_for(both: Network) -> None:
    line = "  ".join(f"{number:8.4f}" for number in both.unrolled[1].ends[0].numbers)[:50]
    assert line in "\n".join(shown(both, numbers=True))
    assert line not in "\n".join(shown(both))


def test_what_does_not_hold_is_shouted(both: Network) -> None:
    each = both.unrolled[1]
    bad = changed(each, padding_is_zero=False, ends=(changed(each.ends[0], holds=False), each.ends[1]))
    text = "\n".join(shown(changed(both, unrolled=(both.unrolled[0], bad, both.unrolled[2]))))
    assert "✗ NOT true in this run: h_n[0, 1], output[3:, 1]" in text
    assert "✓" not in text
