"""How many processors the kernels' threads may take: those the process is allowed on, less where a container's quota says so."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from native import required

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = required


def quota(folder: Path, membership: str, files: Mapping[str, str]) -> float:
    """What control groups of these files allow a process that is in the groups of ``membership``."""
    from elman import _native

    (folder / "membership").write_text(membership)
    for name, text in files.items():
        path = folder / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return _native.processor_quota(str(folder / "membership"), str(folder / "mount"))


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 0),
        ("0::/\n", {}, 0),
        ("", {"cpu.max": "150000 100000\n"}, 0),
        ("nonsense\n::\n0::/a\n", {"a/cpu.max": "nonsense"}, 0),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000", "cpu.max": "max 100000"},
            2,
        ),  # the group above allows less
        ("0::/of/the/host\n", {"cpu.max": "300000 100000\n"}, 3),  # a container that sees its own group as the root
        ("4:cpu,cpuacct:/a\n0::/\n", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        ("4:cpuacct,cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 0),
        ("3:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 0),
    ],
)
def test_a_quota_is_the_least_of_a_group_and_those_above(
    tmp_path: Path, membership: str, files: Mapping[str, str], expected: float
) -> None:
    assert quota(tmp_path, membership, files) == expected


def test_files_that_are_not_there_set_no_quota(tmp_path: Path) -> None:
    from elman import _native

    assert _native.processor_quota(str(tmp_path / "missing"), str(tmp_path)) == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not bound to processors here")
def test_a_process_that_is_bound_to_one_processor_uses_one_thread() -> None:
    code = """
import os, torch, elman
from elman import _native
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
torch.set_num_threads(4)
rnn, x = elman.RNN(40, 130), torch.randn(40, 16, 40)
used = set()
with torch.no_grad():
    for _ in range(50):
        rnn(x)
        used.add(_native.threads_used())
print(_native.usable_processors(), used)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 {1}"
