"""A network beside torch.nn's with the same weights: how far apart their numbers are, and how fast each is."""

from __future__ import annotations

import gc
import time
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from rich.text import Text

from elman.language import _, translated
from elman.show.facts import Facts
from elman.show.numbers import duration, small
from elman.show.specification import apart
from elman.show.style import BAD, DIM, GOOD, Fitted, Part, grid, lines, section

if TYPE_CHECKING:
    from torch import nn

    from elman.show.network import Network
    from elman.show.specification import Run, Spec

# Each block lasts this long (seconds); with so many rounds a small network's race takes some 80 ms.
BLOCK_S = 0.001
ROUNDS = 31
ROUNDS_OF_SLOW = 3
SLOW_S = 0.1


def torch_network(spec: Spec) -> nn.Module:
    """torch.nn's network, as the seed makes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network: nn.Module = spec.build(getattr(torch.nn, spec.module))
    return network.to(spec.device)


class Agreement(Facts):
    """Largest absolute differences from torch.nn's network, which has Elman's weights afterwards.

    Attributes:
        same_seed: the same seed gave both the very same parameters.
        output, state: between the two outputs, and between the final states.
        elman_from_float64, torch_from_float64: of each output from that of a float64 run (by torch.nn); None in a float64 network.
    """

    def __init__(self, spec: Spec, run: Run, theirs: nn.Module) -> None:
        weights = run.network.state_dict()
        self.same_seed = all(torch.equal(weights[name], value) for name, value in theirs.state_dict().items())
        theirs.load_state_dict(weights)
        x, output = run["x"], run["output"]
        their_output, finals = theirs(x)
        self.output = apart(output, their_output)
        self.state = max(map(apart, map(run.__getitem__, spec.finals), finals if isinstance(finals, tuple) else (finals,)))
        precise = None if spec.dtype == "float64" else deepcopy(theirs).double()(x.double())[0]
        self.elman_from_float64 = None if precise is None else apart(output, precise)
        self.torch_from_float64 = None if precise is None else apart(their_output, precise)


class Speed(Facts):
    """A call of each without gradients, raced in one process in shuffled order: medians and quartiles over the rounds, in seconds.

    ``ratio`` is torch's median over Elman's.
    """

    def __init__(self, spec: Spec, run: Run, theirs: nn.Module) -> None:
        from elman.bench.device import by_events
        from elman.bench.race import by_clock, race

        x = run["x"]
        gc.freeze()  # what lives now is not looked through again: a collection before each round costs nothing
        try:
            start = time.perf_counter()
            theirs(x)
            self.rounds = ROUNDS_OF_SLOW if time.perf_counter() - start > SLOW_S else ROUNDS
            ways = {"elman": lambda: run.network(x), "torch": lambda: theirs(x)}
            stopwatch = by_events if spec.device == "cuda" else by_clock()
            timings = race(ways, rounds=self.rounds, min_block_s=BLOCK_S, seed=spec.seed, stopwatch=stopwatch)
        finally:
            gc.unfreeze()
        for name, timing in timings.items():
            setattr(self, name, Facts(median=timing.median, low=timing.low, high=timing.high))
        self.ratio = self.torch.median / self.elman.median
        self.threads = torch.get_num_threads()


def comparison_section(network: Network, brief: bool = False) -> Part:
    """``brief`` leaves out what is alike in similar networks."""
    spec, agreement, speed = network.spec, network.agreement, network.speed
    seed = Text.assemble(("✓ ", GOOD), _("seed {seed} gives both the same weights", seed=spec.seed))
    if not agreement.same_seed:
        seed = Text("✗ " + _("seed {seed} gives the two DIFFERENT weights", seed=spec.seed), BAD)
    output, state = small(agreement.output), small(agreement.state)
    rounding, race = None, None
    if not brief and agreement.elman_from_float64 is not None and agreement.torch_from_float64 is not None:
        elman, torchs = small(agreement.elman_from_float64), small(agreement.torch_from_float64)
        rounding = Text(_("difference from a float64 run: Elman {elman}, torch.nn {torch}", elman=elman, torch=torchs), DIM)
    if speed is not None:
        race = lines(Fitted(lambda width: _bars(speed, width)), _verdict(speed.ratio), not brief and (how_timed(spec, speed), DIM))
    return section(
        _("Compared with torch.nn, same weights"),
        Text.assemble(_("backend"), "  ", (translated(network.backend), "bold")),
        not (brief and agreement.same_seed) and seed,
        _("largest difference: {output} in output, {state} in {states}", output=output, state=state, states=", ".join(spec.finals)),
        rounding,
        race,
    )


def how_timed(spec: Spec, speed: Speed) -> str:
    if spec.device == "cuda":
        return _("A call without gradients: medians and quartiles of {rounds} rounds, timed by events on the GPU.", rounds=speed.rounds)
    rounds, threads = speed.rounds, speed.threads
    return _("A call without gradients: medians and quartiles of {rounds} rounds, threads: {threads}.", rounds=rounds, threads=threads)


def _verdict(ratio: float) -> Text:
    if 0.95 < ratio < 1.05:
        return Text(_("as fast as torch.nn"))
    if ratio > 1:
        return Text(_("{ratio} times as fast as torch.nn", ratio=f"{ratio:.1f}"), f"bold {GOOD}")
    return Text(_("takes {ratio} times as long as torch.nn", ratio=f"{1 / ratio:.1f}"), BAD)


def _bars(speed: Speed, width: int) -> Part:
    longest = max(10, width - 48) / max(speed.elman.median, speed.torch.median)
    rows = []
    for name, each, style in (("elman", speed.elman, GOOD), ("torch.nn", speed.torch, DIM)):
        bar, spread = ("█" * max(1, round(each.median * longest)), style), (f"{duration(each.low)} – {duration(each.high)}", DIM)
        rows.append((name, Text(duration(each.median), "bold", justify="right"), bar, spread))
    return grid(*rows)
