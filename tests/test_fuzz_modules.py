"""Modules, PackedSequences, operators and streams misused at random: an exception, or a result of the right shape, and never a crash.

`make sanitize` runs this file too, on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer. ELMAN_FUZZ multiplies the number
of calls.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from torch import Tensor

from elman.layers.layer import RecurrentLayer
from misuse import Misuse
from native import required, tensors_asked

pytestmark = [required, pytest.mark.filterwarnings("ignore")]  # torch warns of some of what is tried

CALLS = 1000 * int(os.environ.get("ELMAN_FUZZ", "1"))


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "asked"), [(0, False), (1, False), (2, False), (3, True)], ids=["a", "b", "c", "asked"])
def test_misuse_ends_in_an_exception_or_a_result_of_the_right_shape(seed: int, asked: bool) -> None:
    """``asked``: where torch does not show its tensors to the kernels, their attributes say what they are."""
    misuse = Misuse(seed)
    with tensors_asked(asked):
        misuse.run(CALLS)
    assert sum(count for outcome, count in misuse.outcomes.items() if "on the way" not in outcome) == CALLS
    for kind in ("attribute", "packed", "operator", "stream"):
        assert misuse.outcomes[f"{kind}: ran"] > CALLS / 100, f"nothing is right of what is tried: {misuse.outcomes}"
        assert misuse.outcomes[f"{kind}: RuntimeError"] + misuse.outcomes[f"{kind}: TypeError"], f"nothing is wrong: {misuse.outcomes}"


def test_a_result_of_another_shape_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RecurrentLayer._run

    def short(*arguments: Any) -> Any:
        output, finals = right(*arguments)
        return output[1:] if isinstance(output, Tensor) else output, finals

    monkeypatch.setattr(RecurrentLayer, "_run", short)
    with pytest.raises(AssertionError):
        Misuse(0).run(1000)
