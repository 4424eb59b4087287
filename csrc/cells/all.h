// The table of cells. A new one is a struct in a file beside this, included here, and a line in the list.
#pragma once

#include <array>

#include "../kernels.h"
#include "elman.h"
#include "gru.h"
#include "lstm.h"

namespace elman::ELMAN_TARGET {

template <class... Cell> struct CellList {
  static constexpr std::array<CellInfo, sizeof...(Cell)> infos() {
    int number = 0;
    return {CellInfo{Cell::kName, number++, Cell::kGates, Cell::kHasCellState ? 2 : 1, Cell::kSaved,
        requires { &Cell::output; }, Cell::kSplitGate >= 0}...};
  }
  // Calls f with the cell of this number.
  template <class F> static bool with(int number, F f) {
    int i = 0;
    bool done = false;
    ((i++ == number && ((done = f(Cell{})), true)) || ...);
    return done;
  }
};

// Computed in T. A cell's place is its number.
template <class T> using Cells = CellList<ElmanTanh<T>, ElmanRelu<T>, Gru<T>, Lstm<T>>;

}  // namespace elman::ELMAN_TARGET
