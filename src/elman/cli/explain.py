"""`elman explain`: any network that one names."""

from __future__ import annotations

import re
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


_NETWORK, _DATA, _ROWS, _NUMBERS = "The network", "Its data", "Rows that are not whole", "One number by hand"


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
    seq_len: Annotated[
        int | None, typer.Option(help="T, steps; by default 5, or the longest of --lengths.", show_default=False, rich_help_panel=_DATA)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="B, samples; by default 3, or one for each of --lengths.", show_default=False, rich_help_panel=_DATA)
    ] = None,
    batch_first: Annotated[bool, typer.Option("--batch-first", help="x and output are (B, T, ...).", rich_help_panel=_DATA)] = False,
    seed: Annotated[int, typer.Option(help="Of weights and data.", rich_help_panel=_DATA)] = 0,
    lengths: Annotated[str | None, typer.Option(help="How many steps each row has, as in 5,3,0.", rich_help_panel=_ROWS)] = None,
    reset: Annotated[
        str | None,
        typer.Option(
            help="Where a fresh sequence begins: 2 is step 2 of all rows; 0:2,1:1 step 2 of row 0 and step 1 of row 1.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    numbers: Annotated[
        bool,
        typer.Option(
            "--numbers",
            help="Work one step of one unit through by hand; with --lengths or --reset: each row's final numbers.",
            rich_help_panel=_NUMBERS,
        ),
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

    With --lengths or --reset instead: which steps of each row are run, and where it ends.

    Example:  [bold]elman explain rnn --input-size 10 --hidden-size 20 --num-layers 2 --bidirectional --numbers[/]

    Example:  [bold]elman explain gru --bidirectional --lengths 5,3,0 --reset 2[/]
    """
    from elman.show import render_explain, render_spans
    from elman.show.by_hand import Which
    from elman.show.network import study
    from elman.show.render_style import console, marks_of
    from elman.show.spans import study_spans
    from elman.show.spec import Spec
    from elman.show.text import language_of

    rows, cuts = None if lengths is None else _lengths(lengths), () if reset is None else _resets(reset)
    if seq_len is None and rows is not None and not any(rows):
        raise ValueError("all lengths are 0, which says nothing of T: add --seq-len")

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
        seq_len=seq_len if seq_len is not None else max(rows) if rows else 5,
        batch=batch if batch is not None else len(rows) if rows else 3,
        dtype=dtype.value,
        seed=seed,
    )
    which = Which(step=step, unit=unit, row=row, layer=layer, direction=direction.value)
    screen, language = console(), lang.value if lang else language_of()
    if lengths is not None or reset is not None:
        if which != Which():
            raise ValueError(
                "--step, --unit, --row, --layer and --direction choose a number of whole rows: leave them, or --lengths and --reset"
            )
        spans = study_spans(spec, rows, cuts)
        if as_json:
            print_json({"spans": asdict(spans)})
        else:
            screen.print(render_spans.render(spans, language, screen.width, marks_of(screen.encoding), numbers))
        return
    network = study(spec, timed=time, which=which if numbers else None)
    if as_json:
        print_json({"network": asdict(network)})
    else:
        screen.print(render_explain.render(network, language, screen.width))


def _lengths(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text, re.ASCII):
        raise ValueError(f"--lengths are whole numbers with commas between, as in 5,3,0, got {text!r}")
    return tuple(map(int, text.split(",")))


def _resets(text: str) -> tuple[tuple[int | None, int], ...]:
    """Row and step of each; None for the row means all rows."""
    if not re.fullmatch(r"(\d+:)?\d+(,(\d+:)?\d+)*", text, re.ASCII):
        raise ValueError(f"--reset is steps, or rows and steps, with commas between, as in 2 or 0:2,1:1, got {text!r}")
    pairs = (each.rpartition(":") for each in text.split(","))
    return tuple((int(row) if row else None, int(step)) for row, _, step in pairs)
