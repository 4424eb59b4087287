// Runs a program's instructions over blocks of a step's numbers: small enough that what lies between two instructions
// stays in the first-level cache, large enough that choosing the next one does not count.
#pragma once

#include "code.h"
#include "functions.h"

#define ELMAN_INLINED __attribute__((always_inline))  // of a lambda

namespace elman::ELMAN_TARGET {

// Bytes of a value in a block. Rows are whole where a block holds one.
constexpr long kBlockBytes = 2048;

struct BlockShape {
  long rows, columns;  // at most
};
template <class T> BlockShape block_shape(const Plan& plan, long H) {
  constexpr long most = kBlockBytes / static_cast<long>(sizeof(T));
  return H <= most ? BlockShape{most / H, H} : BlockShape{1, plan.needs_rows ? H : most};
}

// Where a value lies: at row r and column c, `base` + r·row + c·column; `lane` from one vector to the next, 0 where one
// number stands for all.
template <class T> struct Places {
  T** base;
  long *row, *column, *lane;
  void put(int v, T* at, long r, long c, long l) const { base[v] = at, row[v] = r, column[v] = c, lane[v] = l; }
};

// f of n numbers, a vector at a time.
template <class T, class F> ELMAN_INLINE void map(T* to, const T* a, long la, long n, F f) {
  constexpr long W = kLanes<T>;
  long i = 0;
  for (; i + W <= n; i += W, a += la) store(to + i, f(load(a)));
  if (i < n) store_part(to + i, f(load_part(a, n - i)), n - i);
}
template <class T, class F> ELMAN_INLINE void map(T* to, const T* a, long la, const T* b, long lb, long n, F f) {
  constexpr long W = kLanes<T>;
  long i = 0;
  for (; i + W <= n; i += W, a += la, b += lb) store(to + i, f(load(a), load(b)));
  if (i < n) store_part(to + i, f(load_part(a, n - i), load_part(b, n - i)), n - i);
}
template <class T, class F>
ELMAN_INLINE void map(T* to, const T* a, long la, const T* b, long lb, const T* c, long lc, long n, F f) {
  constexpr long W = kLanes<T>;
  long i = 0;
  for (; i + W <= n; i += W, a += la, b += lb, c += lc) store(to + i, f(load(a), load(b), load(c)));
  if (i < n) store_part(to + i, f(load_part(a, n - i), load_part(b, n - i), load_part(c, n - i)), n - i);
}

// A row's sum or largest number, in each of its places. Which lanes are added when depends on H alone.
template <class T> T row_sum(const T* a, long la, long H) {
  constexpr long W = kLanes<T>;
  Vec<T> sums[4] = {};
  long i = 0;
  for (; i + 4 * W <= H; i += 4 * W, a += 4 * la)
    for (int j = 0; j < 4; ++j) sums[j] += load(a + j * la);
  for (; i < H; i += W, a += la) sums[0] += H - i >= W ? load(a) : load_part(a, H - i);
  const Vec<T> all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  T sum = 0;
  for (int j = 0; j < W; ++j) sum += all[j];
  return sum;
}
template <class T> T row_max(const T* a, long la, long H) {
  T most = a[0];
  for (long i = 0; i < H; ++i) {
    const T x = a[la ? i : 0];
    most = most != most ? most : x != x || x > most ? x : most;
  }
  return most;
}
template <class T, class F> void map_rows(T* to, const T* a, long la, long rows, long H, F f) {
  for (long r = 0; r < rows; ++r, to += H, a += la ? H : 0) {
    const Vec<T> found = splat(f(a, la, H));
    for (long i = 0; i < H; i += kLanes<T>) store_within(to, i, H, found);
  }
}

// Instructions first..last-1 over a block of so many rows and columns, whose values start at `at`.
template <class T> void run_block(
    const Instruction* first, const Instruction* last, T* const* at, const long* lane, long rows, long columns) {
  using V = Vec<T>;
  const V zero{}, one = splat(T(1));
  const long n = rows * columns;
  for (; first != last; ++first) {
    T* const to = at[first->to];
    const T *const a = at[first->a], *const b = at[first->b], *const c = at[first->c];
    const long la = lane[first->a], lb = lane[first->b], lc = lane[first->c];
    const auto unary = [&](auto f) ELMAN_INLINED { map(to, a, la, n, f); };
    const auto binary = [&](auto f) ELMAN_INLINED { map(to, a, la, b, lb, n, f); };
    const auto truth = [&](Bits<T> is) ELMAN_INLINED { return is ? one : zero; };
    switch (first->op) {
      case Op::copy: unary([](V x) ELMAN_INLINED { return x; }); break;
      case Op::add: binary([](V x, V y) ELMAN_INLINED { return x + y; }); break;
      case Op::sub: binary([](V x, V y) ELMAN_INLINED { return x - y; }); break;
      case Op::mul: binary([](V x, V y) ELMAN_INLINED { return x * y; }); break;
      case Op::div: binary([](V x, V y) ELMAN_INLINED { return x / y; }); break;
      case Op::neg: unary([](V x) ELMAN_INLINED { return -x; }); break;
      case Op::fma: map(to, a, la, b, lb, c, lc, n, [](V x, V y, V z) ELMAN_INLINED { return fma(x, y, z); }); break;
      case Op::fnma: map(to, a, la, b, lb, c, lc, n, [](V x, V y, V z) ELMAN_INLINED { return fnma(x, y, z); }); break;
      case Op::pow:
        binary([](V x, V y) ELMAN_INLINED { return by_lane<T>([](T u, T v) { return library_pow(u, v); }, x, y); });
        break;
      case Op::min: binary([](V x, V y) ELMAN_INLINED { return minimum<T>(x, y); }); break;
      case Op::max: binary([](V x, V y) ELMAN_INLINED { return maximum<T>(x, y); }); break;
      case Op::where:
        map(to, a, la, b, lb, c, lc, n, [&](V x, V y, V z) ELMAN_INLINED { return x != zero ? y : z; });
        break;
      case Op::lt: binary([&](V x, V y) ELMAN_INLINED { return truth(x < y); }); break;
      case Op::le: binary([&](V x, V y) ELMAN_INLINED { return truth(x <= y); }); break;
      case Op::gt: binary([&](V x, V y) ELMAN_INLINED { return truth(x > y); }); break;
      case Op::ge: binary([&](V x, V y) ELMAN_INLINED { return truth(x >= y); }); break;
      case Op::eq: binary([&](V x, V y) ELMAN_INLINED { return truth(x == y); }); break;
      case Op::ne: binary([&](V x, V y) ELMAN_INLINED { return truth(x != y); }); break;
      case Op::abs: unary([](V x) ELMAN_INLINED { return without_sign<T>(x); }); break;
      case Op::sign: unary([&](V x) ELMAN_INLINED { return truth(x > zero) - truth(x < zero); }); break;
      case Op::sqrt: unary([](V x) ELMAN_INLINED { return square_root<T>(x); }); break;
      case Op::rsqrt: unary([&](V x) ELMAN_INLINED { return one / square_root<T>(x); }); break;
      case Op::exp: unary([](V x) ELMAN_INLINED { return exp<T>(x); }); break;
      case Op::log: unary([](V x) ELMAN_INLINED { return log<T>(x); }); break;
      case Op::log1p: unary([](V x) ELMAN_INLINED { return log1p<T>(x); }); break;
      case Op::expm1: unary([](V x) ELMAN_INLINED { return expm1<T>(x); }); break;
      case Op::tanh: unary([](V x) ELMAN_INLINED { return tanh(x); }); break;
      case Op::sigmoid: unary([](V x) ELMAN_INLINED { return sigmoid(x); }); break;
      case Op::relu: unary([](V x) ELMAN_INLINED { return relu(x); }); break;
      case Op::softplus: unary([](V x) ELMAN_INLINED { return softplus<T>(x); }); break;
      case Op::sin: unary([](V x) ELMAN_INLINED { return by_lane<T>([](T u) { return library_sin(u); }, x); }); break;
      case Op::cos: unary([](V x) ELMAN_INLINED { return by_lane<T>([](T u) { return library_cos(u); }, x); }); break;
      case Op::erf: unary([](V x) ELMAN_INLINED { return by_lane<T>([](T u) { return library_erf(u); }, x); }); break;
      case Op::reciprocal: unary([&](V x) ELMAN_INLINED { return one / x; }); break;
      case Op::square: unary([](V x) ELMAN_INLINED { return x * x; }); break;
      case Op::row_sum: map_rows(to, a, la, rows, columns, row_sum<T>); break;
      case Op::row_mean:
        map_rows(to, a, la, rows, columns, [](const T* x, long l, long H) { return row_sum(x, l, H) / T(H); });
        break;
      case Op::row_max: map_rows(to, a, la, rows, columns, row_max<T>); break;
    }
  }
}

// Instructions first..last-1 over `rows` rows from the begin-th on. finish(at, row, rows, column, columns): after each
// block.
template <class T, class F> void run_instructions(const Code& code, int first_one, int end, const Places<T>& places,
    T** at, const BlockShape& shape, long begin, long rows, long H, F finish) {
  const Instruction *first = code.instructions + first_one, *last = code.instructions + end;
  if (rows == 0 || first == last) return;
  if (begin == 0 && rows <= shape.rows && H <= shape.columns) {
    run_block(first, last, static_cast<T* const*>(places.base), places.lane, rows, H);
    return finish(places.base, 0, rows, 0, H);
  }
  const long blocks = ceil_div(rows, shape.rows), most = ceil_div(rows, blocks);
  for (long r = 0; r < rows; r += most)
    for (long c = 0; c < H; c += shape.columns) {
      const long height = min(most, rows - r), width = min(shape.columns, H - c);
      for (int v = 0; v < code.value_count; ++v)
        at[v] = places.base[v] + (begin + r) * places.row[v] + c * places.column[v];
      run_block(first, last, at, places.lane, height, width);
      finish(at, r, height, c, width);
    }
}

}  // namespace elman::ELMAN_TARGET
