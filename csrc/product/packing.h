// The operands of a product (product.h): the right-hand side is packed; the rows of the left-hand side are read where
// they lie or, where the processor does not multiply bfloat16, widened first.
#pragma once

#include "../buffer.h"
#include "product.h"

namespace elman::ELMAN_TARGET {

// Packs a panel of K rows as B: row(k) is its vector of row k, of numbers that T can hold.
template <class T, class Row> ELMAN_INLINE Wide<T>* pack_panel(long K, Row row, Wide<T>* b) {
  constexpr int W = kLanes<T>;
  if constexpr (kPairs<T>) {
    for (long k = 0; k < K / 2; ++k, b += W) store(b, pair(row(2 * k), row(2 * k + 1)));
    if (K % 2) store(b, pair(row(K - 1), Vec<T>{})), b += W;
  } else {
    for (long k = 0; k < K; ++k, b += W) store(b, row(k));
  }
  return b;
}

// Packs panels first..last-1 of a matrix of N columns, given by its rows, as B: element (k, n) is rows[k][n].
template <class T> void pack_rows(const T* const* rows, long K, long N, long first, long last, Wide<T>* b) {
  constexpr int W = kLanes<T>;
  for (long n = first * W; n < last * W; n += W) {
    const auto whole = [&](long k) { return load(rows[k] + n); };
    const auto part = [&](long k) { return load_part(rows[k] + n, N - n); };
    b = N - n >= W ? pack_panel<T>(K, whole, b) : pack_panel<T>(K, part, b);
  }
}

// A vector of a row of K numbers, from the k-th place of a packed column on.
template <class T> ELMAN_INLINE Vec<T> load_places(const T* row, long k, long K) {
  if constexpr (kPairs<T>) return load_pairs(row + 2 * k, K - 2 * k);
  return K - k >= kLanes<T> ? load(row + k) : load_part(row + k, K - k);
}

// Packs a dense (kPanels·N, K) matrix, transposed, as B: panel p of group j holds rows p·N + j·W .. + W-1 of w.
template <class T, int kPanels> void pack_transposed(const T* w, long N, long K, long first, long last, Wide<T>* b) {
  constexpr int W = kLanes<T>;
  const long places = depth<T>(K);
  for (long j = first; j < last; ++j)
    for (int p = 0; p < kPanels; ++p) {
      Wide<T>* to = b + ((j - first) * kPanels + p) * places * W;
      const long columns = min(W, N - j * W);
      const T* from = w + (p * N + j * W) * K;
      for (long k = 0; k < places; k += W) {
        Vec<T> square[W];
        for (long i = 0; i < W; ++i) square[i] = i < columns ? load_places(from + i * K, k, K) : Vec<T>{};
        transpose<T>(square);
        for (long i = 0; i < min(W, places - k); ++i) store(to + (k + i) * W, square[i]);
      }
    }
}

template <class T> constexpr bool kWidens = kHalved<T> && !kDots;
template <class T> using Factor = std::conditional_t<kWidens<T>, float, T>;  // what numbers kept as T are multiplied as

template <class T> class Lhs {
 public:
  const Buffer<const T*> rows;  // where they lie, to be filled in

  Lhs(long count, long width)
      : rows(count), width_(width), wide_(kWidens<T> ? count * width : 0), wide_rows_(kWidens<T> ? count : 0) {}
  bool ok() const { return all_ok(rows, wide_, wide_rows_); }

  // The first n rows as they are now, for one product.
  Rows<Factor<T>> first(long n) const {
    if constexpr (kWidens<T>) {
      for (long r = 0; r < n; ++r) {
        wide_rows_[r] = wide_ + r * width_;
        for (long k = 0; k < width_; k += kLanes<T>)
          store_within(wide_ + r * width_, k, width_, load_within(rows[r], k, width_));
      }
      return {wide_rows_};
    } else {
      return {rows};
    }
  }

 private:
  const long width_;
  const Buffer<float> wide_;
  const Buffer<const float*> wide_rows_;
};

}  // namespace elman::ELMAN_TARGET
