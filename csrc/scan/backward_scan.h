// The backward scan of one direction: a template on the cell. Steps are taken from the last to the first, in chunks.
// Each is a product of the gate gradients after it with the recurrent weights, and ends in the cell's derivative.
#pragma once

#include "../product/packing.h"
#include "gate_gradients.h"
#include "recompute.h"

namespace elman::ELMAN_TARGET {

template <class T, class Cell> class BackwardScan {
 public:
  BackwardScan(
      const BackwardTensors<T>& tensors, const Recompute<T, Cell>& recompute, const GateGradients<T, Cell>& gradients)
      : order_(tensors.order), tensors_(tensors), recompute_(recompute), gradients_(gradients), H_(order_.net.H),
        P_(order_.net.P), cuts_(order_.net.resets.data), projects_(tensors.parameters.w_hr),
        w_hh_(panels<T>(P_) * hh_panel()), w_hr_(projects_ ? panels<T>(H_) * hr_panel() : 0),
        carry_(Cell::kBackwardReadsPrevious ? order_.net.B * H_ : 0), zeros_(max(H_, cuts_ ? G * H_ : 0)),
        grad_fresh_h_(tensors.grad_fresh[0] ? order_.net.B * P_ : 0),
        grad_fresh_c_(tensors.grad_fresh[1] ? order_.net.B * H_ : 0) {}
  bool ok() const { return all_ok(w_hh_, w_hr_, carry_, zeros_, grad_fresh_h_, grad_fresh_c_); }
  const T* zeros_of_h() const { return zeros<T>(); }

  bool pack() const {  // false: out of memory
    const long B = order_.net.B;
    const Buffer<const T*> w(max(G * H_, P_));
    if (!w.ok()) return false;
    for (long k = 0; k < G * H_; ++k) w[k] = static_cast<const T*>(tensors_.parameters.w_hh) + k * P_;
    pack_rows<T>(w, G * H_, P_, 0, panels<T>(P_), w_hh_);
    for (long k = 0; projects_ && k < P_; ++k) w[k] = static_cast<const T*>(tensors_.parameters.w_hr) + k * H_;
    if (projects_) pack_rows<T>(w, P_, H_, 0, panels<T>(H_), w_hr_);
    const auto clear = [](Sum* sums, long n) { __builtin_memset(sums, 0, n * sizeof(Sum)); };
    clear(zeros_, max(H_, cuts_ ? G * H_ : 0));
    if (tensors_.grad_fresh[0]) clear(grad_fresh_h_, B * P_);
    if (tensors_.grad_fresh[1]) clear(grad_fresh_c_, B * H_);
    return true;
  }

  // The gate gradients of positions begin..end-1, a chunk, for `mine` and one of `parts` parts of the columns; these
  // all meet.
  void run(long chunk, long begin, long end, const StepOrder& mine, long part, long parts, Failure& failure,
      Team& team) const {
    const bool meets = parts > 1;
    const long B = mine.count();
    const StepOrder forward = mine.reversed();
    const Buffer<const Kept*> after(B), grad_h_rows(projects_ ? B : 0);
    const Buffer<const Previous*> previous(Cell::kBackwardReadsPrevious ? B : 0);
    const Buffer<Sum*> fresh_rows(cuts_ ? B : 0);
    if (recompute_.needed) recompute_.run(begin, end, mine, part, parts, failure, team);
    if (!failure.let_go_on(all_ok(after, previous, grad_h_rows, fresh_rows) && !failure, meets, team)) return;
    const Panels unit{panels<T>(H_) * part / parts, panels<T>(H_) * (part + 1) / parts};
    const Panels out{panels<T>(P_) * part / parts, panels<T>(P_) * (part + 1) / parts};
    const Sum* w_hh = w_hh_ + out.from * hh_panel();
    const StepTensor saved = recompute_.saved(begin, end);
    long before = 0;  // rows of the chunk
    SplitRows<Kept> last = begin > 0 ? gradients_.rows(mine, chunk - 1, rows_but_last(begin)) : SplitRows<Kept>{};
    for (long s = begin; s < end; ++s) {
      const long n = mine.rows(s), continuing = mine.continuing(s), stay = mine.staying(s), t = order_.net.T - 1 - s;
      const SplitRows<Kept> gates = gradients_.rows(mine, chunk, before);
      const SplitRows<Kept> grad_h = projects_ ? gradients_.h_rows(mine, before) : SplitRows<Kept>{};
      const auto epilogue = [&](const IncomingGradient<T>& incoming) {
        return CellGradientEpilogue<T, Cell>{incoming, mine.rows_of<const T>(tensors_.h, s),
            mine.rows_of<const Sum>(saved, s), mine.rows_of<const Sum>(tensors_.grad_saved, s), previous,
            Cell::kBackwardReadsPrevious ? carry_ + mine.first * H_ : nullptr, gates, H_};
      };
      for (long r = 0; r < continuing; ++r)
        after[r] = cuts_ && forward.resets(t + 1, r) ? zeros<Kept>() : recurrent(last, r);
      const T* final = tensors_.grad_final[0] ? tensors_.grad_final[0] + mine.first * P_ : nullptr;
      // Sequences whose last step this is have nothing after it but the gradient of their final state.
      const IncomingGradient<T> incoming{
          mine.rows_of<const T>(tensors_.grad_h, s), tensors_.grad_h.column, final, P_, continuing};
      if constexpr (Cell::kBackwardReadsPrevious)
        gather_previous(mine, s, end, saved, previous), begin_carry(mine, continuing, n, unit);
      const auto multiply = [&](const auto& to, const Panels& columns, bool falls) {
        product<Kept, 1>(continuing, Rows<Kept>{after}, G * H_, w_hh, columns.from, columns.to, to, falls);
        without_product<T>(continuing, n, columns.from, columns.to, to);
      };
      if (!projects_) multiply(epilogue(incoming), unit, s % 2);
      else multiply(StateGradientEpilogue<T, Kept>{incoming, grad_h}, out, false);
      if (projects_) {
        if (meets) team.barrier();
        for (long r = 0; r < n; ++r) grad_h_rows[r] = grad_h[r];
        product<Kept, 1>(n, Rows<Kept>{grad_h_rows}, P_, w_hr_ + unit.from * hr_panel(), unit.from, unit.to,
            epilogue({{}, 0, nullptr, H_, 0}));
      }
      if (meets) team.barrier();
      if (cuts_) move_to_fresh(mine, s, gates, unit, out, w_hh, after, fresh_rows);
      if (stay < n) store_initial(mine, s, gates, unit, out, w_hh, after);
      last = gates;
      before += order_.rows(s);
    }
  }

  // Summed by sequence first, so that threads change no bit.
  void finish_fresh() const {
    Sum* const of_sequences[] = {grad_fresh_h_, grad_fresh_c_};
    for (int i = 0; i < kMostStates; ++i)
      if (T* grad = tensors_.grad_fresh[i]) {
        const long width = i == 0 ? P_ : H_, all = panels<T>(width);
        for (long b = 1; b < order_.net.B; ++b)
          add_columns(of_sequences[i], of_sequences[i] + b * width, width, 0, all);
        copy_columns(grad, of_sequences[i], 1, width, 0, all);
      }
  }

 private:
  static constexpr int G = Cell::kGates, K = Cell::kSaved;
  using Sum = Wide<T>;
  using Kept = typename GateGradients<T, Cell>::Kept;
  using Previous = PreviousState<T, Cell>;
  struct Panels {
    long from, to;
  };
  // Numbers in a packed panel of w_hh and of w_hr.
  long hh_panel() const { return depth<Kept>(G * H_) * kLanes<T>; }
  long hr_panel() const { return depth<Kept>(P_) * kLanes<T>; }
  template <class N> const N* zeros() const { return reinterpret_cast<const N*>(static_cast<const Sum*>(zeros_)); }
  const Kept* recurrent(const SplitRows<Kept>& gates, long row) const {
    return gates[row] + gradients_.kRecurrent * H_;
  }
  // Rows that all sequences have before the last position of the chunk that ends at `end`.
  long rows_but_last(long end) const {
    long rows = 0;
    for (long s = end - gradients_.positions; s < end - 1; ++s) rows += order_.rows(s);
    return rows;
  }

  // The states before position s that backward() reads, for each row of `mine`: h, or c where there is one.
  void gather_previous(const StepOrder& mine, long s, long end, const StepTensor& saved, const Previous** rows) const {
    const StepOrder forward = mine.reversed();
    const long t = order_.net.T - 1 - s;
    if constexpr (!Cell::kHasCellState)
      forward.gather_previous<T>(tensors_.h, t, tensors_.initial, tensors_.fresh, P_, zeros<T>(), rows);
    else if (recompute_.needed && s == end - 1)
      for (long b = mine.first; b < mine.last; ++b) *rows++ = recompute_.checkpoint(t) + b * H_;
    else
      forward.gather_previous<Sum>(
          from_column<Sum>(saved, (K - 1) * H_), t, tensors_.initial_c, tensors_.fresh_c, H_, zeros_, rows);
  }

  // What comes after the last step of rows from..to-1 of `mine`: the gradient of the final c, or nothing.
  void begin_carry(const StepOrder& mine, long from, long to, const Panels& unit) const {
    const T* grad = Cell::kHasCellState ? tensors_.grad_final[1] : nullptr;
    const long at = (mine.first + from) * H_;
    copy_columns(carry_ + at, grad ? grad + at : nullptr, to - from, H_, unit.from, unit.to);
  }

  // The gradient of the initial states of those sequences whose first step, in the direction's order, position s is.
  void store_initial(const StepOrder& mine, long s, const SplitRows<Kept>& gates, const Panels& unit, const Panels& out,
      const Sum* w_hh, const Kept** gate_rows) const {
    const StepOrder forward = mine.reversed();
    const long stay = mine.staying(s), n = mine.rows(s), first = mine.first + stay;
    if (T* initial = tensors_.grad_initial[0]) {
      for (long r = stay; r < n; ++r)
        gate_rows[r] = forward.resets(order_.net.T - 1 - s, r) ? zeros<Kept>() : recurrent(gates, r);
      const Sum* carry = Cell::kReadsPreviousH ? carry_ + first * H_ : nullptr;
      product<Kept, 1>(n - stay, Rows<Kept>{gate_rows + stay}, G * H_, w_hh, out.from, out.to,
          StateGradientEpilogue<Sum, T>{{{carry, P_}, 1, nullptr, P_, 0}, rows_from(initial + first * P_, P_)});
    }
    if (T* initial = Cell::kHasCellState ? tensors_.grad_initial[1] : nullptr)
      copy_columns(initial + first * H_, carry_ + first * H_, n - stay, H_, unit.from, unit.to);
  }

  // Where a reset cuts before position s, the gradient of the state goes to the fresh one, and not to the step before.
  void move_to_fresh(const StepOrder& mine, long s, const SplitRows<Kept>& gates, const Panels& unit, const Panels& out,
      const Sum* w_hh, const Kept** gate_rows, Sum** fresh_rows) const {
    const StepOrder forward = mine.reversed();
    const bool needs_h = tensors_.grad_fresh[0];
    long m = 0;
    for (long r = 0, n = mine.rows(s); r < n; ++r) {
      if (!forward.resets(order_.net.T - 1 - s, r)) continue;
      const long b = mine.first + r;
      if (needs_h) gate_rows[m] = recurrent(gates, r), fresh_rows[m++] = grad_fresh_h_ + b * P_;
      if constexpr (Cell::kBackwardReadsPrevious) {
        Sum* carry = carry_ + b * H_;
        if (Cell::kHasCellState && tensors_.grad_fresh[1])
          add_columns(grad_fresh_c_ + b * H_, carry, H_, unit.from, unit.to);
        if (Cell::kReadsPreviousH && needs_h) add_columns(grad_fresh_h_ + b * P_, carry, H_, unit.from, unit.to);
        copy_columns<Sum, Sum>(carry, nullptr, 1, H_, unit.from, unit.to);
      }
    }
    product<Kept, 1>(
        m, Rows<Kept>{gate_rows}, G * H_, w_hh, out.from, out.to, StoreEpilogue<Sum, Sum**>{fresh_rows, P_, true});
  }

  const StepOrder& order_;
  const BackwardTensors<T>& tensors_;
  const Recompute<T, Cell>& recompute_;
  const GateGradients<T, Cell>& gradients_;
  const long H_, P_;
  const bool cuts_, projects_;
  // Packed: (panels, G·H, W) and (panels, P, W). carry_: (B, H), what the step after adds to a state past its products.
  // zeros_: as many as h and c have, and where there are resets, a step's gate gradients; of whatever type.
  const Buffer<Sum> w_hh_, w_hr_, carry_, zeros_;
  const Buffer<Sum> grad_fresh_h_, grad_fresh_c_;  // of each sequence
};

}  // namespace elman::ELMAN_TARGET
