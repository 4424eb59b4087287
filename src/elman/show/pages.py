"""What `elman tour` and `elman explain` print: sections one below the other, as wide as the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from elman.bench.machine import usual_threads
from elman.bench.race import BLOCK_S as BENCH_BLOCK_S
from elman.language import _
from elman.show import sections
from elman.show.hand_worked_text import hand_worked
from elman.show.network import BLOCK_S
from elman.show.numbers import duration, small
from elman.show.specification import KINDS
from elman.show.style import BAD, DIM, GOOD, grid, heading, section, shape_text, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.show.network import Network


def explain_page(network: Network) -> RenderableType:
    """All that is known of a network; a number worked out by hand comes last."""
    parts: list[RenderableType] = [
        heading(_("Your {module}", module=network.spec.module)),
        sections.code(network),
        sections.shapes(network),
        sections.final_states(network),
        sections.parameters(network),
        sections.costs(network),
        sections.compared_with_torch(network),
    ]
    if network.worked is not None:
        parts.append(hand_worked(network.worked, network.spec))
    return Group(*parts)


def tour_page(networks: Sequence[Network], weights: bool = False) -> RenderableType:
    """A screen for each network: what goes in and out, where the final states are, what goes wrong, how fast it is.

    Args:
        networks: the three.
        weights: print the parameters of all three, not only the first one's.
    """
    spec = networks[0].spec
    intro = _(
        "Three {module} networks, run just now. After {code}, the code shown reproduces these numbers.",
        module=spec.module,
        code="import elman, torch",
    )
    parts: list[RenderableType] = [Text(intro)]
    titles = {"one_directional": _("One direction"), "bidirectional": _("Bidirectional"), "multi_layer": _("Two layers")}
    for index, network in enumerate(networks):
        parts += [
            heading(f"{index + 1}  {titles[network.name]}"),
            sections.code(network, brief=True),
            sections.shapes(network),
            sections.final_states(network),
            sections.compared_with_torch(network, brief=True),
            *([sections.parameters(network, rows=3)] if weights or index == 0 else []),
        ]
    return Group(*parts, heading(_("Summary")), _summary(networks, titles), *_timing(networks[0]), _next(spec.kind))


def _summary(networks: Sequence[Network], titles: dict[str, str]) -> RenderableType:
    # Without a projection all final states have one shape.
    made = table(_("network"), "x", "output", ", ".join(networks[0].spec.finals), _("difference"), "elman", "torch.nn", "", gap=1)
    for index, column in enumerate(made.columns):
        column.justify = "right" if index > 3 else "left"
        column.no_wrap = index == 0
    for network in networks:
        cells: list[RenderableType] = [Text(titles[network.name], "bold"), *(shape_text(tensor.axes) for tensor in network.tensors[:3])]
        cells.append(small(max(network.agreement.output, network.agreement.state)))
        if speed := network.speed:
            style = GOOD if speed.ratio >= 1 else BAD
            cells += [duration(speed.elman.median), duration(speed.torch.median), Text(f"{speed.ratio:.1f}×", style)]
        made.add_row(*cells)
    return made


def _timing(network: Network) -> list[RenderableType]:
    """How it was timed, and why the benchmark prints other times."""
    if network.speed is None:
        return []
    if network.spec.device != "cpu":
        return [Text(""), Text(sections.how_timed(network), DIM)]
    told = _(
        "elman bench prints other times: there each library runs on {threads} threads and a round lasts {bench} ms instead of {tour}.",
        threads=usual_threads(),
        bench=round(BENCH_BLOCK_S * 1e3),
        tour=round(BLOCK_S * 1e3),
    )
    return [Text(""), Text(sections.how_timed(network), DIM), Text(told, DIM)]


def _next(kind: str) -> RenderableType:
    rows = {
        "elman tour --weights": _("the parameters of all three"),
        f"elman explain {kind} --numbers": _("one number worked out by hand"),
        f"elman explain {kind} --bidirectional": _("a network of your own"),
        **{f"elman tour --cell {other}": _("the three networks as {module}", module=other.upper()) for other in KINDS if other != kind},
        "elman bench": _("Elman compared with torch.nn, JAX and ONNX Runtime"),
    }
    return section(_("Next"), grid(*((Text(command, "bold cyan"), Text(told, DIM)) for command, told in rows.items())))
