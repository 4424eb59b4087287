"""Runs the quick tests under other versions of torch and Python than the project is developed with. ``make versions`` calls this.

Each has an environment of its own in ``.nox``. On Linux these are PyPI's builds of torch for CUDA, of up to 6 GB each; a GPU is not needed.
"""

from __future__ import annotations

import re
from pathlib import Path

import nox

TORCHES = ("2.8.0", "2.9.1", "2.10.0", "2.11.0", "2.12.0", "2.14.1")  # from the oldest that pyproject.toml allows to the newest
PYTHONS = ("3.10", "3.12", "3.13", "3.14")


@nox.session(reuse_venv=True)
@nox.parametrize("torch", TORCHES)
def torches(session: nox.Session, torch: str) -> None:
    """The quick tests under this version of torch."""
    _test(session, torch, "build/torches")


@nox.session(python=PYTHONS, reuse_venv=True)
def pythons(session: nox.Session) -> None:
    """The quick tests under this version of Python. One that is not installed is skipped."""
    (torch,) = re.findall(r"^torch==(.+)$", Path("constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    _test(session, torch, f"build/python{session.python}")


def _test(session: nox.Session, torch: str, build: str) -> None:
    session.install("scikit-build-core", "nanobind", "cmake", "ninja", "setuptools", f"torch=={torch}")
    options = (f"--config-settings=build-dir={build}", "--config-settings=cmake.define.ELMAN_TEST_TARGETS=ON")
    session.install("--no-build-isolation", "--editable", ".[dev]", *options, f"torch=={torch}")
    session.run("pytest", "--numprocesses", "auto", "--dist", "worksteal", "-m", "not slow", *session.posargs)
