"""Let a model write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.train.evaluate import as_characters, evaluating

if TYPE_CHECKING:
    from elman.train.char_model import CharModel


def sample(model: CharModel, prompt: bytes, length: int, temperature: float = 0.7, seed: int = 0) -> bytes:
    """What the model writes after ``prompt``: each character is drawn from what the model expects, and read again.

    Args:
        model: its state starts from zeros.
        prompt: at least one character; it is not part of the result.
        length: how many characters to write.
        temperature: below 1 the likely becomes likelier; 1 draws from what the model believes.
        seed: the same seed writes the same text.

    Returns:
        ``length`` characters. They may be any bytes: see :func:`printable`.
    """
    draw = torch.Generator().manual_seed(seed)
    written = bytearray()
    with evaluating(model):
        logits, state = model(as_characters(prompt)[:, None])
        for _ in range(length):
            chances = (logits[-1, 0] / temperature).softmax(0)
            character = torch.multinomial(chances, 1, generator=draw)
            written.append(int(character))
            logits, state = model(character[:, None], state)
    return bytes(written)


def printable(text: bytes) -> str:
    r"""The text as a terminal may safely show it: what is not UTF-8 and every control character but the line's end becomes a mark.

    >>> printable(b"caf\xc3\xa9 \x1b[31m\xff")
    'café ·[31m�'
    """
    shown = text.decode(errors="replace").expandtabs(4)
    return "".join(character if character.isprintable() or character == "\n" else "·" for character in shown)
