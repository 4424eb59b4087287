"""A model in a file: safetensors, with the model's sizes as JSON in its metadata. Data only, nothing in it is ever run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from elman._files import write
from elman.train.char_model import CharModel
from elman.train.tensor_file import serialize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from elman import Cell

FORMAT = "elman.CharModel"


class CheckpointError(ValueError):
    """The file does not hold a model; the message says why."""


def save(model: CharModel, path: str | Path) -> None:
    """Write the model's sizes and weights."""
    write(Path(path), content_of(model))


def content_of(model: CharModel) -> bytes:
    """What :func:`save` writes."""
    cell = {} if model.cell is None else {"cell": repr(model.cell)}
    return serialize(model.state_dict(), {"format": FORMAT, "sizes": json.dumps(model.sizes, allow_nan=False), **cell})


def is_checkpoint(path: Path, form: str = FORMAT) -> bool:
    """Whether the file begins as one that :func:`save` wrote, or as another one of ours, be it cut off later.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return form.encode() in file.read(2**16)


def load(path: str | Path, cell: Cell | None = None) -> CharModel:
    """Read a model that :func:`save` wrote.

    Args:
        path: the file.
        cell: the cell that the model was made of, unless it is the default: a file names it, and does not hold it.

    Raises:
        CheckpointError: it is not such a file, or its weights do not fit its sizes.
        OSError: it cannot be read.
    """
    Path(path).open("rb").close()  # safetensors' errors do not name the file
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{path} does not hold a character model: its format is {metadata.get('format')!r}, not {FORMAT!r}")
            if metadata.get("cell") != (None if cell is None else repr(cell)):
                raise CheckpointError(f"{path} holds a model of {metadata.get('cell', 'the default cell')}, got {cell!r}: pass cell=...")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        sizes, found = json.loads(metadata["sizes"]), _sizes_of(weights)
        if sizes != found:  # known before a model of any size is made
            raise CheckpointError(f"{path} does not hold a character model: its sizes are {sizes}, those of its weights {found}")
        model = CharModel(**sizes, cell=cell)
        model.load_state_dict(weights)
    except CheckpointError:
        raise
    except (SafetensorError, IndexError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise CheckpointError(f"{path} does not hold a character model: {error}") from error
    return model


def _sizes_of(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes of the model that has these weights."""
    layers = {match[1] for name in weights if (match := re.fullmatch(r"rnn\..*_l(\d+)", name))}
    embedding, head = weights["embedding.weight"], weights["head.weight"]
    return {"embedding_size": embedding.shape[1], "hidden_size": head.shape[1], "num_layers": len(layers)}
