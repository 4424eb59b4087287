"""The CUDA kernels' compiler: what it compiles, what it says, and the cache. None of it needs a GPU; most of it not even NVRTC."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from cuda_usage import Usage, usage_of
from elman.backends.cuda import compiler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARGUMENTS = ("tiny", "sm_90a", {"ELMAN_NUMBER": 0}, "the source")
TINY = """
#include "elman.h"
#include "gru.h"
#include "lstm.h"
extern "C" __global__ void tiny(float* x) {
  float a[5] = {x[0], x[1], x[2], x[3]}, c = x[4];
  x[0] = elman::cuda::ElmanTanh<float>::forward(a, 0.f, 0.f, c) + elman::cuda::Gru<float>::forward(a, x[5], x[6], c);
  x[1] = elman::cuda::Lstm<float>::forward(a, 0.f, 0.f, c);
}
"""


def missing() -> str | None:
    """Why nothing can be compiled here."""
    try:
        compiler.nvrtc_version()
    except RuntimeError as error:
        return str(error)
    return None


needs_nvrtc = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def forget() -> None:
    """Let the compiler look for NVRTC and the headers anew."""
    for cached in (compiler._nvrtc, compiler.nvrtc_version, compiler.architecture, compiler.headers):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of one test, in a process that has said nothing yet."""
    monkeypatch.setenv("ELMAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "_announced", set())
    return tmp_path / "cache" / "cuda"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Takes NVRTC's place: what was compiled, by name."""
    names: list[str] = []

    def compile_nothing(name: str, *_: object) -> tuple[bytes, str]:
        names.append(name)
        return b"\x7fELF a cubin", ""

    monkeypatch.setattr(compiler, "_compile", compile_nothing)
    monkeypatch.setattr(compiler, "nvrtc_version", lambda: (13, 0))
    return names


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What one test changes of NVRTC or the headers, no other sees."""
    forget()
    yield
    forget()


# --- The cache --------------------------------------------------------------------------------------------------------


def test_a_kernel_is_compiled_once(compiled: list[str], folder: Path) -> None:
    assert compiler.compile(*ARGUMENTS) == compiler.compile(*ARGUMENTS) == b"\x7fELF a cubin"
    assert compiled == ["tiny"]
    assert [file.name for file in folder.iterdir()] == [f"{compiler.key(*ARGUMENTS[1:])}.cubin"]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: content[:-1] + b"x",
        lambda content: b"\x7fELF" + content,
        lambda content: content.replace(b"elman cubin 1", b"elman cubin 0"),
        lambda content: compiler._seal("of another key", b"\x7fELF a cubin") + b"\x7fELF a cubin",
    ],
    ids=["short", "shorter", "empty", "changed", "foreign", "of an older format", "another's"],
)
def test_a_file_that_is_not_what_was_written_is_replaced(change: object, compiled: list[str], folder: Path) -> None:
    compiler.compile(*ARGUMENTS)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(change(whole))
    assert compiler.compile(*ARGUMENTS) == b"\x7fELF a cubin"
    assert compiled == ["tiny", "tiny"]
    assert file.read_bytes() == whole


def test_every_ingredient_is_in_the_key(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, arch, defines, entry = ARGUMENTS
    keys = [
        compiler.key(arch, defines, entry),
        compiler.key("sm_80", defines, entry),
        compiler.key(arch, {"ELMAN_NUMBER": 1}, entry),
        compiler.key(arch, {**defines, "ELMAN_RING": 8}, entry),
        compiler.key(arch, defines, entry + " "),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "nvrtc_version", lambda: (13, 1))
        keys.append(compiler.key(arch, defines, entry))
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "__version__", "0.0.0")
        keys.append(compiler.key(arch, defines, entry))
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_OPTIONS", (*compiler._OPTIONS, "--use_fast_math"))
        keys.append(compiler.key(arch, defines, entry))
    for name, text in compiler.headers().items():
        with monkeypatch.context() as patch:
            changed = {**compiler.headers(), name: text + "\n"}
            patch.setattr(compiler, "headers", lambda changed=changed: changed)
            keys.append(compiler.key(arch, defines, entry))
    assert len(keys) == len(set(keys)) == 8 + len(compiler.headers())
    assert keys[0] == compiler.key(arch, dict(reversed(defines.items())), entry)  # and nothing else is


def test_macros_have_no_order(compiled: list[str]) -> None:
    assert compiler.key("sm_80", {"A": 1, "B": 2}, "") == compiler.key("sm_80", {"B": 2, "A": "1"}, "")


def test_a_cache_that_cannot_be_is_no_error(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ELMAN_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        assert compiler.compile(*ARGUMENTS) == b"\x7fELF a cubin"
    assert compiled == ["tiny", "tiny"]
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.endswith(f"each time: {tmp_path / 'file' / 'cache' / 'cuda'} cannot be written to")


def test_a_full_disk_is_no_error(compiled: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    assert compiler.compile(*ARGUMENTS) == b"\x7fELF a cubin"
    assert list(folder.iterdir()) == []


def test_threads_may_compile_at_once(compiled: list[str], folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        cubins = list(pool.map(lambda _: compiler.compile(*ARGUMENTS), range(64)))
    assert set(cubins) == {b"\x7fELF a cubin"}
    assert len(list(folder.iterdir())) == 1


PROCESS = """
import sys, time
from pathlib import Path
from elman.backends.cuda import compiler

def compile_slowly(name, *_):
    Path(sys.argv[1], sys.argv[2]).touch()
    while len(list(Path(sys.argv[1]).iterdir())) < 2:  # neither finds the other's result
        time.sleep(0.01)
    return b"\\x7fELF a cubin" * 10_000, ""

compiler._compile = compile_slowly
compiler.nvrtc_version = lambda: (13, 0)
for _ in range(2):
    assert compiler.compile("tiny", "sm_90a", {}, "the source") == b"\\x7fELF a cubin" * 10_000
"""


@pytest.mark.slow
def test_processes_may_compile_at_once_and_say_so_in_one_line(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "started").mkdir()
    commands = [[sys.executable, "-c", PROCESS, str(tmp_path / "started"), name] for name in ("one", "two")]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(partial(subprocess.run, capture_output=True, text=True, timeout=120, check=False), commands))
    for result in results:
        assert (result.returncode, result.stdout) == (0, ""), result.stderr
        assert result.stderr == f"elman: compiling the CUDA kernels for sm_90a (tiny), some seconds, once: they are kept in {folder}\n"
    assert len(list(folder.iterdir())) == 1


# --- What it says -----------------------------------------------------------------------------------------------------


def test_one_line_is_said_for_each_architecture(compiled: list[str], caplog: pytest.LogCaptureFixture) -> None:
    for arch in ("sm_80", "sm_90a"):
        for entry in ("one source", "another"):
            for _ in range(2):
                compiler.compile("tiny", arch, {}, entry)
    warnings_logged = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.name for record in warnings_logged] == ["elman", "elman"]
    assert [record.getMessage().split(" (")[0] for record in warnings_logged] == [
        "elman: compiling the CUDA kernels for sm_80",
        "elman: compiling the CUDA kernels for sm_90a",
    ]


def test_the_line_can_be_silenced(compiled: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "elman"):
        compiler.compile(*ARGUMENTS)
    assert caplog.records == []
    assert compiled == ["tiny"]


@pytest.mark.parametrize("name", ["cuda", "cuda.bindings"])
@pytest.mark.usefixtures("forgetful")
def test_bindings_that_are_not_installed_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    if name == "cuda":
        monkeypatch.delitem(sys.modules, "cuda.bindings", raising=False)
    with pytest.raises(RuntimeError, match=r"cuda-bindings is not installed .*: pip install '.\[cuda\]'"):
        compiler.compile(*ARGUMENTS)


@pytest.mark.usefixtures("forgetful")
def test_an_nvrtc_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Failure finding libnvrtc.so")

    bindings, nvrtc = ModuleType("cuda.bindings"), ModuleType("cuda.bindings.nvrtc")
    nvrtc.nvrtcVersion, bindings.nvrtc = fail, nvrtc
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    with pytest.raises(RuntimeError, match=r"NVRTC, .* is not installed \(Failure finding libnvrtc.so\): pip install '.\[cuda\]'"):
        compiler.compile(*ARGUMENTS)


# --- Where things are -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "home/.cache/elman"),
        ("linux", {"XDG_CACHE_HOME": "{}/xdg"}, "xdg/elman"),
        ("linux", {"XDG_CACHE_HOME": "{}/xdg", "ELMAN_CACHE": "{}/mine"}, "mine"),
        ("linux", {"ELMAN_CACHE": "~/mine"}, "home/mine"),
        ("darwin", {}, "home/Library/Caches/elman"),
        ("win32", {"LOCALAPPDATA": "{}/local"}, "local/elman"),
    ],
)
def test_the_cache_is_where_the_system_has_such_things(
    platform: str, environment: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ELMAN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    monkeypatch.setattr(sys, "platform", platform)
    assert compiler.cache_folder() == tmp_path / expected


def test_the_headers_are_the_kernels_and_the_cells() -> None:
    found = compiler.headers()
    assert {"vector.h", "cell.h", "elman.h", "gru.h", "lstm.h"} <= set(found)
    assert "struct Gru" in found["gru.h"]
    assert found["cell.h"].endswith('#include "vector.h"\n')


@pytest.mark.usefixtures("forgetful")
def test_an_installed_package_has_the_cells_beside_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cells").mkdir()
    for name, text in {"vector.h": "a vector", "cells/gru.h": "a cell", "cells/cell.h": "the CPU's", "cells/all.h": "the CPU's"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(compiler, "KERNELS", tmp_path)
    assert compiler.headers() == {"vector.h": "a vector", "gru.h": "a cell", "cell.h": '#pragma once\n#include "vector.h"\n'}


# --- NVRTC itself -----------------------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90a", "sm_100", "sm_120"])
@pytest.mark.parametrize("number", range(4))
def test_the_cells_compile_for_every_architecture(arch: str, number: int) -> None:
    cubin = compiler.compile("tiny", arch, {"ELMAN_NUMBER": number}, TINY)
    assert cubin.startswith(b"\x7fELF")
    assert b"tiny" in cubin


@needs_nvrtc
def test_what_does_not_compile_is_told_with_the_log() -> None:
    with pytest.raises(
        RuntimeError, match=r"(?s)'wrong' do not compile for sm_80 \(NVRTC \d+\.\d+\):.*wrong\.cu\(2\).*undefined_name"
    ) as caught:
        compiler.compile("wrong", "sm_80", {}, 'extern "C" __global__ void wrong() {\n  undefined_name();\n}\n')
    assert isinstance(caught.value, compiler.CompileError)


@needs_nvrtc
def test_an_architecture_that_is_unknown_is_told() -> None:
    with pytest.raises(compiler.CompileError, match="gpu-architecture"):
        compiler.compile("tiny", "sm_1", {"ELMAN_NUMBER": 0}, TINY)


@needs_nvrtc
def test_only_the_packages_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gru.h").write_text("#error this is the current folder's")
    (tmp_path / "other.h").write_text("")
    monkeypatch.chdir(tmp_path)
    assert compiler.compile("tiny", "sm_80", {"ELMAN_NUMBER": 0}, TINY).startswith(b"\x7fELF")
    with pytest.raises(compiler.CompileError, match=r"other\.h"):
        compiler.compile("tiny", "sm_80", {}, '#include "other.h"\n')


@needs_nvrtc
def test_the_same_source_gives_the_same_cubin() -> None:
    one, other = (compiler._compile("tiny", "sm_90a", {"ELMAN_NUMBER": 0}, TINY)[0] for _ in range(2))
    assert one == other


@needs_nvrtc
@pytest.mark.parametrize(
    ("capability", "expected"), [((8, 0), "sm_80"), ((8, 9), "sm_89"), ((9, 0), "sm_90a"), ((10, 0), "sm_100"), ((12, 0), "sm_120")]
)
def test_a_device_gets_the_code_of_its_architecture(capability: tuple[int, int], expected: str) -> None:
    assert compiler.architecture(capability) == expected


@needs_nvrtc
def test_a_device_newer_than_the_compiler_gets_the_code_of_an_earlier_minor_version() -> None:
    assert compiler.architecture((12, 9)) in {"sm_120", "sm_121"}
    with pytest.raises(RuntimeError, match=r"does not compile for compute capability 99\.0"):
        compiler.architecture((99, 0))


@needs_nvrtc
def test_what_a_kernel_takes_of_the_device() -> None:
    source = """
    extern "C" __global__ void few(float* x) { __shared__ float s[128]; s[threadIdx.x] = x[threadIdx.x]; __syncthreads(); *x = s[1]; }
    extern "C" __global__ void __launch_bounds__(1024) many(float* x) {
      float kept[128];
    #pragma unroll
      for (int i = 0; i < 128; ++i) kept[i] = x[i * 1024 + threadIdx.x];
      __syncthreads();
    #pragma unroll
      for (int i = 0; i < 128; ++i) x[i * 1024 + threadIdx.x + 1] = kept[127 - i];
    }
    """
    used = usage_of("two", "sm_90a", {}, source)
    assert set(used) == {"few", "many"}
    assert 0 < used["few"].registers < 32
    assert used["few"] == Usage(used["few"].registers, 0, 0, 0, 512)
    assert used["many"].registers == 64
    assert used["many"].spill_stores > 0
    assert used["many"].spill_loads > 0
    assert used["many"].stack > 0
