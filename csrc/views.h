// What an operand is, whoever showed it: what it is called in errors, its type, shape, strides and address.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>

namespace elman {

using Long = std::int64_t;
using Address = std::uintptr_t;

// No size or stride is beyond this: products of two then fit in 80 bits, and are checked in 128.
constexpr Long kMost = Long{1} << 40;
constexpr int kMostAxes = 5;  // of an operand

// An operand is not as the call needs it. Says what was expected and what came.
struct Mismatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

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

// Where an operand lies. Strides count elements.
struct View {
  const char* name;
  Long index;  // which of those of this name; -1: there is one
  bool none;   // there is no such operand; the rest means nothing then
  Type type = kOther;
  int axes = 0;
  Address at = 0;
  Long shape[kMostAxes], strides[kMostAxes];  // of so many axes

  View(const char* name_, Long index_, bool none_) : name(name_), index(index_), none(none_) {}
  std::string who() const { return index < 0 ? name : std::string(name) + " " + std::to_string(index); }
  std::string sizes() const { return shown(std::span(shape, static_cast<std::size_t>(axes))); }
  std::string steps() const { return shown(std::span(strides, static_cast<std::size_t>(axes))); }
  static std::string shown(std::span<const Long> sizes) {
    std::string text = "(";
    for (std::size_t d = 0; d < sizes.size(); ++d) text += (d ? ", " : "") + std::to_string(sizes[d]);
    return text + (sizes.size() == 1 ? ",)" : ")");
  }
};
using Views = std::span<const View>;

inline Long product(std::initializer_list<Long> factors) {
  __int128 p = 1;
  for (Long f : factors) {
    p *= f;
    if (p > kMost * 64)
      throw Mismatch("expected operands that memory can hold, got sizes that multiply to more elements");
  }
  return static_cast<Long>(p);
}

}  // namespace elman
