"""The house stands as docs/architecture.md draws it: imports go down only, the kernels know nobody, importing is light."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import elman

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "elman"
KERNELS = ROOT / "csrc"

# From the ground up. A module may import from floors below its own and from its own room, not from a room beside it.
FLOORS = (
    ("_version", "_native", "_files", "language"),
    ("cells",),
    ("backends",),
    ("scan",),
    ("layers",),
    ("streaming", "conversion", "weights", "init", "zoo"),
    ("elman",),  # the package itself: what `import elman` offers
    ("bench",),
    ("show", "train"),
    ("cli",),
)
FLOOR_OF = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

MOST_LINES = 400  # of a file
MOST_LINES_OF_SHOW = 1309  # of all its files: what is shown grows by another fact in a table, not by another page
SOURCES = {".py", ".h", ".cpp", ".cuh", ".cu"}

# The sources of csrc that know Python.
BINDING = {
    "binding.cpp",
    "commands_binding.cpp",
    "machine_binding.cpp",
    "program_binding.cpp",
    "stream_binding.cpp",
    "exchange.h",
    "operands.h",
}

LOADERS = ("import_module", "resolve_name")  # of a module named in a string

# What reads a file by running it. Data of others is safetensors, JSON or text.
RUNS_WHAT_IT_READS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "torch.load", "torch.save"}


# --- What is looked for -----------------------------------------------------------------------------------------------


def imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that the code imports, by statement, ``import_module("...")`` or ``resolve_name("...")``, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import does not say which floor it comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(LOADERS) and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value).replace(":", ".")


def room(module: str) -> str:
    """The room of a dotted name below elman: ``elman.scan.driver.run`` is in scan; the package itself is the room elman."""
    parts = module.split(".")
    if module == "elman.__main__":
        return "cli"  # `python -m elman`
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR_OF else parts[0]


def sources(package: Path) -> Iterator[tuple[str, ast.Module]]:
    """The dotted name and the syntax tree of every module of the package."""
    for file in sorted(package.rglob("*.py")):
        name = ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(file.read_text(encoding="utf-8"))


def upward_imports(package: Path) -> list[str]:
    wrong = []
    for module, tree in sources(package):
        here = room(module)
        for imported in imports(tree):
            there = room(imported)
            if imported.split(".")[0] == "elman" and there != here and FLOOR_OF[there] >= FLOOR_OF[here]:
                wrong.append(f"{module} imports {imported}")
    return wrong


def unsafe_readers(package: Path) -> list[str]:
    wrong = []
    for module, tree in sources(package):
        dotted = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        named = {prefix for name in imports(tree) for prefix in (name, name.split(".")[0])}
        wrong += [f"{module} uses {name}" for name in sorted((dotted | named) & RUNS_WHAT_IT_READS)]
    return wrong


def foreign_includes(folder: Path) -> list[str]:
    """Includes of Python's, nanobind's, torch's or NumPy's headers outside the binding."""
    foreign = re.compile(r'^\s*#\s*include\s*[<"](Python\.h|nanobind/|pybind11/|torch/|ATen/|c10/|numpy/)', re.MULTILINE)
    return [
        f"{file.relative_to(folder)} includes {found}"
        for file in sorted(folder.rglob("*"))
        if file.suffix in {".h", ".cpp"} and file.name not in BINDING
        for found in foreign.findall(file.read_text(encoding="utf-8"))
    ]


def drawn_floors(page: str) -> list[set[str]]:
    """The rooms on each floor of the page's diagram, from the ground up: its left column; a line that ends in a comma goes on below."""
    diagram = page.split("```text\n")[1].split("─")[0]
    names = "\n".join(re.split(r"  +", line)[0].strip() for line in diagram.splitlines())
    return [set(floor.split(", ")) for floor in reversed(names.replace(",\n", ", ").splitlines())]


def long_files(root: Path) -> list[str]:
    """The files of src, csrc and tests that have more than ``MOST_LINES`` lines."""
    files = [file for room in ("src", "csrc", "tests") for file in sorted((root / room).rglob("*")) if file.suffix in SOURCES]
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    return [f"{file.relative_to(root)} has {count} lines" for file, count in lines.items() if count > MOST_LINES]


def lines_of(room: Path) -> int:
    """How many lines the Python files of a room have."""
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in room.rglob("*.py"))


def loaded_by(code: str) -> set[str]:
    """The names in ``sys.modules`` of a fresh Python that has run ``code``."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def third_party(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"elman"}


# --- What must hold ---------------------------------------------------------------------------------------------------


def test_imports_go_down_only() -> None:
    assert upward_imports(PACKAGE) == []


def test_every_room_has_its_floor() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__", "__main__", "__pycache__"} <= set(FLOOR_OF)


def test_both_pages_draw_these_floors() -> None:
    for name in ("architecture.md", "architecture.zh-CN.md"):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert drawn_floors(page) == [set(rooms) for rooms in FLOORS]


def test_a_file_is_one_idea() -> None:
    assert long_files(ROOT) == []


def test_show_stays_as_small_as_it_is() -> None:
    assert lines_of(PACKAGE / "show") <= MOST_LINES_OF_SHOW


def test_what_comes_from_others_is_read_as_data() -> None:
    assert unsafe_readers(PACKAGE) == []


def test_every_import_is_a_declared_dependency() -> None:
    declared = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in metadata.requires("elman")}
    used = third_party({name for _, tree in sources(PACKAGE) for name in imports(tree)})
    assert {"cuda-bindings" if name == "cuda" else name.replace("_", "-") for name in used} <= declared


def test_what_compilers_read_asks_for_no_union_of_classes() -> None:
    """The compiler of torch 2.8 and earlier does not know ``isinstance(x, A | B)``, but ``isinstance(x, (A, B))``."""
    found = [
        f"{name}: {ast.unparse(node)}"
        for name, tree in sources(PACKAGE)
        if room(name) in {"cells", "scan", "layers"}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and isinstance(node.args[1], ast.BinOp)
    ]
    assert found == []


def test_kernels_know_neither_python_nor_torch() -> None:
    assert any(KERNELS.rglob("*.cpp"))
    assert foreign_includes(KERNELS) == []


def test_kernels_stay_small() -> None:
    """Three cells, forward, backward and step by step, and three number types: loops, threads and their binding; apart from these
    programs, and what puts commands onto a GPU's stream.
    """
    files = [file for file in KERNELS.rglob("*") if file.suffix in {".h", ".cpp"}]
    of_programs = [file for file in files if file.parent.name == "program" or file.name.startswith("program_")]
    of_commands = [file for file in files if file.name.startswith("commands_")]
    others = set(files).difference(of_programs, of_commands)
    for some, most in ((of_programs, 3580), (of_commands, 220), (others, 5344)):
        assert sum(file.read_text(encoding="utf-8").count("\n") for file in some) <= most


def test_importing_elman_loads_nothing_that_torch_does_not() -> None:
    # And what counts operations there: a FlopCounterMode knows the formulas that there are when it is made.
    more = loaded_by("import torch, elman") - loaded_by("import torch.utils.flop_counter")
    assert third_party(more) == set()


def test_the_kernels_import_without_torch_and_numpy() -> None:
    if os.environ.get("ELMAN_NATIVE") == "0":
        pytest.skip("the pure-Python package has no kernels")
    spec = find_spec("elman._native")
    assert spec is not None
    loaded = loaded_by(
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        f"spec = spec_from_file_location('elman._native', {spec.origin!r})\n"
        "spec.loader.exec_module(module_from_spec(spec))"
    )
    assert third_party(loaded).isdisjoint({"torch", "numpy"})


def test_a_docstring_says_what_it_is_without_the_one_above() -> None:
    """A tooltip shows one docstring, so that it does not know as what something is "the same"."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docs = [
        (name, ast.get_docstring(node) or "") for name, tree in sources(PACKAGE) for node in ast.walk(tree) if isinstance(node, documented)
    ]
    assert [name for name, doc in docs if doc.startswith("The same")] == []


def test_one_version() -> None:
    newest = re.search(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert elman.__version__ == metadata.version("elman") == newest[1]


# --- The looking itself, on houses that are wrong ---------------------------------------------------------------------


@pytest.fixture
def wrong_house(tmp_path: Path) -> Path:
    """A package whose cells look up to the layers, whose show looks across to train, and which reads a pickle."""
    package = tmp_path / "elman"
    for name, code in {
        "__init__.py": "from elman.layers import RNN",
        "cells/gru.py": "def step():\n    from elman.layers.rnn import RNN",
        "backends/registry.py": "from importlib import import_module\nimport_module('elman.scan')",
        "scan/driver.py": "import elman",
        "layers/rnn.py": "from elman import cells, scan\nfrom elman.layers import module\nimport torch",
        "show/network.py": "from elman import train",
        "train/checkpoint.py": "import torch\nimport pickle\ntorch.load('x')",
        "cli/tour.py": "from elman.show.network import tour",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(code, encoding="utf-8")
    return package


def test_upward_and_sideways_imports_are_seen(wrong_house: Path) -> None:
    assert upward_imports(wrong_house) == [
        "elman.backends.registry imports elman.scan",
        "elman.cells.gru imports elman.layers.rnn.RNN",
        "elman.scan.driver imports elman",
        "elman.show.network imports elman.train",
    ]


def test_unsafe_readers_are_seen(wrong_house: Path) -> None:
    assert unsafe_readers(wrong_house) == ["elman.train.checkpoint uses pickle", "elman.train.checkpoint uses torch.load"]


def test_foreign_includes_are_seen(tmp_path: Path) -> None:
    (tmp_path / "binding.cpp").write_text("#include <nanobind/nanobind.h>\n", encoding="utf-8")
    (tmp_path / "scan.h").write_text('#include <cstddef>\n  # include "torch/extension.h"\n#include "target.h"\n', encoding="utf-8")
    assert foreign_includes(tmp_path) == ["scan.h includes torch/"]


def test_files_that_are_too_long_are_seen(tmp_path: Path) -> None:
    for name, lines in {"src/elman/scan.py": 401, "csrc/scan.h": 400, "tests/test_scan.py": 512, "docs/scan.py": 999}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("pass\n" * lines, encoding="utf-8")
    assert long_files(tmp_path) == ["src/elman/scan.py has 401 lines", "tests/test_scan.py has 512 lines"]
    assert lines_of(tmp_path / "src") == 401


def test_floors_that_are_drawn_otherwise_are_seen() -> None:
    page = "```text\nshow, train    people\ncells,         equations;\nscan           steps\n──────\ncsrc     kernels\n```"
    assert drawn_floors(page) == [{"cells", "scan"}, {"show", "train"}]


def test_modules_of_others_are_seen() -> None:
    assert third_party(loaded_by("import rich.table") - loaded_by("")) >= {"rich"}
