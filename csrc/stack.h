// What runs, in plain numbers: a cell, its sizes, layers and directions, and the parameters that these need.
#pragma once

#include <cstring>

#include "dispatch.h"
#include "views.h"

namespace elman {

struct Stack {
  const CellInfo& cell;
  Long I, H, P, L, D;  // P is 0 without a projection
  bool bias, recompute;
  Long members;   // networks of this kind, each with operands of its own; 0: one, whose operands have no axis for them
  Long left_out;  // so many first axes of (T, B, ...) and (L·D, B, ...): 1 in a single step, 2 in one of one sequence

  Stack(const char* name, Long I_, Long H_, Long P_, Long L_, Long D_, bool bias_, bool recompute_, Long members_,
      Long left_out_)
      : cell(cell_of(name)), I(I_), H(H_), P(P_), L(L_), D(D_), bias(bias_), recompute(recompute_), members(members_),
        left_out(left_out_) {
    check(I >= 0 && H >= 0 && members >= 0 && L >= 1 && (D == 1 || D == 2),
        "sizes must be L >= 1, I, H, members >= 0 and D 1 or 2");
    check(I <= kMost && H <= kMost && L <= kMost && members <= kMost, "a size is too large");
    check(P == 0 || (cell.projects && P >= 1 && P < H), "a projection is an LSTM's, and smaller than H");
    if (H == 0) throw Mismatch("a network of at least one unit, got none");
  }
  static const CellInfo& cell_of(const char* name) {
    std::string names;
    for (const CellInfo& cell : target()->cells) {
      if (std::strcmp(cell.name, name) == 0) return cell;
      names += (names.empty() ? "" : ", ") + std::string(cell.name);
    }
    throw std::invalid_argument("elman._native: expected a cell that has kernels, " + names + ", got " + name);
  }

  Long width(int state) const { return state == 0 && P ? P : H; }
  Long out() const { return D * width(0); }
  Long directions() const { return L * D; }
  Long rows() const { return cell.gates * H; }
  std::size_t states() const { return static_cast<std::size_t>(cell.states); }

  // Parameters come in torch's order, as many of w_ih, w_hh, b_ih, b_hh, w_hr as there are: the i-th is in this place.
  static constexpr int kPlaces = 5;
  Long each() const { return 2 + (bias ? 2 : 0) + (P ? 1 : 0); }
  Long count() const { return directions() * each(); }
  int place(Long i) const { return static_cast<int>(i < 2 || (bias && i < 4) ? i : 4); }
  // The shape of what is in a place, in a direction counted through all layers.
  Shape shape(Long direction, int place) const {
    if (place == 0) return {rows(), direction < D ? I : out()};
    if (place == 1) return {rows(), width(0)};
    return place == 4 ? Shape{P, H} : Shape{rows()};
  }
};

}  // namespace elman
