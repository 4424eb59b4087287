"""`elman tour`: the three networks one meets first."""

from __future__ import annotations

from typing import Annotated

import typer

from elman.cli.frame import Device, Lang, print_json


def tour(
    cell: Annotated[str, typer.Option(help="Kind of network: rnn, gru or lstm.")] = "rnn",
    weights: Annotated[bool, typer.Option("--weights", help="Print the parameters of all three networks, not only the first.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the data.")] = 0,
    device: Annotated[Device, typer.Option(help="Where the networks run.")] = Device.cpu,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    lang: Lang = None,
) -> None:
    """Inspect three recurrent networks: shapes, states, weights, common mistakes, and speed compared with torch.nn.

    Example:  [bold]elman tour --cell lstm[/]
    """
    from elman.show.facts import plain
    from elman.show.network import tour as study
    from elman.show.pages import tour_page
    from elman.show.style import console

    if device is Device.cuda:
        from elman.bench.device import require_cuda

        require_cuda()
    networks = study(cell, seed, device.value)
    if as_json:
        print_json({"networks": [plain(network) for network in networks]})
    else:
        console().print(tour_page(networks, weights))
