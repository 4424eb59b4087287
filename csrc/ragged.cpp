#include "ragged.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace elman {
namespace {

std::size_t size_of(Number number) { return number == Number::bf16 ? 2 : number == Number::f32 ? 4 : 8; }

void clear(void* memory, std::size_t bytes) {
  if (memory) std::memset(memory, 0, bytes);
}

}  // namespace

Ragged::Ragged(const std::int64_t* lengths, std::int64_t T, std::int64_t B)
    : T_(T), B_(B), lengths_(lengths, lengths + B), order_(static_cast<std::size_t>(B)) {
  std::iota(order_.begin(), order_.end(), 0);
  std::sort(order_.begin(), order_.end(),
      [&](std::int64_t a, std::int64_t b) { return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b; });
  std::int64_t rows = B, offset = 0;
  for (std::int64_t t = 0; t < lengths[order_[0]]; ++t) {
    while (lengths[order_[static_cast<std::size_t>(rows - 1)]] <= t) --rows;
    alive_.push_back(rows);
    offset_.push_back(offset);
    offset += rows;
  }
}

void Ragged::describe(Network& net, bool pad_saved) const {
  net.T = static_cast<std::int64_t>(alive_.size()), net.B = alive_.empty() ? 0 : alive_[0];
  net.alive = alive_.data(), net.offset = offset_.data(), net.order = order_.data();
  net.rows = alive_.empty() ? 0 : offset_.back() + alive_.back();
  net.padded_batch = pad_saved ? B_ : 0, net.padded_rows = pad_saved ? T_ * B_ : 0;
}

// The states of a call, (L·D, B, width), in the order of the kernels' rows while it runs.
class Ragged::States {
 public:
  States(const Ragged& ragged, const Network& net) : ragged_(ragged), net_(net), element_(size_of(net.number)) {}

  const void* in(const void* given, int state) {
    if (!given) return nullptr;
    char* sorted = take(state);
    each(state, net_.B, [&](std::size_t theirs, std::size_t ours, std::size_t bytes, bool) {
      std::memcpy(sorted + ours, static_cast<const char*>(given) + theirs, bytes);
    });
    return sorted;
  }
  void* out(void* wanted, int state) { return wanted ? take(state) : nullptr; }

  // Gives back what out() gave room for. Rows without a step get what `instead` has for them (null: zeros).
  void give(void* wanted, int state, const void* sorted, const void* instead) const {
    if (!wanted) return;
    each(state, ragged_.B_, [&](std::size_t theirs, std::size_t ours, std::size_t bytes, bool lives) {
      char* to = static_cast<char*>(wanted) + theirs;
      if (lives) std::memcpy(to, static_cast<const char*>(sorted) + ours, bytes);
      else if (instead) std::memcpy(to, static_cast<const char*>(instead) + theirs, bytes);
      else std::memset(to, 0, bytes);
    });
  }

 private:
  char* take(int state) {
    buffers_.emplace_back(static_cast<std::size_t>(net_.L * net_.D * net_.B * width(state)) * element_);
    return buffers_.back().data();
  }
  std::int64_t width(int state) const { return state == 0 ? net_.P : net_.H; }
  // f(where the caller's row lies, where ours does, bytes of a row, whether it has a step) for the first rows in order,
  // in every layer and direction.
  template <class F> void each(int state, std::int64_t rows, F f) const {
    const std::size_t bytes = static_cast<std::size_t>(width(state)) * element_;
    for (std::int64_t d = 0; d < net_.L * net_.D; ++d)
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::size_t theirs =
                              static_cast<std::size_t>(d * ragged_.B_ + ragged_.order_[static_cast<std::size_t>(r)]) *
            bytes,
                          ours = static_cast<std::size_t>(d * net_.B + r) * bytes;
        f(theirs, ours, bytes, r < net_.B);
      }
  }
  const Ragged& ragged_;
  const Network& net_;
  const std::size_t element_;
  std::vector<std::vector<char>> buffers_;
};

void Ragged::clear_padding(const Network& net, const StepTensor& q, std::int64_t width) const {
  const auto element = static_cast<std::int64_t>(size_of(net.number));
  if (!q.data || width == 0) return;
  for (std::int64_t t = lengths_[static_cast<std::size_t>(order_.back())]; t < T_; ++t)
    for (std::int64_t b = 0; b < B_; ++b)
      if (lengths_[static_cast<std::size_t>(b)] <= t)
        std::memset(static_cast<char*>(q.data) + (t * q.step + b * q.sequence) * element, 0,
            static_cast<std::size_t>(width * element));
}

void Ragged::clear_saved(const Network& net, void* all, std::int64_t count, std::int64_t width) const {
  for (std::int64_t i = 0; all && net.padded_rows && i < count; ++i)
    clear_padding(net,
        {static_cast<char*>(all) + i * net.padded_rows * width * static_cast<std::int64_t>(size_of(net.number)),
            B_ * width, width},
        width);
}

void Ragged::run(const Target& target, const Forward& call, int threads) const {
  const Network& net = call.net;
  States states(*this, net);
  Forward f = call;
  f.x.padded = f.output.padded = true;
  for (int s = 0; s < net.cell->states; ++s)
    f.initial[s] = states.in(call.initial[s], s), f.final[s] = states.out(call.final[s], s);
  if (net.rows > 0) elman::run(target, f, threads);
  for (int s = 0; s < net.cell->states; ++s) states.give(call.final[s], s, f.final[s], call.initial[s]);
  clear_padding(net, f.output, net.D * net.P);
  clear_saved(net, f.hidden, net.L - 1, net.D * net.P);
  clear_saved(net, f.saved, net.L * net.D, net.cell->saved * net.H);
}

void Ragged::run(const Target& target, const Backward& call, int threads) const {
  const Network& net = call.net;
  States states(*this, net);
  Backward b = call;
  b.x.padded = b.output.padded = b.grad_output.padded = b.grad_x.padded = true;
  for (int s = 0; s < net.cell->states; ++s) {
    b.initial[s] = states.in(call.initial[s], s), b.grad_final[s] = states.in(call.grad_final[s], s);
    b.grad_initial[s] = states.out(call.grad_initial[s], s);
  }
  if (net.rows > 0) {
    elman::run(target, b, threads);
  } else {
    const std::size_t element = size_of(net.number);
    const auto bytes = [&](std::int64_t rows, std::int64_t columns) {
      return static_cast<std::size_t>(rows * columns) * element;
    };
    for (std::int64_t d = 0; d < net.L * net.D; ++d) {
      const Gradients& g = b.gradients[d];
      const std::int64_t rows = net.cell->gates * net.H;
      clear(g.w_ih, bytes(rows, d < net.D ? net.I : net.D * net.P)), clear(g.w_hh, bytes(rows, net.P)),
          clear(g.b_ih, bytes(rows, 1)), clear(g.b_hh, bytes(rows, 1)), clear(g.w_hr, bytes(net.P, net.H));
    }
    for (int s = 0; s < net.cell->states; ++s) clear(b.grad_fresh[s], bytes(net.L * net.D, s == 0 ? net.P : net.H));
  }
  for (int s = 0; s < net.cell->states; ++s)
    states.give(call.grad_initial[s], s, b.grad_initial[s], call.grad_final[s]);
  clear_padding(net, b.grad_x, net.I);
}

}  // namespace elman
