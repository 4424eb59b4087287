"""What `elman tour` and `elman explain` print: sections one below the other, as wide as the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from elman.bench.machine import usual_threads
from elman.bench.race import BLOCK_S as BENCH_BLOCK_S
from elman.language import _, translated
from elman.show.comparison import BLOCK_S, comparison_section, how_timed
from elman.show.costs import costs_section
from elman.show.final_states import final_states_section
from elman.show.hand_worked import hand_worked_section
from elman.show.numbers import duration, small
from elman.show.specification import KINDS
from elman.show.style import BAD, DIM, GOOD, Part, grid, heading, indented, lines, python, section, table
from elman.show.tensors import parameters_section, shapes_section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.show.network import Network


def explain_page(network: Network) -> Part:
    """All that is known of a network; a number worked out by hand comes last."""
    sections = (shapes_section, final_states_section, parameters_section, costs_section, comparison_section)
    return lines(
        heading(_("Your {module}", module=network.spec.module)),
        _code(network),
        *(show(network) for show in sections),
        network.worked is not None and hand_worked_section(network.spec, network.worked),
    )


def tour_page(networks: Sequence[Network], weights: bool = False) -> Part:
    """A screen for each network: what goes in and out, where the final states are, what goes wrong, how fast it is.

    Args:
        networks: the three.
        weights: print the parameters of all three, not only the first one's.
    """
    intro = _(
        "Three {module} networks, run just now. After {code}, the code shown reproduces these numbers.",
        module=networks[0].spec.module,
        code="import elman, torch",
    )
    titles = {"one_directional": _("One direction"), "bidirectional": _("Bidirectional"), "multi_layer": _("Two layers")}
    screens = [
        lines(
            heading(f"{index + 1}  {titles[network.name]}"),
            _code(network, brief=True),
            shapes_section(network),
            final_states_section(network),
            comparison_section(network, brief=True),
            (weights or index == 0) and parameters_section(network, rows=3),
        )
        for index, network in enumerate(networks)
    ]
    return lines(intro, *screens, heading(_("Summary")), _summary(networks, titles), *_timing(networks[0]), _next(networks[0].spec.kind))


def _code(network: Network, brief: bool = False) -> Part:
    """The lines that make it, and its equations; ``brief`` tells the reverse direction's by the forward ones."""
    half = len(network.equations) // len(network.spec.directions)
    rows: list[Sequence[Part]] = []
    for index, direction in enumerate(network.spec.directions):
        equations = Text("\n".join(network.equations[index * half : (index + 1) * half]), "italic")
        if brief and index and half > 1:
            equations = Text(_("as above, with t+1 in place of t-1"), DIM)
        rows.append([(translated(direction), DIM), equations] if network.spec.bidirectional else [equations])
    return indented(python(network.code), grid(*rows))


def _summary(networks: Sequence[Network], titles: dict[str, str]) -> Part:
    rows: list[Sequence[Part]] = []
    for network in networks:
        row: list[Part] = [(titles[network.name], "bold"), *(tensor.sizes for tensor in network.tensors[:3])]
        row.append(small(max(network.agreement.output, network.agreement.state)))
        if speed := network.speed:
            ratio = (f"{speed.ratio:.1f}×", GOOD if speed.ratio >= 1 else BAD)
            row += [duration(speed.elman.median), duration(speed.torch.median), ratio]
        rows.append(row)
    # Without a projection all final states have one shape.
    columns = [_("network"), "x", "output", ", ".join(networks[0].spec.finals), _("difference"), "elman", "torch.nn", ""]
    made = table(columns, *rows, gap=1, right=range(4, 8))
    for column in made.columns[1:]:
        column.no_wrap = False
    return made


def _timing(network: Network) -> list[Part]:
    """How it was timed, and why the benchmark prints other times."""
    if network.speed is None:
        return []
    other = _(
        "elman bench prints different times: each library runs on {threads} threads there, and a round lasts {bench} ms instead of {tour}.",
        threads=usual_threads(),
        bench=round(BENCH_BLOCK_S * 1e3),
        tour=round(BLOCK_S * 1e3),
    )
    return ["", (how_timed(network.spec, network.speed), DIM), *([(other, DIM)] if network.spec.device == "cpu" else [])]


def _next(kind: str) -> Part:
    commands = {
        "elman tour --weights": _("the parameters of all three"),
        f"elman explain {kind} --numbers": _("one number worked out by hand"),
        f"elman explain {kind} --bidirectional": _("a network of your own"),
        **{f"elman tour --cell {other}": _("the three networks as {module}", module=other.upper()) for other in KINDS if other != kind},
        "elman bench": _("Elman compared with torch.nn, JAX and ONNX Runtime"),
    }
    return section(_("Next"), grid(*(((command, "bold cyan"), (purpose, DIM)) for command, purpose in commands.items())))
