"""What is shown fits the terminal, says what the facts say, and shouts when they are bad."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from changed import changed
from elman.language import LANGUAGES, _, speaking
from elman.show.network import Network, tour
from elman.show.pages import explain_page, tour_page
from elman.show.specification import Spec
from elman.show.style import count, duration, folded, number, small

if TYPE_CHECKING:
    from collections.abc import Sequence


def toured(networks: Sequence[Network], width: int, language: str = "en", weights: bool = False) -> str:
    with speaking(language):
        return shown(tour_page(networks, weights), width)


def explained(network: Network, width: int = 80, language: str = "en") -> str:
    with speaking(language):
        return shown(explain_page(network), width)


def shown(renderable: RenderableType, width: int, colour: bool = False) -> str:
    screen = Console(file=io.StringIO(), width=width, highlight=False, force_terminal=colour, color_system="standard" if colour else None)
    screen.print(renderable)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


@pytest.fixture(scope="module")
def networks() -> tuple[Network, ...]:
    return tour()


@pytest.fixture(scope="module")
def gated() -> tuple[Network, ...]:
    return tour("lstm")


@pytest.fixture(scope="module")
def projected() -> Network:
    return Network(Spec("lstm", 30, 40, 2, bidirectional=True, proj_size=12), timed=False, which={"unit": 3, "layer": 1})


@pytest.fixture(scope="module")
def deep() -> Network:
    spec = Spec("rnn", 300, 100, 5, bidirectional=True, batch_first=True, dropout=0.5, seq_len=30, batch=2)
    return Network(spec, timed=False, which={"layer": 4, "direction": "reverse"})


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(
    networks: tuple[Network, ...], gated: tuple[Network, ...], deep: Network, projected: Network, language: str, width: int
) -> None:
    pages = [toured(each, width, language) for each in (networks, gated)] + [explained(each, width, language) for each in (deep, projected)]
    for page in pages:
        assert max(map(cell_len, page.splitlines())) <= width


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [40, 48, 60, 72, 80, 100, 120])
def test_at_no_width_a_tensors_meaning_is_cut(networks: tuple[Network, ...], gated: tuple[Network, ...], language: str, width: int) -> None:
    with speaking(language):
        said = [
            _("hidden state of the last layer at every step"),
            _("last layer, every step: [forward, reverse]"),
            _("final hidden state of each layer and direction"),
        ]
    for each in (networks, gated):
        page = in_column(toured(each, width, language))
        assert [one for one in said if "".join(one.split()) not in page] == []


def in_column(page: str) -> str:
    """What stands in the last column of the tables of shapes, wrapped lines joined, without blanks."""
    text = ""
    for line in page.splitlines():
        row = re.match(r" {2}(?:x|output|h_n|c_n) +\([\d, ]+\) +[TBIHLD·, ]+?  +(.*)", line)
        text += row[1] if row else line
    return "".join(text.split())


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [80, 100])
def test_each_network_of_the_tour_fills_a_screen(
    networks: tuple[Network, ...], gated: tuple[Network, ...], language: str, width: int
) -> None:
    # The first has the parameters, too, and an LSTM a table of gates and six equations.
    for each, first, others in ((networks, 46, 43), (gated, 64, 51)):
        screens = re.split(r"\n(?=\d  |Summary|小结)", toured(each, width, language))[1:-1]
        lines = [screen.count("\n") for screen in screens]
        assert len(lines) == 3
        assert 24 <= min(lines) <= max(lines[1:]) <= others
        assert lines[0] <= first


@pytest.mark.parametrize("weights", [False, True])
def test_parameters_stand_with_the_first_network_or_with_all(networks: tuple[Network, ...], weights: bool) -> None:
    screens = re.split(r"\n(?=\d  )", toured(networks, 80, weights=weights))[1:]
    for index, (screen, network) in enumerate(zip(screens, networks, strict=True)):
        for tensor in network.parameters:
            first = tensor.values[0][0] if len(tensor.shape) == 2 else tensor.values[0]  # type: ignore[index]
            assert (tensor.name in screen and number(first).strip() in screen) == (weights or index == 0)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [80, 120])
def test_at_usual_widths_nothing_is_cut_and_each_state_is_on_one_line(
    networks: tuple[Network, ...], gated: tuple[Network, ...], language: str, width: int
) -> None:
    for each in (networks, gated):
        _nothing_is_cut(each, language, width)


def _nothing_is_cut(networks: tuple[Network, ...], language: str, width: int) -> None:
    lines = toured(networks, width, language, weights=True).splitlines()
    for network in networks:
        for tensor in (*network.tensors, *network.parameters):
            shape = str(tensor.shape)
            assert any(tensor.name in line and shape in line for line in lines)
        for place in (end for each in network.unrolled for end in each.ends):
            if place.where is not None:
                assert any(f"{place.state} = {place.where}" in line for line in lines)
        shapes = [str(tensor.shape) for tensor in network.tensors[:3]]
        assert any(all(shape in line for shape in shapes) for line in lines), "the summary has a line for each network"


def test_the_diagram_of_a_bidirectional_network(networks: tuple[Network, ...]) -> None:
    text = toured(networks[1:2], 80)
    assert "  forward  ○ ──▶ ○ ──▶ ○ ──▶ ○ ──▶ ◆  h_n[0] = output[-1, :, :20]" in text
    assert "  reverse  ◆ ◀── ○ ◀── ○ ◀── ○ ◀── ○  h_n[1] = output[0, :, 20:]" in text


def test_long_sequences_and_deep_stacks_are_folded(deep: Network) -> None:
    text = explained(deep)
    assert re.search(r"x +0         5         10 .*… 29\n", re.sub(" +\n", "\n", text))
    assert re.search(r"layer 4 forward .*\n +reverse ", text)
    assert re.search(r"layer 0 forward .*\n +reverse ", text)
    assert "layer 2" not in text.split("Cost")[0]
    assert "77 more" in text, "100 products of the state: 22, 77 and the last one"


def test_all_lower_layers_are_named_from_the_first_to_the_last() -> None:
    text = explained(Network(Spec("rnn", 2, 2, 12), timed=False), 120)
    assert "h_n[0] … h_n[10] is nowhere in it" in text


def test_chinese_is_folded_and_not_cut_off_beside_the_librarys_number(deep: Network) -> None:
    assert deep.worked is not None
    *_before, line, rest = explained(deep, 60, "zh").splitlines()
    assert line.endswith("库的结果（float32），相差")
    assert rest.strip() == small(deep.worked.difference)


def test_a_state_that_is_not_there_is_shouted(networks: tuple[Network, ...]) -> None:
    layer = networks[0].unrolled[0]
    bad = changed(networks[0], unrolled=(changed(layer, ends=(changed(layer.ends[0], holds=False, difference=0.5),)),))
    text = explained(bad)
    assert "✗ NOT equal, differs by 0.50" in text
    assert "✓ equal" not in text


def test_weights_that_differ_are_shouted(networks: tuple[Network, ...]) -> None:
    bad = changed(networks[0], agreement=changed(networks[0].agreement, same_seed=False))
    assert "✗ seed 0 gives the two DIFFERENT weights" in explained(bad)


@pytest.mark.parametrize(("ratio", "said"), [(5.04, "5.0 times as fast"), (0.5, "takes 2.0 times as long"), (1.01, "as fast as torch.nn")])
def test_the_race_is_told_as_it_went(networks: tuple[Network, ...], ratio: float, said: str) -> None:
    speed = networks[0].speed
    assert speed is not None
    assert said in explained(changed(networks[0], speed=changed(speed, ratio=ratio)))


def test_the_hand_worked_number_is_shown_beside_the_librarys(deep: Network) -> None:
    worked = deep.worked
    assert worked is not None
    lines = explained(deep).splitlines()
    assert any(line.strip().startswith("h[t] ") and f"{worked.by_hand:.8f}" in line for line in lines)
    assert any(worked.value_code in line and f"{worked.library:.8f}" in line for line in lines)


def test_gates_are_shown_by_name_with_their_rows_and_equations(projected: Network) -> None:
    lines = [line.split() for line in explained(projected, 120).splitlines()]
    for gate, rows in {"i": "0:40", "f": "40:80", "g": "80:120", "o": "120:160"}.items():
        assert any(line[:2] == [gate, rows] for line in lines)
        assert any(line[:2] == [f"{gate}[t]", "="] for line in lines), "worked out in numbers"
        assert any(line[:1] == [f"W_i{gate}"] for line in lines)
    assert any("weight_hh_l1[83]" in line for line in lines), "unit 3 of g"
    assert any("weight_hr_l1[3]" in line for line in lines)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_not_in_output_is_said(gated: tuple[Network, ...], networks: tuple[Network, ...], language: str) -> None:
    said = {"en": "c_n is not in output", "zh": "c_n 不在 output 里"}[language]
    assert said in toured(gated, 120, language)
    assert said not in toured(networks, 120, language)


def test_colour_only_where_the_terminal_has_it(networks: tuple[Network, ...]) -> None:
    renderable = tour_page(networks)
    assert "\x1b[" in shown(renderable, 80, colour=True)
    assert "\x1b" not in shown(renderable, 80)


def test_a_folded_matrix_keeps_its_corners() -> None:
    matrix = [[float(10 * row + column) for column in range(30)] for row in range(9)]
    lines = [line.rstrip() for line in shown(folded(matrix), 60).splitlines()]
    assert len(lines) == 4
    assert lines[0].startswith("[[  0.0000,   1.0000,")
    assert lines[0].endswith("…,  29.0000],")
    assert lines[2].strip() == "…"
    assert lines[3].startswith(" [ 80.0000")
    assert lines[3].endswith("109.0000]]")
    assert all(len(line) <= 60 for line in lines)
    assert shown(folded([1.0, 2.0]), 60) == "[1.0000, 2.0000]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (number(0.12345), "  0.1235"),
        (number(0.0), "  0.0000"),
        (number(-1.5e-7), "-1.5e-07"),
        (number(123456.0), " 1.2e+05"),
        (small(0.0), "0"),
        (small(5.96e-8), "5.96e-08"),
        (small(1.274), "1.27"),
        (duration(1.25e-5), "12.5 µs"),
        (duration(0.0321), "32.1 ms"),
        (duration(2.0), "2 s"),
        (count(1234567), "1,234,567"),
    ],
)
def test_numbers_read_well(text: str, said: str) -> None:
    assert text == said


def test_rows_are_those_of_each_weight() -> None:
    """STAR's gate z has no recurrent part: k's rows are the first of weight_hh, and the second of weight_ih."""
    page = explained(Network(Spec("zoo.STAR", 3, 5)))
    assert re.search(r"k +5:10", page)
    assert "weight_hh and bias_hh have rows of k (0:5) only." in page


def test_what_gates_do_is_told_where_it_is_known() -> None:
    assert "what it does" not in explained(Network(Spec("zoo.STAR", 3, 5)))
    assert "what it does" in explained(Network(Spec("gru", 3, 5)))
