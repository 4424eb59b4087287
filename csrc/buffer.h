// Memory for the length of a call, and rows of numbers in it.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace elman::ELMAN_TARGET {

// n numbers, aligned to a cache line, not initialised. Check all_ok() before use. The last one made goes first.
template <class T> class Buffer {
 public:
  explicit Buffer(long n) {
    if (n > 0) data_ = static_cast<T*>(allocate(static_cast<std::size_t>(n) * sizeof(T)));
    failed_ = n > 0 && !data_;
  }
  ~Buffer() { release(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  bool ok() const { return !failed_; }
  operator T*() const { return data_; }

 private:
  T* data_ = nullptr;
  bool failed_;
};

template <class... Parts> bool all_ok(const Parts&... parts) { return (parts.ok() && ...); }

// Vectors first..last-1 of some rows, `width` long and dense, from one number type to another; from null: zeros.
template <class To, class From>
void copy_columns(To* to, const From* from, long rows, long width, long first, long last) {
  constexpr long W = kLanes<To>;
  static_assert(W == kLanes<From>);
  for (long r = 0; r < rows; ++r)
    for (long g = first; g < last; ++g)
      store_within(to + r * width, g * W, width, from ? load_within(from + r * width, g * W, width) : Vec<To>{});
}

// The same vectors of one row, added.
template <class T> void add_columns(T* to, const T* from, long width, long first, long last) {
  for (long column = first * kLanes<T>; column < last * kLanes<T>; column += kLanes<T>)
    store_within(to, column, width, load_within(to, column, width) + load_within(from, column, width));
}

}  // namespace elman::ELMAN_TARGET
