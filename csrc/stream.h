// A network that runs a step at a time. Its weights are packed once, and all stays where it is: no step allocates.
//
// The products and the cells are the scan's (scan/forward_scan.h), and so are the numbers, to the bit. A tile of
// columns is projected and at once goes through the cell; every other step starts where the last left the cache.
#pragma once

#include "scan/forward_scan.h"

namespace elman::ELMAN_TARGET {

struct FromAllocate {
  static void* operator new(std::size_t bytes) noexcept { return allocate(bytes); }
  static void operator delete(void* memory) { release(memory); }
};

template <class T, class Cell> class StepByStep : public Stream, public FromAllocate {
 public:
  // Null: out of memory.
  static Stream* open(const Network& net, void* const* states) {
    const HeapScope memory;
    auto* made = new StepByStep(net);
    if (made && made->prepare(net, states)) return made;
    delete made;
    return nullptr;
  }

 private:
  static constexpr int G = Cell::kGates;

  struct Layer : FromAllocate {
    const PackedWeights<T, Cell> weights;
    const Buffer<const T*> x, previous;  // rows that a step reads: inputs, and h before it
    T *h, *c;                            // (B, P) and (B, H); c null where the cell has none
    Layer* above = nullptr;
    Layer(const Network& net, long I, T* h, T* c)
        : weights(net, I, 0, ceil_div(net.H, kLanes<T>)), x(net.B), previous(net.B), h(h), c(c) {}
    bool ok() const { return all_ok(weights, x, previous); }
  };

  const long B_, H_, P_, groups_;
  const bool projects_;
  const Buffer<T> z_, units_;  // projections of a layer's inputs; its units' outputs, (B, H)
  const Buffer<const T*> unit_rows_;
  Layer* first_ = nullptr;
  bool falls_ = false;

  explicit StepByStep(const Network& net)
      : Stream{step_all, close}, B_(net.B), H_(net.H), P_(net.P), groups_(ceil_div(net.H, kLanes<T>)),
        projects_(net.parameters->w_hr), z_(B_ * groups_ * G * kLanes<T>), units_(B_ * H_), unit_rows_(B_) {}
  ~StepByStep() {
    while (Layer* l = first_) first_ = l->above, delete l;
  }

  bool prepare(const Network& net, void* const* states) {
    if (!all_ok(z_, units_, unit_rows_)) return false;
    for (long r = 0; r < B_; ++r) unit_rows_[r] = units_ + r * H_;
    Layer *below = nullptr, **last = &first_;
    for (long l = 0; l < net.L; ++l) {
      T* c = Cell::kHasCellState ? static_cast<T*>(states[1]) + l * B_ * H_ : nullptr;
      Layer* layer = *last = new Layer(net, below ? P_ : net.I, static_cast<T*>(states[0]) + l * B_ * P_, c);
      if (!layer || !layer->ok()) return false;
      layer->weights.pack(net.parameters[l], 0, groups_);
      if (projects_) layer->weights.pack_projection(net.parameters[l], 0, layer->weights.out_groups);
      for (long r = 0; r < B_; ++r) {
        layer->previous[r] = layer->h + r * P_;
        if (below) layer->x[r] = below->h + r * P_;
      }
      below = layer, last = &layer->above;
    }
    return true;
  }

  void step(const Layer& l) const {
    const long most = max(1, columns_for(min(B_, tallest(G)), l.weights.I) / G), tiles = ceil_div(groups_, most);
    const Rows<T> x{l.x}, previous{l.previous};
    for (long i = 0; i < tiles; ++i) {
      const long tile = falls_ ? tiles - 1 - i : i, from = groups_ * tile / tiles, to = groups_ * (tile + 1) / tiles;
      l.weights.project(B_, x, from, to, z_);
      product<T, G>(B_, previous, P_, l.weights.w_hh(from), from, to,
          CellEpilogue<T, Cell>{l.weights, z_, l.weights.stride, l.previous, {units_, H_}, l.c, {}});
    }
    if (projects_)
      product<T, 1>(B_, Rows<T>{unit_rows_}, H_, l.weights.w_hr(0), 0, l.weights.out_groups,
          StoreEpilogue<T, StepRows<T>>{{l.h, P_}, P_, false});
    else __builtin_memcpy(l.h, units_, B_ * H_ * sizeof(T));
  }

  static void step_all(Stream* stream, const void* x, std::int64_t stride) {
    auto& s = *static_cast<StepByStep*>(stream);
    for (long r = 0; r < s.B_; ++r) s.first_->x[r] = static_cast<const T*>(x) + r * stride;
    for (const Layer* l = s.first_; l; l = l->above) s.step(*l);
    s.falls_ = !s.falls_;
  }
  static void close(Stream* stream) { delete static_cast<StepByStep*>(stream); }
};

}  // namespace elman::ELMAN_TARGET
