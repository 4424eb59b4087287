"""`elman tour`: the three networks one meets first."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from elman.cli.frame import Lang, print_json


def tour(
    cell: Annotated[str, typer.Option(help="The kind of network: rnn, gru or lstm.")] = "rnn",
    lang: Annotated[Lang | None, typer.Option(help="The language; by default the locale's.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of weights and data.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts for a program to read.")] = False,
) -> None:
    """Three recurrent networks, looked into: shapes, states, weights, and torch.nn beside them.

    Example:  [bold]elman tour --cell lstm --lang zh[/]
    """
    from elman.show import render_tour
    from elman.show.render_style import console
    from elman.show.text import language_of
    from elman.show.tour import tour as study

    networks = study(cell, seed)
    if as_json:
        print_json({"networks": [asdict(network) for network in networks]})
    else:
        screen = console()
        screen.print(render_tour.render(networks, lang.value if lang else language_of(), screen.width))
