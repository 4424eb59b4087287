// What of a call's tensors belongs to one layer and direction.
#pragma once

#include "../kernels.h"
#include "../simd.h"

namespace elman::ELMAN_TARGET {

// The index-th of the parts of `size` numbers; null of null.
template <class T> ELMAN_INLINE T* slice(void* all, long index, long size) {
  return all ? static_cast<T*>(all) + index * size : nullptr;
}
template <class T> ELMAN_INLINE const T* slice(const void* all, long index, long size) {
  return slice<T>(const_cast<void*>(all), index, size);
}

// A dense (rows, width) buffer that holds all of a layer's rows; and one that holds what is saved of them.
inline StepTensor dense(const Network& net, void* data, long width) { return {data, net.B * width, width}; }
inline StepTensor dense_saved(const Network& net, void* data, long width) {
  return net.padded_rows ? StepTensor{data, net.padded_batch * width, width, 1, true} : dense(net, data, width);
}
// The same tensor from a column on.
template <class T> ELMAN_INLINE StepTensor from_column(const StepTensor& x, long column) {
  return {x.data ? static_cast<T*>(x.data) + column : nullptr, x.step, x.sequence, x.column, x.padded};
}

// What is saved of a layer and direction, (rows, K, H).
template <class T> ELMAN_INLINE StepTensor saved_of(const Network& net, const void* all, long index) {
  const long width = net.cell->saved * net.H;
  return dense_saved(net, const_cast<T*>(slice<T>(all, index, net.saved_rows() * width)), width);
}

// c is saved before the first position, and before those at which the backward pass's chunks end, counted from the end.
inline long checkpoint_at(const Network& net, long s) { return ceil_div(net.T - s, backward_chunk(net)) - 1; }
inline bool is_checkpoint(const Network& net, long s) { return s == 0 || (net.T - s) % backward_chunk(net) == 0; }

}  // namespace elman::ELMAN_TARGET
