"""The sequence driver: dropout between layers, and a backend for the layers in between."""

from elman.scan.driver import run, run_step_unchecked, run_unchecked, trace

__all__ = ["run", "run_step_unchecked", "run_unchecked", "trace"]
