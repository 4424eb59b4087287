// From the gate gradients of a chunk, those of inputs and weights: a few large products instead of many small ones.
// Which block adds to which sum, and when, does not depend on the threads.
#pragma once

#include "backward_scan.h"
#include "row_sums.h"

namespace elman::ELMAN_TARGET {

template <class T, class Cell> class WeightGradients {
 public:
  WeightGradients(const BackwardTensors<T>& tensors, const GateGradients<T, Cell>& gates)
      : order_(tensors.order), tensors_(tensors), gradients_(tensors.gradients), gates_(gates), I_(tensors.I),
        H_(order_.net.H), P_(order_.net.P), projects_(tensors.parameters.w_hr), needs_x_(tensors.grad_x.data),
        needs_bias_(gradients_.b_ih || gradients_.b_hh), w_ih_(needs_x_ ? G * H_ * panels<T>(I_) * W : 0),
        bias_sums_(needs_bias_ ? N * H_ : 0), x_rows_(gates.capacity), h_rows_(gates.capacity),
        saved_rows_(projects_ ? gates.capacity : 0), grad_x_rows_(needs_x_ ? gates.capacity : 0) {}
  bool ok() const { return all_ok(w_ih_, bias_sums_, x_rows_, h_rows_, saved_rows_, grad_x_rows_); }

  bool pack() const {  // false: out of memory
    const Buffer<const T*> w(needs_x_ ? G * H_ : 0);
    if (!needs_x_ || !w.ok()) return w.ok();
    const T* rows = static_cast<const T*>(tensors_.parameters.w_ih);
    for (int g = 0; g < G; ++g)
      for (long j = 0; j < H_; ++j) w[g * H_ + j] = rows + (Cell::input_gate(g) * H_ + j) * I_;
    pack_rows<T>(w, G * H_, I_, 0, panels<T>(I_), w_ih_);
    return true;
  }

  // Before the tasks of positions begin..end-1: where their rows lie. Returns how many there are.
  long gather(long begin, long end, const StepTensor& saved, const T* zeros) {
    const long rows = order_.gather<const T>(tensors_.x, begin, end, x_rows_);
    if (needs_x_) order_.gather<T>(tensors_.grad_x, begin, end, grad_x_rows_);
    if (projects_) order_.gather<const T>(saved, begin, end, saved_rows_);
    const StepOrder forward = order_.reversed();
    for (long s = begin, m = 0; s < end; m += order_.rows(s++))
      forward.gather_previous<T>(
          tensors_.h, order_.net.T - 1 - s, tensors_.initial[0], tensors_.fresh[0], P_, zeros, h_rows_ + m);
    return rows;
  }

  long tasks() const {
    return x_tasks() + weight_tasks(gradients_.w_ih, I_) + weight_tasks(gradients_.w_hh, P_) +
        weight_tasks(gradients_.w_hr, H_) + needs_bias_;
  }
  bool run(long i) const {  // the i-th task, large ones first, so that threads end together; false: out of memory
    const auto within = [&](long tasks) { return i < tasks || (i -= tasks, false); };
    if (within(weight_tasks(gradients_.w_ih, I_))) return weight_gradient(x_rows_, I_, i, 0, gradients_.w_ih);
    if (within(weight_tasks(gradients_.w_hh, P_)))
      return weight_gradient(h_rows_, P_, i, gates_.kRecurrent, gradients_.w_hh);
    if (within(weight_tasks(gradients_.w_hr, H_))) return projection_gradient(i);
    if (within(needs_bias_)) return bias_gradient();
    return rows().multiply(i, G * H_, w_ih_, grad_x_rows_, I_, tensors_.accumulates);
  }

 private:
  static constexpr long G = Cell::kGates, K = Cell::kSaved, N = Cell::kGateGradients, W = kLanes<T>;
  GateGradientRows<T> rows() const { return {gates_.current(), gates_.rows, gates_.stride}; }
  long x_tasks() const { return needs_x_ ? tasks_of_rows(gates_.rows) : 0; }
  long weight_tasks(const void* gradient, long columns) const { return gradient ? tasks_of_columns<T>(columns) : 0; }

  // The gate gradients from the gate-th on, times what the weights were multiplied with.
  bool weight_gradient(const T* const* inputs, long columns, long i, long gate, void* gradient) const {
    const auto pack = [&](long from, long n, long first, long last, T* to) {
      pack_rows<T>(inputs + from, n, columns, first, last, to);
    };
    const auto add = [&](const auto& block, long at, long groups, const T* packed, bool adds) {
      if (N == G) return block.multiply_transposed(G * H_, packed, groups, gradient, columns, at, adds);
      for (int g = 0; g < G; ++g) {  // the input's parts lie in an order of their own
        T* to = static_cast<T*>(gradient) + (gate == 0 ? Cell::input_gate(g) : g) * H_ * columns;
        block.from_column(g * H_).multiply_transposed(H_, packed, groups, to, columns, at, adds);
      }
    };
    return rows().from_column(gate * H_).sum(i, columns, gates_.chunks > 0, pack, add);
  }

  bool projection_gradient(long i) const {
    if constexpr (!requires { &Cell::output; }) return true;
    else {
      const auto pack = [&](long from, long n, long first, long last, T* to) {
        for (long g = first; g < last; ++g)
          for (long k = 0; k < n; ++k, to += W) {
            const T *o = saved_rows_[from + k] + (K - 2) * H_, *c = o + H_;
            store(to, Cell::output(load_within(o, g * W, H_), load_within(c, g * W, H_)));
          }
      };
      const auto add = [&](const auto& block, long at, long groups, const T* packed, bool adds) {
        block.multiply_transposed(P_, packed, groups, gradients_.w_hr, H_, at, adds);
      };
      return GateGradientRows<T>{gates_.h, gates_.rows, gates_.h_stride}.sum(i, H_, gates_.chunks > 0, pack, add);
    }
  }

  bool bias_gradient() const {
    if (!rows().sum_up(N * H_, bias_sums_, gates_.chunks > 0)) return false;
    const auto put = [&](void* bias, int gate, int column) {  // so far; the last chunk's are the whole
      if (bias) __builtin_memcpy(static_cast<T*>(bias) + gate * H_, bias_sums_ + column * H_, H_ * sizeof(T));
    };
    for (int g = 0; g < G; ++g)
      put(gradients_.b_ih, Cell::input_gate(g), g), put(gradients_.b_hh, g, gates_.kRecurrent + g);
    return true;
  }

  const StepOrder& order_;
  const BackwardTensors<T>& tensors_;
  const Gradients& gradients_;
  const GateGradients<T, Cell>& gates_;
  const long I_, H_, P_;
  const bool projects_, needs_x_, needs_bias_;
  const Buffer<T> w_ih_, bias_sums_;                     // packed; (N·H,)
  const Buffer<const T*> x_rows_, h_rows_, saved_rows_;  // of the chunk
  const Buffer<T*> grad_x_rows_;
};

}  // namespace elman::ELMAN_TARGET
