// What the scan asks of a cell. It computes on vectors of units with nothing but Vec<T>, splat, fma, fnma, tanh,
// sigmoid, relu, arithmetic, comparisons and ?:, so that the same struct serves every processor. A cell is a type with
//   kName                   what Python's cell of the same equation is called
//   kGates                  pre-activations per unit: blocks of H rows in the weights, side by side in a register tile
//   kSplitGate              the gate whose recurrent part forward() takes apart from its input part; -1: none
//   kReadsPreviousH         whether forward() reads h before the step, beyond the products
//   kHasCellState           whether there is a second state, c, beside h
//   kSaved                  numbers that forward() saves for backward()
//   forward(a, x, h, c)     a[0..kGates) in: pre-activations (of the split gate: its recurrent part; x is its input
//                           part). h: before the step. c: before it, and after. a[0..kSaved) out: what is saved.
//                           Returns h. With output(o, c), which makes h of the last two saved, h can be projected.
//   kGateGradients          gate gradients per unit. First those of the input's parts, in the order of input_gate(),
//                           last those of the recurrent parts, in that of the gates. Without a split gate both are one.
//   kBackwardReadsH         whether backward() reads the new h
//   kBackwardReadsPrevious  whether it reads the state before the step: c where there is one, else h
//   backward(a, grad_h, h, previous, carry)
//                           a[0..kSaved) in; grad_h: gradient of the new h; carry in: the gradient of c, or without one
//                           what the step after adds to grad_h past its products; out: that for the step before.
//                           a[0..kGateGradients) out.
//   backward_traced(a, grad_saved, grad_h, h, previous, carry)
//                           backward() where grad_saved[0..kSaved) arrive at the saved numbers themselves, too
// and the line ELMAN_CELL(type) after it, by which the table (all.h) knows it.
#pragma once

#include "../math.h"

namespace elman::ELMAN_TARGET {

template <class T, int number> struct CellAt;  // ::type: the cell of this number, computed in T
constexpr int kFirstCell = __COUNTER__ + 1;    // up to kCells nothing else may use __COUNTER__
#define ELMAN_CELL(Cell) \
  template <class T> struct CellAt<T, __COUNTER__ - kFirstCell> : std::type_identity<Cell<T>> {};

}  // namespace elman::ELMAN_TARGET
