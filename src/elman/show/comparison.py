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
from elman.show.style import BAD, DIM, GOOD, Fitted, grid, lines, section

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import nn

    from elman.bench.race import Timing
    from elman.show.network import Network
    from elman.show.specification import Run, Spec

# Each block lasts this long (seconds); with so many rounds a small network's race takes some 80 ms.
BLOCK_S = 0.001
ROUNDS = 31
ROUNDS_OF_SLOW = 3
SLOW_S = 0.1


class Agreement(Facts):
    """Largest absolute differences.

    Attributes:
        same_seed: the same seed gave both the very same parameters.
        output, state: between the two outputs, and between the final states.
        elman_from_float64, torch_from_float64: of each output from that of a float64 run (by torch.nn); None in a float64 network.
    """

    def __init__(self, spec: Spec, run: Run, twin: Twin) -> None:
        x, output = run["x"], run["output"]
        twin_output, finals = twin.network(x)
        precise = None if spec.dtype == "float64" else deepcopy(twin.network).double()(x.double())[0]
        self.same_seed = twin.same_seed
        self.output = apart(output, twin_output)
        self.state = max(map(apart, (run[name] for name in spec.finals), finals if isinstance(finals, tuple) else (finals,)))
        self.elman_from_float64 = None if precise is None else apart(output, precise)
        self.torch_from_float64 = None if precise is None else apart(twin_output, precise)


class Quartiles(Facts):
    """Seconds per call over the rounds."""

    def __init__(self, timing: Timing) -> None:
        self.median, self.low, self.high = timing.median, timing.low, timing.high


class Speed(Facts):
    """A call of each without gradients, raced in one process in shuffled order. ``ratio`` is torch's median over Elman's."""

    def __init__(self, spec: Spec, run: Run, twin: Twin) -> None:
        from elman.bench.race import by_clock, race

        if spec.device == "cuda":
            from elman.bench.device import by_events as stopwatch
        else:
            stopwatch = by_clock()

        x = run["x"]
        gc.freeze()  # what lives now is not looked through again: a collection before each round costs nothing
        try:
            start = time.perf_counter()
            twin.network(x)
            self.rounds = ROUNDS_OF_SLOW if time.perf_counter() - start > SLOW_S else ROUNDS
            ways = {"elman": lambda: run.network(x), "torch": lambda: twin.network(x)}
            timings = race(ways, rounds=self.rounds, min_block_s=BLOCK_S, seed=spec.seed, stopwatch=stopwatch)
        finally:
            gc.unfreeze()
        self.elman, self.torch = Quartiles(timings["elman"]), Quartiles(timings["torch"])
        self.ratio = self.torch.median / self.elman.median
        self.threads = torch.get_num_threads()


class Twin:
    """torch.nn's network with the weights of Elman's, and whether the seed alone gave it these."""

    def __init__(self, spec: Spec, run: Run) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            self.network: nn.Module = spec.build(getattr(torch.nn, spec.module)).to(spec.device)
        values = run.network.state_dict()
        self.same_seed = all(torch.equal(values[name], value) for name, value in self.network.state_dict().items())
        self.network.load_state_dict(values)


def comparison_section(network: Network, brief: bool = False) -> RenderableType:
    """``brief`` leaves out what is alike in similar networks."""
    spec, agreement, speed = network.spec, network.agreement, network.speed
    seed = Text.assemble(("✓ ", GOOD), _("seed {seed} gives both the same weights", seed=spec.seed))
    if not agreement.same_seed:
        seed = Text("✗ " + _("seed {seed} gives the two DIFFERENT weights", seed=spec.seed), BAD)
    difference = _(
        "largest difference: {output} in output, {state} in {states}",
        output=small(agreement.output),
        state=small(agreement.state),
        states=", ".join(spec.finals),
    )
    rounding, race = None, None
    if not brief and agreement.elman_from_float64 is not None and agreement.torch_from_float64 is not None:
        elman, torchs = small(agreement.elman_from_float64), small(agreement.torch_from_float64)
        rounding = Text(_("difference from a float64 run: Elman {elman}, torch.nn {torch}", elman=elman, torch=torchs), DIM)
    if speed is not None:
        bars = Fitted(lambda options: _bars(speed, max(10, options.max_width - 48)))
        race = lines(bars, _verdict(speed.ratio), not brief and (how_timed(spec, speed), DIM))
    backend = Text.assemble(_("backend"), "  ", (translated(network.backend), "bold"))
    same = not (brief and agreement.same_seed) and seed
    return section(_("Compared with torch.nn, same weights"), backend, same, difference, rounding, race)


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


def _bars(speed: Speed, width: int) -> RenderableType:
    longest = width / max(speed.elman.median, speed.torch.median)
    rows = []
    for name, each, style in (("elman", speed.elman, GOOD), ("torch.nn", speed.torch, DIM)):
        bar, spread = ("█" * max(1, round(each.median * longest)), style), (f"{duration(each.low)} – {duration(each.high)}", DIM)
        rows.append((name, Text(duration(each.median), "bold", justify="right"), bar, spread))
    return grid(*rows)
