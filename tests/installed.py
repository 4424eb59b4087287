"""Tries an installed Elman with nothing but what its wheel brings: `.ci/wheels` and cibuildwheel run it, away from the checkout.

Which backend must run its networks is the argument, "native" or "reference". Each instruction set is forced in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

import elman
from elman.backends import kernels


def check_networks() -> None:
    """In float64, the notebook's three networks of each kind give torch.nn's results and gradients, and a step at a time the same."""
    for kind in ("RNN", "GRU", "LSTM"):
        for options in ({}, {"bidirectional": True}, {"num_layers": 2}):
            torch.manual_seed(0)
            ours, theirs = (getattr(package, kind)(10, 20, dtype=torch.float64, **options) for package in (elman, torch.nn))
            theirs.load_state_dict(ours.state_dict())
            x = torch.randn(5, 3, 10, dtype=torch.float64)
            got, expected = ({"output": net(x)[0]} | gradients(net, x) for net in (ours, theirs))
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
            if not ours.bidirectional:
                stream = elman.stream(ours, batch_size=3)
                torch.testing.assert_close(torch.stack([stream.step(step) for step in x]), got["output"].detach(), rtol=0, atol=1e-12)


def gradients(network: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(network(x)[0].square().sum(), list(network.parameters()))
    return {name: gradient for (name, _), gradient in zip(network.named_parameters(), found, strict=True)}


def run(*command: str, **environment: str) -> str:
    """What a command prints; it must succeed, with nothing on stderr."""
    done = subprocess.run(command, env=os.environ | environment, check=False, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def main(backend: str) -> None:
    root = Path(__file__).resolve().parents[1]
    assert not Path(elman.__file__).is_relative_to(root / "src"), f"this is the checkout's own package: {elman.__file__}"
    why = elman.why(elman.RNN(10, 20), torch.randn(5, 3, 10))
    assert why.startswith(backend), why
    check_networks()
    if "ELMAN_ISA" in os.environ:
        print(kernels.isa())
        return
    for isa in kernels.isas() if kernels.available() else ():
        assert run(sys.executable, __file__, backend, ELMAN_ISA=isa) == f"{isa}\n"
    assert backend in run(str(Path(sys.executable).with_name("elman")), "tour")
    elman.show_config()


if __name__ == "__main__":
    main(*sys.argv[1:])
