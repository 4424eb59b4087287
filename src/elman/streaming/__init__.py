"""Sequences that arrive a step or a chunk at a time, with the state kept in between."""

from elman.streaming.chunks import Chunks, chunks
from elman.streaming.recurrent import RecurrentStream, stream
from elman.streaming.stream import Stream

__all__ = ["Chunks", "RecurrentStream", "Stream", "chunks", "stream"]
