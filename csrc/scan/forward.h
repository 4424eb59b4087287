// The forward pass: layers, their directions, and who of a team computes what.
#pragma once

#include "division.h"
#include "forward_scan.h"

namespace elman::ELMAN_TARGET {

// Up to so many sequences of a single step, the weights are packed block by block of so many column groups, right
// before the block's only use: packed whole, they would go to memory and back.
constexpr long kFewSequences = 64, kBlock = 8;

template <class T, class Cell> class LayerForward {
 public:
  LayerForward(const Forward& call, long layer, const StepTensor& x, const StepTensor& output, Team& team,
      const Wavefront& wavefront = {})
      : call_(call), net_(call.net), layer_(layer), I_(layer == 0 ? net_.I : net_.D * net_.P),
        groups_(ceil_div(net_.H, kLanes<T>)), parameters_(net_.parameters + layer * net_.D),
        projects_(parameters_->w_hr), x_(x), output_(output), team_(team), wavefront_(wavefront),
        units_(projects_ ? net_.D * net_.B * net_.H : 0) {}

  bool run() {  // false: out of memory
    if (!units_.ok()) return false;
    if constexpr (Cell::kHasCellState) begin_c();
    if (net_.T == 1 && net_.B <= kFewSequences && !projects_) run_by_blocks();
    else run_packed();
    if (failure_) return false;
    for (long d = 0; d < net_.D; ++d) finish_h(d);
    return true;
  }

 private:
  using Weights = PackedWeights<T, Cell>;

  // The state of this layer's direction d, (B, width), of all there are.
  template <class N> N* state(void* all, long d, long width) const {
    return slice<N>(all, layer_ * net_.D + d, net_.B * width);
  }
  void begin_c() const {
    for (long d = 0; d < net_.D; ++d) {
      const Wide<T>* c_0 = state<Wide<T>>(const_cast<void*>(call_.initial[1]), d, net_.H);
      copy_columns(state<Wide<T>>(call_.final[1], d, net_.H), c_0, net_.B, net_.H, 0, groups_);
    }
  }
  // The states at the sequences' last steps.
  void finish_h(long d) const {
    const StepOrder order{net_, d == 1, 0, net_.B};
    const StepTensor h = from_column<T>(output_, d * net_.P);
    T* final = state<T>(call_.final[0], d, net_.P);
    for (long s = net_.alive ? 0 : net_.T - 1; s < net_.T; ++s)
      for (long r = order.staying(s), n = order.rows(s); r < n; ++r)
        if (const T* row = order.row_of<T>(h, s, r); row != final + r * net_.P)  // a single step's output
          __builtin_memcpy(final + r * net_.P, row, net_.P * sizeof(T));
  }

  void scan(const StepOrder& order, long d, InputProjection<Weights>& projection, long part, long parts) {
    const long index = layer_ * net_.D + d, H = net_.H, P = net_.P;
    ForwardTensors<T> tensors{x_, from_column<T>(output_, d * P), slice<T>(call_.initial[0], index, net_.B * P),
        slice<T>(call_.fresh[0], index, P), slice<Wide<T>>(call_.fresh[1], index, H), nullptr, nullptr,
        saved_of<Wide<T>>(net_, call_.saved, index), nullptr, false};
    if (projects_) tensors.units = units_ + d * net_.B * H;
    if constexpr (Cell::kHasCellState) {
      tensors.c = state<Wide<T>>(call_.final[1], d, H);
      tensors.checkpoints = slice<Wide<T>>(call_.checkpoints, index * number_of_checkpoints(net_), net_.B * H);
    }
    scan_forward(order, tensors, projection, part, parts, failure_, team_);
  }

  void run_by_blocks() {
    const long blocks = ceil_div(groups_, kBlock);
    team_.each(net_.D * blocks, [&](std::int64_t i) {
      const long d = i / blocks, from = i % blocks * kBlock, to = min(groups_, from + kBlock);
      const Weights weights(net_, I_, from, to);
      if (!weights.ok()) return failure_.unless(false);
      weights.pack(parameters_[d], from, to);
      const StepOrder order{net_, d == 1, 0, net_.B};
      InputProjection projection(order, weights, x_, 0, net_.T, from, to, false, wavefront_);
      scan(order, d, projection, 0, 1);
    });
  }

  void run_packed() {
    const Weights first(net_, I_, 0, groups_), second(net_, I_, 0, net_.D == 2 ? groups_ : 0);
    if (!all_ok(first, second)) return failure_.unless(false);
    const Weights* weights[] = {&first, &second};
    const long slices = team_.threads() == 1 ? 1 : min(groups_, 8), out_groups = first.out_groups;
    team_.each(net_.D * slices, [&](std::int64_t i) {
      const long d = i / slices, s = i % slices;
      weights[d]->pack(parameters_[d], groups_ * s / slices, groups_ * (s + 1) / slices);
      if (projects_)
        weights[d]->pack_projection(parameters_[d], out_groups * s / slices, out_groups * (s + 1) / slices);
    });
    const Division by = divide(net_, Cell::kGates * net_.H, groups_, team_);
    scan_layer(net_, by, weights, groups_, x_, wavefront_, team_, [&](auto&&... of) { scan(of...); });
  }

  const Forward& call_;
  const Network& net_;
  const long layer_, I_, groups_;
  const Parameters* parameters_;  // of this layer's directions
  const bool projects_;
  const StepTensor x_, output_;
  Team& team_;
  const Wavefront wavefront_;
  const Buffer<T> units_;  // (D, B, H): the units' output before its projection
  Failure failure_;
};

// Whether the layers run as a wavefront: where neither sequences nor directions nor columns occupy the threads.
inline bool runs_as_wavefront(const Network& net, long units, long groups, Team& team) {
  if (net.L == 1 || net.D == 2 || net.T <= kRowsAhead || team.threads() == 1) return false;
  const Division by = divide(net, units, groups, team);
  return by.column_parts == 1 && by.batch_parts == 1;
}

template <class T, class Cell> bool forward(const Forward& call, Team& team) {
  const Network& net = call.net;
  const long width = net.D * net.P, size = net.rows * width, saved_size = net.saved_rows() * width;
  const bool wave = runs_as_wavefront(net, Cell::kGates * net.H, ceil_div(net.H, kLanes<T>), team);
  const bool saves = call.hidden || net.L == 1;
  const long buffers = saves ? 0 : wave ? net.L - 1 : min(2, net.L - 1);  // the layers' outputs take turns in them
  const Buffer<T> scratch(buffers * size);
  const Buffer<std::int64_t> progress(wave ? net.L : 0);
  if (!all_ok(scratch, progress)) return false;
  const auto output = [&](long layer) {
    if (layer == net.L - 1) return call.output;
    return saves ? dense_saved(net, slice<T>(call.hidden, layer, saved_size), width)
                 : dense(net, slice<T>(static_cast<void*>(scratch), layer % buffers, size), width);
  };
  const auto run = [&](long l, Team& team, const Wavefront& wavefront = {}) {
    return LayerForward<T, Cell>(call, l, l == 0 ? call.x : output(l - 1), output(l), team, wavefront).run();
  };
  if (!wave) {
    for (long l = 0; l < net.L; ++l)
      if (!run(l, team)) return false;
    return true;
  }
  for (long l = 0; l < net.L; ++l) progress[l] = 0;
  Failure failure;
  team.each(net.L, [&](std::int64_t l) {  // taken in order, so that whoever waits waits for a layer that runs
    Team alone;
    const Wavefront mine{l == 0 ? nullptr : progress + l - 1, progress + l};
    failure.unless(run(l, alone, mine));
    mine.advance(net.T);  // nobody waits for a layer that failed
  });
  return !failure;
}

}  // namespace elman::ELMAN_TARGET
