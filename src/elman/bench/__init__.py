"""Elman compared with the alternatives: torch.nn, JAX's jitted scan and ONNX Runtime."""
