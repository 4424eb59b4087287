"""One sequence driver: dropout between layers, and which backend runs what lies between."""

from elman.scan.driver import run, trace

__all__ = ["run", "trace"]
