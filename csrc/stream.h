// A network that runs a step at a time. Its weights are packed once, and all that it computes with stays where it is: a
// step allocates nothing.
//
// The products and the cells are the scan's (forward.h), and so are the numbers, to the bit. A tile of columns is
// projected and at once advanced; every other step takes the tiles in falling order, and finds in the cache the weights
// that the step before used last.
#pragma once

#include "scan/forward_scan.h"

namespace elman::ELMAN_TARGET {

struct Allocated {
  static void* operator new(std::size_t bytes) noexcept { return allocate(bytes); }
  static void operator delete(void* memory) { release(memory); }
};

template <class T, class Cell> class Streamed : public Stream, public Allocated {
 public:
  // Null: out of memory.
  static Stream* open(const Network& net, void* const* states) {
    const HeapScope memory;
    auto* made = new Streamed(net);
    if (made && made->prepare(net, states)) return made;
    delete made;
    return nullptr;
  }

 private:
  static constexpr int G = Cell::kGates;

  struct Layer : Allocated {
    const PackedWeights<T, Cell> w;
    const Buffer<const T*> x, before;  // the rows that it reads
    T *h, *c;                          // (B, P) and (B, H); c null where the cell has none
    Layer* above = nullptr;
    Layer(const Network& net, long I, T* h, T* c)
        : w(net, I, 0, ceil_div(net.H, kLanes<T>)), x(net.B), before(net.B), h(h), c(c) {}
    bool ok() const { return w.ok() && x.ok() && before.ok(); }
  };

  const long B_, H_, P_, groups_;
  const bool projects_;
  const Buffer<T> z_, units_;  // projections of a layer's inputs; its units' outputs, (B, H)
  const Buffer<const T*> rows_of_units_;
  Layer* first_ = nullptr;
  bool falls_ = false;

  explicit Streamed(const Network& net)
      : Stream{step, close}, B_(net.B), H_(net.H), P_(net.P), groups_(ceil_div(net.H, kLanes<T>)),
        projects_(net.parameters->w_hr), z_(B_ * groups_ * G * kLanes<T>), units_(B_ * H_), rows_of_units_(B_) {}
  ~Streamed() {
    for (Layer* l = first_; l;) {
      Layer* above = l->above;
      delete l;
      l = above;
    }
  }

  bool prepare(const Network& net, void* const* states) {
    if (!z_.ok() || !units_.ok() || !rows_of_units_.ok()) return false;
    for (long r = 0; r < B_; ++r) rows_of_units_[r] = units_ + r * H_;
    Layer *below = nullptr, **last = &first_;
    for (long l = 0; l < net.L; ++l) {
      T* c = Cell::kHasCellState ? static_cast<T*>(states[1]) + l * B_ * H_ : nullptr;
      Layer* layer = *last = new Layer(net, below ? P_ : net.I, static_cast<T*>(states[0]) + l * B_ * P_, c);
      if (!layer || !layer->ok()) return false;
      layer->w.pack(net.parameters[l], 0, groups_);
      if (projects_) layer->w.pack_projection(net.parameters[l], 0, layer->w.out_groups);
      for (long r = 0; r < B_; ++r) {
        layer->before[r] = layer->h + r * P_;
        if (below) layer->x[r] = below->h + r * P_;
      }
      below = layer, last = &layer->above;
    }
    return true;
  }

  void advance(const Layer& l) const {
    const long stride = groups_ * G * kLanes<T>, most = max(1, columns_for(min(B_, tallest(G)), l.w.I) / G),
               tiles = ceil_div(groups_, most);
    const Rows<T> x{l.x}, before{l.before};
    for (long i = 0; i < tiles; ++i) {
      const long tile = falls_ ? tiles - 1 - i : i, from = groups_ * tile / tiles, to = groups_ * (tile + 1) / tiles;
      product<T, G>(B_, x, l.w.I, l.w.w_ih(from), from, to, ProjectionEpilogue<T, Cell>{l.w, z_, stride});
      product<T, G>(B_, before, P_, l.w.w_hh(from), from, to,
          CellEpilogue<T, Cell>{l.w, z_, stride, l.before, {units_, H_}, l.c, {}});
    }
    if (projects_)
      product<T, 1>(B_, Rows<T>{rows_of_units_}, H_, l.w.w_hr(0), 0, l.w.out_groups,
          StoreEpilogue<T, StepRows<T>>{{l.h, P_}, P_, false});
    else __builtin_memcpy(l.h, units_, B_ * H_ * sizeof(T));
  }

  static void step(Stream* stream, const void* x, std::int64_t row) {
    auto& s = *static_cast<Streamed*>(stream);
    for (long r = 0; r < s.B_; ++r) s.first_->x[r] = static_cast<const T*>(x) + r * row;
    for (const Layer* l = s.first_; l; l = l->above) s.advance(*l);
    s.falls_ = !s.falls_;
  }
  static void close(Stream* stream) { delete static_cast<Streamed*>(stream); }
};

}  // namespace elman::ELMAN_TARGET
