// The backward pass: layers, their directions, and who of a team computes what. A chunk of steps goes through the scan,
// which leaves its gate gradients; these give the gradients of inputs and weights.
#pragma once

#include "division.h"
#include "weight_gradients.h"

namespace elman::ELMAN_TARGET {

template <class T, class Cell> struct DirectionBackward {
  const BackwardTensors<T> tensors;
  GateGradients<T, Cell> gates;
  const Recompute<T, Cell> recompute;
  const BackwardScan<T, Cell> scan;
  WeightGradients<T, Cell> weights;

  DirectionBackward(const BackwardTensors<T>& of, long capacity)
      : tensors(of), gates(of.order.net, capacity, of.parameters.w_hr), recompute(tensors, capacity),
        scan(tensors, recompute, gates), weights(tensors, gates) {}
  DirectionBackward(const DirectionBackward&) = delete;
  bool ok() const { return all_ok(gates, recompute, scan, weights); }
  bool pack() const {
    recompute.pack();
    return scan.pack() && weights.pack();
  }
  void gather(long begin, long end) {
    gates.rows = weights.gather(begin, end, recompute.saved(begin, end), scan.zeros());
  }
  // For the caller, in the order of the gates.
  void copy_gates(long begin, long end) const {
    if (!tensors.grad_gates.data) return;
    const StepOrder& order = tensors.order;
    const long G = Cell::kGates, H = gates.H;
    const T* from = gates.current();
    for (long s = begin; s < end; ++s)
      for (long r = 0, n = order.rows(s); r < n; ++r, from += gates.stride) {
        T* to = order.row_of<T>(tensors.grad_gates, s, r);
        for (int g = 0; g < G; ++g) __builtin_memcpy(to + Cell::input_gate(g) * H, from + g * H, H * sizeof(T));
        if (Cell::kSplitGate >= 0) __builtin_memcpy(to + G * H, gates.recurrent(from, 0), G * H * sizeof(T));
      }
  }
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
      I, of.x, from_column<T>(of.output, d * net.P), saved_of<T>(net, call.saved, index),
      from_column<T>(of.grad_output, of.grad_output.column * d * net.P), saved_of<T>(net, call.grad_saved, index),
      of.grad_x, dense_saved(net, slice<T>(call.grad_gates, index, net.saved_rows() * width), width),
      of.accumulates || d == 1, nullptr, {}, {}, {}, {}, {}};
  if (Cell::kHasCellState)
    tensors.checkpoints = slice<T>(call.checkpoints, index * number_of_checkpoints(net), net.B * net.H);
  for (int s = 0; s < kMostStates; ++s) {
    const long width = s == 0 ? net.P : net.H;
    tensors.initial[s] = slice<T>(call.initial[s], index, net.B * width);
    tensors.fresh[s] = slice<T>(call.fresh[s], index, width);
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
  const long H = net.H, chunk = backward_chunk(net);
  // Directions at the same time: they take opposite ways, so only where one chunk holds the whole.
  const long together = chunk == net.T ? net.D : 1;
  const Division by = divide(net, Cell::kGates * H, ceil_div(H, kLanes<T>), team);
  Failure failure;
  const auto make = [&](long d, bool needed) {
    return DirectionBackward<T, Cell>(tensors_of<T, Cell>(call, of, layer, d), needed ? chunk * net.B : 0);
  };
  for (long d = 0; d < net.D && !failure; d += together) {
    DirectionBackward<T, Cell> first = make(d, true), second = make(together == 2 ? 1 : d, together == 2);
    DirectionBackward<T, Cell>* directions[] = {&first, &second};
    if (!all_ok(first, second)) return false;
    team.each(together, [&](std::int64_t i) { failure.unless(directions[i]->pack()); });
    for (long begin = 0; begin < net.T && !failure; begin += chunk) {
      const long end = min(net.T, begin + chunk);
      each_part(by, together, team, [&](long i, long batch, long column) {
        const StepOrder mine = batch_part(directions[i]->tensors.order, batch, by.batch_parts);
        directions[i]->scan.run(begin, end, mine, column, by.column_parts, failure, team);
      });
      for (long i = 0; i < together; ++i) {
        DirectionBackward<T, Cell>& direction = *directions[i];
        direction.gather(begin, end);
        direction.copy_gates(begin, end);
        team.each(direction.weights.tasks(), [&](std::int64_t task) { failure.unless(direction.weights.run(task)); });
        direction.gates.finish_chunk(direction.tensors.order.rows(end - 1));
      }
    }
    for (long i = 0; i < together; ++i) directions[i]->scan.finish_fresh();
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
