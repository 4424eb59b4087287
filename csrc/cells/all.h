// The table of cells. A new one is a struct in a file beside this, and a line here.
#pragma once

#include <array>

#include "../kernels.h"
#include "elman.h"
#include "gru.h"
#include "lstm.h"

namespace elman::ELMAN_TARGET {

constexpr int kCells = __COUNTER__ - kFirstCell;

template <class Cell> constexpr CellInfo info_of(int number) {
  return {Cell::kName, number, Cell::kGates, Cell::kHasCellState ? 2 : 1, Cell::kSaved, requires { &Cell::output; },
      Cell::kSplitGate >= 0};
}
template <int... number> constexpr std::array<CellInfo, kCells> infos(std::integer_sequence<int, number...>) {
  return {info_of<typename CellAt<float, number>::type>(number)...};
}

// Calls f with the cell of this number, computed in T.
template <class T, int number = 0, class F> bool with_cell(int wanted, F f) {
  if (wanted == number) return f(typename CellAt<T, number>::type{});
  if constexpr (number + 1 < kCells) return with_cell<T, number + 1>(wanted, f);
  else return false;
}

}  // namespace elman::ELMAN_TARGET
