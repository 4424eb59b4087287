"""What a build makes, with kernels, without, and where no compiler is to be found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]

pytest.importorskip("scikit_build_core", reason="building needs scikit-build-core; `make test` installs it")


def build(what: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a "wheel" or an "sdist" into ``folder``, as pip does it. Errors come in ``stdout``, in the order in which they were printed."""
    code = f"from scikit_build_core.build import build_{what}; build_{what}({str(folder)!r})"
    without = {name: value for name, value in os.environ.items() if name not in {"CC", "CXX", "ELMAN_NATIVE", "SKBUILD_CMAKE_DEFINE"}}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=ROOT, env=without | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    folder = tmp_path_factory.mktemp("pure")
    result = build("wheel", folder, ELMAN_NATIVE="0")
    assert result.returncode == 0, result.stdout
    (wheel,) = folder.glob("*.whl")
    return ZipFile(wheel)


def test_the_pure_package_is_for_every_machine_and_whole(pure: ZipFile) -> None:
    assert Path(str(pure.filename)).name.endswith("-py3-none-any.whl")
    modules = {str(file.relative_to(ROOT / "src")) for file in (ROOT / "src").rglob("*.py")}
    files = {name for name in pure.namelist() if ".dist-info/" not in name}
    assert modules | {"elman/py.typed"} <= files
    assert not [name for name in files if name.endswith((".so", ".pyc"))]


def test_the_sources_of_the_cuda_kernels_are_in_the_package(pure: ZipFile) -> None:
    kernels = {file.name for file in (ROOT / "src/elman/backends/cuda/kernels").iterdir() if file.suffix in {".cuh", ".h"}}
    cells = {f"cells/{file.name}" for file in (ROOT / "csrc/cells").glob("*.h")}
    assert {"forward.cuh", "cells/gru.h"} <= kernels | cells
    assert {f"elman/backends/cuda/kernels/{name}" for name in kernels | cells} <= set(pure.namelist())


@pytest.mark.slow
def test_the_pure_package_runs_on_the_reference(pure: ZipFile, tmp_path: Path) -> None:
    pure.extractall(tmp_path)
    # -S leaves out the .pth file by which this checkout's own package, with its kernels, would be found first.
    code = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {sysconfig.get_path("purelib")!r}, {sysconfig.get_path("platlib")!r}]
import elman, torch
rnn = elman.RNN(10, 20)
print(elman.__file__)
print(tuple(rnn(torch.randn(5, 3, 10))[0].shape))
print(elman.why(rnn, torch.randn(5, 3, 10)))
"""
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    where, shape, why = result.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert shape == "(5, 3, 20)"
    assert "reference" in why


@pytest.mark.slow
def test_the_source_package_can_be_built_from(tmp_path: Path) -> None:
    result = build("sdist", tmp_path)
    assert result.returncode == 0, result.stdout
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames()}
    needed = {"pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "src/elman/py.typed"}
    needed |= {str(file.relative_to(ROOT)) for file in (ROOT / "csrc").rglob("*") if file.suffix in {".h", ".cpp"}}
    assert needed <= names


@pytest.mark.skipif(find_spec("cmake") is None, reason="the way to CMake is cut off with the way to the compiler; `make test` installs one")
def test_what_is_pinned_installs_on_every_python_that_make_takes() -> None:
    """Distributions keep the first releases of a Python: Debian 12 has 3.11.2."""
    (oldest,) = re.findall(r"with Python (3\.\d+) or later and `make`", (ROOT / "README.md").read_text(encoding="utf-8"))
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    installed = [each for each, version in pins.items() if _version_of(each) == version]
    if len(installed) < 50:
        pytest.skip("what is installed here is not what is pinned")
    takes = {each: SpecifierSet(metadata.metadata(each).get("Requires-Python") or "") for each in installed}
    assert [each for each, pythons in takes.items() if f"{oldest}.0" not in pythons] == []


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def test_without_a_compiler_the_last_line_says_what_to_install(tmp_path: Path) -> None:
    result = build("wheel", tmp_path, PATH=str(tmp_path))
    assert result.returncode != 0
    last = result.stdout.rstrip().splitlines()[-1]
    assert "apt-get install g++" in last
    assert "ELMAN_NATIVE=0 pip install ." in last


def beyond_the_stable_abi(code: str) -> list[str]:
    """What C++ code uses of Python that the limited API lacks: macros that look into objects, types' slots, newer shorthands of calls."""
    return re.findall(r"\bPy(?!BUF_|_)\w+?_[A-Z][A-Z_]+\b|->(?:tp|ob|nb|sq|mp)_\w+|\bPyObject_Call(?:Method)?(?:NoArgs|OneArg)\b", code)


def test_the_binding_keeps_to_the_stable_abi() -> None:
    """The headers of Python 3.12 and later refuse the rest, where the extension is built for all of them at once; older ones do not."""
    found = {file.name: beyond_the_stable_abi(file.read_text(encoding="utf-8")) for file in (ROOT / "csrc").rglob("*") if file.is_file()}
    assert {name: uses for name, uses in found.items() if uses} == {}


def test_what_is_beyond_the_stable_abi_is_seen() -> None:
    code = "PyTuple_GET_ITEM(t, 0); NB_TUPLE_GET_ITEM(t, 0); PyBUF_C_CONTIGUOUS; Py_TYPE(x)->tp_name; PyObject_CallMethodNoArgs(x, y)"
    assert beyond_the_stable_abi(code) == ["PyTuple_GET_ITEM", "->tp_name", "PyObject_CallMethodNoArgs"]


# --- What was built in this checkout ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["avx2", "avx512", "avx512bf16"])
def test_no_instruction_of_one_target_leaks_into_another(target: str) -> None:
    """Code that the linker may take from any object file must not come from one with newer instructions than the processor has.

    Weak symbols (inline functions, templates of the standard library) are such code: the linker keeps one of them for all. DW.ref is data.
    """
    objects = [file for file in (ROOT / "build").glob(f"*/CMakeFiles/elman_{target}.dir/csrc/*.o") if "debug" not in file.parts]
    if not objects or shutil.which("nm") is None:
        pytest.skip("no object files of this target in build/, or no nm")
    for file in objects:
        lines = subprocess.run(["nm", "-C", "--defined-only", file], check=True, capture_output=True, text=True).stdout.splitlines()
        shared = [line.split(maxsplit=2)[2] for line in lines if line.split(maxsplit=2)[1] in "WVu"]
        own = (f"elman::{target}::", f"{len(target)}{target}", "DW.ref.")  # the second: in a name that nm does not demangle
        assert [name for name in shared if not any(part in name for part in own)] == []
