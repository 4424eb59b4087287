"""The version, in its one place: the package's metadata and the change log follow it."""

__version__ = "0.1.0"
