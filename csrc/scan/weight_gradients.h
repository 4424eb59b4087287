// From the gate gradients of a chunk, those of inputs and weights: a few large products instead of many small ones.
// Which block adds to which sum, and when, does not depend on the threads.
#pragma once

#include "backward_scan.h"

namespace elman::ELMAN_TARGET {

// Rows summed in one go into a weight's gradient, read and written once for each. Blocks keep long sums accurate.
constexpr long kSumRows = 512;
// Rows of an input's gradient, at most, and panels of a weight's, in one task.
constexpr long kTaskRows = 96, kTaskPanels = 6;

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
    return within(needs_bias_) ? bias_gradient() : input_gradient(i);
  }

 private:
  static constexpr long G = Cell::kGates, K = Cell::kSaved, N = Cell::kGateGradients, W = kLanes<T>;
  long task_rows() const { return min(kTaskRows, ceil_div(gates_.rows, 32) * 8); }  // of few rows a quarter
  long x_tasks() const { return needs_x_ ? ceil_div(gates_.rows, task_rows()) : 0; }
  long weight_tasks(const void* gradient, long columns) const {
    return gradient ? ceil_div(panels<T>(columns), kTaskPanels) : 0;
  }

  bool input_gradient(long i) const {
    const long from = i * task_rows(), to = min(gates_.rows, from + task_rows());
    const Buffer<const T*> gate_rows(to - from);
    if (!gate_rows.ok()) return false;
    for (long m = from; m < to; ++m) gate_rows[m - from] = gates_.current() + m * gates_.stride;
    const StoreEpilogue<T, T* const*> store{grad_x_rows_ + from, I_, tensors_.accumulates};
    product<T, 1>(to - from, Rows<T>{gate_rows}, G * H_, w_ih_, 0, panels<T>(I_), store);
    return true;
  }

  // Panels of the i-th task out of `columns` columns: pack(first row, rows, first panel, last panel, to) gives them;
  // multiply(first row, rows, first column, panels, packed, add) what they are multiplied with.
  template <class Pack, class Multiply> bool sum_rows(long columns, long i, Pack pack, Multiply multiply) const {
    const long first = i * kTaskPanels, last = min(panels<T>(columns), first + kTaskPanels);
    const Buffer<T> packed((last - first) * W * min(gates_.rows, kSumRows));
    if (!packed.ok()) return false;
    for (long from = 0; from < gates_.rows; from += kSumRows) {
      const long n = min(kSumRows, gates_.rows - from);
      pack(from, n, first, last, packed);
      multiply(from, n, first * W, last - first, packed, gates_.chunks > 0 || from > 0);
    }
    return true;
  }

  // (rows, columns) += the transpose of n rows of `lhs`, `stride` apart, times what was packed.
  static void multiply(long rows, const T* lhs, long stride, long n, const T* packed, long groups, void* gradient,
      long columns, long at, bool add) {
    const StoreEpilogue<T, StepRows<T>> store{{static_cast<T*>(gradient) + at, columns}, columns - at, add};
    product<T, 1>(rows, Columns<T>{lhs, stride}, n, packed, 0, groups, store);
  }

  // The gate gradients from the gate-th on, times what the weights were multiplied with.
  bool weight_gradient(const T* const* inputs, long columns, long i, long gate, void* gradient) const {
    const auto pack = [&](long from, long n, long first, long last, T* to) {
      pack_rows<T>(inputs + from, n, columns, first, last, to);
    };
    return sum_rows(columns, i, pack, [&](long from, long n, long at, long groups, const T* packed, bool add) {
      const T* a = gates_.current() + from * gates_.stride + gate * H_;
      if (N == G) return multiply(G * H_, a, gates_.stride, n, packed, groups, gradient, columns, at, add);
      for (int g = 0; g < G; ++g) {  // the input's parts lie in an order of their own
        T* rows = static_cast<T*>(gradient) + (gate == 0 ? Cell::input_gate(g) : g) * H_ * columns;
        multiply(H_, a + g * H_, gates_.stride, n, packed, groups, rows, columns, at, add);
      }
    });
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
      return sum_rows(H_, i, pack, [&](long from, long n, long at, long groups, const T* packed, bool add) {
        multiply(
            P_, gates_.h + from * gates_.h_stride, gates_.h_stride, n, packed, groups, gradients_.w_hr, H_, at, add);
      });
    }
  }

  bool bias_gradient() const {
    const long n = N * H_;
    const Buffer<T> part(n);
    if (!part.ok()) return false;
    for (long from = 0; from < gates_.rows; from += kSumRows) {
      for (long j = 0; j < n; ++j) part[j] = T(0);
      for (long m = from; m < min(gates_.rows, from + kSumRows); ++m) {
        const T* row = gates_.current() + m * gates_.stride;
        for (long j = 0; j < n; ++j) part[j] += row[j];
      }
      for (long j = 0; j < n; ++j) bias_sums_[j] = gates_.chunks + from > 0 ? bias_sums_[j] + part[j] : part[j];
    }
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
