// Vectors of one instruction set, over the compiler's vector extensions.
//
// The build compiles target.cpp once per instruction set with ELMAN_TARGET naming it; everything here and in the
// headers above lives in a namespace of that name, so that no function compiled for one processor can be linked into
// the code for another. Hence these headers use only sizes and types of the standard library. All intrinsics are here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

// ELMAN_VECTOR_BYTES and ELMAN_REGISTERS force another processor's registers, for tests: the compiler makes do.
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(ELMAN_VECTOR_BYTES)
#elif defined(__AVX512F__)
#define ELMAN_AVX512
#define ELMAN_MM(name) _mm512_##name
#elif defined(__AVX2__)
#define ELMAN_AVX2
#define ELMAN_MM(name) _mm256_##name
#endif

#define ELMAN_INLINE inline __attribute__((always_inline))
// A loop over 0..n-1 that the compiler writes out, n being at most 32.
#define ELMAN_UNROLLED(i, n) _Pragma("GCC unroll 32") for (int i = 0; i < (n); ++i)

namespace elman::ELMAN_TARGET {

// kBytes: a vector register. kRegisters: how many there are, which decides how large a register tile may be.
#if defined(ELMAN_VECTOR_BYTES)
constexpr int kBytes = ELMAN_VECTOR_BYTES, kRegisters = ELMAN_REGISTERS;
#elif defined(ELMAN_AVX512)
constexpr int kBytes = 64, kRegisters = 32;
#elif defined(ELMAN_AVX2)
constexpr int kBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRegisters = 32;
#else  // 16 bytes are a register of every x86-64, and plain numbers where there is none.
constexpr int kBytes = 16, kRegisters = 16;
#endif

// bfloat16, the upper half of a float: so in memory, while registers, sums and all that is computed are floats.
struct BFloat16 {
  std::uint16_t bits;
  operator float() const { return __builtin_bit_cast(float, std::uint32_t{bits} << 16); }
};
template <class T> constexpr bool kHalved = std::is_same_v<T, BFloat16>;
template <class T> using Wide = std::conditional_t<kHalved<T>, float, T>;  // what numbers kept as T are computed in
template <class T> constexpr int kLanes = kBytes / static_cast<int>(sizeof(Wide<T>));

template <class T> struct Types {
  using Lane = std::conditional_t<sizeof(Wide<T>) == 4, std::int32_t, std::int64_t>;
  typedef Wide<T> Vector __attribute__((vector_size(kBytes)));
  typedef Lane Bits __attribute__((vector_size(kBytes)));
};
template <class T> using Vec = typename Types<T>::Vector;
template <class T> using Bits = typename Types<T>::Bits;  // what a comparison gives: -1 where true, 0 where false

template <class T> ELMAN_INLINE Vec<T> splat(T x) {
  return Wide<T>(x) - Vec<T>{};  // x - 0 is x for every x; x + 0 would not keep -0, and so would cost an addition
}

template <class T> ELMAN_INLINE Vec<T> load(const T* p) {  // no alignment needed
  Vec<T> v;
  __builtin_memcpy(&v, p, kBytes);
  return v;
}
template <class T> ELMAN_INLINE void store(T* p, Vec<T> v) {  // no alignment needed
  __builtin_memcpy(p, &v, kBytes);
}

template <class T> ELMAN_INLINE Bits<T> first_lanes(long n) {  // true in lanes 0..n-1
  Bits<T> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return lane < (static_cast<typename Types<T>::Lane>(n) - Bits<T>{});
}

// The first n lanes (1 <= n <= kLanes) from memory, zeros in the rest; nothing past them is read.
template <class T> ELMAN_INLINE Vec<T> load_part(const T* p, long n) {
#if defined(ELMAN_AVX2)
  if constexpr (sizeof(T) == 4) return _mm256_maskload_ps(p, __m256i(first_lanes<T>(n)));
  else return _mm256_maskload_pd(p, __m256i(first_lanes<T>(n)));
#elif defined(ELMAN_AVX512)
  if constexpr (sizeof(T) == 4) return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  else return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
#else
  Vec<T> v{};
  for (long i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}

// The first n lanes (1 <= n <= kLanes) to memory; nothing past them is written.
template <class T> ELMAN_INLINE void store_part(T* p, Vec<T> v, long n) {
#if defined(ELMAN_AVX2)
  if constexpr (sizeof(T) == 4) _mm256_maskstore_ps(p, __m256i(first_lanes<T>(n)), v);
  else _mm256_maskstore_pd(p, __m256i(first_lanes<T>(n)), v);
#elif defined(ELMAN_AVX512)
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
  else _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), v);
#else
  for (long i = 0; i < n; ++i) p[i] = v[i];
#endif
}

// bfloat16 is loaded and stored likewise: exact one way; the other way to nearest, ties to even.
using Floats = Vec<float>;
using Doubles = Vec<double>;
typedef std::uint32_t Words __attribute__((vector_size(kBytes)));
typedef std::uint16_t Halves __attribute__((vector_size(kBytes / 2)));

ELMAN_INLINE Floats widen(Halves v) { return (Floats)(__builtin_convertvector(v, Words) << 16); }
ELMAN_INLINE Halves narrow(Floats v) {
  const Words w = (Words)v, up = w + 0x7fffu + ((w >> 16) & 1u);
  // A NaN stays one, whatever its lower half was.
  return __builtin_convertvector((v == v ? up : w | 0x400000u) >> 16, Halves);
}

ELMAN_INLINE Floats load(const BFloat16* p) {
  Halves v;
  __builtin_memcpy(&v, p, sizeof v);
  return widen(v);
}
ELMAN_INLINE void store(BFloat16* p, Floats v) {
  const Halves h = narrow(v);
  __builtin_memcpy(p, &h, sizeof h);
}
ELMAN_INLINE Floats load_part(const BFloat16* p, long n) {
#if defined(ELMAN_AVX512)
  return widen(Halves(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p)));
#else
  Halves v{};
  for (long i = 0; i < n; ++i) v[i] = p[i].bits;
  return widen(v);
#endif
}
ELMAN_INLINE void store_part(BFloat16* p, Floats v, long n) {
#if defined(ELMAN_AVX512)
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), __m256i(narrow(v)));
#else
  const Halves h = narrow(v);
  for (long i = 0; i < n; ++i) p[i].bits = h[i];
#endif
}

// The vector at a column of a row of `width` numbers; in part where the row ends inside it.
template <class T> ELMAN_INLINE Vec<T> load_within(const T* row, long column, long width) {
  return width - column >= kLanes<T> ? load(row + column) : load_part(row + column, width - column);
}
template <class T> ELMAN_INLINE void store_within(T* row, long column, long width, Vec<T> v) {
  if (width - column >= kLanes<T>) store(row + column, v);
  else store_part(row + column, v, width - column);
}

// Two numbers of bfloat16 in each lane, low half first.
ELMAN_INLINE Floats pair(Floats a, Floats b) { return (Floats)((Words)a >> 16 | (Words)b); }
ELMAN_INLINE Floats rounded(Floats v) { return widen(narrow(v)); }

// Whether the processor adds products of pairs of bfloat16 to a float at once.
#if defined(__AVX512BF16__)
constexpr bool kDots = true;
ELMAN_INLINE Floats dot(std::uint32_t a, Floats b, Floats sum) {
  return Floats(_mm512_dpbf16_ps(__m512(sum), (__m512bh)(a - Words{}), (__m512bh)b));
}
// The pairs of the first n numbers, zeros in the rest; nothing past them is read.
ELMAN_INLINE Floats load_pairs(const BFloat16* p, long n) {
  return Floats(_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1, p)));
}
#else
constexpr bool kDots = false;
Floats dot(std::uint32_t a, Floats b, Floats sum);
Floats load_pairs(const BFloat16* p, long n);
#endif

// fma: c + a·b, fnma: c - a·b. One rounding where every processor of the set fuses the two operations, two where it
// does not (the scalar set on x86-64). Which of them it is stands here: no compiler decides (the build turns
// contraction off), so the same source rounds alike wherever it is instantiated.
#if defined(ELMAN_VECTOR_BYTES)  // in registers of AVX2
template <class V> ELMAN_INLINE V fma(V a, V b, V c) {
  for (unsigned i = 0; i < sizeof c / sizeof c[0]; ++i)
    c[i] = sizeof c[0] == 4 ? __builtin_fmaf(a[i], b[i], c[i]) : __builtin_fma(a[i], b[i], c[i]);
  return c;
}
template <class V> ELMAN_INLINE V fnma(V a, V b, V c) { return fma(-a, b, c); }
#elif defined(ELMAN_MM)
ELMAN_INLINE Floats fma(Floats a, Floats b, Floats c) { return ELMAN_MM(fmadd_ps)(a, b, c); }
ELMAN_INLINE Doubles fma(Doubles a, Doubles b, Doubles c) { return ELMAN_MM(fmadd_pd)(a, b, c); }
ELMAN_INLINE Floats fnma(Floats a, Floats b, Floats c) { return ELMAN_MM(fnmadd_ps)(a, b, c); }
ELMAN_INLINE Doubles fnma(Doubles a, Doubles b, Doubles c) { return ELMAN_MM(fnmadd_pd)(a, b, c); }
#elif defined(__aarch64__)
ELMAN_INLINE Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
ELMAN_INLINE Doubles fma(Doubles a, Doubles b, Doubles c) { return vfmaq_f64(c, a, b); }
ELMAN_INLINE Floats fnma(Floats a, Floats b, Floats c) { return vfmsq_f32(c, a, b); }
ELMAN_INLINE Doubles fnma(Doubles a, Doubles b, Doubles c) { return vfmsq_f64(c, a, b); }
#else
template <class V> ELMAN_INLINE V fma(V a, V b, V c) { return a * b + c; }
template <class V> ELMAN_INLINE V fnma(V a, V b, V c) { return c - a * b; }
#endif

// a where a < b, else b: so b where either is NaN. One instruction where the processor has it.
template <class T> ELMAN_INLINE Vec<T> least(Vec<T> a, Vec<T> b) {
#if defined(ELMAN_AVX512)
  if constexpr (sizeof(T) == 4)
    return _mm512_maskz_min_ps(0xffff, a, b);  // of all lanes: GCC 12 warns of the plain one
  else return _mm512_maskz_min_pd(0xff, a, b);
#elif defined(ELMAN_AVX2)
  if constexpr (sizeof(T) == 4) return _mm256_min_ps(a, b);
  else return _mm256_min_pd(a, b);
#else
  return a < b ? a : b;
#endif
}

// The sign bits of x, and x without them.
template <class T> ELMAN_INLINE Bits<T> sign_of(Vec<T> x) { return (Bits<T>)x & (Bits<T>)splat(T(-0.0)); }
template <class T> ELMAN_INLINE Vec<T> without_sign(Vec<T> x) {
  return (Vec<T>)((Bits<T>)x & ~(Bits<T>)splat(T(-0.0)));
}
template <class T> ELMAN_INLINE Vec<T> with_sign(Vec<T> x, Bits<T> sign) { return (Vec<T>)((Bits<T>)x | sign); }

ELMAN_INLINE constexpr long min(long a, long b) { return a < b ? a : b; }
ELMAN_INLINE constexpr long max(long a, long b) { return a > b ? a : b; }
ELMAN_INLINE constexpr long ceil_div(long a, long b) { return (a + b - 1) / b; }

// Two vectors' lanes in turn: a0 b0 a1 b1 ... of their first halves, and of their second.
template <class T, int... i>
ELMAN_INLINE void interleave(Vec<T> a, Vec<T> b, Vec<T>& low, Vec<T>& high, std::integer_sequence<int, i...>) {
  constexpr int n = kLanes<T>;
#if defined(__clang__)  // has no __builtin_shuffle, and GCC 11 no __builtin_shufflevector
  low = __builtin_shufflevector(a, b, (i / 2 + i % 2 * n)...);
  high = __builtin_shufflevector(a, b, (n / 2 + i / 2 + i % 2 * n)...);
#else
  low = __builtin_shuffle(a, b, Bits<T>{(i / 2 + i % 2 * n)...});
  high = __builtin_shuffle(a, b, Bits<T>{(n / 2 + i / 2 + i % 2 * n)...});
#endif
}

// Transposes a square of vectors in registers: log2(lanes) rounds of pairwise interleaving.
template <class T> ELMAN_INLINE void transpose(Vec<T> (&v)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
#pragma GCC unroll 8
  for (int round = 1; round < n; round *= 2) {
    Vec<T> u[n];
    ELMAN_UNROLLED (i, n / 2)
      interleave<T>(v[i], v[i + n / 2], u[2 * i], u[2 * i + 1], std::make_integer_sequence<int, n>{});
    ELMAN_UNROLLED (i, n) v[i] = u[i];
  }
}

}  // namespace elman::ELMAN_TARGET
