"""What the tests start by torchrun: two processes of gloo on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# A process of torch 2.13 that used gloo aborts now and then when it exits, its work done: on busy cores 4 of 24 runs of a script with
# torch.nn alone did. It is torch's own, leaves these words, and is no reason to fail.
ABORT_AT_EXIT = "terminate called without an active exception"
ATTEMPTS = 8


def torchrun(*words: str, cwd: Path | None = None, attempts: int = ATTEMPTS, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``torchrun WORDS``; once more where torch aborts at exit."""
    command = [sys.executable, "-m", "torch.distributed.run", "--local-addr", "localhost", *words]
    for _ in range(attempts):
        run = subprocess.run(
            command, cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, capture_output=True, text=True, check=False
        )
        if run.returncode == 0 or ABORT_AT_EXIT not in run.stderr:
            break
    return run
