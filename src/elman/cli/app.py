"""The commands: each is a module of this package and one line here.

What a command needs is imported when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from elman.cli import bench, config, explain, tour, train
from elman.cli.frame import Command, Group, Lang

app = typer.Typer(
    name="elman",
    cls=Group,
    help="Recurrent networks with the interface of torch.nn, fast C++ kernels, and every state and gate open to inspection.",
    epilog="Example:  elman tour",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    add_completion=False,
)

app.command(cls=Command)(tour.tour)
app.command(cls=Command)(explain.explain)
app.command(cls=Command)(config.config)
app.command(cls=Command)(bench.bench)
app.add_typer(train.app, name="train")


def _version(asked: bool) -> None:
    if asked:
        from elman._version import __version__

        print(f"elman {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)] = False,
    lang: Lang = None,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
