"""What can be said about each character of a text, to find the hidden units that say the same."""

from __future__ import annotations

import re

import torch
from torch import Tensor

_QUOTED = re.compile(
    rb'(?P<docstring>"""(?:\\.|[^\\])*?(?:"""|\Z)|\'\'\'(?:\\.|[^\\])*?(?:\'\'\'|\Z))'
    rb'|(?P<string>"(?:\\.|[^"\\\n])*(?:"|$)|\'(?:\\.|[^\'\\\n])*(?:\'|$))'
    rb"|(?P<comment>#[^\n]*)",
    re.DOTALL | re.MULTILINE,
)
"""Python's strings and comments, as a text is read from its start."""


def features(text: bytes, code: bool) -> dict[str, Tensor]:
    """Features of every character, by what one would call them: float tensors (len(text),).

    A feature's value is what is known once the character has been read: a string's opening quote is inside, its closing one is not.

    >>> for name, values in features(b'f("a")  # b', code=True).items():
    ...     if name.startswith("in a") or name == "in brackets":
    ...         print("".join(str(int(value)) for value in values), name)
    10010000001 in a word
    00000000000 in a number
    01111000000 in brackets
    00110000000 in a string
    00000000000 in a docstring
    00000000111 in a comment

    Args:
        text: read from the beginning of a file, or strings are mistaken for what is between them.
        code: the text is Python, where quotes, brackets and number signs mean something.
    """
    of_lines = _of_lines(text)
    return of_lines | _of_syntax(text) if code else of_lines


def _of_lines(text: bytes) -> dict[str, Tensor]:
    column: list[float] = []
    indentation: list[float] = []
    for line in text.splitlines(keepends=True):
        depth = len(line) - len(line.lstrip(b" "))
        column.extend(range(1, len(line)))
        column.append(0)
        indentation.extend([*range(1, depth + 1), *[depth] * (len(line) - depth)])
    return {
        "column in the line": torch.tensor(column, dtype=torch.float32),
        "depth of indentation": torch.tensor(indentation, dtype=torch.float32),
        "in a word": _mask(text, re.compile(rb"\w+")),
        "in capitals": _mask(text, re.compile(rb"[A-Z]+")),
        "in a number": _mask(text, re.compile(rb"\b\d+")),
    }


def _of_syntax(text: bytes) -> dict[str, Tensor]:
    code = torch.frombuffer(bytearray(_QUOTED.sub(lambda match: b" " * len(match[0]), text)), dtype=torch.uint8)
    depth = (_is_one_of(code, b"([{") - _is_one_of(code, b")]}")).cumsum(0)
    return {
        "in brackets": (depth > 0).float(),
        "in a string": _mask(text, _QUOTED, "string", closing=1),
        "in a docstring": _mask(text, _QUOTED, "docstring", closing=1),
        "in a comment": _mask(text, _QUOTED, "comment"),
    }


def _mask(text: bytes, pattern: re.Pattern[bytes], group: str | int = 0, closing: int = 0) -> Tensor:
    """One for every character of every match, but for its last ``closing`` ones."""
    mask = torch.zeros(len(text))
    for match in pattern.finditer(text):
        begin, end = match.span(group)
        mask[begin : end - closing] = 1
    return mask


def _is_one_of(characters: Tensor, some: bytes) -> Tensor:
    return torch.isin(characters, torch.tensor(list(some), dtype=characters.dtype)).float()
