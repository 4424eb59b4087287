// What one operand must be, and which memory a call reads and writes: nothing written may overlap anything.
#pragma once

#include <vector>

#include "views.h"

namespace elman {

constexpr Address kEnd = Address{1} << 63;  // no process has memory beyond

struct Range {
  const View* view;
  Address from, to, own;  // bytes of one member
};
using Ranges = std::vector<Range>;

// What an operand's numbers are to the kernels.
inline Number number_of(const View& v, bool bfloat16) {
  if (v.type == kFloat32) return Number::f32;
  if (v.type == kFloat64) return Number::f64;
  if (v.type == kBfloat16 && bfloat16) return Number::bf16;
  throw Mismatch(v.name, " of float32", bfloat16 ? ", float64 or bfloat16" : " or float64", ", got ",
      v.none ? "none" : v.type.name());
}

inline void expect(const View& v, const Shape& shape, Type type) {
  if (v.none || v.type != type || !(v.shape == shape))
    throw Mismatch(
        v, " of shape ", shape, " and ", type, ", got ", v.none ? "none" : v.shape.text() + " and " + v.type.name());
}
// From one to the next along an axis; of one alone it means nothing.
inline Long stride(const View& v, int axis) {
  if (v.shape[axis] == 1) return 0;
  if (v.strides[axis] < 0 || v.strides[axis] > kMost)
    throw Mismatch("strides of ", v, " that are not negative, nor too large, got ", v.strides[axis]);
  return v.strides[axis];
}
inline Long dense_elements(const View& v) {
  const Long elements = product(v.shape);
  if (elements && !is_dense(v.shape, v.strides)) throw Mismatch(v, " to be contiguous, got strides ", v.strides);
  return elements;
}
// So many elements from an operand's first to its last; and those of the members that come after.
inline void* take(const View& v, Long elements, Ranges& to) {
  if (elements == 0) return nullptr;
  const auto size = static_cast<Address>(v.type.bits / 8), own = static_cast<Address>(elements) * size;
  const Address bytes = own + v.after * v.apart;
  if (v.at == 0) throw Mismatch(v, " to lie in memory, got a null pointer: was its storage freed?");
  if (v.at % size != 0) throw Mismatch(v, " aligned to its elements of ", size, " bytes, got address ", v.at);
  if (v.at > kEnd - bytes) throw Mismatch(v, " to end within memory, got ", bytes, " bytes at address ", v.at);
  to.push_back({&v, v.at, v.at + bytes, own});
  return reinterpret_cast<void*>(v.at);
}
inline std::vector<Long> integers(const View& v, Long count) {  // a copy: others may write while the lock is released
  expect(v, {count}, kInt64);
  dense_elements(v);
  if (count && (v.at == 0 || v.at % sizeof(Long) != 0)) throw Mismatch(v, " aligned in memory, got address ", v.at);
  const auto* from = reinterpret_cast<const Long*>(v.at);
  return std::vector<Long>(from, from + count);
}

inline void check_overlap(const Ranges& reads, const Ranges& writes) {
  const auto apart = [](const Range& a, const Range& b) {
    if (a.from < b.to && b.from < a.to)
      throw Mismatch(*a.view, ", which is written, apart from ", *b.view, ", got memory that overlaps");
  };
  for (std::size_t i = 0; i < writes.size(); ++i) {
    if (const View& v = *writes[i].view; v.after > 0 && v.apart < writes[i].own)
      throw Mismatch("members of ", v, " that do not overlap one another, got them ", v.apart, " bytes apart");
    for (std::size_t j = 0; j < i; ++j) apart(writes[i], writes[j]);
    for (const Range& r : reads) apart(writes[i], r);
  }
}

}  // namespace elman
