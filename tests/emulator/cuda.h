// What CUDA C++ has beyond C++, as far as the kernels use it. Comes before their sources.
#pragma once

#include <math.h>

#include "machine.h"

#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(bytes) alignas(bytes)

#define threadIdx (elman::emulated::current->thread)
#define blockIdx (elman::emulated::current->block)

inline void __syncthreads() { elman::emulated::block_barrier(); }
inline void __syncwarp() { elman::emulated::warp_barrier(); }
inline float __shfl_xor_sync(unsigned, float value, int mask) { return elman::emulated::shuffle_xor(value, mask); }
inline unsigned long __cvta_generic_to_shared(const void* p) { return elman::emulated::shared_address(p); }
inline void* __cvta_shared_to_generic(unsigned long address) { return elman::emulated::at_shared_address(address); }

inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }

inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }

template <class T> constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T> constexpr T max(T a, T b) { return a < b ? b : a; }

#include "instructions.h"
