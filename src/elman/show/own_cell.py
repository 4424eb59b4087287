"""A network of a cell of one's own: what the cell declares, its step, parameters and shapes, and what runs it."""

from __future__ import annotations

import inspect
import textwrap
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

import elman
from elman.language import _, translated
from elman.show.facts import Facts
from elman.show.numbers import count
from elman.show.style import DIM, Part, grid, heading, indented, lines, python, section

if TYPE_CHECKING:
    from elman.cells import Cell


class OwnNetwork(Facts):
    """What is known of a network of a cell.

    Attributes:
        cell: the cell as it shows itself.
        about: the first line of its docstring.
        source: its step, as it is written; empty if nobody can tell.
        declared: its gates, states, parameters, step inputs and random numbers.
        code: the lines that make this network and run it.
        tensors, parameters: by name, their shapes.
        backend: what runs it, as ``elman.why`` says it.
    """

    def __init__(
        self, cell: Cell, input_size: int, hidden_size: int, *, seq_len: int = 5, batch: int = 3, seed: int = 0, **options: Any
    ) -> None:
        """Make the network, ``options`` being those of ``elman.Recurrent``, and run it.

        Raises:
            ValueError: the network or its data cannot be made.
        """
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed)
                net = elman.Recurrent(cell, input_size, hidden_size, **options).eval()
                shape, dtype = (batch, seq_len) if net.batch_first else (seq_len, batch), options.get("dtype")
                x = torch.randn(*shape, input_size, dtype=dtype)
                widths = {name: [hidden_size] * len(size) for name, size in cell.step_inputs.items()}
                beside = {name: torch.rand(*shape, *width, dtype=dtype) for name, width in widths.items()}
                output, final = net(x, **beside)
        except (TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(str(error)) from error
        finals = dict(zip([f"{state}_n" for state in cell.states], final if isinstance(final, tuple) else (final,), strict=True))
        self.cell = repr(cell)
        self.about = (inspect.getdoc(cell) or "").splitlines()[:1]
        self.source = ""
        with suppress(OSError, TypeError):
            self.source = textwrap.dedent(inspect.getsource(type(cell).step)).rstrip()
        self.declared = {name: tuple(getattr(cell, name)) for name in ("gates", "states", "parameters", "step_inputs", "draws")}
        given, names = "".join(f", {name}={name}" for name in beside), ", ".join(finals)
        self.code = (f"net = elman.{net!r}", f"output, {names if len(finals) == 1 else f'({names})'} = net(x{given})")
        self.tensors = {name: tuple(value.shape) for name, value in {"x": x, **beside, "output": output, **finals}.items()}
        self.parameters = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
        self.count = sum(parameter.numel() for parameter in net.parameters())
        self.backend = elman.why(net, x, **beside)


def own_networks(cell: Cell, seed: int) -> tuple[OwnNetwork, ...]:
    """The tour's three networks, of a cell."""
    options: tuple[dict[str, Any], ...] = ({}, {"bidirectional": True}, {"num_layers": 2})
    return tuple([OwnNetwork(cell, 10, 20, seed=seed, **each) for each in options])


def own_cell_page(network: OwnNetwork) -> Part:
    """What ``elman explain --cell`` prints."""
    words = (_("gates"), _("states"), _("parameters of its own"), _("step inputs"), _("random numbers"))
    declared = [(word, ", ".join(names)) for word, names in zip(words, network.declared.values(), strict=True) if names]
    tensors, parameters = ([(name, str(shape)) for name, shape in shapes.items()] for shapes in (network.tensors, network.parameters))
    return lines(
        heading(network.cell),
        *[(line, DIM) for line in network.about],
        network.source != "" and indented(python(network.source.splitlines())),
        section(_("The cell"), grid(*declared)),
        section(_("Shapes"), indented(python(network.code)), grid(*tensors)),
        section(_("Parameters, {count} numbers", count=count(network.count)), grid(*parameters)),
        section(_("What runs it"), translated(network.backend)),
    )
