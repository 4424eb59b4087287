"""`elman explain`: any network you name."""

from __future__ import annotations

import re
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


_NETWORK, _DATA, _RAGGED, _NUMBERS = "Network", "Data", "Lengths and resets", "One number by hand"


def explain(
    kind: Annotated[
        str | None, typer.Argument(metavar="[rnn|gru|lstm]", help="Kind of network: rnn, gru or lstm.", show_default=False)
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option(
            help="A cell instead of a kind: zoo.MGU, or your own, path/to/file.py:MyCell. The file is imported.",
            show_default=False,
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    input_size: Annotated[int, typer.Option(help="I, features per step.", rich_help_panel=_NETWORK)] = 10,
    hidden_size: Annotated[int, typer.Option(help="H, hidden units.", rich_help_panel=_NETWORK)] = 20,
    num_layers: Annotated[int, typer.Option(help="L, layers.", rich_help_panel=_NETWORK)] = 1,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="Read each sequence in both directions.", rich_help_panel=_NETWORK)
    ] = False,
    nonlinearity: Annotated[
        Nonlinearity, typer.Option(help="RNN only: the activation function.", rich_help_panel=_NETWORK)
    ] = Nonlinearity.tanh,
    proj_size: Annotated[
        int, typer.Option(help="LSTM only: P, the size that h is projected to; 0 for no projection.", rich_help_panel=_NETWORK)
    ] = 0,
    no_bias: Annotated[bool, typer.Option("--no-bias", help="Leave out the biases.", rich_help_panel=_NETWORK)] = False,
    dropout: Annotated[float, typer.Option(help="Dropout probability between layers, in training only.", rich_help_panel=_NETWORK)] = 0.0,
    dtype: Annotated[Dtype, typer.Option(help="Dtype of weights and data.", rich_help_panel=_NETWORK)] = Dtype.float32,
    seq_len: Annotated[
        int | None, typer.Option(help="T, steps; by default 5, or the longest of --lengths.", show_default=False, rich_help_panel=_DATA)
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="B, sequences in the batch; by default 3, or as many as --lengths.", show_default=False, rich_help_panel=_DATA),
    ] = None,
    batch_first: Annotated[bool, typer.Option("--batch-first", help="Make x and output (B, T, ...).", rich_help_panel=_DATA)] = False,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the data.", rich_help_panel=_DATA)] = 0,
    lengths: Annotated[str | None, typer.Option(help="Steps of each sequence: 5,3,0.", rich_help_panel=_RAGGED)] = None,
    reset: Annotated[
        str | None,
        typer.Option(
            help="Where sequences start afresh: 2 is step 2 of all; 0:2,1:1 is step 2 of sequence 0 and step 1 of sequence 1.",
            rich_help_panel=_RAGGED,
        ),
    ] = None,
    numbers: Annotated[
        bool,
        typer.Option(
            "--numbers",
            help="Work out one step of one unit by hand; with --lengths or --reset: print the final states.",
            rich_help_panel=_NUMBERS,
        ),
    ] = False,
    step: Annotated[
        int | None,
        typer.Option(help="Which step; by default the second that the direction takes.", show_default=False, rich_help_panel=_NUMBERS),
    ] = None,
    unit: Annotated[int, typer.Option(help="Which hidden unit.", rich_help_panel=_NUMBERS)] = 0,
    sequence: Annotated[int, typer.Option(help="Which sequence of the batch.", rich_help_panel=_NUMBERS)] = 0,
    layer: Annotated[int, typer.Option(help="Which layer.", rich_help_panel=_NUMBERS)] = 0,
    direction: Annotated[Direction, typer.Option(help="Which direction.", rich_help_panel=_NUMBERS)] = Direction.forward,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Compare the speed with torch.nn.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    lang: Lang = None,
) -> None:
    """Inspect a network of any size: tensors, parameters, cost, backend, and one number worked out by hand.

    With --lengths or --reset it shows which steps of each sequence are run, and where it ends.

    Example:  [bold]elman explain rnn --num-layers 2 --bidirectional --numbers[/]

    Example:  [bold]elman explain gru --bidirectional --lengths 5,3,0 --reset 2[/]

    Example:  [bold]elman explain --cell zoo.MGU --hidden-size 64[/]
    """
    from elman.show.network import Network
    from elman.show.pages import explain_page
    from elman.show.specification import Spec
    from elman.show.style import console

    if kind is not None and (kind.startswith("zoo.") or ":" in kind):
        raise ValueError(f"unknown kind {kind!r}; did you mean --cell {kind}?")
    if (kind is None) == (cell is None):
        got = "neither" if kind is None else "both"
        raise ValueError(f"expected a kind of network or --cell, got {got}; for a built-in network write elman explain rnn")
    kind = kind or cell or ""
    sizes = None if lengths is None else _lengths(lengths)
    if seq_len is None and sizes is not None and not any(sizes):
        raise ValueError("all --lengths are 0; give the number of steps with --seq-len")

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
        seq_len=seq_len if seq_len is not None else max(sizes) if sizes else 5,
        batch=batch if batch is not None else len(sizes) if sizes else 3,
        dtype=dtype.value,
        seed=seed,
        lengths=sizes,
        reset=() if reset is None else _resets(reset),
    )
    which = {"step": step, "unit": unit, "sequence": sequence, "layer": layer, "direction": direction.value}
    is_chosen = [*which.values()] != [None, 0, 0, 0, "forward"]
    if is_chosen and spec.ragged:
        raise ValueError("--step, --unit, --sequence, --layer and --direction cannot be combined with --lengths or --reset")
    if is_chosen and not numbers:
        raise ValueError("--step, --unit, --sequence, --layer and --direction choose what --numbers works out; add --numbers")
    network = Network(spec, timed=time, which=which if numbers and not spec.ragged else None)
    if as_json:
        print_json({"network": network})
    else:
        console().print(explain_page(network, numbers))


def _lengths(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text, re.ASCII):
        raise ValueError(f"--lengths: expected whole numbers like 5,3,0, got {text!r}")
    return tuple(map(int, text.split(",")))


def _resets(text: str) -> tuple[tuple[int | None, int], ...]:
    """Sequence and step of each; None stands for all sequences."""
    if not re.fullmatch(r"(\d+:)?\d+(,(\d+:)?\d+)*", text, re.ASCII):
        raise ValueError(f"--reset: expected steps like 2, or sequences and steps like 0:2,1:1, got {text!r}")
    pairs = (each.rpartition(":") for each in text.split(","))
    return tuple((int(sequence) if sequence else None, int(step)) for sequence, _, step in pairs)
