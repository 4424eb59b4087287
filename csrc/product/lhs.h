// The left-hand side of a product: rows that lie anywhere. Read where they lie; or, where the processor does not
// multiply bfloat16, widened first.
#pragma once

#include "../buffer.h"
#include "product.h"

namespace elman::ELMAN_TARGET {

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
