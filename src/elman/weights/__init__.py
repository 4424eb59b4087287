"""Weights from other frameworks, and back."""

from elman.weights.keras import from_keras, to_keras
from elman.weights.onnx import from_onnx

__all__ = ["from_keras", "from_onnx", "to_keras"]
