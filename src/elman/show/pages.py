"""What `elman tour` and `elman explain` print: sections one below the other, as wide as the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from elman.language import _, translated
from elman.show.comparison import comparison_section, how_timed
from elman.show.ends import ends_section
from elman.show.hand_worked import equations, hand_worked_section
from elman.show.specification import KINDS
from elman.show.style import BAD, DIM, GOOD, Part, duration, heading, indented, lines, python, section, small, table
from elman.show.tensors import costs_section, parameters_section, shapes_section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import SimpleNamespace

    from elman.show.network import Network


def explain_page(network: Network, with_numbers: bool = False) -> Part:
    """All that is known of a network; a number worked out by hand comes last. Given lengths or resets: what is run, and where it ends."""
    title = heading(_("Your {module}", module=network.spec.title))
    if network.spec.ragged:
        return lines(title, indented(python(network.code)), ends_section(network, with_numbers), comparison_section(network))
    sections = (shapes_section, ends_section, parameters_section, costs_section, comparison_section)
    worked = network.worked and hand_worked_section(network.spec, network.worked)
    return lines(title, _code(network), *(show(network) for show in sections), worked)


def tour_page(networks: Sequence[Network], weights: bool = False) -> Part:
    """A screen for each network: what goes in and out, where the final states are, how fast it is. ``weights``: with all parameters."""
    first, (file, _colon, name) = networks[0], networks[0].spec.kind.rpartition(":")
    code = "import elman, torch" + (f"; cell = {name}" + "()" * (type(first.spec.own_cell).__name__ == name) if file else "")
    intro = _(
        "Three {module} networks, run just now. After {code}, the code below gives these numbers.", module=first.spec.title, code=code
    )
    titles = {"one_directional": _("One direction"), "bidirectional": _("Bidirectional"), "multi_layer": _("Two layers")}
    screens = [
        lines(
            heading(f"{index + 1}  {titles[network.name]}"),
            _code(network, brief=index > 0),
            shapes_section(network),
            ends_section(network),
            comparison_section(network, brief=True),
            (weights or index == 0) and parameters_section(network, rows=3),
        )
        for index, network in enumerate(networks)
    ]
    timed = first.speed and lines("", (how_timed(first.spec, first.speed), DIM))
    return lines(intro, *screens, heading(_("Summary")), _summary(networks, titles), timed, _next(first))


def _code(network: Network, brief: bool = False) -> Part:
    """The lines that make it, and its equations or its cell; ``brief`` tells the reverse direction's equations by the forward ones."""
    rows: list[Sequence[Part]] = []
    for direction in network.spec.directions if network.equations else ():
        written = Text("\n".join(equations(network.spec, direction)), "italic")
        if brief and direction == "reverse" and network.spec.kind != "rnn":
            written = Text(_("as above, with t+1 in place of t-1"), DIM)
        rows.append([(translated(direction), DIM), written] if network.spec.bidirectional else [written])
    return indented(python(network.code), len(rows) > 0 and table(*rows), network.cell is not None and not brief and _cell(network.cell))


def _cell(cell: SimpleNamespace) -> Part:
    """The step of a cell of somebody's own, and what it declares."""
    words = {"gates": _("gates"), "states": _("states"), "parameters": _("parameters of its own")}
    words |= {"step_inputs": _("step inputs"), "draws": _("random numbers")}
    declared = [(word, ", ".join(getattr(cell, name))) for name, word in words.items() if getattr(cell, name)]
    return lines("", cell.about and (cell.about, DIM), python(cell.source.splitlines()), table(*declared))


def _summary(networks: Sequence[Network], titles: dict[str, str]) -> Part:
    rows: list[Sequence[Part]] = []
    finals = networks[0].spec.finals
    for network in networks:
        sizes = {tensor.name: tensor.sizes for tensor in network.tensors}
        row: list[Part] = [(titles[network.name], "bold"), sizes["x"], sizes["output"], sizes[finals[0]]]
        if agreement := network.agreement:
            row.append(small(max(agreement.output, agreement.state)))
        if speed := network.speed:
            ratio = (f"{speed.ratio:.1f}×", GOOD if speed.ratio >= 1 else BAD)
            row += [duration(speed.elman.median), duration(speed.torch.median), ratio]
        rows.append(row)
    # Without a projection all final states have one shape.
    header = [_("network"), "x", "output", ", ".join(finals), _("difference"), "elman", "torch.nn", ""][: len(rows[0])]
    return table(*rows, header=header, gap=1, right=range(4, len(header)), wrapping=len(header) - 1)


def _next(network: Network) -> Part:
    kind = network.spec.kind if network.cell is None else f"--cell {network.spec.kind}"
    numbers = {f"elman explain {kind} --numbers": _("one number worked out by hand")} if network.equations else {}
    commands = {
        "elman tour --weights": _("the parameters of all three"),
        **numbers,
        f"elman explain {kind} --bidirectional": _("a network of your own"),
        **{f"elman tour --cell {other}": _("the three networks as {module}", module=other.upper()) for other in KINDS if other != kind},
        "elman bench": _("Elman compared with torch.nn, JAX and ONNX Runtime"),
    }
    return section(_("Next"), table(*(((command, "bold cyan"), (purpose, DIM)) for command, purpose in commands.items())))
