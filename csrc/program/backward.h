// The backward pass of a program: layers, their directions, and who of a team computes what.
#pragma once

#include "block_backward.h"
#include "forward.h"
#include "gradients.h"

namespace elman::ELMAN_TARGET {

// Steps of a chunk, all of about the same length: its gate gradients fill the second-level cache of each core that has
// a half of them, but are at least as many rows as a sum takes at once; of two directions, which run at the same time
// where one chunk holds all steps, they fill the third-level cache.
template <class T> long chunk_of(const Network& net, const Plan& plan) {
  const long step = static_cast<long>(sizeof(T)) * max(1, plan.columns * net.H * net.B);
  const long few = max(halves_of(net) * kSecondLevel / step, kRowsSummed / max(1, net.B));
  const long most = max(1, net.D == 2 ? kThirdLevel / step : min(kThirdLevel / step, few));
  const long chunks = max(1, ceil_div(net.T, most));
  return max(1, ceil_div(net.T, chunks));
}

template <class T> class BackwardOfDirection : public ByHalves<BackwardOfDirection<T>> {
 public:
  // Nothing is needed of it where the capacity is 0.
  BackwardOfDirection(const BackwardDirection<T>& direction, const ScanParts& parts, long chunk, bool needed)
      : ByHalves<BackwardOfDirection>(direction.call.net, chunk), direction_(direction), parts_(parts),
        order_(StepOrder{direction_.call.net, is_reverse(), 0, direction_.call.net.B}.reversed()),
        plan_(direction_.of.plan()), capacity_(needed ? chunk * direction_.call.net.B : 0),
        again_(needed && direction_.call.recompute), shared_(direction_, capacity_),
        weights_(plan_, direction_.call.net, again_ ? direction_.call.net.H : 0, direction_.of.I, parts.by.column_parts,
            parts.in_blocks),
        kept_stride_(plane<T>(capacity_ * direction_.call.net.H)),
        kept_(again_ ? (plan_.saved + plan_.products) * kept_stride_ : 0),
        products_{{direction_, shared_, order_, 0, needed ? chunk : 0},
            {direction_, shared_, order_, halves_ - 1, needed && halves_ == 2 ? chunk : 0}} {}
  BackwardOfDirection(const BackwardOfDirection&) = delete;
  bool ok() const { return all_ok(shared_, weights_, kept_, products_[0], products_[1]); }
  static constexpr long kBeginnings = 2;
  bool begin(long i) const {  // each once; false: out of memory
    if (i > 0) return shared_.pack_inputs();
    for (long k = 0; again_ && k < weights_.tasks(); ++k) weights_.pack(direction_.of.parameters(), k);
    return shared_.begin();
  }
  void scan(long, long begin, long end, long batch, long part, Failure& failure, Team& team) const {
    const Division& by = parts_.by;
    const StepOrder mine = batch_part(order_, batch, by.batch_parts), forward = mine.reversed();
    const long first = order_.net.T - end, last = order_.net.T - begin;
    const ColumnPart columns = column_part<T>(order_.net.H, part, by.column_parts);
    const KeptArrays<T> kept = kept_of(begin, end);
    if (mine.count() == 0) return;
    const auto run = [&](auto* again, auto& back) {
      if (!failure.let_go_on(back.ok() && (!again || again->ok()), by.meets, team)) return;
      if (again) again->run_again(kept);
      back.run(begin, end, kept);
    };
    if (parts_.in_blocks) {
      using Again = BlockForwardScan<T>;
      BlockBackwardScan<T> back(mine, direction_, shared_, columns, end - begin);
      if (!again_) return run(static_cast<Again*>(nullptr), back);
      Again again(forward, direction_.of, weights_, plan_.phased_train, columns, first, last);
      return run(&again, back);
    }
    using Again = ProgramForwardScan<T>;
    ProgramBackwardScan<T> back(mine, direction_, shared_, columns, by.meets, team);
    if (!again_) return run(static_cast<Again*>(nullptr), back);
    InputProjection projection(forward, weights_, direction_.of.x, first, last, columns.from, columns.to, false);
    Again again(forward, direction_.of, plan_.train, projection, by.meets, nullptr, team);
    run(&again, back);
  }
  void gather(long, long begin, long end, long half) { products_[half].gather(begin, end, kept_of(begin, end)); }
  ProgramGradientProducts<T>& products(long half) { return products_[half]; }
  void finish_scan() const {
    shared_.finish(direction_.call.gradients[direction_.of.index], order_, parts_.by.batch_parts);
  }

 private:
  using ByHalves<BackwardOfDirection>::halves_;
  bool is_reverse() const { return direction_.of.index % direction_.call.net.D == 1; }
  KeptArrays<T> kept_of(long begin, long end) const {
    const Network& net = order_.net;
    if (!again_) return direction_.of.saved_and_factors();
    const long t = min(order_.step(begin), order_.step(end - 1));
    return {kept_, kept_stride_, {1, net.offset ? net.offset[t] : t * net.B}};
  }

  const BackwardDirection<T> direction_;
  const ScanParts parts_;
  const StepOrder order_;
  const Plan& plan_;
  const long capacity_;  // rows of a chunk
  const bool again_;
  const BackwardShared<T> shared_;
  const ProgramWeights<T> weights_;
  const long kept_stride_;
  const Buffer<T> kept_;
  ProgramGradientProducts<T> products_[2];  // by half
};

// Whether the gradient of a number of the step is asked for, which all units share.
inline bool sums_rows(const ProgramBackward& call) {
  bool found = false;
  for (int k = 0; k < call.plan->step_inputs; ++k)
    found = found || (!call.plan->step_input_is_vector[k] && call.grad_step_inputs[k].first.data);
  return found;
}

// False: out of memory.
template <class T> bool layer_backward(const ProgramBackward& call, long layer, const StepTensor& x,
    const StepTensor& output, const StepTensor& grad_output, const StepTensor& grad_x, bool accumulates, Team& team) {
  const Network& net = call.net;
  const long chunk = chunk_of<T>(net, *call.plan), I = layer == 0 ? net.I : net.D * net.H;
  // Directions at the same time: they take opposite ways, so only where one chunk holds the whole.
  const long together = chunk == net.T ? net.D : 1;
  const KeptRows rows{call.parts};
  ScanParts parts = scan_parts<T>(call, together, sums_rows(call), rows.parts, team);
  // One thread takes the halves in turn where it may read the weights twice: a chunk's gate gradients are in its cache
  // when they are multiplied.
  const long weights = static_cast<long>(sizeof(T)) * call.plan->recurrents * net.H * net.H;
  if (team.threads() == 1 && rows.parts == 1 && parts.by.column_parts == 1 && weights <= kSecondLevel)
    parts.by.batch_parts = halves_of(net);
  Failure failure;
  const auto of = [&](long d) {
    return BackwardDirection<T>{{call, layer * net.D + d, I, x, from_column<T>(output, d * net.H), rows}, call,
        from_column<T>(grad_output, grad_output.column * d * net.H), grad_x, accumulates || d == 1};
  };
  for (long d = 0; d < net.D && !failure; d += together) {
    BackwardOfDirection<T> first(of(d), parts, chunk, true),
        second(of(together == 2 ? 1 : d), parts, chunk, together == 2);
    BackwardOfDirection<T>* directions[] = {&first, &second};
    if (!all_ok(first, second)) return false;
    constexpr long kEach = BackwardOfDirection<T>::kBeginnings;
    team.each(together * kEach, [&](std::int64_t i) { failure.unless(directions[i / kEach]->begin(i % kEach)); });
    BackwardOfDirection<T>::run(directions, together, parts.by, failure, team);
  }
  return !failure;
}

template <class T> bool program_backward(const ProgramBackward& call, Team& team) {
  const Network& net = call.net;
  const long width = net.D * net.H, size = net.rows * width;
  const Buffer<T> scratch(min(2, net.L - 1) * size);  // gradients of the layers' outputs take turns in it
  if (!scratch.ok()) return false;
  StepTensor grad_output = call.grad_output;
  for (long l = net.L - 1; l >= 0; --l) {
    const StepTensor x = l == 0 ? call.x : layer_output<T>(call, call.hidden, l - 1);
    const StepTensor grad_x =
        l == 0 ? call.grad_x : dense(net, slice<T>(static_cast<void*>(scratch), (l - 1) % 2, size), width);
    const bool accumulates = l > 0 && call.grad_hidden;
    if (accumulates)
      copy_steps<T>(net,
          dense_saved(net, const_cast<T*>(slice<T>(call.grad_hidden, l - 1, net.saved_rows() * width)), width), grad_x,
          width);
    if (!layer_backward<T>(call, l, x, layer_output<T>(call, call.hidden, l), grad_output, grad_x, accumulates, team))
      return false;
    grad_output = grad_x;
  }
  return true;
}

}  // namespace elman::ELMAN_TARGET
