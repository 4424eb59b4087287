"""What is told of rows that are cut or short is so: the very steps, places and numbers; and what is not so is noticed."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

import elman
from elman.show.render_spans import render
from elman.show.render_style import DRAWN, TYPED, marks_of
from elman.show.spans import study_spans
from elman.show.spec import Spec
from elman.show.text import LANGUAGES

if TYPE_CHECKING:
    from elman.show.facts import Spans

RAGGED, CUTS = (5, 3, 0), ((None, 2), (0, 4), (1, 1), (2, 0))
# Of each row, its pieces by RAGGED and CUTS.
PIECES = [((0, 1), (2, 3), (4, 4)), ((0, 0), (1, 1), (2, 2)), ()]

SPECS = {
    "rnn": Spec("rnn", 4, 6),
    "gru, both directions": Spec("gru", 4, 6, bidirectional=True),
    "gru, two layers, both directions": Spec("gru", 4, 6, num_layers=2, bidirectional=True, batch_first=True),
    "lstm, projected": Spec("lstm", 4, 6, num_layers=2, bidirectional=True, proj_size=3, dtype="float64"),
    "lstm, batch_first": Spec("lstm", 4, 6, batch_first=True),
}


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def spec(request: pytest.FixtureRequest) -> Spec:
    return request.param


def typed(spans: Spans) -> dict[str, Any]:
    """The names there are after typing the code in."""
    names: dict[str, Any] = {"elman": elman, "torch": torch}
    with torch.random.fork_rng(devices=[]):
        *lines, call, last = spans.code
        exec("\n".join(lines), names)
        names["x"].requires_grad_()
        exec(f"{call}\n{last}", names)
    return names


# --- The facts --------------------------------------------------------------------------------------------------------


def test_every_row_has_its_pieces_and_padding(spec: Spec) -> None:
    rows = study_spans(spec, RAGGED, CUTS).rows
    assert [row.pieces for row in rows] == PIECES
    assert [row.padding for row in rows] == [
        None,
        *(("output[1, 3:]", "output[2, :]") if spec.batch_first else ("output[3:, 1]", "output[:, 2]")),
    ]


def test_where_both_directions_end() -> None:
    spans = study_spans(SPECS["gru, both directions"], RAGGED, [(None, 2)])
    assert [(end.state, end.last, end.where, end.piece) for row in spans.rows for end in row.ends] == [
        ("h_n[0, 0]", "last[0, :6]", "output[4, 0, :6]", (2, 4)),
        ("h_n[1, 0]", "last[0, 6:]", "output[0, 0, 6:]", (0, 1)),
        ("h_n[0, 1]", "last[1, :6]", "output[2, 1, :6]", (2, 2)),
        ("h_n[1, 1]", "last[1, 6:]", "output[0, 1, 6:]", (0, 1)),
        ("h_n[0, 2]", "last[2, :6]", None, None),
        ("h_n[1, 2]", "last[2, 6:]", None, None),
    ]


def test_whole_rows_are_one_piece_and_end_where_torch_ends_them() -> None:
    spec = Spec("rnn", 4, 6, bidirectional=True)
    rows = study_spans(spec, (5, 5, 5), []).rows
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(spec.seed)
        _, h_n = spec.build(torch.nn.RNN)(spec.data())
    for row in rows:
        assert (row.pieces, row.padding) == (((0, 4),), None)
        for end, state in zip(row.ends, h_n[:, row.row], strict=True):
            torch.testing.assert_close(torch.tensor(end.numbers), state, rtol=0, atol=1e-6)


def test_typing_the_code_gives_the_numbers_shown(spec: Spec) -> None:
    spans = study_spans(spec, RAGGED, CUTS)
    names = typed(spans)
    for row in spans.rows:
        if row.padding is not None:
            assert not eval(row.padding, names).any()
        for end in row.ends:
            state = eval(end.state, names)
            assert tuple(state[:8].tolist()) == end.numbers
            assert state.equal(eval(end.last, names))
            assert state.equal(eval(end.where, names) if end.where is not None else torch.zeros_like(state))


def test_a_state_depends_on_the_steps_of_its_piece_and_no_others(spec: Spec) -> None:
    spans = study_spans(spec, RAGGED, CUTS)
    names = typed(spans)
    for row in spans.rows:
        for end in row.ends:
            (slope,) = torch.autograd.grad(eval(end.state, names).sum(), names["x"], retain_graph=True)
            slope = slope if spec.batch_first else slope.transpose(0, 1)
            first, last = end.piece or (0, -1)
            assert slope.any(dim=2).nonzero().tolist() == [[row.row, step] for step in range(first, last + 1)]


def test_what_is_told_holds(spec: Spec) -> None:
    rows = study_spans(spec, RAGGED, CUTS).rows
    assert all(end.holds for row in rows for end in row.ends)
    assert all(row.padding_is_zero for row in rows)


@pytest.mark.parametrize("wrong", ["output", "last", "final", "padding"])
def test_wrong_numbers_are_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = elman.RNN.trace

    def trace(self: elman.RNN, *args: Any, **options: Any) -> Any:
        told = real(self, *args, **options)
        at = {"output": (told.output, (2, 1)), "last": (told.last, 1), "final": (told.final, (0, 1)), "padding": (told.output, (3, 1))}
        tensor, place = at[wrong]
        tensor[place] += 1e-3
        return told

    monkeypatch.setattr(elman.RNN, "trace", trace)
    rows = study_spans(SPECS["rnn"], RAGGED, CUTS).rows
    assert [row.ends[0].holds for row in rows] == [True, wrong == "padding", True]
    assert [row.padding_is_zero for row in rows] == [True, wrong != "padding", True]


def test_a_reset_that_is_not_heeded_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = elman.RNN.trace
    monkeypatch.setattr(elman.RNN, "trace", lambda self, x, *, lengths, reset: real(self, x, lengths=lengths))
    rows = study_spans(SPECS["rnn"], RAGGED, [(0, 2)]).rows
    assert [row.ends[0].holds for row in rows] == [False, True, True]


def test_the_random_generator_is_left_as_it_was() -> None:
    before = torch.random.get_rng_state()
    study_spans(SPECS["rnn"], RAGGED, CUTS)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("lengths", "reset", "message"),
    [
        ((5, 3), [], "one for each row of the batch, 3, got 2"),
        ((5, 6, 0), [], "between 0 and the number of steps, 5, got 6"),
        ((5, -1, 0), [], "between 0 and the number of steps, 5, got -1"),
        (None, [(None, 5)], "a step between 0 and 4, got 5"),
        (None, [(0, -1)], "a step between 0 and 4, got -1"),
        (None, [(3, 0)], "a row between 0 and 2, got 3"),
    ],
)
def test_rows_that_cannot_be_are_refused(lengths: tuple[int, ...] | None, reset: list[tuple[int | None, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study_spans(SPECS["rnn"], lengths, reset)


def test_the_facts_are_plain_data() -> None:
    spans = study_spans(SPECS["rnn"], RAGGED, [(None, 2)])
    assert asdict(spans)["reset"] == ((0, 2), (1, 2), (2, 2))
    assert type(spans.rows[0].padding_is_zero) is type(spans.rows[0].ends[0].holds) is bool


# --- On the terminal --------------------------------------------------------------------------------------------------


def shown(spans: Spans, width: int = 80, language: str = "en", *, typed: bool = False, numbers: bool = False) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, highlight=False)
    screen.print(render(spans, language, width, TYPED if typed else DRAWN, numbers))
    assert isinstance(screen.file, io.StringIO)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


@pytest.fixture(scope="module")
def both() -> Spans:
    return study_spans(Spec("gru", 10, 20, bidirectional=True), RAGGED, [(None, 2)])


@pytest.fixture(scope="module")
def long() -> Spans:
    spec = Spec("lstm", 3, 4, num_layers=2, bidirectional=True, batch_first=True, seq_len=60, batch=12)
    return study_spans(spec, (60, 40, 2, *(0,) * 9), [(0, step) for step in range(1, 60, 2)])


PICTURE = """\
                 t=0   t=1   t=2   t=3   t=4
  row 0 forward  ○ ──▶ ○  ┃  ○ ──▶ ○ ──▶ ◆  h_n[0, 0]
        reverse  ◆ ◀── ○  ┃  ○ ◀── ○ ◀── ○  h_n[1, 0]
  row 1 forward  ○ ──▶ ○  ┃  ◆     ·     ·  h_n[0, 1]
        reverse  ◆ ◀── ○  ┃  ○     ·     ·  h_n[1, 1]
  row 2 forward  ·     ·     ·     ·     ·  h_n[0, 2]
        reverse  ·     ·     ·     ·     ·  h_n[1, 2]"""


def test_the_picture_of_three_rows_in_both_directions(both: Spans) -> None:
    assert PICTURE in "\n".join(shown(both))


def test_a_terminal_without_the_marks_has_others(both: Spans) -> None:
    swapped = PICTURE
    for drawn, plain in (("──▶", "-->"), ("◀──", "<--"), ("○", "o"), ("◆", "*"), ("·", "."), ("┃", "|")):
        swapped = swapped.replace(drawn, plain)
    assert swapped.isascii()
    assert swapped in "\n".join(shown(both, typed=True))
    assert [marks_of(encoding) for encoding in ("utf-8", "ascii", "latin-1")] == [DRAWN, TYPED, TYPED]


def test_the_words_say_where_each_row_ends(both: Spans) -> None:
    text = "\n".join(shown(both, 120))
    for said in (
        "row 0  2 pieces: steps 0 to 1, steps 2 to 4",
        "h_n[0, 0] = last[0, :20] = output[4, 0, :20]  forward: made of steps 2 to 4 alone",
        "h_n[1, 1] = last[1, 20:] = output[0, 1, 20:]  reverse: made of steps 0 to 1 alone",
        "h_n[0, 1] = last[1, :20] = output[2, 1, :20]  forward: made of step 2 alone",
        "output[3:, 1] = 0  padding",
        "row 2  no step at all",
        "h_n[1, 2] = last[2, 20:]  the initial state, here 0",
        "Row 1 does not end at output[-1, 1]",
        "✓ All of it was checked in this run",
    ):
        assert said in text


def test_nothing_is_said_of_what_is_not_there() -> None:
    text = "\n".join(shown(study_spans(Spec("rnn", 4, 6), (5, 5, 5), [])))
    for unsaid in ("┃", "·", "padding", "pieces", "reverse", "layer"):
        assert unsaid not in text


def test_long_sequences_many_rows_and_many_pieces_are_folded(long: Spans) -> None:
    lines = shown(long, 80)
    first = next(line for line in lines if line.startswith("  row 0 forward"))
    assert first.startswith("  row 0 forward  ○┃○─○┃○─○┃")
    assert first.endswith("… ◆  h_n[2, 0]")
    assert next(line for line in lines if line.strip().startswith("0         5         10")).endswith("… 59")
    text = "\n".join(lines)
    assert "31 pieces: step 0, steps 1 to 2, steps 3 to 4, steps 5 to 6, …, step 59" in text
    assert "row 7" in text
    assert "row 8" not in text
    assert "… and 4 rows more" in text


def test_an_lstm_and_lower_layers_have_a_word_said(long: Spans) -> None:
    text = " ".join(" ".join(shown(long, 80)).split())
    assert "c_n is of the same steps as h_n" in text
    assert "where those below end is in h_n only" in text
    assert "Row 1 does not end at output[1, -1]" in text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(both: Spans, long: Spans, language: str, width: int) -> None:
    for spans in (both, long):
        for numbers in (True, False):
            assert max(map(cell_len, shown(spans, width, language, numbers=numbers))) <= width


def test_numbers_are_shown_where_they_are_asked_for(both: Spans) -> None:
    line = "  ".join(f"{number:8.4f}" for number in both.rows[1].ends[0].numbers)[:50]
    assert line in "\n".join(shown(both, numbers=True))
    assert line not in "\n".join(shown(both))


def test_what_does_not_hold_is_shouted(both: Spans) -> None:
    row = both.rows[1]
    bad = replace(row, padding_is_zero=False, ends=(replace(row.ends[0], holds=False), row.ends[1]))
    text = "\n".join(shown(replace(both, rows=(both.rows[0], bad, both.rows[2]))))
    assert "✗ NOT so in this run: h_n[0, 1], output[3:, 1]" in text
    assert "✓" not in text
