// From the gate gradients of a chunk, those of inputs and weights: a few large products instead of many small ones.
// Which block adds to which sum, and when, does not depend on the threads.
#pragma once

#include "backward_scan.h"
#include "row_sums.h"

namespace elman::ELMAN_TARGET {

// Of one half of the sequences.
template <class T, class Cell> class WeightGradients {
 public:
  using Sum = Wide<T>;
  using Kept = typename GateGradients<T, Cell>::Kept;
  // Chunks have so many positions; 0: nothing is needed of it.
  WeightGradients(const BackwardTensors<T>& tensors, const GateGradients<T, Cell>& gates, const Sum* w_ih, long half,
      long positions)
      : order_(batch_part(tensors.order, half, halves_of(tensors.order.net))), tensors_(tensors),
        gradients_(tensors.gradients), gates_(gates), I_(tensors.I), H_(order_.net.H), P_(order_.net.P), half_(half),
        capacity_(positions * order_.count()), projects_(tensors.parameters.w_hr), needs_x_(tensors.grad_x.data),
        needs_bias_(gradients_.b_ih || gradients_.b_hh), w_ih_(w_ih),
        sum_ih_(gradients_.w_ih, G * H_ * I_, sums_apart()), sum_hh_(gradients_.w_hh, G * H_ * P_, sums_apart()),
        sum_hr_(gradients_.w_hr, P_ * H_, sums_apart()), bias_sums_(needs_bias_ ? N * H_ : 0), x_rows_(capacity_),
        h_rows_(capacity_), saved_rows_(projects_ ? capacity_ : 0), grad_x_rows_(needs_x_ ? capacity_ : 0) {}
  bool ok() const { return all_ok(sum_ih_, sum_hh_, sum_hr_, bias_sums_, x_rows_, h_rows_, saved_rows_, grad_x_rows_); }
  static long packed_size(const BackwardTensors<T>& tensors) {
    return tensors.grad_x.data ? depth<Kept>(G * tensors.order.net.H) * panels<T>(tensors.I) * W : 0;
  }
  static bool pack(const BackwardTensors<T>& tensors, Sum* w_ih) {  // false: out of memory
    const long H = tensors.order.net.H, I = tensors.I;
    const Buffer<const T*> w(w_ih ? G * H : 0);
    if (!w_ih || !w.ok()) return w.ok();
    const T* rows = static_cast<const T*>(tensors.parameters.w_ih);
    for (int g = 0; g < G; ++g)
      for (long j = 0; j < H; ++j) w[g * H + j] = rows + (Cell::input_gate(g) * H + j) * I;
    pack_rows<T>(w, G * H, I, 0, panels<T>(I), w_ih);
    return true;
  }

  // Before the tasks of positions begin..end-1, a chunk: where their rows lie.
  void gather(long chunk, long begin, long end, const StepTensor& saved, const T* zeros) {
    rows_ = order_.gather<const T>(tensors_.x, begin, end, x_rows_);
    if (needs_x_) order_.gather<T>(tensors_.grad_x, begin, end, grad_x_rows_);
    if (projects_) order_.gather<const Sum>(saved, begin, end, saved_rows_);
    const StepOrder forward = order_.reversed();
    for (long s = begin, m = 0; s < end; m += order_.rows(s++))
      forward.gather_previous<T>(
          tensors_.h, order_.net.T - 1 - s, tensors_.initial, tensors_.fresh, P_, zeros, h_rows_ + m);
    first_ = gates_.rows(order_, chunk, 0)[0];
    first_h_ = projects_ ? gates_.h_rows(order_, 0)[0] : nullptr;
  }

  long tasks() const { return x_tasks() + ih_tasks() + hh_tasks() + hr_tasks() + needs_bias_; }
  bool run(long i) const {  // the i-th task, large ones first, so that threads end together; false: out of memory
    const auto within = [&](long tasks) { return i < tasks || (i -= tasks, false); };
    if (within(ih_tasks())) return weight_gradient(x_rows_, I_, i, 0, sum_ih_.data());
    if (within(hh_tasks())) return weight_gradient(h_rows_, P_, i, gates_.kRecurrent, sum_hh_.data());
    if (within(hr_tasks())) return projection_gradient(i);
    if (within(needs_bias_)) return rows().sum_up(N * H_, bias_sums_, chunks_ > 0), true;
    return rows().multiply(i, G * H_, w_ih_, grad_x_rows_, I_, tensors_.accumulates);
  }
  void finish_chunk() { ++chunks_; }

  // After the last chunk, the i-th of `parts` tasks: this half's sums and those of a second one; null: there is none.
  void finish(const WeightGradients* second, long i, long parts) const {
    for (const auto sum : {&WeightGradients::sum_ih_, &WeightGradients::sum_hh_, &WeightGradients::sum_hr_})
      (this->*sum).finish(second ? &(second->*sum) : nullptr, i, parts);
    if (i > 0 || !needs_bias_) return;
    if (second) add_columns<Sum>(bias_sums_, second->bias_sums_, N * H_, 0, panels<T>(N * H_));
    const auto put = [&](void* bias, int gate, int column) {
      if (bias) copy_columns(static_cast<T*>(bias) + gate * H_, bias_sums_ + column * H_, 1, H_, 0, panels<T>(H_));
    };
    for (int g = 0; g < G; ++g)
      put(gradients_.b_ih, Cell::input_gate(g), g), put(gradients_.b_hh, g, gates_.kRecurrent + g);
  }

 private:
  static constexpr long G = Cell::kGates, K = Cell::kSaved, N = Cell::kGateGradients, W = kLanes<T>;
  bool sums_apart() const { return capacity_ > 0 && (half_ > 0 || kHalved<T>); }
  GateGradientRows<Kept> rows() const { return {first_, rows_, gates_.stride}; }
  long x_tasks() const { return needs_x_ ? tasks_of_rows(rows_) : 0; }
  long ih_tasks() const { return tasks_of_weight<Kept>(gradients_.w_ih, G, H_, I_); }
  long hh_tasks() const { return tasks_of_weight<Kept>(gradients_.w_hh, G, H_, P_); }
  long hr_tasks() const { return tasks_of_weight<Kept>(gradients_.w_hr, 1, P_, H_); }

  // The gate gradients from the gate-th on, times what the weights were multiplied with.
  bool weight_gradient(const T* const* inputs, long columns, long i, long gate, Sum* gradient) const {
    const auto pack = [&](long from, long n, long first, long last, Sum* to) {
      pack_rows<T>(inputs + from, n, columns, first, last, to);
    };
    const auto add = [&](const auto& block, long at, long groups, const Sum* packed, bool adds) {
      if (N == G) return block.multiply_transposed(G * H_, packed, groups, gradient, columns, at, adds);
      for (int g = 0; g < G; ++g) {  // the input's parts lie in an order of their own
        Sum* to = gradient + (gate == 0 ? Cell::input_gate(g) : g) * H_ * columns;
        block.from_column(g * H_).multiply_transposed(H_, packed, groups, to, columns, at, adds);
      }
    };
    return rows().from_column(gate * H_).sum(i, G, H_, columns, chunks_ > 0, pack, add);
  }

  bool projection_gradient(long i) const {
    if constexpr (!requires { &Cell::output; }) return true;
    else {
      const auto pack = [&](long from, long n, long first, long last, Sum* to) {
        for (long g = first; g < last; ++g)
          to = pack_panel<Kept>(
              n,
              [&](long k) {
                const Sum *o = saved_rows_[from + k] + (K - 2) * H_, *c = o + H_;
                const Vec<T> output = Cell::output(load_within(o, g * W, H_), load_within(c, g * W, H_));
                if constexpr (kHalved<T>) return rounded(output);  // as the forward pass projects it
                else return output;
              },
              to);
      };
      const auto add = [&](const auto& block, long at, long groups, const Sum* packed, bool adds) {
        block.multiply_transposed(P_, packed, groups, sum_hr_.data(), H_, at, adds);
      };
      return GateGradientRows<Kept>{first_h_, rows_, gates_.h_stride}.sum(i, 1, P_, H_, chunks_ > 0, pack, add);
    }
  }

  const StepOrder order_;  // of the half
  const BackwardTensors<T>& tensors_;
  const Gradients& gradients_;
  const GateGradients<T, Cell>& gates_;
  const long I_, H_, P_, half_, capacity_;
  const bool projects_, needs_x_, needs_bias_;
  const Sum* const w_ih_;  // packed
  const SumOfHalf<T> sum_ih_, sum_hh_, sum_hr_;
  const Buffer<Sum> bias_sums_;             // (N·H,)
  const Buffer<const T*> x_rows_, h_rows_;  // of the chunk
  const Buffer<const Sum*> saved_rows_;
  const Buffer<T*> grad_x_rows_;
  const Kept *first_ = nullptr, *first_h_ = nullptr;  // the chunk's rows
  long rows_ = 0, chunks_ = 0;
};

}  // namespace elman::ELMAN_TARGET
