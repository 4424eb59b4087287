"""The tour on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from elman.show.kinds import KINDS
from elman.show.render_network import beside_torch, code, finals, heading, parameters, shapes, where_states_sit
from elman.show.render_style import BAD, DIM, GOOD, duration, section, shape_text, small
from elman.show.text import Words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.show.facts import Network


def render(networks: Sequence[Network], language: str, width: int) -> RenderableType:
    """Everything the tour tells, in ``width`` columns."""
    words = Words(language)
    title = Text(words("tour.title", module=networks[0].spec.about.module), "bold")
    intro = Text.from_markup(words("tour.intro", seed=networks[0].spec.seed))
    parts: list[RenderableType] = [Panel(intro, title=title, title_align="left", padding=(0, 1))]
    for index, network in enumerate(networks, 1):
        parts += [
            heading(f"{index}  {words(f'network.{network.name}')}"),
            code(network, words),
            shapes(network, words, width),
            where_states_sit(network, words, width),
            parameters(network, words, width),
            beside_torch(network, words, width),
        ]
    parts += [heading(words("tour.summary")), _summary(networks, words), _next(networks[0].spec.kind, words)]
    return Group(*parts)


def _summary(networks: Sequence[Network], words: Words) -> RenderableType:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style=DIM)
    table.add_column(words("summary.network"), no_wrap=True)
    for name in ("x", "output", finals(networks[0])):  # no projection here: all final states have one shape
        table.add_column(name)
    table.add_column(words("summary.difference"), justify="right")
    for name in ("elman", "torch.nn", ""):
        table.add_column(name, justify="right")
    for network in networks:
        cells: list[RenderableType] = [Text(words(f"network.{network.name}"), "bold")]
        cells += [shape_text(tensor.axes) for tensor in network.tensors[:3]]
        cells.append(small(max(network.agreement.output, network.agreement.state)))
        if network.speed is not None:
            cells += [
                duration(network.speed.elman.median),
                duration(network.speed.torch.median),
                Text(f"{network.speed.ratio:.1f}×", GOOD if network.speed.ratio >= 1 else BAD),
            ]
        table.add_row(*cells)
    return table


def _next(kind: str, words: Words) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for command, key in (
        (f"elman explain {kind} --numbers", "tour.next.numbers"),
        (f"elman explain {kind} --bidirectional", "tour.next.explain"),
        *((f"elman tour --cell {other}", "tour.next.cells") for other in KINDS if other not in ("rnn", kind)),
        ("elman bench", "tour.next.bench"),
    ):
        table.add_row(Text(command, "bold cyan"), Text(words(key), DIM))
    return section(words("tour.next"), table)
