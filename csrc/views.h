// What an operand is, whoever showed it: what it is called in errors, its type, shape, strides and address.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <memory_resource>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace elman {

using Address = std::uintptr_t;

// No size or stride is beyond this: products of two then fit in 80 bits, and are checked in 128.
constexpr Long kMost = Long{1} << 40;
constexpr int kMostAxes = 5;  // of an operand

inline void check(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(std::string("elman._native: ") + what);
}

// The type of an element, as DLPack has it.
struct Type {
  unsigned char code, bits;
  bool operator==(const Type&) const = default;
  std::string name() const {
    static const char* const names[] = {"int", "uint", "float", "?", "bfloat", "complex", "bool"};
    return code > 6 ? "another type" : code == 6 ? "bool" : names[code] + std::to_string(bits);
  }
};
constexpr Type kFloat32{2, 32}, kFloat64{2, 64}, kBfloat16{4, 16}, kInt64{0, 64}, kUint8{1, 8}, kBool{6, 8},
    kOther{255, 0};

// One number for each axis: sizes, or strides.
struct Shape {
  int axes = 0;
  Long size[kMostAxes];  // of so many axes

  Shape() {}
  Shape(std::initializer_list<Long> sizes) {
    for (const Long s : sizes) size[axes++] = s;
  }
  Long& operator[](int d) { return size[d]; }
  Long operator[](int d) const { return size[d]; }
  bool operator==(const Shape& other) const {
    return std::equal(size, size + axes, other.size, other.size + other.axes);
  }
  Shape behind(int more, Long each) const {  // so many axes more in front of these, or fewer
    Shape all;
    all.axes = axes + more;
    for (int d = 0; d < all.axes; ++d) all[d] = d < more ? each : size[d - more];
    return all;
  }
  std::string text() const {
    std::string text = "(";
    for (int d = 0; d < axes; ++d) text += (d ? ", " : "") + std::to_string(size[d]);
    return text + (axes == 1 ? ",)" : ")");
  }
};

inline bool is_dense(const Shape& shape, const Shape& strides) {
  Long stride = 1;
  for (int d = shape.axes; d-- > 0; stride *= shape[d])
    if (shape[d] != 1 && strides[d] != stride) return false;
  return true;
}

// Where an operand lies. Strides count elements.
struct View {
  const char* name;
  Long index;  // which of those of this name; -1: there is one
  bool none;   // there is no such operand; the rest means nothing then
  Type type = kOther;
  Address at = 0;
  Shape shape, strides;
  Address apart = 0, after = 0;  // an ensemble's: bytes to the next member's, and how many come after this one

  View(const char* name_, Long index_, bool none_) : name(name_), index(index_), none(none_) {}
  void begin_members(Long members);  // from (members, ...) to the first one's
};
using Views = std::span<const View>;

inline std::string text(std::string part) { return part; }
inline std::string text(const Type& type) { return type.name(); }
inline std::string text(const Shape& shape) { return shape.text(); }
inline std::string text(const View& v) { return v.index < 0 ? v.name : v.name + (" " + std::to_string(v.index)); }
template <class Number> auto text(Number number) -> decltype(std::to_string(number)) { return std::to_string(number); }

// An operand is not as the call needs it. Says what was expected, of these parts, and what came.
struct Mismatch : std::runtime_error {
  template <class... Parts> explicit Mismatch(const Parts&... parts)
      : std::runtime_error(("expected " + ... + text(parts))) {}
};

// What an operand is in its call: the number of its place in the table of all, and what errors call it.
// `sequences`: those of (T, B, ...) or (L·D, B, ...), of which a single step lacks axes (Stack::left_out).
struct Role {
  int number;
  const char* name;
  bool sequences = false;
};
constexpr Role kX{0, "x", true}, kOutput{1, "output", true}, kSource{2, "source"}, kTarget{3, "target"},
    kBatchSizes{4, "batch_sizes"}, kLengths{5, "lengths"}, kReset{6, "reset"}, kHidden{7, "hidden"}, kSaved{8, "saved"},
    kCheckpoints{9, "checkpoints"}, kGradOutput{10, "output's gradient", true}, kGradHidden{11, "hidden's gradient"},
    kGradSaved{12, "saved's gradient"}, kGradX{13, "x's gradient", true}, kGradGates{14, "gate gradients"},
    kParams{15, "parameter"}, kInitial{16, "initial state", true}, kFresh{17, "fresh state"},
    kFinal{18, "final state", true}, kState{19, "state"}, kGradFinal{20, "gradient of final state", true},
    kGradInitial{21, "gradient of initial state", true}, kGradFresh{22, "gradient of fresh state"},
    kGradParams{23, "gradient of parameter"}, kStepInputs{24, "step input"}, kDraws{25, "draw"}, kTraced{26, "traced"},
    kGradStepInputs{27, "gradient of step input"}, kGradTraced{28, "gradient of traced"};
constexpr int kRoles = 29, kNeeded = 4;  // the first four are never left out

// How the operands of a call look, by role; of those that may be several, from the parameters on, all.
class CallViews {
 public:
  const View& operator[](Role role) const { return views_[places_[role.number].first]; }
  Views all(Role role) const { return Views(views_).subspan(places_[role.number].first, places_[role.number].count); }

 protected:
  struct Place {
    std::uint32_t first, count;
  };
  char few_[8192];  // where the operands of a few layers lie: the heap takes longer for as many bytes
  std::pmr::monotonic_buffer_resource memory_{few_, sizeof few_};
  std::pmr::vector<View> views_{&memory_};
  Place places_[kRoles];
};

inline Long product(const Shape& factors) {
  __int128 p = 1;
  for (int i = 0; i < factors.axes; ++i) {
    p *= factors[i];
    if (p > kMost * 64) throw Mismatch("operands that memory can hold, got sizes that multiply to more elements");
  }
  return static_cast<Long>(p);
}

inline void View::begin_members(Long members) {
  if (shape.axes < 1 || shape[0] != members || strides[0] < 0)
    throw Mismatch(*this, " of ", members, " members, got shape ", shape, " and strides ", strides);
  product({members, strides[0]});
  apart = static_cast<Address>(strides[0]) * (type.bits / 8), after = static_cast<Address>(members - 1);
  shape = shape.behind(-1, 0), strides = strides.behind(-1, 0);
}

}  // namespace elman
