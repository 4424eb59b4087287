"""A network beside torch.nn's with the same weights: how far apart their numbers are, and how fast each is."""

from __future__ import annotations

import gc
import time
import warnings
from copy import deepcopy
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from rich.bar import Bar
from rich.text import Text

from elman.bench.machine import usual_threads
from elman.bench.settings import torch_set
from elman.language import _, translated
from elman.show.specification import apart
from elman.show.style import BAD, DIM, GOOD, Part, duration, section, small, table

if TYPE_CHECKING:
    from torch import nn

    from elman.show.network import Network
    from elman.show.specification import Run, Spec

# Each block lasts this long (seconds); with so many rounds a small network's race takes some 80 ms.
BLOCK_S = 0.001
ROUNDS = 31
ROUNDS_OF_SLOW = 3
SLOW_S = 0.1
# Below so many multiply-adds a step, waking a second thread costs torch.nn more than it brings: both run on one.
ONE_THREAD = 100_000


class Agreement(SimpleNamespace):
    """Whether the same seed gave both the very same parameters, and the largest absolute differences from torch.nn's network, which has
    Elman's weights afterwards: in the outputs, in the final states, and of either output from a run in float64.
    """

    def __init__(self, spec: Spec, run: Run, theirs: nn.Module) -> None:
        weights, x, output = run.network.state_dict(), run["x"], run["output"]
        self.same_seed = all(torch.equal(weights[name], value) for name, value in theirs.state_dict().items())
        theirs.load_state_dict(weights)
        their_output, finals = theirs(x)
        self.output = apart(output, their_output)
        self.state = max(map(apart, map(run.__getitem__, spec.finals), finals if isinstance(finals, tuple) else (finals,)))
        precise = deepcopy(theirs).double()(x.double())[0]
        self.elman_from_float64, self.torch_from_float64 = apart(output, precise), apart(their_output, precise)


class Speed(SimpleNamespace):
    """A call of each, raced in one process in shuffled order: medians and quartiles over the rounds, in seconds, and their ratio."""

    def __init__(self, spec: Spec, run: Run, theirs: nn.Module, per_step: int) -> None:
        from elman.bench.device import by_events
        from elman.bench.race import by_clock, race

        x = run["x"]
        self.threads = 1 if per_step * spec.batch < ONE_THREAD else torch.get_num_threads()
        gc.freeze()  # what lives now is not looked through again: a collection before each round costs nothing
        try:
            with torch_set(threads=self.threads):
                start = time.perf_counter()
                theirs(x)
                self.rounds = ROUNDS_OF_SLOW if time.perf_counter() - start > SLOW_S else ROUNDS
                ways = {"elman": lambda: run.network(x), "torch": lambda: theirs(x)}
                stopwatch = by_events if spec.device == "cuda" else by_clock()
                timings = race(ways, rounds=self.rounds, min_block_s=BLOCK_S, seed=spec.seed, stopwatch=stopwatch)
        finally:
            gc.unfreeze()
        for name, timing in timings.items():
            setattr(self, name, SimpleNamespace(median=timing.median, low=timing.low, high=timing.high))
        self.ratio = self.torch.median / self.elman.median


def compared(spec: Spec, run: Run, timed: bool, per_step: int) -> tuple[Agreement | None, Speed | None]:
    """What a comparison with torch.nn's network of the same seed shows, if it has one, without its warnings: Elman's has warned already."""
    if spec.own_cell is not None or spec.ragged:
        return None, None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(spec.seed)
        theirs: nn.Module = spec.build(getattr(torch.nn, spec.module)).to(spec.device)
        agreement = Agreement(spec, run, theirs)
        return agreement, Speed(spec, run, theirs, per_step) if timed else None


def comparison_section(network: Network, brief: bool = False) -> Part:
    """What runs the network; and torch.nn's beside it, if there is one. ``brief`` leaves out what is alike in similar networks."""
    spec, agreement, speed = network.spec, network.agreement, network.speed
    parts: list[Part] = [Text.assemble(_("backend"), "  ", (translated(network.backend), "bold"))]
    if agreement is None:
        return section(_("What runs it"), *parts)
    if not agreement.same_seed:
        parts.append(("✗ " + _("seed {seed} gives the two DIFFERENT weights", seed=spec.seed), BAD))
    elif not brief:
        parts.append(Text.assemble(("✓ ", GOOD), _("seed {seed} gives both the same weights", seed=spec.seed)))
    output, state, finals = small(agreement.output), small(agreement.state), ", ".join(spec.finals)
    parts.append(_("largest difference: {output} in output, {state} in {states}", output=output, state=state, states=finals))
    if not brief and spec.dtype != "float64":
        elman, torchs = small(agreement.elman_from_float64), small(agreement.torch_from_float64)
        parts.append((_("difference from a float64 run: Elman {elman}, torch.nn {torch}", elman=elman, torch=torchs), DIM))
    if speed is not None:
        parts += [*_race(speed), not brief and (how_timed(spec, speed), DIM)]
    return section(_("Compared with torch.nn, same weights"), *parts)


def _race(speed: Speed) -> list[Part]:
    longest = max(speed.elman.median, speed.torch.median)
    rows = []
    for name, timing, colour in (("elman", speed.elman, GOOD), ("torch.nn", speed.torch, "default")):
        bar, quartiles = Bar(longest, 0, timing.median, color=colour), f"{duration(timing.low)} – {duration(timing.high)}"
        rows.append((name, (duration(timing.median), "bold"), bar, (quartiles, DIM)))
    verdict = (_("{ratio} times as fast as torch.nn", ratio=f"{speed.ratio:.1f}"), f"bold {GOOD}")
    if speed.ratio <= 1:
        verdict = (_("takes {ratio} times as long as torch.nn", ratio=f"{1 / speed.ratio:.1f}"), BAD)
    if 0.95 < speed.ratio < 1.05:
        verdict = (_("as fast as torch.nn"), "")
    return [table(*rows, right=(1,)), verdict]


def how_timed(spec: Spec, speed: Speed) -> str:
    """How the times came about, and why the benchmark prints other ones."""
    if spec.device == "cuda":
        return _("A call without gradients: medians and quartiles of {rounds} rounds, timed by events on the GPU.", rounds=speed.rounds)
    return _(
        "A call without gradients: medians and quartiles of {rounds} rounds, threads: {threads}. elman bench times longer "
        "rounds (threads: {others}).",
        rounds=speed.rounds,
        threads=speed.threads,
        others=usual_threads(),
    )
