"""One sequence driver: dropout between layers, and which backend runs what lies between."""

from elman.scan.driver import run, run_unchecked, trace

__all__ = ["run", "run_unchecked", "trace"]
