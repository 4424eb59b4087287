// The backward pass: layers, their directions, and who of a team computes what. A chunk of steps goes through the scan,
// which leaves its gate gradients; these give the gradients of inputs and weights.
#pragma once

#include "division.h"
#include "weight_gradients.h"

namespace elman::ELMAN_TARGET {

template <class T, class Cell> class DirectionBackward : public ByHalves<DirectionBackward<T, Cell>> {
  using Products = WeightGradients<T, Cell>;
  using ByHalves<DirectionBackward>::halves_;

 public:
  // Chunks have so many positions; 0: nothing is needed of it.
  DirectionBackward(const BackwardTensors<T>& of, const Division& by, long positions)
      : ByHalves<DirectionBackward>(of.order.net, positions), tensors_(of), by_(by),
        gates_(of.order.net, positions, of.parameters.w_hr), recompute_(tensors_, gates_.capacity),
        scan_(tensors_, recompute_, gates_), w_ih_(positions > 0 ? Products::packed_size(tensors_) : 0),
        products_{{tensors_, gates_, w_ih_, 0, positions},
            {tensors_, gates_, w_ih_, halves_ - 1, halves_ == 2 ? positions : 0}} {}
  DirectionBackward(const DirectionBackward&) = delete;
  bool ok() const { return all_ok(gates_, recompute_, scan_, w_ih_, products_[0], products_[1]); }
  static constexpr long kBeginnings = 2;
  bool begin(long i) const {  // each once; false: out of memory
    if (i > 0) return Products::pack(tensors_, w_ih_);
    recompute_.pack();
    return scan_.pack();
  }
  void scan(long chunk, long begin, long end, long batch, long column, Failure& failure, Team& team) const {
    const StepOrder mine = batch_part(tensors_.order, batch, by_.batch_parts);
    scan_.run(chunk, begin, end, mine, column, by_.column_parts, failure, team);
  }
  void gather(long chunk, long begin, long end, long half) {
    products_[half].gather(chunk, begin, end, recompute_.saved(begin, end), scan_.zeros_of_h());
    if (tensors_.grad_gates.data) copy_gates(chunk, begin, end, batch_part(tensors_.order, half, halves_));
  }
  Products& products(long half) { return products_[half]; }
  void finish_scan() const { scan_.finish_fresh(); }

 private:
  // For the caller, in the order of the gates.
  void copy_gates(long chunk, long begin, long end, const StepOrder& order) const {
    const long G = Cell::kGates, H = gates_.H;
    long before = 0;
    for (long s = begin; s < end; before += tensors_.order.rows(s++)) {
      const auto rows = gates_.rows(order, chunk, before);
      for (long r = 0, n = order.rows(s); r < n; ++r) {
        const auto* from = rows[r];
        T* to = order.row_of<T>(tensors_.grad_gates, s, r);
        const auto copy = [&](long gate, long column, long gates) {
          copy_columns(to + gate * H, from + column * H, 1, gates * H, 0, panels<T>(gates * H));
        };
        for (int g = 0; g < G; ++g) copy(Cell::input_gate(g), g, 1);
        if (Cell::kSplitGate >= 0) copy(G, gates_.kRecurrent, G);
      }
    }
  }

  const BackwardTensors<T> tensors_;
  const Division by_;
  const GateGradients<T, Cell> gates_;
  const Recompute<T, Cell> recompute_;
  const BackwardScan<T, Cell> scan_;
  const Buffer<Wide<T>> w_ih_;  // packed
  Products products_[2];        // by half
};

struct LayerTensors {
  StepTensor x, output, grad_output, grad_x;
  bool accumulates;  // grad_x is added to what it holds
};

template <class T, class Cell>
BackwardTensors<T> tensors_of(const Backward& call, const LayerTensors& of, long layer, long d) {
  const Network& net = call.net;
  const long index = layer * net.D + d, I = layer == 0 ? net.I : net.D * net.P;
  const long width = grad_gates_width(*net.cell, net.H);
  BackwardTensors<T> tensors{StepOrder{net, d == 1, 0, net.B}.reversed(), net.parameters[index], call.gradients[index],
      I, of.x, from_column<T>(of.output, d * net.P), saved_of<Wide<T>>(net, call.saved, index),
      from_column<T>(of.grad_output, of.grad_output.column * d * net.P), saved_of<Wide<T>>(net, call.grad_saved, index),
      of.grad_x, dense_saved(net, slice<T>(call.grad_gates, index, net.saved_rows() * width), width),
      of.accumulates || d == 1, nullptr, nullptr, nullptr, nullptr, nullptr, {}, {}, {}};
  if (Cell::kHasCellState)
    tensors.checkpoints = slice<Wide<T>>(call.checkpoints, index * number_of_checkpoints(net), net.B * net.H);
  tensors.initial = slice<T>(call.initial[0], index, net.B * net.P);
  tensors.initial_c = slice<Wide<T>>(call.initial[1], index, net.B * net.H);
  tensors.fresh = slice<T>(call.fresh[0], index, net.P), tensors.fresh_c = slice<Wide<T>>(call.fresh[1], index, net.H);
  for (int s = 0; s < kMostStates; ++s) {
    const long width = s == 0 ? net.P : net.H;
    tensors.grad_fresh[s] = slice<T>(call.grad_fresh[s], index, width);
    tensors.grad_final[s] = slice<T>(call.grad_final[s], index, net.B * width);
    tensors.grad_initial[s] = slice<T>(call.grad_initial[s], index, net.B * width);
  }
  return tensors;
}

// False: out of memory.
template <class T, class Cell>
bool layer_backward(const Backward& call, const LayerTensors& of, long layer, Team& team) {
  const Network& net = call.net;
  const long H = net.H, positions = backward_chunk(net);
  // Directions at the same time: they take opposite ways, so only where one chunk holds the whole.
  const long together = positions == net.T ? net.D : 1;
  Division by = divide(net, Cell::kGates * H, ceil_div(H, kLanes<T>), team);
  // One thread takes the halves in turn where it may read the weights twice: a chunk's gate gradients are in its cache
  // when they are multiplied.
  if (team.threads() == 1 && has_small_weights(net)) by.batch_parts = halves_of(net);
  Failure failure;
  const auto of_direction = [&](long d) { return tensors_of<T, Cell>(call, of, layer, d); };
  for (long d = 0; d < net.D && !failure; d += together) {
    using Direction = DirectionBackward<T, Cell>;
    Direction first(of_direction(d), by, positions),
        second(of_direction(together == 2 ? 1 : d), by, together == 2 ? positions : 0);
    Direction* directions[] = {&first, &second};
    if (!all_ok(first, second)) return false;
    constexpr long kEach = Direction::kBeginnings;
    team.each(together * kEach, [&](std::int64_t i) { failure.unless(directions[i / kEach]->begin(i % kEach)); });
    Direction::run(directions, together, by, failure, team);
  }
  return !failure;
}

template <class T, class Cell> bool backward(const Backward& call, Team& team) {
  const Network& net = call.net;
  const long width = net.D * net.P;
  const Buffer<T> scratch(min(2, net.L - 1) * net.rows * width);  // gradients of the layers' outputs take turns in it
  if (!scratch.ok()) return false;
  const auto hidden = [&](const void* all, long layer) {
    return dense_saved(net, const_cast<T*>(slice<T>(all, layer, net.saved_rows() * width)), width);
  };
  LayerTensors of{call.x, call.output, call.grad_output, call.grad_x, false};
  for (long l = net.L - 1; l > 0; --l) {
    of.x = hidden(call.hidden, l - 1), of.accumulates = call.grad_hidden;
    of.grad_x = dense(net, slice<T>(static_cast<void*>(scratch), (l - 1) % 2, net.rows * width), width);
    if (of.accumulates) copy_steps<T>(net, hidden(call.grad_hidden, l - 1), of.grad_x, width);
    if (!layer_backward<T, Cell>(call, of, l, team)) return false;
    of.output = of.x, of.grad_output = of.grad_x;
  }
  of.x = call.x, of.grad_x = call.grad_x, of.accumulates = false;
  return layer_backward<T, Cell>(call, of, 0, team);
}

}  // namespace elman::ELMAN_TARGET
