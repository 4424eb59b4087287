"""Sequences that come bit by bit: a step or a chunk at a time, with the state kept in between."""

from elman.streaming.chunks import Chunks, chunks
from elman.streaming.stream import Stream, stream

__all__ = ["Chunks", "Stream", "chunks", "stream"]
