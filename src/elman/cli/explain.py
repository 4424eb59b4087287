"""`elman explain`: any network that one names."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import Annotated

import typer

from elman.cli.frame import Lang, print_json


class Nonlinearity(str, Enum):
    tanh = "tanh"
    relu = "relu"


class Dtype(str, Enum):
    float32 = "float32"
    float64 = "float64"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Direction(str, Enum):
    forward = "forward"
    reverse = "reverse"


_NETWORK, _DATA, _NUMBERS = "The network", "Its data", "One number by hand"


def explain(
    kind: Annotated[str, typer.Argument(help="The kind of network: rnn, gru or lstm.")],
    input_size: Annotated[int, typer.Option(help="I, features per step.", rich_help_panel=_NETWORK)] = 10,
    hidden_size: Annotated[int, typer.Option(help="H, hidden units.", rich_help_panel=_NETWORK)] = 20,
    num_layers: Annotated[int, typer.Option(help="L, layers.", rich_help_panel=_NETWORK)] = 1,
    bidirectional: Annotated[bool, typer.Option("--bidirectional", help="Read the sequence both ways.", rich_help_panel=_NETWORK)] = False,
    nonlinearity: Annotated[
        Nonlinearity, typer.Option(help="Of an rnn: what a sum passes through.", rich_help_panel=_NETWORK)
    ] = Nonlinearity.tanh,
    proj_size: Annotated[int, typer.Option(help="Of an lstm: P, to how many numbers h is projected.", rich_help_panel=_NETWORK)] = 0,
    no_bias: Annotated[bool, typer.Option("--no-bias", help="Leave the biases out.", rich_help_panel=_NETWORK)] = False,
    dropout: Annotated[float, typer.Option(help="Between layers, in training.", rich_help_panel=_NETWORK)] = 0.0,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and data.", rich_help_panel=_NETWORK)] = Dtype.float32,
    seq_len: Annotated[int, typer.Option(help="T, steps.", rich_help_panel=_DATA)] = 5,
    batch: Annotated[int, typer.Option(help="B, samples.", rich_help_panel=_DATA)] = 3,
    batch_first: Annotated[bool, typer.Option("--batch-first", help="x and output are (B, T, ...).", rich_help_panel=_DATA)] = False,
    seed: Annotated[int, typer.Option(help="Of weights and data.", rich_help_panel=_DATA)] = 0,
    numbers: Annotated[
        bool, typer.Option("--numbers", help="Work one step of one unit through by hand.", rich_help_panel=_NUMBERS)
    ] = False,
    step: Annotated[
        int | None,
        typer.Option(help="Which step; by default the second that the direction takes.", show_default=False, rich_help_panel=_NUMBERS),
    ] = None,
    unit: Annotated[int, typer.Option(help="Which hidden unit.", rich_help_panel=_NUMBERS)] = 0,
    row: Annotated[int, typer.Option(help="Which row of the batch.", rich_help_panel=_NUMBERS)] = 0,
    layer: Annotated[int, typer.Option(help="Which layer.", rich_help_panel=_NUMBERS)] = 0,
    direction: Annotated[Direction, typer.Option(help="Which direction.", rich_help_panel=_NUMBERS)] = Direction.forward,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Race it against torch.nn's.")] = True,
    lang: Annotated[Lang | None, typer.Option(help="The language; by default the locale's.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts for a program to read.")] = False,
) -> None:
    """Any network: its tensors, parameters, costs and backend, and one number of it worked out by hand.

    Example:  [bold]elman explain rnn --input-size 10 --hidden-size 20 --num-layers 2 --bidirectional --numbers[/]
    """
    from elman.show import render_explain
    from elman.show.by_hand import Which
    from elman.show.network import study
    from elman.show.render_style import console
    from elman.show.spec import Spec
    from elman.show.text import language_of

    spec = Spec(
        kind=kind,
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        nonlinearity=nonlinearity.value,
        bias=not no_bias,
        batch_first=batch_first,
        dropout=dropout,
        bidirectional=bidirectional,
        proj_size=proj_size,
        seq_len=seq_len,
        batch=batch,
        dtype=dtype.value,
        seed=seed,
    )
    which = Which(step=step, unit=unit, row=row, layer=layer, direction=direction.value) if numbers else None
    network = study(spec, timed=time, which=which)
    if as_json:
        print_json({"network": asdict(network)})
    else:
        screen = console()
        screen.print(render_explain.render(network, lang.value if lang else language_of(), screen.width))
