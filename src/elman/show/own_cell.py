"""A network of a cell of one's own: what the cell declares, its step, parameters and shapes, and what runs it."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, Any

import torch

import elman
from elman.language import _, translated
from elman.show.facts import Facts
from elman.show.style import DIM, Part, grid, heading, indented, lines, python, section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.cells import Cell


class OwnNetwork(Facts):
    """What is known of a network of a cell.

    Attributes:
        cell: the cell as it shows itself.
        about: the first line of its docstring.
        source: its step, as it is written.
        declared: its gates, states, parameters, step inputs and random numbers.
        code: the lines that make this network and run it.
        tensors, parameters: by name, their shapes.
        backend: what runs it, as ``elman.why`` says it.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        *,
        seq_len: int = 5,
        batch: int = 3,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> None:
        """Make the network, ``options`` being those of ``elman.Recurrent``, and run it.

        Raises:
            ValueError: the network or its data cannot be made.
        """
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                net = elman.Recurrent(cell, input_size, hidden_size, dtype=dtype, **options).eval()
                shape = (batch, seq_len) if net.batch_first else (seq_len, batch)
                x = torch.randn(*shape, input_size, dtype=dtype)
                sizes = {name: [hidden_size] * len(size) for name, size in cell.step_inputs.items()}
                beside = {name: torch.rand(*shape, *size, dtype=dtype) for name, size in sizes.items()}
                with torch.no_grad():
                    output, final = net(x, **beside)
        except (TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(str(error)) from error
        finals = final if isinstance(final, tuple) else (final,)
        self.cell = repr(cell)
        self.about = (inspect.getdoc(cell) or "").splitlines()[:1]
        self.source = _source(cell)
        self.declared = {
            "gates": cell.gates,
            "states": cell.states,
            "parameters": tuple(cell.parameters),
            "step_inputs": tuple(cell.step_inputs),
            "draws": tuple(cell.draws),
        }
        given = "".join(f", {name}={name}" for name in beside)
        names = ", ".join(f"{state}_n" for state in cell.states)
        self.code = (
            f"net = elman.{net!r}",
            f"output, {names if len(finals) == 1 else f'({names})'} = net(x{given})",
        )
        self.tensors = {
            "x": tuple(x.shape),
            **{name: tuple(value.shape) for name, value in beside.items()},
            "output": tuple(output.shape),
            **{f"{state}_n": tuple(value.shape) for state, value in zip(cell.states, finals, strict=True)},
        }
        self.parameters = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
        self.count = sum(parameter.numel() for parameter in net.parameters())
        self.backend = elman.why(net, x, **beside)


def own_networks(cell: Cell, seed: int) -> tuple[OwnNetwork, ...]:
    """The tour's three networks, of a cell."""
    options: tuple[dict[str, Any], ...] = ({}, {"bidirectional": True}, {"num_layers": 2})
    return tuple([OwnNetwork(cell, 10, 20, seed=seed, **each) for each in options])


def _source(cell: Cell) -> str:
    """The step as it is written; empty if nobody can tell."""
    try:
        return textwrap.dedent(inspect.getsource(type(cell).step)).rstrip()
    except (OSError, TypeError):
        return ""


def own_cell_page(network: OwnNetwork) -> Part:
    """What ``elman explain --cell`` prints."""
    words = {
        "gates": _("gates"),
        "states": _("states"),
        "parameters": _("parameters of its own"),
        "step_inputs": _("step inputs"),
        "draws": _("random numbers"),
    }
    declared: list[Sequence[Part]] = [(words[name], ", ".join(names)) for name, names in network.declared.items() if names]
    parameters: list[Sequence[Part]] = [(name, str(shape)) for name, shape in network.parameters.items()]
    return lines(
        heading(network.cell),
        *[(line, DIM) for line in network.about],
        indented(python(tuple(network.source.splitlines()))) if network.source else None,
        section(_("The cell"), grid(*declared)),
        section(_("Shapes"), indented(python(network.code)), grid(*[(name, str(shape)) for name, shape in network.tensors.items()])),
        section(_("Parameters, {count} numbers", count=f"{network.count:,}".replace(",", " ")), grid(*parameters)),
        section(_("What runs it"), translated(network.backend)),
    )
