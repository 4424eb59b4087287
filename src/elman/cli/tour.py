"""`elman tour`: the three networks one meets first."""

from __future__ import annotations

from typing import Annotated

import typer

from elman.cli.frame import Device, Lang, print_json


def tour(
    cell: Annotated[str, typer.Option(help="Kind of network: rnn, gru or lstm; or a cell, zoo.MGU or path/to/file.py:MyCell.")] = "rnn",
    weights: Annotated[bool, typer.Option("--weights", help="Print the parameters of all three networks, not only the first.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the data.")] = 0,
    device: Annotated[Device, typer.Option(help="Where the networks run.")] = Device.cpu,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    lang: Lang = None,
) -> None:
    """Inspect three recurrent networks: shapes, states, weights, common mistakes, and speed compared with torch.nn.

    Example:  [bold]elman tour --cell lstm[/]
    """
    from elman.show.network import tour as study
    from elman.show.pages import tour_page
    from elman.show.style import console
    from elman.zoo.by_name import is_own

    if device is Device.cuda:
        from elman.bench.device import require_cuda

        if is_own(cell):
            raise ValueError(f"--cell {cell} runs on the CPU only; leave --device out")
        require_cuda()
    networks = study(cell, seed, device.value)
    if as_json:
        print_json({"networks": networks})
    else:
        console().print(tour_page(networks, weights))
