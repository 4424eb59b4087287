#include "ragged.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace elman {

Ragged::Ragged(const Long* lengths, Long T, Long B) : T_(T), B_(B), lengths_(lengths, lengths + B), order_(B) {
  std::iota(order_.begin(), order_.end(), 0);
  const auto before = [&](Long a, Long b) { return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b; };
  std::sort(order_.begin(), order_.end(), before);
  Long count = B, offset = 0;
  for (Long t = 0; t < lengths[order_[0]]; ++t) {
    while (lengths[order_[count - 1]] <= t) --count;
    alive_.push_back(count), offset_.push_back(offset);
    offset += count;
  }
}

void Ragged::describe(Network& net, bool pad_saved) const {
  net.T = static_cast<Long>(alive_.size()), net.B = alive_.empty() ? 0 : alive_[0];
  net.alive = alive_.data(), net.offset = offset_.data(), net.order = order_.data();
  net.rows = alive_.empty() ? 0 : offset_.back() + alive_.back();
  net.padded_batch = pad_saved ? B_ : 0, net.padded_rows = pad_saved ? T_ * B_ : 0;
}

// The states of a call, (L·D, B, width), in the order of the kernels' sequences while it runs. Null of null.
class Ragged::States {
 public:
  States(const Ragged& ragged, const Network& net) : ragged_(ragged), net_(net), element_(element_size(net.number)) {}

  const void* sorted(const void* theirs, int state) {
    char* ours = theirs ? room(state) : nullptr;
    if (ours)
      each(state, net_.B, [&](Long from, Long to, Long bytes, bool) {
        std::memcpy(ours + to, static_cast<const char*>(theirs) + from, bytes);
      });
    return ours;
  }
  void* room_for(const void* theirs, int state) { return theirs ? room(state) : nullptr; }

  // From room_for() to the caller. Sequences without a step get what `instead` has for them (null: zeros).
  void restore(void* theirs, int state, const void* ours, const void* instead) const {
    if (!theirs) return;
    each(state, ragged_.B_, [&](Long at, Long from, Long bytes, bool has_step) {
      char* to = static_cast<char*>(theirs) + at;
      if (has_step) std::memcpy(to, static_cast<const char*>(ours) + from, bytes);
      else if (instead) std::memcpy(to, static_cast<const char*>(instead) + at, bytes);
      else std::memset(to, 0, bytes);
    });
  }

 private:
  char* room(int state) { return buffers_.emplace_back(net_.L * net_.D * net_.B * width(state) * element_).data(); }
  Long width(int state) const { return state == 0 ? net_.P : net_.H; }
  // f(offset in the caller's states, in ours, bytes, whether it has a step) for the first `count` sequences of each d.
  template <class F> void each(int state, Long count, F f) const {
    const Long bytes = width(state) * element_;
    for (Long d = 0; d < net_.L * net_.D; ++d)
      for (Long b = 0; b < count; ++b)
        f((d * ragged_.B_ + ragged_.order_[b]) * bytes, (d * net_.B + b) * bytes, bytes, b < net_.B);
  }
  const Ragged& ragged_;
  const Network& net_;
  const Long element_;
  std::vector<std::vector<char>> buffers_;
};

void Ragged::clear_padding(Number number, const StepTensor& x, Long width, Long count, Long apart) const {
  const auto element = element_size(number);
  if (!exists() || !x.data || width == 0) return;
  for (char* data = static_cast<char*>(x.data); count-- > 0; data += apart * element)
    for (Long t = lengths_[order_.back()]; t < T_; ++t)
      for (Long b = 0; b < B_; ++b)
        if (lengths_[b] <= t) std::memset(data + (t * x.step + b * x.sequence) * element, 0, width * element);
}

void Ragged::clear_saved(const Network& net, Number number, void* all, Long count, Long width) const {
  if (net.padded_rows) clear_padding(number, {all, B_ * width, width}, width, count, net.padded_rows * width);
}

void Ragged::run(const Target& target, const Forward& call, int threads) const {
  const Network& net = call.net;
  States states(*this, net);
  Forward f = call;
  f.x.padded = f.output.padded = true;
  for (int s = 0; s < net.cell->states; ++s)
    f.initial[s] = states.sorted(call.initial[s], s), f.final[s] = states.room_for(call.final[s], s);
  if (net.rows > 0) elman::run(target, f, threads);
  for (int s = 0; s < net.cell->states; ++s) states.restore(call.final[s], s, f.final[s], call.initial[s]);
  clear_padding(net.number, f.output, net.D * net.P);
  clear_saved(net, net.number, f.hidden, net.L - 1, net.D * net.P);
  clear_saved(net, wide_number(net.number), f.saved, net.L * net.D, net.cell->saved * net.H);
}

void Ragged::run(const Target& target, const Backward& call, int threads) const {
  const Network& net = call.net;
  States states(*this, net);
  Backward b = call;
  b.x.padded = b.output.padded = b.grad_output.padded = b.grad_x.padded = true;
  for (int s = 0; s < net.cell->states; ++s) {
    b.initial[s] = states.sorted(call.initial[s], s), b.grad_final[s] = states.sorted(call.grad_final[s], s);
    b.grad_initial[s] = states.room_for(call.grad_initial[s], s);
  }
  if (net.rows > 0) elman::run(target, b, threads);
  for (int s = 0; s < net.cell->states; ++s)
    states.restore(call.grad_initial[s], s, b.grad_initial[s], call.grad_final[s]);
  clear_padding(net.number, b.grad_x, net.I);
  clear_saved(net, net.number, b.grad_gates, net.L * net.D, grad_gates_width(*net.cell, net.H));
}

}  // namespace elman
