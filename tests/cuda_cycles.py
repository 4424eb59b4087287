"""What a step of a kernel takes on a GPU, estimated where there is none: its machine code is run in time, though not in numbers.

    python tests/cuda_cycles.py                               the built-in cells, forward and backward
    python tests/cuda_cycles.py lstm backward 256 bfloat16    one of them, instruction by instruction

The warps of one block take turns as on an H100. The assembler has written into each instruction how long its warp waits before the
next, and whose results it needs first. What it does not know are latencies: those below were measured by others (Luo et al., 2024,
"Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking") or are estimates. Of two ways that the code can go
it goes the longer one, but through no loop within a step.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from elman.backends.cuda import compiler
from elman.backends.cuda.choice import choose
from elman.backends.cuda.launcher import DeviceProperties
from elman.backends.cuda.plan import Number, Plan
from elman.backends.cuda.shape import CELLS

DEVICE = DeviceProperties("H200", (9, 0), 132, 232448, 65536, 50 << 20)
GIGAHERTZ = 1.98
# Cycles until the result is there, of instructions that the assembler waits for by a scoreboard.
LATENCIES = {"LDS": 29, "LDC": 36, "S2UR": 30, "S2R": 30, "MUFU": 23, "SHFL": 26, "HMMA": 33, "LDG": 500, "LDL": 35, "BAR": 18}
EXCHANGE = 550  # from the last word that a block sends to a cluster until it is there
OTHER, READ = 20, 12  # until any other result is there; until the operands of an instruction have been read
BRANCH = 10  # after a branch that is taken
# Cycles for which an instruction occupies its unit, of which each quarter of a multiprocessor has its own.
UNITS = {"MUFU": ("functions", 8), "HMMA": ("tensor cores", 8), "IMAD": ("multiply", 2)}
UNITS |= dict.fromkeys(("FADD", "FMUL", "FFMA", "HADD2", "HFMA2"), ("float", 1))
UNITS |= dict.fromkeys(("LDS", "STS", "LDGSTS", "STG", "LDG", "SHFL", "LDC", "S2UR", "S2R", "SYNCS", "STAS", "LDL", "STL"), ("memory", 2))


@dataclass
class Instruction:
    """One of a kernel's: its text, and what the assembler has encoded in bits 105 to 121."""

    address: int
    text: str
    control: int

    @cached_property
    def predicate(self) -> str | None:
        return match[1] if (match := re.match(r"@(!?U?P\w+) ", self.text)) else None

    @cached_property
    def name(self) -> str:
        return self.text.split()[self.predicate is not None]

    @cached_property
    def kind(self) -> str:
        return self.name.split(".")[0]

    @cached_property
    def target(self) -> str | None:
        is_branch = self.kind == "BRA" and "DIV" not in self.name
        return match[1] if is_branch and (match := re.search(r"`\(\.(\w+)\)", self.text)) else None

    @property
    def stall(self) -> int:
        return max(1, self.control & 15)

    @property
    def written(self) -> int:
        """The scoreboard that waits for the result; 7: none."""
        return self.control >> 5 & 7

    @property
    def read(self) -> int:
        """The scoreboard that waits until the operands are read; 7: none."""
        return self.control >> 8 & 7

    @property
    def waits(self) -> int:
        """A bit for each of six scoreboards."""
        return self.control >> 11 & 63


def disassembler() -> Path | None:
    """Where nvdisasm is, of the package nvidia-cuda-nvdisasm."""
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or () for path in Path(folder).rglob("nvdisasm") if path.is_file()), None)


class Program:
    """The instructions of a kernel, and which way they go."""

    def __init__(self, cubin: bytes) -> None:
        command = disassembler()
        assert command is not None, "pip install nvidia-cuda-nvdisasm"
        with TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.cubin"
            path.write_bytes(cubin)
            text = subprocess.run([command, "-c", "-hex", path], check=True, capture_output=True, text=True).stdout
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        lines = iter(text.splitlines())
        for line in lines:
            if label := re.match(r"\.(L_x_\d+):", line):
                self.labels[label[1]] = len(self.instructions)
            if match := re.match(r"\s+/\*([0-9a-f]+)\*/\s+(.*?)\s*;", line):
                upper = re.search(r"0x([0-9a-f]+)", next(lines))
                assert upper is not None
                self.instructions.append(Instruction(int(match[1], 16), " ".join(match[2].split()), int(upper[1], 16) >> 41))
        products = (place for place, each in enumerate(self.instructions) if each.kind == "HMMA")
        self.first, self.lengths = next((place, lengths) for place in products if (lengths := self._lengths(place))[place])

    def after(self, place: int) -> int:
        """What comes after an instruction: of two ways the longer one, but not to ask again whether all bytes are there."""
        ways = [way for way in self._ways(place) if way == self.first or 0 < self.lengths.get(way, 0) < self.lengths[place]]
        answer = (self.instructions[place].predicate or "").lstrip("!")  # of an instruction that asks: its first operand
        asks = any("PHASECHK" in each.name and f" {answer}," in each.text for each in self.instructions[max(0, place - 12) : place])
        return (min if asks else max)(ways, key=lambda way: self.lengths[way] if way != self.first else 0)

    def _ways(self, place: int) -> list[int]:
        instruction = self.instructions[place]
        if instruction.kind == "EXIT" and not instruction.predicate:
            return []
        ways = [self.labels[instruction.target]] if instruction.target else []
        return ways + [place + 1] * ((not instruction.target or instruction.predicate is not None) and place + 1 < len(self.instructions))

    def _lengths(self, first: int) -> dict[int, int]:
        """Of each place after `first`, from which a step is counted, how many instructions the longest way back has; 0: there is none."""
        lengths: dict[int, int] = {}
        open_places, stack = {first}, [(first, iter(self._ways(first)))]
        while stack:
            place, ways = stack[-1]
            way = next(ways, None)
            if way is None:
                stack.pop()
                open_places.discard(place)
                known = [(way, 1 if way == first else lengths.get(way, 0) + 1) for way in self._ways(place)]
                lengths[place] = max((length for way, length in known if way == first or length > 1), default=0)
            elif way not in lengths and way not in open_places:
                open_places.add(way)
                stack.append((way, iter(self._ways(way))))
        return lengths


@dataclass
class Warp:
    """Where a warp is and what it waits for, in cycles."""

    place: int
    ready: int = 0
    scoreboards: list[int] = field(default_factory=lambda: [0] * 8)
    steps: list[int] = field(default_factory=list)
    meets: bool = False
    issued: int = 0


def cycles(program: Program, warps: int, steps: int = 9) -> tuple[float, list[tuple[int, Instruction]]]:
    """Cycles of a step, and when the first warp issues the instructions of one, or of several that are unrolled."""
    block = [Warp(program.first) for _ in range(warps)]
    busy: dict[tuple[str, int], int] = {}
    sent: dict[int, int] = {}
    listing: list[tuple[int, Instruction]] = []
    cycle = 0
    while len(block[0].steps) <= steps:
        for quarter in range(4):
            able = [warp for warp in block[quarter::4] if not warp.meets and warp.ready <= cycle]
            for warp in sorted(able, key=lambda warp: warp.issued):
                instruction = program.instructions[warp.place]
                unit, occupied = UNITS.get(instruction.kind, ("other", 2))
                waits = any(instruction.waits >> k & 1 and warp.scoreboards[k] > cycle for k in range(6))
                if waits or busy.get((unit, quarter), 0) > cycle:
                    continue
                busy[unit, quarter] = cycle + occupied
                if warp.place == program.first:
                    warp.steps.append(cycle)
                if warp is block[0] and len(warp.steps) == steps:
                    listing.append((cycle - warp.steps[-1], instruction))
                step, latency = len(warp.steps), LATENCIES.get(instruction.kind, OTHER)
                if instruction.kind == "STAS":
                    sent[step] = cycle
                if "PHASECHK" in instruction.name and step in sent:
                    latency = max(latency, sent[step] + EXCHANGE - cycle)
                for board, until in ((instruction.written, latency), (instruction.read, READ)):
                    warp.scoreboards[board] = max(warp.scoreboards[board], cycle + until)
                warp.ready, warp.issued = cycle + instruction.stall, cycle
                here, warp.place = warp.place, program.after(warp.place)
                if warp.place != here + 1:
                    warp.ready = max(warp.ready, cycle + BRANCH)
                warp.meets = instruction.kind == "BAR"
                break
        if all(warp.meets for warp in block):
            for warp in block:
                warp.meets, warp.ready = False, max(warp.ready, cycle + LATENCIES["BAR"])
        cycle += 1
        assert cycle < 1 << 18, "steps that do not end, as of a kernel that exchanges through global memory, or very long ones"
    unrolled = max(1, sum(instruction.kind == "LDGDEPBAR" for _, instruction in listing))  # once a step operands are asked for
    return (block[0].steps[steps] - block[0].steps[2]) / (steps - 2) / unrolled, listing


def plan_of(cell: str, way: str, hidden: int, number: str, sequences: int = 16) -> Plan:
    return choose(CELLS[cell], way == "backward", Number[number.upper()], hidden, sequences, 1, False, DEVICE)[0]


def program_of(plan: Plan) -> Program:
    return Program(compiler.compile(plan.shape.name, "sm_90a", plan.defines, plan.entry))


def main() -> None:
    if len(sys.argv) > 1:
        cell, way, hidden, number = sys.argv[1:]
        plan = plan_of(cell, way, int(hidden), number)
        for cycle, instruction in cycles(program_of(plan), plan.warps)[1]:
            print(f"{cycle:6}  {instruction.address:5x}  {instruction.text}")
        return
    for number in ("bfloat16", "float16", "tf32"):
        for hidden in (32, 128, 256, 512):
            for cell in ("rnn_tanh", "gru", "lstm"):
                for way in ("forward", "backward"):
                    plan = plan_of(cell, way, hidden, number)
                    if plan.mailbox_numbers:
                        continue
                    found, _ = cycles(program_of(plan), plan.warps)
                    print(f"{number:9} {hidden:4} {cell:9} {way:9} {found:6.0f} cycles, {found / GIGAHERTZ / 1000:.2f} us", flush=True)


if __name__ == "__main__":
    main()
