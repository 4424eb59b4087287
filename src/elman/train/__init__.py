"""What people do with a network: fit it to data, judge it, keep it. ``text`` is the way in for character models."""

LEARNING_RATE = 3e-3
"""Where none is given. It stands here since the command's help shows it without loading torch."""
