"""Elman beside what people would run otherwise: torch.nn, JAX's jitted scan and ONNX Runtime."""
