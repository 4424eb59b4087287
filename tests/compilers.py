"""Builds the kernels with every compiler that is installed, and holds each build to the guarantees on bits. `make compilers` runs it.

For each, the extension is built in build/compilers/NAME and the smoke test runs. With these kernels in the installed ones' place, so do the
tests of roundings, activations and bits, on every instruction set. The smoke test hashes all its numbers: since no compiler
chooses a rounding, they all print the same for an instruction set.

    python tests/compilers.py                       every g++, g++-N, clang++ and clang++-N on the PATH, once each
    python tests/compilers.py g++-12 /opt/bin/c++   these
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ("test_rounding.py", "test_activations.py", "test_bits.py")
OLDEST = {"g++": 11, "clang++": 14}  # as CMakeLists.txt has it


def found() -> list[Path]:
    """The compilers on the PATH, each under one name: the one with its version, if it has one."""
    files = (file for folder in os.get_exec_path() for file in Path(folder).glob("*++*"))
    commands = [file for file in files if re.fullmatch(r"(g|clang)\+\+(-\d+)?", file.name)]
    by_program = {command.resolve(): command for command in sorted(commands, key=lambda command: len(command.name))}
    return sorted(by_program.values(), key=lambda command: (command.name.split("-")[0], version(command)))


def version(compiler: Path) -> int:
    return int(subprocess.run([compiler, "-dumpversion"], check=True, capture_output=True, text=True).stdout.split(".")[0])


def run(*command: object, log: Path, **environment: str) -> str:
    """What the command prints, which also goes to the log. Ends the program where it fails."""
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=os.environ | environment, check=False, **output)
    with log.open("a", encoding="utf-8") as file:
        print("$", *command, done.stdout, file=file, sep=" ")
    if done.returncode:
        sys.exit(f"{done.stdout[-4000:]}\n{command[0]} failed; all of it is in {log}")
    return done.stdout


def build(compiler: Path, folder: Path, log: Path) -> Path:
    """Returns the extension."""
    nanobind = run(sys.executable, "-m", "nanobind", "--cmake_dir", log=log).strip()
    bin = Path(sys.executable).parent
    options = {"CMAKE_CXX_COMPILER": compiler, "ELMAN_WERROR": "ON", "ELMAN_TEST_TARGETS": "ON"}
    options |= {"CMAKE_MAKE_PROGRAM": bin / "ninja", "Python_EXECUTABLE": sys.executable, "nanobind_DIR": nanobind}
    run(bin / "cmake", "-S", ".", "-B", folder, "-G", "Ninja", *(f"-D{name}={value}" for name, value in options.items()), log=log)
    run(bin / "cmake", "--build", folder, log=log)
    (extension,) = folder.glob("_native*.so")
    return extension


def smoke(compiler: Path, folder: Path, log: Path) -> dict[str, str]:
    """The hash of all numbers of each instruction set."""
    objects, program = folder.glob("CMakeFiles/elman_*.dir/csrc/**/*.o"), folder / "smoke"
    flags = ("-std=c++20", "-O2", "-ffp-contract=off", "-Icsrc", "-pthread")
    run(compiler, *flags, "tests/smoke.cpp", *objects, "-ldl", "-o", program, log=log)
    return dict(re.findall(r"^(\w+): all numbers hash to (\w+)$", run(program, log=log), re.MULTILINE))


def test(extension: Path, log: Path) -> str:
    """The last line that pytest prints. The tests of bits take every instruction set in turn."""
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "built", "-p", "no:cacheprovider", *(f"tests/{file}" for file in TESTS))
    output = run(*command, log=log, ELMAN_BUILT=str(extension), PYTHONPATH="tests")
    return output.splitlines()[-1].split(" in ")[0]


def main() -> None:
    hashes: dict[str, str] = {}
    for compiler in [Path(shutil.which(name) or sys.exit(f"{name}: no such compiler")) for name in sys.argv[1:]] or found():
        name, begin = f"{compiler.name} ({version(compiler)})", time.monotonic()
        if version(compiler) < OLDEST.get(compiler.name.split("-")[0], 0):
            print(f"{name}: SKIPPED, older than what the kernels need", flush=True)
            continue
        folder = ROOT / "build" / "compilers" / compiler.name
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        log.write_text("", encoding="utf-8")
        extension = build(compiler, folder, log)
        numbers = smoke(compiler, folder, log)
        hashed = ", ".join(f"{isa} {number}" for isa, number in numbers.items())
        print(f"{name}: {test(extension, log)}; numbers {hashed}; {time.monotonic() - begin:.0f} s", flush=True)
        for isa, number in numbers.items():
            if number != hashes.setdefault(isa, number):
                sys.exit(f"{name} gives other numbers on {isa} than the compilers before it")


if __name__ == "__main__":
    main()
