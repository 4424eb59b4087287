"""Fitting and judging: exact bits, carried states, and a model that learns."""

from __future__ import annotations

import gzip
from math import log2

import pytest
import torch

from elman.train import evaluate
from elman.train.char_model import CharModel
from elman.train.evaluate import as_characters, bits_of_each, bits_per_character, compressors
from elman.train.fit import DivergedError, FitSettings, Step, fit, read_chunks

REPETITIVE = b"the cat sat on the mat. " * 60


def small(seed: int = 0) -> CharModel:
    torch.manual_seed(seed)
    return CharModel(embedding_size=8, hidden_size=32)


def silent() -> CharModel:
    """A model that believes all characters equally likely, but for the head's bias."""
    model = small()
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    return model


@pytest.mark.parametrize("length", [1, 31, 32, 33, 1000])
def test_a_model_that_knows_nothing_needs_eight_bits(length: int) -> None:
    assert bits_per_character(silent(), bytes(length)) == pytest.approx(8.0, abs=1e-5)


def test_bits_are_minus_the_logarithm_of_the_probability() -> None:
    model = silent()
    with torch.no_grad():
        model.head.bias[ord("a")] = torch.log(torch.tensor(3.0))  # "a" has 3 of 258 shares, all others 1
    expected = (5 * log2(258 / 3) + 2 * log2(258)) / 7
    assert bits_per_character(model, b"aabaaca") == pytest.approx(expected, rel=1e-6)


def test_every_character_counts_once_whatever_the_number_of_streams() -> None:
    model, text = small(), b"abcdefghijklmnopqrstuvw"
    whole = 0.0
    for begin in range(0, len(text), 6):  # four streams of six characters, the last one shorter
        whole += bits_of_each(model, as_characters(text[begin : begin + 6])[:, None]).double().sum().item()
    assert bits_per_character(model, text, streams=4) == pytest.approx(whole / len(text), rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_chunks_that_carry_the_state_equal_one_long_run(chunk: int) -> None:
    model, characters = small(), as_characters(REPETITIVE[:100])[:, None]
    torch.testing.assert_close(
        bits_of_each(model, characters, chunk=chunk), bits_of_each(model, characters, chunk=1000), rtol=1e-5, atol=1e-5
    )


def test_compressors_count_every_byte_of_their_output() -> None:
    assert compressors(REPETITIVE)["gzip"] == 8 * len(gzip.compress(REPETITIVE, 9)) / len(REPETITIVE)
    assert compressors(REPETITIVE)["xz"] < 1


def test_chunks_follow_each_other_along_every_stream_and_begin_anew() -> None:
    text = bytes(range(25))
    chunks = read_chunks(text, streams=2, chunk=4)
    drawn = [next(chunks) for _ in range(4)]
    assert [fresh for _, _, fresh in drawn] == [True, False, False, True]
    inputs = torch.cat([inputs for inputs, _, _ in drawn[:3]])
    targets = torch.cat([targets for _, targets, _ in drawn[:3]])
    assert inputs.t().tolist() == [list(range(12)), list(range(12, 24))]
    assert targets.t().tolist() == [list(range(1, 13)), list(range(13, 25))]


@pytest.mark.parametrize("length", [2, 3, 65, 66])
def test_a_short_text_is_read_in_what_chunks_it_allows(length: int) -> None:
    inputs, targets, _ = next(read_chunks(bytes(length), streams=32, chunk=64))
    assert inputs.shape == targets.shape
    assert inputs.numel() > 0


def test_it_learns_a_repetitive_text() -> None:
    model = small()
    before = bits_per_character(model, REPETITIVE, streams=4)
    last = fit(model, REPETITIVE, FitSettings(steps=80, streams=4, chunk=24, learning_rate=1e-2))
    assert last.number == 80
    assert last.characters == 80 * 4 * 24
    assert before > 7
    assert bits_per_character(model, REPETITIVE, streams=4) < 1  # its letters alone, out of context, would cost 3.3


def test_the_same_seed_gives_the_same_losses() -> None:
    def losses() -> list[float]:
        found: list[float] = []
        fit(small(3), REPETITIVE, FitSettings(steps=6, streams=2, chunk=16), lambda step: found.append(step.bits))
        return found

    assert losses() == losses()


def test_a_wide_model_is_judged_in_shorter_chunks_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    whole = bits_per_character(model, REPETITIVE, streams=3)
    monkeypatch.setattr(evaluate, "_AT_ONCE", 1)
    assert bits_per_character(model, REPETITIVE, streams=3) == pytest.approx(whole, rel=1e-6)


def test_divergence_goes_back_to_the_weights_before() -> None:
    """The third step's gradient ruins the weights: the fourth step sees it, and the weights are those that the second step left."""
    model, left = small(), {}

    def ruin(step: Step) -> None:
        left[step.number] = {name: value.clone() for name, value in model.state_dict().items()}
        if step.number == 3:
            with torch.no_grad():
                model.head.weight.fill_(float("inf"))

    with pytest.raises(DivergedError, match="diverged: at step 4 a character costs nan bits") as caught:
        fit(model, REPETITIVE, FitSettings(steps=9, streams=2, chunk=8), ruin)
    assert caught.value.weights_step == 2
    assert all(torch.equal(value, left[2][name]) for name, value in model.state_dict().items())


def test_the_last_step_is_judged_too() -> None:
    with pytest.raises(DivergedError, match="at step 2"):
        fit(small(), REPETITIVE, FitSettings(steps=1, streams=2, chunk=8, learning_rate=1e30))


def test_seconds_end_the_training() -> None:
    last = fit(small(), REPETITIVE, FitSettings(seconds=0.2, streams=2, chunk=8))
    assert last.fraction == 1
    assert last.seconds >= 0.2


def test_it_stops_when_it_is_told_to() -> None:
    def third(step: Step) -> bool:
        return step.number < 3

    last = fit(small(), REPETITIVE, FitSettings(steps=100, streams=2, chunk=8), third)
    assert (last.number, last.fraction) == (3, 0.03)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "^expected exactly one of steps and seconds, got neither$"),
        ({"steps": 1, "seconds": 1.0}, "^expected exactly one of steps and seconds, got both$"),
        ({"steps": 0}, "steps must be positive"),
        ({"seconds": float("nan")}, "seconds must be positive"),
        ({"steps": 1, "learning_rate": -1.0}, "learning_rate must be positive"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitSettings(**wrong)  # type: ignore[arg-type]
