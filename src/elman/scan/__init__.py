"""One sequence driver: dropout between layers, and which backend runs what lies between."""

from elman.scan.driver import run

__all__ = ["run"]
