"""A text for the tests of training to learn from."""

CODE = b'''def join(parts, mark=", "):
    """Join the parts."""
    text = mark.join(str(part) for part in parts[1:])  # all but the first
    return "(" + text + ")"
'''
