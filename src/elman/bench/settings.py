"""Torch's settings for the whole process, as a race wants them while it runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def torch_set(*, threads: int, matmul_tf32: bool | None = None) -> Iterator[None]:
    """Torch's settings meanwhile; afterwards they are as they were.

    Args:
        threads: torch's number of threads, which Elman goes by, too; 0 leaves it as it is.
        matmul_tf32: ``torch.backends.cuda.matmul.allow_tf32``; None leaves it as it is.
    """
    threads_before = torch.get_num_threads()
    tf32_before = None if matmul_tf32 is None else torch.backends.cuda.matmul.allow_tf32
    try:
        if threads:
            torch.set_num_threads(threads)
        if matmul_tf32 is not None:
            torch.backends.cuda.matmul.allow_tf32 = matmul_tf32
        yield
    finally:
        torch.set_num_threads(threads_before)
        if tf32_before is not None:
            torch.backends.cuda.matmul.allow_tf32 = tf32_before
