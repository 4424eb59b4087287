// What the backward pass needs and was not saved: a chunk's steps are run again, from its checkpoint, to the same bits.
#pragma once

#include "forward_scan.h"

namespace elman::ELMAN_TARGET {

// What one direction of one layer reads and writes on its way back. What is written overlaps nothing.
template <class T> struct BackwardTensors {
  StepOrder order;  // from the end to the beginning, all sequences
  const Parameters& parameters;
  const Gradients& gradients;
  long I;                         // of this layer
  StepTensor x, h;                // (T, B, I) and (T, B, P)
  StepTensor saved;               // (T, B, K·H), Wide<T>; data null: steps are run again
  StepTensor grad_h, grad_saved;  // as h and saved; data null: zeros
  StepTensor grad_x;              // as x, written; data null: not needed
  StepTensor grad_gates;          // (T, B, G·H) or wider, written; data null: not needed
  bool accumulates;               // grad_x is added to what it holds
  const Wide<T>* checkpoints;     // (number of checkpoints, B, H): c; null where nothing is run again, or there is no c
  const T *initial, *fresh;       // of h, (B, P), and (P,): what resets start from; null: zeros
  const Wide<T>*initial_c, *fresh_c;  // (B, H) and (H,)
  // As the states; null: zeros, or not needed.
  const T* grad_final[kMostStates];
  T *grad_initial[kMostStates], *grad_fresh[kMostStates];
};

template <class T, class Cell> class Recompute {
 public:
  const bool needed;

  // capacity: rows of a chunk.
  Recompute(const BackwardTensors<T>& of, long capacity)
      : needed(Cell::kSaved > 0 && !of.saved.data), net_(of.order.net), tensors_(of),
        weights_(net_, of.I, 0, needed ? panels<T>(net_.H) : 0), saved_(needed ? capacity * Cell::kSaved * net_.H : 0),
        c_(needed && Cell::kHasCellState ? net_.B * net_.H : 0) {}
  bool ok() const { return all_ok(weights_, saved_, c_); }
  void pack() const {
    if (needed) weights_.pack(tensors_.parameters, 0, weights_.end);
  }

  // c before position s of the forward pass, (B, H).
  const Wide<T>* checkpoint(long s) const { return tensors_.checkpoints + checkpoint_at(net_, s) * net_.B * net_.H; }

  // Where lies what was saved of positions begin..end-1, counted from the end: with all the rest, or here.
  StepTensor saved(long begin, long end) const {
    if (!needed) return tensors_.saved;
    const long width = Cell::kSaved * net_.H, first = min(tensors_.order.step(begin), tensors_.order.step(end - 1));
    return dense(net_, saved_ - (net_.offset ? net_.offset[first] : first * net_.B) * width, width);
  }

  // These positions once more, for some sequences and a part of the columns.
  void run(long begin, long end, const StepOrder& mine, long part, long parts, Failure& failure, Team& team) const {
    const StepOrder forward = mine.reversed();
    const long H = net_.H, groups = weights_.end, from = groups * part / parts, to = groups * (part + 1) / parts;
    if constexpr (Cell::kHasCellState)
      copy_columns(c_ + mine.first * H, checkpoint(net_.T - end) + mine.first * H, mine.count(), H, from, to);
    const ForwardTensors<T> tensors{tensors_.x, tensors_.h, tensors_.initial, tensors_.fresh, tensors_.fresh_c, c_,
        nullptr, saved(begin, end), nullptr, true};
    InputProjection projection(forward, weights_, tensors_.x, net_.T - end, net_.T - begin, from, to, false);
    scan_forward(forward, tensors, projection, part, parts, failure, team);
  }

 private:
  const Network& net_;
  const BackwardTensors<T>& tensors_;
  const PackedWeights<T, Cell> weights_;
  const Buffer<Wide<T>> saved_, c_;  // (capacity, K·H); (B, H)
};

}  // namespace elman::ELMAN_TARGET
