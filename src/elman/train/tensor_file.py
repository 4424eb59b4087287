"""Tensors in safetensors' format, with texts beside them: the same bytes for the same content."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from safetensors.torch import save

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_LENGTH = 8  # bytes that hold the header's length; the header ends at a multiple of these


def serialize(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    """The content of a file. The package writes the texts in a random order; here they are sorted by name."""
    content = save(dict(tensors), dict(texts))
    end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    header = json.loads(content[_LENGTH:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text + content[end:]
