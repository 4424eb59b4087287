"""Cells drawn at random: gates, states, parameters, step inputs, draws, and a step of any operations in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from elman import Cell

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

# Each takes any number to a number of moderate size, with a moderate slope.
UNARY: dict[str, Callable[[Any], Any]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "sin": torch.sin,
    "cos": torch.cos,
    "abs": torch.abs,
    "neg": torch.neg,
    "square": lambda v: torch.square(torch.tanh(v)),
    "exp": lambda v: torch.exp(torch.tanh(v)),
    "expm1": lambda v: torch.expm1(torch.tanh(v)),
    "log": lambda v: torch.log(v.abs() + 0.5),
    "log1p": lambda v: torch.log1p(v * v),
    "sqrt": lambda v: torch.sqrt(v * v + 0.3),
    "rsqrt": lambda v: torch.rsqrt(v * v + 0.5),
    "reciprocal": lambda v: torch.reciprocal(v.abs() + 0.7),
    "erf": torch.erf,
    "pow": lambda v: torch.tanh(v) ** 3,
    "negative pow": lambda v: (v.abs() + 0.8) ** -2,
    "root": lambda v: (v.abs() + 0.8) ** 0.7,
    "clamp": lambda v: torch.clamp(v, -0.4, 0.6),
    "softplus": F.softplus,
    "logsigmoid": lambda v: F.logsigmoid(torch.sin(v)),
    "silu": lambda v: F.silu(torch.sin(v)),
    "gelu": lambda v: F.gelu(torch.sin(v)),
    "gelu by tanh": lambda v: F.gelu(torch.sin(v), approximate="tanh"),
    "elu": F.elu,
    "leaky_relu": lambda v: F.leaky_relu(v, 0.2),
    "softsign": F.softsign,
    "hardtanh": F.hardtanh,
    "detach": lambda v: v.detach(),
    "sign": lambda v: torch.sign(v) * v,
    "full": lambda v: torch.full_like(v, 0.3) - v,
    "number": lambda v: 1.7 - v / 3 + v * -0.4,
    "truth": lambda v: v * (v > 0.1),
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": torch.add,
    "sub": lambda a, b: torch.sub(a, b, alpha=0.5),
    "mul": lambda a, b: torch.tanh(a) * b,
    "div": lambda a, b: a / (b * b + 1),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda a, b: torch.where((a > b) & ~(b < -0.3), a, 0.5 * b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "addcmul": lambda a, b: torch.addcmul(a, torch.sin(a), torch.sin(b), value=0.7),
    "blend": lambda a, b: (1 - torch.sigmoid(a)) * b + torch.sigmoid(a) * torch.tanh(b),
}
OVER_UNITS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda v: torch.tanh(v).sum(-1, keepdim=True) * 0.2 + v,
    "mean": lambda v: v - v.mean(-1, keepdim=True),
    "amax": lambda v: v - v.amax(-1, keepdim=True),
    "amin": lambda v: torch.tanh(v.amin(-1, keepdim=True)) * v,
    "softmax": lambda v: torch.softmax(v, -1),
    "layer_norm": lambda v: F.layer_norm(torch.sin(v), v.shape[-1:], eps=0.1),
    "rms_norm": lambda v: F.rms_norm(torch.sin(v), v.shape[-1:], eps=0.1),
}


class Drawn(Cell):
    """A cell whose class is its own: what it declares, and the instructions of its step, are what ``drawn`` has put there."""

    instructions: tuple[tuple[str, int, int], ...]
    ends: tuple[int, ...]

    def step(self, x: Any, r: Any, s: Any, p: Any, d: Any = None) -> Any:
        values = [getattr(s, name) for name in self.states]
        values += [getattr(x, gate) for gate in self.input_gates]
        values += [getattr(p, name) + 0 * s.h for name in self.parameters]
        values += [getattr(x, name) * values[0] for name in self.step_inputs]
        if d is not None:
            values += [getattr(d, name) for name in self.draws]
        unused = list(self.recurrent_gates)
        for name, one, other in self.instructions:
            a, b = values[one % len(values)], values[other % len(values)]
            if name in UNARY:
                values.append(UNARY[name](a))
            elif name in BINARY:
                values.append(BINARY[name](a, b))
            elif name in OVER_UNITS:
                values.append(OVER_UNITS[name](a))
            elif unused and name == "r.g":
                values.append(getattr(r, unused.pop()))
            elif unused and name == "x.g + r.g":
                gate = unused.pop()
                values.append((getattr(x, gate) if gate in self.input_gates else a) + getattr(r, gate))
            elif unused:
                values.append(r(unused.pop(), torch.tanh(a)))
        return tuple(torch.tanh(values[-1 - end % len(values)]) for end in self.ends)


def drawn(rng: random.Random, over_units: bool | None = None) -> Cell:
    """Any cell. ``over_units``: whether its step has operations over the units; by default of one in three it has."""
    gates = tuple("abcde"[: rng.randint(1, 5)])
    inputs = gates if rng.random() < 0.6 else tuple(sorted(rng.sample(gates, rng.randint(0, len(gates)))))
    recurrent = gates if rng.random() < 0.6 else tuple(sorted(rng.sample(gates, rng.randint(0, len(gates)))))
    missing = tuple(gate for gate in gates if gate not in inputs and gate not in recurrent)
    names = [*UNARY, *BINARY, *BINARY, *BINARY]
    if rng.random() < 0.33 if over_units is None else over_units:
        names += [*OVER_UNITS, *OVER_UNITS]
    products = ["r.g", "x.g + r.g", "x.g + r.g", "r(g, v)", "r(g, v)"]
    instructions = [(rng.choice(names), rng.randrange(99), rng.randrange(99)) for _ in range(rng.choice([0, 3, 8, 15, 30]))]
    for _ in recurrent:
        if rng.random() < 0.9:
            instructions.insert(rng.randint(0, len(instructions)), (rng.choice(products), rng.randrange(99), rng.randrange(99)))
    states = ("h", "c", "m")[: rng.choice([1, 1, 2, 3])]
    declared = {
        "gates": gates,
        "states": states,
        "input_gates": inputs + missing,
        "recurrent_gates": recurrent,
        "parameters": {name: rng.choice(["H", ""]) for name in ("u", "v", "w")[: rng.choice([0, 0, 1, 3])]},
        "step_inputs": {name: rng.choice(["H", ""]) for name in ("dt", "mask")[: rng.choice([0, 0, 1, 2])]},
        "draws": {name: rng.choice(["step", "sequence"]) for name in ("noise", "drop")[: rng.choice([0, 0, 1, 2])]},
        "instructions": tuple(instructions),
        "ends": tuple(rng.choice([0, 0, 1, 2, rng.randrange(99)]) for _ in states),
    }
    made: Cell = type("Drawn", (Drawn,), declared)()
    return made
