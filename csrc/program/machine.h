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

// f of n numbers of each operand, a vector at a time.
template <class T, class F, class... S> ELMAN_INLINE void map(T* to, long n, F f, S... from) {
  constexpr long W = kLanes<T>;
  long i = 0;
  for (; i + W <= n; i += W) store(to + i, f(from.next()...));
  if (i < n) store_part(to + i, f(load_part(from.at, n - i)...), n - i);
}

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
// give(row, its sum) for neighbouring rows.
template <class T, class F> void row_sums(const T* a, long rows, long H, F give) {
  T sums[8];
  for (long r = 0; r < rows; r += 8) {
    const long n = min(8, rows - r);
    fold_rows(
        sums, false, n, H, T(1), T(0), [](auto x, auto y) ELMAN_INLINED { return x + y; },
        [](auto x) ELMAN_INLINED { return x; }, Source<T>{a + r * H, kLanes<T>});
    for (long i = 0; i < n; ++i) give(r + i, sums[i]);
  }
}

// An operation on vectors; of one over rows, its terms.
template <class T, Op op> ELMAN_INLINE Vec<T> computed(const Vec<T>* v) {
  using V = Vec<T>;
  constexpr int count = operand_count(op);
  const V zero{}, one = splat(T(1)), x = v[0], y = v[count > 1], z = v[count > 2 ? 2 : 0];
  const auto truth = [&](Bits<T> is) ELMAN_INLINED { return is ? one : zero; };
  if constexpr (is_fused(op)) {
    constexpr Fusion f = fusion(op);
    constexpr int more = operand_count(f.inner) - 1;
    V operands[count - more];
    ELMAN_UNROLLED (k, count - more)
      operands[k] = k < f.at ? v[k] : k > f.at ? v[k + more] : computed<T, f.inner>(v + f.at);
    return computed<T, f.outer>(operands);
  } else if constexpr (op == Op::copy || op == Op::row_sum || op == Op::row_mean || op == Op::row_max) return x;
  else if constexpr (op == Op::add) return x + y;
  else if constexpr (op == Op::sub) return x - y;
  else if constexpr (op == Op::mul) return x * y;
  else if constexpr (op == Op::div) return x / y;
  else if constexpr (op == Op::neg) return -x;
  else if constexpr (op == Op::fma || op == Op::row_sum_fma || op == Op::row_mean_fma) return fma(x, y, z);
  else if constexpr (op == Op::fnma) return fnma(x, y, z);
  else if constexpr (op == Op::pow) return by_lane<T>([](T u, T w) { return library_pow(u, w); }, x, y);
  else if constexpr (op == Op::min) return minimum<T>(x, y);
  else if constexpr (op == Op::max) return maximum<T>(x, y);
  else if constexpr (op == Op::where) return x != zero ? y : z;
  else if constexpr (op == Op::lt) return truth(x < y);
  else if constexpr (op == Op::le) return truth(x <= y);
  else if constexpr (op == Op::gt) return truth(x > y);
  else if constexpr (op == Op::ge) return truth(x >= y);
  else if constexpr (op == Op::eq) return truth(x == y);
  else if constexpr (op == Op::ne) return truth(x != y);
  else if constexpr (op == Op::abs) return without_sign<T>(x);
  else if constexpr (op == Op::sign) return truth(x > zero) - truth(x < zero);
  else if constexpr (op == Op::sqrt) return square_root<T>(x);
  else if constexpr (op == Op::rsqrt) return one / square_root<T>(x);
  else if constexpr (op == Op::exp) return exp<T>(x);
  else if constexpr (op == Op::log) return log<T>(x);
  else if constexpr (op == Op::log1p) return log1p<T>(x);
  else if constexpr (op == Op::expm1) return expm1<T>(x);
  else if constexpr (op == Op::tanh) return tanh(x);
  else if constexpr (op == Op::sigmoid) return sigmoid(x);
  else if constexpr (op == Op::relu) return relu(x);
  else if constexpr (op == Op::softplus) return softplus<T>(x);
  else if constexpr (op == Op::sin) return by_lane<T>([](T u) { return library_sin(u); }, x);
  else if constexpr (op == Op::cos) return by_lane<T>([](T u) { return library_cos(u); }, x);
  else if constexpr (op == Op::erf) return by_lane<T>([](T u) { return library_erf(u); }, x);
  else if constexpr (op == Op::reciprocal) return one / x;
  else if constexpr (op == Op::square) return x * x;
}

// An instruction over a block of so many rows and columns, whose values start at `at`.
template <class T, Op op, std::size_t... K> ELMAN_INLINE void run_one(
    const Instruction& i, T* const* at, const long* lane, long rows, long columns, std::index_sequence<K...>) {
  T* const to = at[i.to];
  const auto term = [](auto... x) ELMAN_INLINED {
    const Vec<T> v[] = {x...};
    return computed<T, op>(v);
  };
  if constexpr (op == Op::spread) {
    for (long r = 0; r < rows; ++r) fill_row(to + r * columns, at[i.from[0]][r], columns);
  } else if constexpr (is_over_rows(op)) {
    constexpr Op fold = outermost(op);
    constexpr bool is_max = fold == Op::row_max, is_mean = fold == Op::row_mean || fold == Op::row_mean_fma;
    fold_rows(
        to, !i.of_rows, rows, columns, is_mean ? T(columns) : T(1), is_max ? -kInfinity<T> : T(0),
        [](Vec<T> x, Vec<T> y) ELMAN_INLINED { return is_max ? maximum<T>(x, y) : x + y; }, term,
        Source<T>{at[i.from[K]], lane[i.from[K]]}...);
  } else {
    map(to, i.of_rows ? rows : rows * columns, term, Source<T>{at[i.from[K]], lane[i.from[K]]}...);
  }
}
// Instructions first..last-1.
template <class T> void run_block(
    const Instruction* first, const Instruction* last, T* const* at, const long* lane, long rows, long columns) {
  for (; first != last; ++first) switch (first->op) {
#define ELMAN_CASE(name, ...)                                                                                   \
  case Op::name:                                                                                                \
    run_one<T, Op::name>(*first, at, lane, rows, columns, std::make_index_sequence<operand_count(Op::name)>{}); \
    break;
      ELMAN_OPS(ELMAN_CASE) ELMAN_FUSIONS(ELMAN_CASE)
#undef ELMAN_CASE
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
