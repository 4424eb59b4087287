"""Files of Keras's: what Keras wrote is read, in each format; what is damaged or leads out of the file is refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import elman
from test_weights_keras import CASES, NUMBERS, arrays, options, run, tolerance

FORMATS = (".keras", ".h5", ".weights.h5")
CONFIG = {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": False}


# --- What Keras writes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that Keras, in a process of its own, has just written."""
    folder = tmp_path_factory.mktemp("keras")
    environment = os.environ | {"KERAS_BACKEND": "torch", "KERAS_HOME": str(folder / "home")}
    command = [sys.executable, str(Path(__file__).with_name("keras_model.py")), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_keras_files_make_modules_that_compute_the_same(written: Path) -> None:
    for case in CASES:
        for suffix in FORMATS:
            module = elman.from_keras(written / f"{case}{suffix}", **(options(case) if suffix == ".weights.h5" else {}))
            np.testing.assert_allclose(run(module, case), NUMBERS[case]["output"], rtol=0, atol=tolerance(case))


@pytest.mark.slow
def test_the_numbers_that_the_other_tests_take_are_keras_own(written: Path) -> None:
    fresh = json.loads((written / "numbers.json").read_text())
    assert fresh.keys() == NUMBERS.keys()
    for case, numbers in fresh.items():
        np.testing.assert_allclose(numbers["output"], NUMBERS[case]["output"], rtol=0, atol=max(1e-12, tolerance(case)))


@pytest.mark.slow
def test_layers_are_chosen_by_name_and_stacked(written: Path) -> None:
    for suffix in FORMATS:
        module = elman.from_keras(written / f"stack{suffix}", ["bottom", "middle", "top"])
        assert module.num_layers == 3
        np.testing.assert_allclose(run(module, "stack"), NUMBERS["stack"]["output"], rtol=0, atol=1e-12)
        if suffix != ".h5":
            assert elman.from_keras(written / f"stack{suffix}", "layers/sequential/layers/lstm").num_layers == 1
        with pytest.raises(
            ValueError, match=r"recurrent layer, got 3, \['bottom', ('middle', 'top'|'top', 'middle')\]: choose with layer="
        ):
            elman.from_keras(written / f"stack{suffix}")
    assert elman.from_keras(written / "stack.h5", ["bottom", "middle"]).num_layers == 2
    assert elman.from_keras(written / "stack.h5", "inside/top").num_layers == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("reset-before", "got reset_after=False: its reset gate multiplies the state before the product"),
        ("hard", "to have recurrent_activation='sigmoid', as Elman's LSTM does, got 'hard_sigmoid'"),
        ("linear", "to have activation='tanh' or 'relu', as Elman's RNN does, got 'linear'"),
        ("summed", "to have merge_mode='concat', .* got 'sum'"),
        ("backwards", "to run forward, got go_backwards=True"),
        ("cell", "to be a SimpleRNN, a GRU or an LSTM, or a Bidirectional around one, got 'RNN'"),
    ],
)
def test_what_computes_something_else_is_refused_by_name(written: Path, name: str, said: str) -> None:
    for suffix in (".keras", ".h5"):
        with pytest.raises(ValueError, match=said):
            elman.from_keras(written / f"{name}{suffix}")


@pytest.mark.slow
def test_a_layer_that_runs_backwards_is_run_forward_on_a_reversed_input(written: Path) -> None:
    lstm = elman.from_keras(written / "backwards.keras", reverse_as_forward=True)
    x = torch.tensor(NUMBERS["backwards"]["x"], dtype=torch.float64)
    np.testing.assert_allclose(lstm(x.flip(1))[0].detach(), NUMBERS["backwards"]["output"], rtol=0, atol=1e-12)


# --- The formats, written here ----------------------------------------------------------------------------------------


def old(path: Path, case: str, config: object = None, suffix: str = ":0") -> Path:
    """A file as Keras 2 writes it: with a config a model's, without one its weights'."""
    kinds = ["kernel", "recurrent_kernel", "bias"][: len(arrays(case)) if "bidirectional" not in case else len(arrays(case)) // 2]
    ways = ["forward_it/cell", "backward_it/cell"] if "bidirectional" in case else ["cell"]
    names = [f"it/{way}/{kind}{suffix}" for way in ways for kind in kinds]
    with h5py.File(path, "w") as file:
        root = file if config is None else file.create_group("model_weights")
        if config is None:
            file.attrs["layer_names"] = [b"it"]
        else:
            file.attrs["model_config"] = config if isinstance(config, str) else json.dumps({"config": {"layers": [config]}})
        group = root.create_group("it")
        group.attrs["weight_names"] = [name.encode() for name in names]
        for name, array in zip(names, arrays(case), strict=True):
            group[name] = array
    return path


def new(case: str, path: Path | None = None) -> io.BytesIO | Path:
    """Weights as Keras 3 writes them."""
    file = path or io.BytesIO()
    found = arrays(case)
    ways = {"cell": found}
    if "bidirectional" in case:
        ways = {"forward_layer/cell": found[: len(found) // 2], "backward_layer/cell": found[len(found) // 2 :]}
    with h5py.File(file, "w") as root:
        for way, each in ways.items():
            for index, array in enumerate(each):
                root[f"layers/it/{way}/vars/{index}"] = array
    return file


def archive(path: Path, weights: bytes, config: object) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        file.writestr("model.weights.h5", weights)
    return path


@pytest.mark.parametrize("case", CASES)
def test_files_of_weights_alone_are_read(case: str, tmp_path: Path) -> None:
    for path in (old(tmp_path / "old.h5", case), new(case, tmp_path / "it.weights.h5")):
        module = elman.from_keras(str(path), **options(case))
        np.testing.assert_allclose(run(module, case), NUMBERS[case]["output"], rtol=0, atol=tolerance(case))


def test_a_models_file_tells_the_config(tmp_path: Path) -> None:
    config = {"class_name": "LSTM", "config": {"name": "it", **CONFIG}}
    assert isinstance(elman.from_keras(old(tmp_path / "it.h5", "LSTM", config)), elman.LSTM)
    config["config"]["activation"] = {"class_name": "function", "config": "swish"}
    with pytest.raises(ValueError, match=r"it to have activation='tanh', as Elman's LSTM does, got \{'class_name': 'function'"):
        elman.from_keras(old(tmp_path / "it.h5", "LSTM", config))
    other = {"class_name": "GRU", "config": {"name": "it", **CONFIG}}
    with pytest.raises(ValueError, match=r"expected a recurrent kernel \(units, 3·units\) second in it, got an array of shape \(2, 8\)"):
        elman.from_keras(old(tmp_path / "it.h5", "LSTM", other))
    bidirectional = {"class_name": "Bidirectional", "config": {"name": "it", "merge_mode": "concat", "layer": other}}
    assert elman.from_keras(old(tmp_path / "it.h5", "GRU-bidirectional", bidirectional)).bidirectional
    with pytest.raises(ValueError, match="expected arrays for one direction in it, got them for both directions"):
        elman.from_keras(old(tmp_path / "it.h5", "GRU-bidirectional", other))


def test_layers_of_a_model_inside_the_model_are_layers_too(tmp_path: Path) -> None:
    def write(way: str, settings: bool) -> Path:
        one, other = arrays("LSTM"), arrays("GRU-bidirectional")
        kinds = ("kernel", "recurrent_kernel", "bias")
        names = [f"{way}below/lstm_cell/{kind}" for kind in kinds]
        names += [f"{way}above/{side}_gru/gru_cell/{kind}" for side in ("forward", "backward") for kind in kinds]
        with h5py.File(tmp_path / "it.h5", "w") as file:
            root = file.create_group("model_weights") if settings else file
            root.attrs["layer_names"] = [b"inside"]
            below = {"class_name": "LSTM", "config": {"name": "below", **CONFIG}}
            gru = {"class_name": "GRU", "config": {"name": "gru", **CONFIG, "reset_after": True}}
            above = {"class_name": "Bidirectional", "config": {"name": "above", "merge_mode": "concat", "layer": gru}}
            inside = {"class_name": "Functional", "config": {"name": "inside", "layers": [below, above]}}
            file.attrs["model_config"] = json.dumps({"config": {"layers": [inside]}})
            group = root.create_group("inside")
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, [*one, *other], strict=True):
                group[name] = array
        return tmp_path / "it.h5"

    for way, settings in (("", False), ("", True), ("model/inside/", True)):
        path = write(way, settings)
        with pytest.raises(TypeError, match="expected layer to be a name, or a list of names from the lowest up, got 3"):
            elman.from_keras(path, 3)
        with pytest.raises(ValueError, match=r"expected one recurrent layer, got 2, \['below', 'above'\]"):
            elman.from_keras(path)
        for name, case in (("below", "LSTM"), ("inside/above", "GRU-bidirectional")):
            np.testing.assert_allclose(run(elman.from_keras(path, name), case), NUMBERS[case]["output"], rtol=0, atol=1e-12)


def write_old(path: Path, groups: dict[str, dict[str, list[np.ndarray]]], configs: list[dict[str, object]] | None) -> Path:
    """A file as Keras 2 writes it: of each group the arrays by their folders."""
    with h5py.File(path, "w") as file:
        root = file if configs is None else file.create_group("model_weights")
        root.attrs["layer_names"] = [name.encode() for name in groups]
        file.attrs["model_config"] = json.dumps({"config": {"layers": configs or []}})
        for name, folders in groups.items():
            group, names = root.create_group(name), []
            for folder, each in folders.items():
                for kind, array in zip(("kernel", "recurrent_kernel", "bias")[-len(each) :], each, strict=True):
                    names.append(f"{folder}/{kind}".encode())
                    group[f"{folder}/{kind}"] = array
            group.attrs["weight_names"] = names
    return path


def layer(kind: str, name: str, **own: object) -> dict[str, object]:
    return {"class_name": kind, "config": {"name": name, **CONFIG, **own}}


def test_a_layer_beside_one_that_cannot_be_read_is_read(tmp_path: Path) -> None:
    one, dense = arrays("LSTM"), [np.zeros(3)]
    odd = layer("Mine", "odd")
    wrapped = layer("TimeDistributed", "odd", layer=layer("Sequential", "inner", layers=[layer("LSTM", "lstm"), layer("Dense", "dense")]))
    for config in (odd, wrapped):
        groups = {"good": {"good/lstm_cell": one}, "odd": {"odd/lstm/lstm_cell": one, "odd/dense": dense}}
        path = write_old(tmp_path / "it.h5", groups, [layer("LSTM", "good"), config])
        assert isinstance(elman.from_keras(path, "good"), elman.LSTM)
        with pytest.raises(ValueError, match=r"expected one recurrent layer, got 2, \['good', 'lstm'\]"):
            elman.from_keras(path)
        if config is wrapped:
            assert isinstance(elman.from_keras(path, "lstm"), elman.LSTM)
        else:
            with pytest.raises(ValueError, match="expected a class_name and a config of lstm, got '0 layers called lstm'"):
                elman.from_keras(path, "lstm")


@pytest.mark.parametrize("config", [True, False])
def test_a_bidirectional_layer_may_have_any_name(config: bool, tmp_path: Path) -> None:
    found = arrays("GRU-bidirectional")
    folders = {f"backward_it/{way}_gru/gru_cell": found[3 * k : 3 * k + 3] for k, way in enumerate(("forward", "backward"))}
    own = layer("Bidirectional", "backward_it", merge_mode="concat", layer=layer("GRU", "gru", reset_after=True))
    assert elman.from_keras(write_old(tmp_path / "it.h5", {"backward_it": folders}, [own] if config else None)).bidirectional


def test_two_layers_that_are_called_as_directions_are_two(tmp_path: Path) -> None:
    folders = {f"inner/{way}_lstm/lstm_cell": arrays("LSTM") for way in ("forward", "backward")}
    inner = layer("Functional", "inner", layers=[layer("LSTM", "forward_lstm"), layer("LSTM", "backward_lstm")])
    path = write_old(tmp_path / "it.h5", {"inner": folders}, [inner])
    for name in ("forward_lstm", "inner/backward_lstm"):
        assert not elman.from_keras(path, name).bidirectional


def test_two_layers_inside_are_not_the_directions_of_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "it.h5", "w") as file:
        file.attrs["layer_names"] = [b"inside"]
        group = file.create_group("inside")
        names = [f"{layer}/lstm_cell/{kind}" for layer in ("below", "above") for kind in ("kernel", "recurrent_kernel", "bias")]
        group.attrs["weight_names"] = [name.encode() for name in names]
        for name, array in zip(names, arrays("LSTM") * 2, strict=True):
            group[name] = array
    assert not elman.from_keras(tmp_path / "it.h5", "inside/above").bidirectional
    with pytest.raises(ValueError, match=r"expected one recurrent layer, got 2, \['below', 'above'\]"):
        elman.from_keras(tmp_path / "it.h5")


# --- What is no file of Keras's ---------------------------------------------------------------------------------------


def refused(path: Path, said: str = "got another kind of file") -> None:
    with pytest.raises(ValueError, match=said) as caught:
        elman.from_keras(path, "it")
    assert str(caught.value).startswith(f"expected {path} to be a Keras file (.keras, .weights.h5 or .h5), got another kind of file: ")


def test_a_file_of_something_else_is_said(tmp_path: Path) -> None:
    path = tmp_path / "it.keras"
    for content in (b"", b"weights", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"\x89HDF\r\n\x1a\n" + bytes(100)):
        path.write_bytes(content)
        refused(path)
    weights = new("LSTM").getvalue()
    for cut in (10, len(weights) // 2, len(weights) - 1):
        path.write_bytes(weights[:cut])
        refused(path)
    with pytest.raises(FileNotFoundError):
        elman.from_keras(tmp_path / "none.keras")
    with pytest.raises(IsADirectoryError):
        elman.from_keras(tmp_path)


NO_CONFIGS = [
    "",
    "{",
    "[1]",
    "{}",
    '{"config": 3}',
    '{"config": {"layers": [3]}}',
    '{"config": {"layers": 3}}',
    '{"config": {"layers": [{}]}}',
]


@pytest.mark.parametrize("config", [*NO_CONFIGS, "[" * 50_000], ids=lambda config: config[:30])
def test_a_config_that_is_none_is_said(config: str, tmp_path: Path) -> None:
    refused(archive(tmp_path / "it.keras", new("LSTM").getvalue(), config))
    refused(old(tmp_path / "it.h5", "LSTM", config))


def test_a_file_without_recurrent_layers_is_said(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "it.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"expected one recurrent layer, got 0, \[\]"):
        elman.from_keras(tmp_path / "it.weights.h5")
    with pytest.raises(ValueError, match=r"expected layer to name one of the recurrent layers, \[\], got 'it'"):
        elman.from_keras(tmp_path / "it.weights.h5", "it")


def test_arrays_outside_the_file_are_not_read(tmp_path: Path) -> None:
    """Keras's own loader refuses them too: a file from elsewhere could otherwise read any file of yours."""
    (tmp_path / "secret").write_bytes(bytes(10_000))
    path = tmp_path / "it.weights.h5"

    def link(group: h5py.Group, key: str) -> None:
        group[key] = h5py.ExternalLink(str(new("LSTM", tmp_path / "other.h5")), "/layers/it/cell/vars/0")

    def soft(group: h5py.Group, key: str) -> None:
        group[key] = h5py.SoftLink("/layers/it/cell/vars/1")

    def outside(group: h5py.Group, key: str) -> None:
        group.create_dataset(key, (2, 8), "f8", external=[(str(tmp_path / "secret"), 0, 128)])

    def virtual(group: h5py.Group, key: str) -> None:
        layout = h5py.VirtualLayout((2, 8), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "layers/it/cell/vars/0", (2, 8))
        group.create_virtual_dataset(key, layout)

    def whole(group: h5py.Group, key: str) -> None:
        group[key] = np.ones((2, 8), np.int64)

    def folder(group: h5py.Group, key: str) -> None:
        group.create_group(key)

    def bomb(group: h5py.Group, key: str) -> None:
        group.create_dataset(key, (2**20, 2**20), "f8", chunks=(1024, 1024))

    def missing(group: h5py.Group, key: str) -> None:
        group["7"] = np.zeros(2)

    said = {
        link: "is a link",
        soft: "is a link",
        whole: "array of floating-point",
        folder: "is not an array",
        bomb: "claims to be",
    }
    for put, words in {**said, outside: "in the file itself", virtual: "in the file itself", missing: "is missing"}.items():
        new("LSTM", path)
        with h5py.File(path, "a") as file:
            group = file["layers/it/cell/vars"]
            del group["0"]
            put(group, "0")
        refused(path, words)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "it.keras", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("config.json", " " * 10_000_000)
        file.writestr("model.weights.h5", b"")
    refused(tmp_path / "it.keras", "config.json claims to be 10000000 bytes long")


def test_a_layer_that_the_config_does_not_describe_is_said(tmp_path: Path) -> None:
    config = {"class_name": "Own", "config": {}}
    refused(archive(tmp_path / "it.keras", new("LSTM").getvalue(), config), "config.json does not describe the layer it: pass its arrays")


def test_without_h5py_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        elman.from_keras(tmp_path / "it.h5")
