"""Keras's files, read as data: ``.keras`` (a zip), ``.weights.h5`` and ``.h5`` (HDF5). Nothing in them is run, or leads out of them.

A ``.keras`` holds ``config.json`` and ``model.weights.h5``. There, and in a ``.weights.h5`` of Keras 3, a layer is a group. It is named
after its class, from the second of a class on with a number: ``layers/lstm``, ``layers/lstm_1``. Its arrays are in ``cell/vars/0``, ``1``
and ``2``, those of a Bidirectional likewise, below ``forward_layer`` and ``backward_layer``. An ``.h5`` has the config in an attribute, and
for each layer a group of its own name, which lists its arrays in the attribute ``weight_names``. A ``.weights.h5`` of Keras 2 has these
groups alone.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from elman.layers.errors import brief
from elman.weights.keras_layer import KerasLayer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from elman.weights.layer import Array

_WEIGHTS = "model.weights.h5"
_ARRAYS = ("kernel", "recurrent_kernel", "bias")
_MOST = 1000  # a file's numbers take at most so many times the bytes that hold them: more than a compressor reaches


def read(path: Path) -> list[KerasLayer]:
    """The recurrent layers of a file.

    Raises:
        ImportError: h5py is not installed.
        OSError: it cannot be opened.
        ValueError: it is not a file of Keras's, or damaged.
    """
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise ImportError(f"reading {path.name} needs h5py, which is not installed: pip install h5py") from error
    with path.open("rb") as file:  # says what is wrong with a path in the system's words
        start = file.read(4)
    try:
        return _archive(path) if start == b"PK\x03\x04" else _hdf5(path)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        raise ValueError(f"expected {path} to be a Keras file (.keras, .weights.h5 or .h5), got another kind of file: {error}") from error


def _archive(path: Path) -> list[KerasLayer]:
    """A ``.keras``."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(_member(archive, "config.json"))
        weights = io.BytesIO(_member(archive, _WEIGHTS))
    settings = dict(_settings_by_path(config, ""))
    found = _hdf5(weights)
    for each in found:
        if each.path not in settings:
            raise ValueError(f"config.json does not describe the layer {each.name}: pass its arrays, layer.get_weights(), instead")
    return [each._replace(config=settings[each.path]) for each in found]


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive."""
    info = archive.getinfo(name)
    if info.file_size > _MOST * max(info.compress_size, 1024):
        raise ValueError(f"{name} claims to be {info.file_size} bytes long, in {info.compress_size}")
    return archive.read(info)


def _hdf5(file: Path | io.BytesIO) -> list[KerasLayer]:
    import h5py

    with h5py.File(file, "r") as root:
        if "layer_names" in root.attrs:
            return list(_old_layers(root, {}))
        if "model_weights" in root:
            return list(_old_layers(_group(root, "model_weights"), _settings_by_name(root.attrs.get("model_config"))))
        return list(_layers(root, ""))


# --- HDF5 as Keras 3 writes it ----------------------------------------------------------------------------------------


def _layers(group: Any, path: str) -> Iterator[KerasLayer]:
    """The recurrent layers in a group and in those below it."""
    directions = [_arrays(group, way) for way in ("forward_layer/", "backward_layer/", "")]
    if directions[0] and directions[1]:
        yield KerasLayer(_name(group, path), path, None, (*directions[0], *directions[1]))
    elif directions[2]:
        yield KerasLayer(_name(group, path), path, None, directions[2])
    else:
        for key in group:
            if key != "vars" and _is_group(group, key):
                yield from _layers(_group(group, key), f"{path}/{key}".lstrip("/"))


def _arrays(group: Any, way: str) -> tuple[Array, ...]:
    """The arrays of a cell, of the layer itself or of one of its directions; none if it has no cell."""
    for key in f"{way}cell/vars".split("/"):
        if not _is_group(group, key):
            return ()
        group = _group(group, key)
    return tuple([_array(group, str(number)) for number in range(len(group))])


def _name(group: Any, path: str) -> str:
    """What a layer is called. Files of the first releases of Keras 3 do not say it."""
    name = _group(group, "vars").attrs.get("name") if _is_group(group, "vars") else None
    return name if isinstance(name, str) else path.rpartition("/")[2] or "the layer"


def _settings_by_path(config: Any, path: str) -> Iterator[tuple[str, object]]:
    """The configs of a model's layers, by where their weights stand."""
    seen: dict[str, int] = {}
    for layer in config["config"].get("layers", ()):
        kind = _snake(layer["class_name"])
        count = seen[kind] = seen.get(kind, -1) + 1
        at = f"{path}layers/{kind}" + (f"_{count}" if count else "")
        yield at, layer
        if isinstance(layer["config"], dict):
            yield from _settings_by_path(layer, f"{at}/")


def _snake(name: str) -> str:
    """A class's name as Keras names groups: SimpleRNN is simple_rnn."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


# --- HDF5 as Keras 2 writes it, and 3 in a model's .h5 ------------------------------------------------------------------


def _old_layers(root: Any, settings: Mapping[str, object]) -> Iterator[KerasLayer]:
    """The layers whose arrays are a kernel, a recurrent kernel and perhaps a bias, once or twice; those of a model inside the model too."""
    for name in root:
        group = _group(root, name)
        names = [each.decode() if isinstance(each, bytes) else str(each) for each in group.attrs.get("weight_names", ())]
        config: Any = settings.get(name)
        inside = _layers_inside(config)
        for folders, arrays in _cells(names, {each["config"].get("name") for each in inside}):
            found = tuple([_array(group, each) for each in arrays])
            if len(arrays) == len(names) and not inside:
                yield KerasLayer(name, name, config, found)
            else:
                inner = folders[0][-min(len(folders) + 1, len(folders[0]))]  # before the folder of the cell, or of the direction
                called = [each for each in inside if each["config"].get("name") == inner]
                described = called[0] if len(called) == 1 else f"{len(called)} layers called {inner}"
                yield KerasLayer(inner, f"{name}/{inner}", described if config else None, found)


def _cells(names: list[str], layers: set[str]) -> list[tuple[list[list[str]], list[str]]]:
    """The recurrent layers among these arrays: the folders of each, two for both directions, and its arrays.

    Args:
        names: the paths of the arrays.
        layers: names that are known to be layers', not directions'.
    """
    found: list[tuple[list[list[str]], list[str]]] = []
    for path, group in itertools.groupby(names, lambda each: each.rpartition("/")[0]):
        arrays, folder = list(group), path.split("/")
        if [each.rpartition("/")[2].partition(":")[0] for each in arrays] not in (list(_ARRAYS[:2]), list(_ARRAYS)):
            continue
        before = found[-1][0][-1] if found and len(found[-1][0]) == 1 else []
        one, other = next(((one, other) for one, other in zip(before, folder, strict=False) if one != other), ("", ""))
        if one.startswith("forward_") and other.startswith("backward_") and other not in layers:
            found[-1] = [*found[-1][0], folder], [*found[-1][1], *arrays]
        else:
            found.append(([folder], arrays))
    return found


def _settings_by_name(config: Any) -> dict[str, object]:
    """The configs of a model's layers by their names."""
    if not isinstance(config, str | bytes):
        raise ValueError(f"its model_config is {brief(config)}")
    return {layer["config"]["name"]: layer for layer in json.loads(config)["config"]["layers"]}


def _layers_inside(config: Any) -> list[Any]:
    """The configs of the layers that a layer has, if it is a model itself or a wrapper of one, and of those inside them."""
    found: list[Any] = []
    left = [config] if isinstance(config, dict) and config.get("class_name") != "Bidirectional" else []
    while left:
        own = left.pop().get("config")
        inside = [*own.get("layers", ()), own.get("layer")] if isinstance(own, dict) else []
        inside = [each for each in inside if isinstance(each, dict) and isinstance(each.get("config"), dict)]
        found += inside
        left += [each for each in inside if each.get("class_name") != "Bidirectional"]
    return found


# --- What may stand in an HDF5 file -----------------------------------------------------------------------------------


def _entry(group: Any, key: str) -> Any:
    """What a group holds under a key. Links that lead elsewhere, into other files too, are not followed."""
    import h5py

    link = group.get(key, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{group.name}/{key} is {'missing' if link is None else 'a link'}")
    return group[key]


def _is_group(group: Any, key: str) -> bool:
    import h5py

    return key in group and group.get(key, getclass=True) is h5py.Group


def _group(group: Any, key: str) -> Any:
    import h5py

    found = _entry(group, key)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{group.name}/{key} is not a group")
    return found


def _array(group: Any, path: str) -> Array:
    """The numbers of a dataset that is in the file itself, in the machine's byte order."""
    import h5py

    *groups, key = path.split("/")
    for each in groups:
        group = _group(group, each)
    dataset = _entry(group, key)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.external or dataset.is_virtual:
        raise ValueError(f"{group.name}/{key} is not an array of floating-point numbers in the file itself")
    if dataset.nbytes > _MOST * dataset.id.get_storage_size():
        raise ValueError(f"{group.name}/{key} claims to be {dataset.nbytes} bytes long, in {dataset.id.get_storage_size()}")
    array = np.empty(dataset.shape, dataset.dtype.newbyteorder("="))
    dataset.read_direct(array)
    return array
