"""Numbers as one reads them: values, differences, times, sizes."""

from __future__ import annotations

NUMBER_WIDTH = 8  # "-12.3456"


def number(value: float) -> str:
    """Four places, as torch prints; large and tiny ones by exponent."""
    return f"{value:{'.1e' if value != 0 and not 5e-5 <= abs(value) < 1e3 else '.4f'}}".rjust(NUMBER_WIDTH)


def exact(value: float) -> str:
    """Eight places: as much as float32 holds."""
    return f"{value: .8f}" if abs(value) < 1e4 else f"{value: .7e}"


def small(value: float) -> str:
    """A difference: "0" or "5.96e-08"."""
    return "0" if value == 0 else f"{value:.2e}" if abs(value) < 0.01 else f"{value:.2f}"


def duration(seconds: float) -> str:
    unit, scale = next(((unit, scale) for unit, scale in (("s", 1.0), ("ms", 1e-3)) if seconds >= scale), ("µs", 1e-6))
    return f"{seconds / scale:.3g} {unit}"


def memory(size: int) -> str:
    unit, scale = next(((unit, scale) for unit, scale in (("MiB", 2**20), ("KiB", 2**10)) if size >= scale), ("B", 1))
    return f"{size} B" if scale == 1 else f"{size / scale:.1f} {unit}"


def count(value: int) -> str:
    """Thousands set apart by a space: "1 234 567"."""
    return f"{value:,}".replace(",", " ")
