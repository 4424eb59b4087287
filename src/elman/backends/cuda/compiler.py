"""Compiles the CUDA kernels at first use, and keeps the result.

NVRTC, CUDA's compiler as a library, is called through ``cuda.bindings``, NVIDIA's thin layer over it: torch's wheels for CUDA 13 bring both
along, and its functions are those of CUDA's manual. cuda.core's ``Program`` would be a dependency more, takes 0.4 s to import instead of
0.15, changed its names on the way to 1.0, and cannot hand headers over by their text. Neither needs a GPU.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman._files import rehearse, write
from elman._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

# A library prints nothing of its own accord, but a pause of seconds is to be explained. Where the application has set up no logging,
# Python's handler of last resort shows a warning of this logger on stderr; where it has, it goes where all messages go. To silence it:
#   logging.getLogger("elman").setLevel(logging.ERROR)
# At INFO nobody would see it; a handler of our own would print it twice; warnings.warn is an error to people who run with -W error.
LOGGER = logging.getLogger("elman")

KERNELS = Path(__file__).with_name("kernels")
_MAGIC = b"elman cubin 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size
_announced: set[str] = set()  # the architectures of which this process has said that it compiles for them


class CompileError(RuntimeError):
    """A kernel does not compile; the message has the compiler's log."""


def compile(name: str, arch: str, defines: Mapping[str, str | int], entry: str) -> bytes:
    """The cubin of some kernels: from the cache, or compiled and put there.

    Says so in one line, once a process, where it compiles (``LOGGER``).

    Args:
        name: what messages and the compiler's log call it.
        arch: "sm_80", "sm_90a", ...
        defines: macros, as on a compiler's command line.
        entry: the source: includes by the names that :func:`headers` gives, and ``extern "C"`` kernels.

    Raises:
        CompileError: a RuntimeError with the compiler's log.
        RuntimeError: there is no NVRTC.
    """
    digest = key(arch, defines, entry)
    folder = cache_folder() / "cuda"
    path = folder / f"{digest}.cubin"
    cubin = _read(path, digest)
    if cubin is None:
        can_keep = _can_keep(path)
        where = f"once: they are kept in {folder}" if can_keep else f"each time: {folder} cannot be written to"
        level = logging.INFO if arch in _announced else logging.WARNING
        _announced.add(arch)
        LOGGER.log(level, "elman: compiling the CUDA kernels for %s (%s), some seconds, %s", arch, name, where)
        cubin, _ = _compile(name, arch, defines, entry)
        if can_keep:
            _write(path, digest, cubin)
    return cubin


def key(arch: str, defines: Mapping[str, str | int], entry: str) -> str:
    """The name of a cubin in the cache: a digest of all that it is made from and by."""
    made_by = [__version__, _dotted(nvrtc_version()), *_OPTIONS, arch]
    macros = [f"{name}={value}" for name, value in sorted(defines.items())]
    sources = [part for name, text in sorted(headers().items()) for part in (name, text)]
    digest = hashlib.sha256()
    for part in [*made_by, *macros, entry, *sources]:
        content = part.encode()
        digest.update(b"%d:" % len(content) + content)
    return digest.hexdigest()


# --- The sources --------------------------------------------------------------------------------------------------------


@cache
def headers() -> dict[str, str]:
    """The text of every header that a kernel may include, by the name that it is included by.

    These are the kernels' own, and the cells' of the CPU's kernels, for which vector.h takes the place of cell.h.

    >>> "gru.h" in headers()
    True
    """
    files = [*KERNELS.glob("*.cuh"), *KERNELS.glob("*.h")]
    files += [file for file in cells_folder().glob("*.h") if file.name not in {"all.h", "cell.h"}]
    sources = {file.name: file.read_text(encoding="utf-8") for file in sorted(files)}
    return sources | {"cell.h": '#pragma once\n#include "vector.h"\n'}


def cells_folder() -> Path:
    """Where the cells' headers are: in an installed package beside the kernels, in a checkout where the CPU's kernels have them."""
    installed = KERNELS / "cells"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[4] / "csrc" / "cells"


# --- The compiler -------------------------------------------------------------------------------------------------------

# Functions and structs without a mark are the device's, as the cells'. Only the headers handed over are looked for, not the current folder.
_OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--no-source-include", "--fmad=false")


@cache
def nvrtc_version() -> tuple[int, int]:
    """NVRTC's version, (13, 0).

    Raises:
        RuntimeError: it is not installed.
    """
    major, minor = _nvrtc().nvrtcVersion()[1:]
    return major, minor


@cache
def architecture(capability: tuple[int, int]) -> str:
    """What to compile for on a device of this compute capability: the newest that NVRTC knows of those whose code it runs.

    Raises:
        RuntimeError: NVRTC is too old for the device, or no longer knows it.
    """
    major, minor = capability
    known = [int(each) for each in _checked(_nvrtc().nvrtcGetSupportedArchs())]
    run = [each for each in known if 10 * major <= each <= 10 * major + minor]  # code runs on later minor versions, not on other major ones
    if not run:
        raise RuntimeError(f"NVRTC {_dotted(nvrtc_version())} does not compile for compute capability {_dotted(capability)}")
    return f"sm_{max(run)}" + ("a" if max(run) == 90 else "")  # the a: instructions of this one version


@cache
def _nvrtc() -> Any:
    """CUDA's compiler.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise RuntimeError(f"cuda-bindings is not installed ({error}): pip install '.[cuda]'") from None
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:  # the bindings look for the library at the first call
        raise RuntimeError(f"NVRTC, CUDA's compiler, is not installed ({error}): pip install '.[cuda]'") from None
    return nvrtc


def _compile(name: str, arch: str, defines: Mapping[str, str | int], entry: str, *options: str) -> tuple[bytes, str]:
    """The cubin and the log."""
    nvrtc = _nvrtc()
    texts = headers()
    given = [
        f"--gpu-architecture={arch}",
        *_OPTIONS,
        *options,
        *(f"--define-macro={macro}={value}" for macro, value in sorted(defines.items())),
    ]
    program = _checked(
        nvrtc.nvrtcCreateProgram(
            entry.encode(), f"{name}.cu".encode(), len(texts), [text.encode() for text in texts.values()], [each.encode() for each in texts]
        )
    )
    try:
        (error,) = nvrtc.nvrtcCompileProgram(program, len(given), [option.encode() for option in given])
        log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))  # never bytes, which Python shares among all who have the same
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        text = log.rstrip(b"\0").decode(errors="replace").strip()
        if error:
            raise CompileError(f"the CUDA kernels '{name}' do not compile for {arch} (NVRTC {_dotted(nvrtc_version())}):\n{text}")
        cubin = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return bytes(cubin), text


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _checked(answer: tuple[Any, ...]) -> Any:
    """What a function of NVRTC gives, past its status."""
    error, *values = answer
    if error:
        raise RuntimeError(f"NVRTC fails: {_nvrtc().nvrtcGetErrorString(error)[1].decode()}")
    return values[0] if values else None


# --- The cache ----------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where Elman keeps what it can make again: ELMAN_CACHE, or ``elman`` in the place that the system has for such things."""
    if forced := os.environ.get("ELMAN_CACHE"):
        return Path(forced).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "elman"


def _seal(digest: str, cubin: bytes) -> bytes:
    """What a file begins with: it shows a file that is cut short, changed or another's."""
    return _MAGIC + hashlib.sha256(digest.encode() + cubin).digest()


def _read(path: Path, digest: str) -> bytes | None:
    """The cubin in the cache; None if there is none that is whole and its own."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + _DIGEST_BYTES
    return content[start:] if content[:start] == _seal(digest, content[start:]) else None


def _can_keep(path: Path) -> bool:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        rehearse(path)
    except OSError:
        return False
    return True


def _write(path: Path, digest: str, cubin: bytes) -> None:
    with suppress(OSError):  # a disk may be full: it is compiled again the next time
        write(path, _seal(digest, cubin) + cubin)
