"""What people do with a network: fit it to data, judge it, keep it. ``text`` is the way in for character models."""
