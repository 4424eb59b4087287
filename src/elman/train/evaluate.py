"""How good a model is: bits per character, beside what compressors reach on the same text.

A model that gives the character that came a probability p could store it in -log2 p bits (arithmetic coding comes within two bits of
that for a whole text), so bits per character and a compressor's output per character are the same measure.
Source: C. E. Shannon, "Prediction and Entropy of Printed English", Bell System Technical Journal 30 (1951).
"""

from __future__ import annotations

import gzip
import lzma
from contextlib import contextmanager
from math import log
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elman.train.char_model import CharModel

CHUNK = 256
"""Steps that are run at once."""

_AT_ONCE = 2**25
"""Numbers that a chunk may take, 128 MiB: a wide model is run in shorter chunks."""

_BEFORE_TEXT = ord("\n")


def as_characters(text: bytes) -> Tensor:
    """The text as integers, (len(text),) of uint8: the model's int64 would be eight times the text."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation, where its cell draws no random numbers, and without gradients. Afterwards each module has its mode back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def bits_of_each(model: CharModel, characters: Tensor, chunk: int = CHUNK) -> Tensor:
    """What each character costs, given all the ones before it: -log2 of the probability that the model gave it.

    The first one is predicted as if a line had just ended.

    Args:
        model: what is judged.
        characters: (T, B), B texts side by side.
        chunk: how many steps are run at once. The state is carried from chunk to chunk: the result does not depend on it.

    Returns:
        (T, B), in bits.
    """
    with evaluating(model):
        return torch.cat(list(_bits_in_chunks(model, characters, chunk)))


def _bits_in_chunks(model: CharModel, characters: Tensor, chunk: int) -> Iterator[Tensor]:
    """The bits of one chunk after the other: only one is in memory at a time, and no more of a wide model than ``_AT_ONCE`` numbers."""
    chunk = max(1, min(chunk, _AT_ONCE // (characters.shape[1] * model.numbers_per_character)))
    before = torch.cat([torch.full_like(characters[:1], _BEFORE_TEXT), characters[:-1]])
    state = None
    for begin in range(0, len(characters), chunk):
        targets = characters[begin : begin + chunk].long()
        logits, state = model(before[begin : begin + chunk], state)
        nats = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        yield nats.view_as(targets) / log(2)


def bits_per_character(model: CharModel, text: bytes, streams: int = 32) -> float:
    """The mean of the bits of every character of ``text``, none left out.

    For speed the text is cut into ``streams`` equal parts that are read side by side, each as if it were a text's beginning. That
    makes the figure a little worse than one pass from end to end would, never better than it should be.

    Args:
        model: what is judged.
        text: at least one character.
        streams: into how many parts it is cut; fewer for a text that has fewer characters.

    Returns:
        Bits per character; log2(256) = 8 for a model that knows nothing.
    """
    streams = min(streams, len(text))
    length = -(-len(text) // streams)
    characters = pad(as_characters(text), (0, streams * length - len(text))).view(streams, length).t()
    begins = torch.arange(streams) * length
    total, read = 0.0, 0
    with evaluating(model):
        for bits in _bits_in_chunks(model, characters, CHUNK):
            places = begins + torch.arange(read, read + len(bits))[:, None]
            total += bits[places < len(text)].double().sum().item()  # what lies behind is padding
            read += len(bits)
    return total / len(text)


def compressors(text: bytes) -> dict[str, float]:
    """Bits per character of gzip and xz at their strongest, file headers included.

    They are given ``text`` alone: they have not read what a model was trained on, but nor do they have weights to be stored.

    >>> compressors(b"to be or not to be, " * 500)["xz"] < 0.2
    True
    """
    sizes = {
        "gzip": len(gzip.compress(text, compresslevel=9, mtime=0)),
        "xz": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
    }
    return {name: 8 * size / len(text) for name, size in sizes.items()}
