// Rows of the left-hand side of a product, which lie anywhere: as they are; or, where the processor does not multiply
// bfloat16, widened first.
#pragma once

#include "product.h"
#include "walk.h"

namespace elman::ELMAN_TARGET {

template <class T> constexpr bool kWidens = kHalved<T> && !kDots;
template <class T> using Factor = std::conditional_t<kWidens<T>, float, T>;  // what numbers kept as T are multiplied as

template <class T> class Left {
 public:
  const Buffer<const T*> rows;  // where they lie, to be filled in

  Left(long count, long width)
      : rows(count), width_(width), wide_(kWidens<T> ? count * width : 0), wide_rows_(kWidens<T> ? count : 0) {}
  bool ok() const { return rows.ok() && wide_.ok() && wide_rows_.ok(); }

  // The first n rows as they are now, for one product.
  Rows<Factor<T>> take(long n) const {
    if constexpr (kWidens<T>) {
      for (long r = 0; r < n; ++r) {
        wide_rows_[r] = wide_ + r * width_;
        for (long k = 0; k < width_; k += kLanes<T>)
          Row<float>::put(wide_ + r * width_, k, width_, Row<T>::get(rows[r], k, width_));
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
