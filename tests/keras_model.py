"""Writes what Keras computes: `KERAS_BACKEND=torch python tests/keras_model.py FOLDER`.

Into the folder go numbers.json, the weights, an input and the output of small layers of every kind, and files of Keras's of a model with
such a layer: KIND.keras, KIND.weights.h5, KIND.h5. The weights have two decimals. tests/keras_numbers.json is a copy of numbers.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np

T, B, I, H = 3, 2, 2, 2  # noqa: E741
KINDS = {
    "SimpleRNN": (keras.layers.SimpleRNN, {}),
    "SimpleRNN-relu": (keras.layers.SimpleRNN, {"activation": "relu"}),
    "GRU": (keras.layers.GRU, {}),
    "LSTM": (keras.layers.LSTM, {}),
}


def model(layers: list[keras.layers.Layer]) -> keras.Model:
    """A model with random weights."""
    network = keras.Sequential([keras.Input((T, I)), *layers])
    generator = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(np.round(generator.uniform(-1, 1, weight.shape), 2))
    return network


def save(network: keras.Model, folder: Path, name: str) -> dict[str, object]:
    """Write the model's files; what it computes."""
    network.save(folder / f"{name}.keras")
    network.save(folder / f"{name}.h5")
    network.save_weights(folder / f"{name}.weights.h5")
    x = np.round(np.random.default_rng(1).uniform(-1, 1, (B, T, I)), 2)
    output = keras.ops.convert_to_numpy(network(x))
    return {"x": x.tolist(), "output": output.tolist()}


def main(folder: Path) -> None:
    keras.config.set_floatx("float64")
    numbers = {}
    for kind, (layer, options) in KINDS.items():
        for bidirectional in (False, True):
            for bias in (True, False):
                name = kind + "-bidirectional" * bidirectional + "-no-bias" * (not bias)
                inner = layer(H, return_sequences=True, use_bias=bias, **options)
                network = model([keras.layers.Bidirectional(inner) if bidirectional else inner])
                found = save(network, folder, name)
                numbers[name] = {"arrays": [array.tolist() for array in network.layers[0].get_weights()], **found}
    lstm = {"units": H, "return_sequences": True}
    inside = keras.Sequential([keras.Input((T, H)), keras.layers.LSTM(name="top", **lstm)], name="inside")
    stack = [keras.layers.LSTM(name="bottom", **lstm), keras.layers.Dropout(0.5), keras.layers.LSTM(name="middle", **lstm), inside]
    numbers["stack"] = save(model(stack), folder, "stack")
    for name, other in {
        "reset-before": keras.layers.GRU(H, reset_after=False),
        "hard": keras.layers.LSTM(H, recurrent_activation="hard_sigmoid"),
        "linear": keras.layers.SimpleRNN(H, activation=None),
        "summed": keras.layers.Bidirectional(keras.layers.GRU(H), merge_mode="sum"),
        "backwards": keras.layers.LSTM(H, return_sequences=True, go_backwards=True),
        "cell": keras.layers.RNN(keras.layers.LSTMCell(H)),
    }.items():
        numbers[name] = save(model([other]), folder, name)
    (folder / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
