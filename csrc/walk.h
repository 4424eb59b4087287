// The way through a batch of sequences: which rows live at a step, where they lie, and who came before.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace elman::ELMAN_TARGET {

// Memory for the length of a call, aligned to a cache line, not initialised. Check `ok()` before use.
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

// Where the rows of one step lie: evenly, in an order of their own. Data null: nowhere.
template <class T> struct Strip {
  T* data = nullptr;
  long stride = 0;
  const std::int64_t* order = nullptr;  // null: one after another
  ELMAN_INLINE T* operator[](long row) const { return data + (order ? order[row] : row) * stride; }
  Strip after(long rows) const {
    return order || !data ? Strip{data, stride, order ? order + rows : nullptr}
                          : Strip{data + rows * stride, stride, nullptr};
  }
  explicit operator bool() const { return data; }
};

// Steps in the order in which a direction takes them, for rows first..last-1. Position s is step(s).
struct Walk {
  const Network& net;
  bool reverse;
  long first, last;

  long step(long s) const { return reverse ? net.T - 1 - s : s; }
  long alive_at(long t) const { return net.alive ? max(0, min(last, net.alive[t]) - first) : last - first; }
  long alive(long s) const { return alive_at(step(s)); }
  // Of the rows alive at position s, the first so many were alive one position earlier; the others start here.
  long continuing(long s) const { return s == 0 ? 0 : min(alive(s), alive(s - 1)); }
  // The first so many are alive one position later; the others end here.
  long staying(long s) const { return s == net.T - 1 ? 0 : min(alive(s), alive(s + 1)); }
  // The same way walked from its end.
  Walk back() const { return {net, !reverse, first, last}; }

  // Whether row r's state before position s is not that of the position before (nor the initial one), but a fresh one.
  bool cut(long s, long r) const {
    if (!net.resets.data) return false;
    const long t = step(s) + reverse;  // in reverse, what comes to a step comes from the step after
    return t < net.T && r < alive_at(t) && net.resets.data[t * net.resets.step + place(r) * net.resets.sequence];
  }

  // Where the rows of position s lie.
  template <class T> Strip<T> strip(const StepTensor& q, long s) const {
    const long t = step(s);
    T* data = static_cast<T*>(q.data);
    if (!data) return {};
    if (!net.alive) return {data + t * q.step + first * q.sequence, q.sequence, nullptr};
    if (!q.padded) return {data + (net.offset[t] + first) * q.sequence, q.sequence, nullptr};
    return {data + t * q.step, q.sequence, net.order + first};
  }
  // Row r (counted from `first`) of them.
  template <class T> T* at(const StepTensor& q, long s, long r) const { return strip<T>(q, s)[r]; }

  // Pointers to all rows of positions from..to-1, one after another; returns how many.
  template <class T> long gather(const StepTensor& q, long from, long to, T** rows) const {
    long m = 0;
    for (long s = from; s < to; ++s) {
      const Strip<T> strip = this->strip<T>(q, s);
      for (long r = 0, n = alive(s); r < n; ++r) rows[m++] = strip[r];
    }
    return m;
  }

  // Pointers to the rows of `states` before position s: those of the position before where there is one, else those of
  // `start` (dense, `width` long), or where a reset cuts, `fresh`. Null: `zeros`.
  template <class T> void gather_before(const StepTensor& states, long s, const T* start, const T* fresh, long width,
      const T* zeros, const T** rows) const {
    const long old = continuing(s), n = alive(s);
    if (old > 0) {
      const Strip<const T> strip = this->strip<const T>(states, s - 1);
      for (long r = 0; r < old; ++r) rows[r] = strip[r];
    }
    for (long r = old; r < n; ++r) rows[r] = start ? start + (first + r) * width : zeros;
    if (net.resets.data)
      for (long r = 0; r < n; ++r)
        if (cut(s, r)) rows[r] = fresh ? fresh : zeros;
  }

 private:
  long place(long r) const { return net.order ? net.order[first + r] : first + r; }
};

// A row of vectors that ends inside one: the last one is read and written in part.
template <class T> struct Row {
  static ELMAN_INLINE Vec<T> get(const T* p, long column, long width) {
    return width - column >= kLanes<T> ? load(p + column) : load_part(p + column, width - column);
  }
  static ELMAN_INLINE void put(T* p, long column, long width, Vec<T> v) {
    if (width - column >= kLanes<T>) store(p + column, v);
    else store_part(p + column, v, width - column);
  }
};

// Vectors first..last-1 of some rows, `width` long and dense, from one number type to another; from null: zeros.
template <class To, class From> void copy_part(To* to, const From* from, long rows, long width, long first, long last) {
  constexpr long W = kLanes<To>;
  static_assert(W == kLanes<From>);
  for (long r = 0; r < rows; ++r)
    for (long g = first; g < last; ++g)
      Row<To>::put(to + r * width, g * W, width, from ? Row<From>::get(from + r * width, g * W, width) : Vec<To>{});
}

}  // namespace elman::ELMAN_TARGET
