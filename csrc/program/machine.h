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

// An operand of an instruction: the next vector is `lane` numbers further.
template <class T> struct Source {
  const T* at;
  long lane;
  ELMAN_INLINE Source row(long r, long H) const { return {lane ? at + r * H : at, lane}; }
  ELMAN_INLINE Vec<T> next() {
    const Vec<T> v = load(at);
    at += lane;
    return v;
  }
};

template <class T> ELMAN_INLINE void fill_row(T* to, T x, long n) {
  for (long i = 0; i < n; i += kLanes<T>) store_within(to, i, n, splat(x));
}

// A row's numbers, each of them term(operands), in W lanes, by an f for which `none` changes nothing. Which lanes meet
// when depends on H alone.
template <class T, class F, class Term, class... S>
ELMAN_INLINE Vec<T> fold_row(long H, T none, F f, Term term, S... from) {
  constexpr long W = kLanes<T>;
  Vec<T> v[4] = {splat(none), splat(none), splat(none), splat(none)};
  long i = 0;
  for (; i + 4 * W <= H; i += 4 * W)
    ELMAN_UNROLLED (j, 4) v[j] = f(v[j], term(from.next()...));
  for (; i + W <= H; i += W) v[0] = f(v[0], term(from.next()...));
  if (i < H) v[1] = f(v[1], first_lanes<T>(H - i) ? term(load_part(from.at, H - i)...) : splat(none));
  return f(f(v[0], v[1]), f(v[2], v[3]));
}
// Each row's numbers in one, divided by `by`: in `to`, or with `spreads` in each place of a row of `to`.
template <class T, class F, class Term, class... S>
ELMAN_INLINE void fold_rows(T* to, bool spreads, long rows, long H, T by, T none, F f, Term term, S... from) {
  constexpr int W = kLanes<T>, most = W < 8 ? W : 8;
  alignas(kBytes) T found[2 * W] = {};
  for (long r = 0; r < rows; r += most) {
    const long count = min(most, rows - r);
    Vec<T> v[most], low, high;
    for (int i = 0; i < most; ++i) v[i] = i < count ? fold_row(H, none, f, term, from.row(r + i, H)...) : splat(none);
    _Pragma("GCC unroll 8") for (int n = most / 2; n > 0; n /= 2) ELMAN_UNROLLED (i, n) {
      interleave<T>(v[i], v[i + n], low, high, std::make_integer_sequence<int, W>{});
      v[i] = f(low, high);
    }
    store(found, v[0]);  // the rows' parts in turn
    for (int n = W / 2; n >= most; n /= 2) store(found, f(load(found), load(found + n)));
    store(found, load(found) / splat(by));
    for (long i = 0; i < count; ++i)
      if (spreads) fill_row(to + (r + i) * H, found[i], H);
      else to[r + i] = found[i];
  }
}
template <class T> T row_sum(const T* a, long la, long H) {
  T sum;
  fold_rows(
      &sum, false, 1, H, T(1), T(0), [](auto x, auto y) ELMAN_INLINED { return x + y; },
      [](auto x) ELMAN_INLINED { return x; }, Source<T>{a, la});
  return sum;
}

// Instructions first..last-1 over a block of so many rows and columns, whose values start at `at`.
template <class T> void run_block(
    const Instruction* first, const Instruction* last, T* const* at, const long* lane, long rows, long columns) {
  using V = Vec<T>;
  const V zero{}, one = splat(T(1));
  for (; first != last; ++first) {
    T* const to = at[first->to];
    const T *const a = at[first->a], *const b = at[first->b], *const c = at[first->c];
    const long la = lane[first->a], lb = lane[first->b], lc = lane[first->c],
               n = first->of_rows ? rows : rows * columns;
    const auto unary = [&](auto f) ELMAN_INLINED { map(to, a, la, n, f); };
    const auto binary = [&](auto f) ELMAN_INLINED { map(to, a, la, b, lb, n, f); };
    const auto ternary = [&](auto f) ELMAN_INLINED { map(to, a, la, b, lb, c, lc, n, f); };
    const auto fold = [&](T by, T none, auto f, auto term, auto... from)
                          ELMAN_INLINED { fold_rows(to, !first->of_rows, rows, columns, by, none, f, term, from...); };
    const auto plus = [](V x, V y) ELMAN_INLINED { return x + y; };
    const auto most = [](V x, V y) ELMAN_INLINED { return maximum<T>(x, y); };
    const auto itself = [](V x) ELMAN_INLINED { return x; };
    const auto fused = [](V x, V y, V z) ELMAN_INLINED { return fma(x, y, z); };
    const auto truth = [&](Bits<T> is) ELMAN_INLINED { return is ? one : zero; };
    switch (first->op) {
      case Op::copy: unary(itself); break;
      case Op::spread:
        for (long r = 0; r < rows; ++r) fill_row(to + r * columns, a[r], columns);
        break;
      case Op::add: binary(plus); break;
      case Op::sub: binary([](V x, V y) ELMAN_INLINED { return x - y; }); break;
      case Op::mul: binary([](V x, V y) ELMAN_INLINED { return x * y; }); break;
      case Op::div: binary([](V x, V y) ELMAN_INLINED { return x / y; }); break;
      case Op::neg: unary([](V x) ELMAN_INLINED { return -x; }); break;
      case Op::fma: ternary(fused); break;
      case Op::fnma: ternary([](V x, V y, V z) ELMAN_INLINED { return fnma(x, y, z); }); break;
      case Op::pow:
        binary([](V x, V y) ELMAN_INLINED { return by_lane<T>([](T u, T v) { return library_pow(u, v); }, x, y); });
        break;
      case Op::min: binary([](V x, V y) ELMAN_INLINED { return minimum<T>(x, y); }); break;
      case Op::max: binary(most); break;
      case Op::where: ternary([&](V x, V y, V z) ELMAN_INLINED { return x != zero ? y : z; }); break;
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
      case Op::row_sum: fold(T(1), T(0), plus, itself, Source<T>{a, la}); break;
      case Op::row_mean: fold(T(columns), T(0), plus, itself, Source<T>{a, la}); break;
      case Op::row_max: fold(T(1), -kInfinity<T>, most, itself, Source<T>{a, la}); break;
      case Op::row_sum_fma: fold(T(1), T(0), plus, fused, Source<T>{a, la}, Source<T>{b, lb}, Source<T>{c, lc}); break;
      case Op::row_mean_fma:
        fold(T(columns), T(0), plus, fused, Source<T>{a, la}, Source<T>{b, lb}, Source<T>{c, lc});
        break;
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
