// Functions of a cell of one's own, beside those that csrc/cells ask for (vector.h). Infinities, NaN and ties are
// torch's.
#pragma once

namespace elman::cuda {

ELMAN_INLINE float square(float x) { return x * x; }
ELMAN_INLINE float sign(float x) { return (x > 0.f ? 1.f : 0.f) - (x < 0.f ? 1.f : 0.f); }
ELMAN_INLINE float minimum(float a, float b) { return a != a ? a : a < b ? a : b; }
ELMAN_INLINE float maximum(float a, float b) { return a != a ? a : a > b ? a : b; }
ELMAN_INLINE float softplus(float x) { return x > 20.f ? x : log1pf(expf(x)); }
// A root is what the processor has, as in torch: of -0 and of minus infinity the library's power is another.
ELMAN_INLINE float power(float x, float y) { return y == 0.5f ? sqrtf(x) : y == -0.5f ? 1.f / sqrtf(x) : powf(x, y); }

}  // namespace elman::cuda
