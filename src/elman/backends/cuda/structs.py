"""The kernels' one parameter, packed as kernels/forward.cuh and backward.cuh declare it; the kernels assert the sizes."""

from __future__ import annotations

from struct import Struct

_STEPS = "2i 3Q 2q"  # T, B; lengths, offsets, reset; the reset's strides
_ROWS = "2q"  # strides over T and B, in numbers
_LAUNCH = "2i 2Q"  # tiles, first group; mailbox, flags
# projected, weight_hh, bias_hh, initial, fresh, output, saved, final; reverse
_FORWARD_DIRECTION = "11Q i 4x"
# grad_output, weight_hh, output, saved, grad_saved, initial, fresh, grad_final, grad_gates, grad_initial, grad_fresh; reverse
_BACKWARD_DIRECTION = "16Q i 4x"

FORWARD = Struct("@" + _STEPS + _ROWS + _ROWS + _LAUNCH + 2 * _FORWARD_DIRECTION)
BACKWARD = Struct("@" + _STEPS + _ROWS + _ROWS + _LAUNCH + 2 * _BACKWARD_DIRECTION)
NO_FORWARD_DIRECTION = (0,) * 12
NO_BACKWARD_DIRECTION = (0,) * 17
