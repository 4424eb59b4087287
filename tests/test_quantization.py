"""torch's dynamic quantization: through to_torch; what it does not quantize it says."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import elman

# torch.ao is on its way out, and says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per"),
    pytest.mark.skipif("none" in torch.backends.quantized.supported_engines[-1:], reason="this torch has no quantized kernels"),
]
NAMES = ("LSTM", "GRU", "RNNCell", "GRUCell", "LSTMCell")


@pytest.mark.parametrize("name", ["RNN", *NAMES])
def test_a_network_that_stays_as_it_is_says_so(name: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), getattr(elman, name)(8, 16))
    with pytest.warns(UserWarning, match=f"quantization leaves elman's {name} as it is"):
        quantized = torch.ao.quantization.quantize_dynamic(model)
    assert type(quantized[1]) is getattr(elman, name)
    assert type(quantized[0]) is not nn.Linear


@pytest.mark.parametrize("name", NAMES)
def test_through_to_torch_it_is_quantized(name: str) -> None:
    """int8 weights and inputs: the numbers of the network to some thousandths.

    A weight, at most 1/4, is rounded by at most 1/4 / 255; an input within [-3, 3] by at most 3 / 127, the larger error of a gate's eight
    products. These errors are as good as independent: their sum is some sqrt(8/3) * 1/4 * 3 / 127 / sqrt(3) = 0.006, which no activation
    makes larger. 0.02 is three of these, far below the bound of 0.05 where all round the same way.
    """
    model, x = nn.Sequential(getattr(elman, name)(8, 16)), torch.randn(3, 8) if name.endswith("Cell") else torch.randn(5, 3, 8)
    expected = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per")
        quantized = torch.ao.quantization.quantize_dynamic(elman.to_torch(model))
    assert "quantized" in type(quantized[0]).__module__
    for one, other in zip(_flat(quantized(x)), _flat(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02)


def _flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for each in result for t in _flat(each)]
