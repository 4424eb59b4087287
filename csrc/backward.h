// The backward scan: a template on the cell.
//
// The way is walked from its end, in chunks. In a chunk each step is one product, of the gate gradients of the step after with the recurrent weights,
// that starts from the output's gradient and ends in the cell's derivative. The gate gradients of the chunk then give the gradients of inputs and
// weights in a few large products instead of many small ones. Which block adds to which sum, and when, does not depend on the threads.
#pragma once

#include "forward.h"

namespace elman::ELMAN_TARGET {

// Bytes of a chunk's gate gradients.
constexpr long kGradientBytes = 2 * 1024 * 1024;
// Rows summed in one go into a weight's gradient: a tile's packed inputs then fit in the first-level cache. Summing by blocks also keeps long sums accurate.
constexpr long kSumRows = 256;
// Rows of an input's gradient, and panels of a weight's, in one task.
constexpr long kTaskRows = 96, kTaskPanels = 6;

template <class T, class Cell>
struct Retreat {  // from the gradient of the states, through the cell, to the gradients of the gates
  static constexpr int G = Cell::kGates;
  const T* d_output;  // null: zeros
  long d_stride, d_column;
  const T* d_final;  // dense; null: zeros
  const T* h;
  long h_stride;
  T* gates;  // (rows, G·H)
  long gates_stride, H;
  ELMAN_INLINE void prefetch(long row, long group) const {
    __builtin_prefetch(h + row * h_stride + group * kLanes<T>);
    if (d_output && d_column) __builtin_prefetch(d_output + row * d_stride + group * kLanes<T>);
  }
  ELMAN_INLINE Vec<T> init(long row, long group, int) const {
    const long column = group * kLanes<T>;
    Vec<T> d{};
    if (d_output) d = d_column ? Row<T>::get(d_output + row * d_stride, column, H) : splat(d_output[row * d_stride]);
    if (d_final) d += Row<T>::get(d_final + row * H, column, H);
    return d;
  }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* d) const {
    const long column = group * kLanes<T>;
    Vec<T> a[G];
    Cell::backward(d[0], Row<T>::get(h + row * h_stride, column, H), a);
    for (int g = 0; g < G; ++g) Row<T>::put(gates + row * gates_stride + g * H, column, H, a[g]);
  }
};

template <class T>
struct Plain {  // the product itself, into dense rows
  T* to;
  long stride, width;
  bool add;
  ELMAN_INLINE void prefetch(long, long) const {}
  ELMAN_INLINE Vec<T> init(long, long, int) const { return Vec<T>{}; }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* sum) const {
    const long column = group * kLanes<T>;
    T* p = to + row * stride;
    Row<T>::put(p, column, width, add ? Row<T>::get(p, column, width) + sum[0] : sum[0]);
  }
};

template <class T>
struct Scattered {  // the same into rows behind pointers
  T* const* to;
  long width;
  bool add;
  ELMAN_INLINE void prefetch(long, long) const {}
  ELMAN_INLINE Vec<T> init(long, long, int) const { return Vec<T>{}; }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* sum) const {
    const long column = group * kLanes<T>;
    Row<T>::put(to[row], column, width, add ? Row<T>::get(to[row], column, width) + sum[0] : sum[0]);
  }
};

// One direction of one layer on its way back.
template <class T, class Cell>
struct Side {
  static constexpr int G = Cell::kGates;
  static constexpr long kLine = 64 / static_cast<long>(sizeof(T));  // numbers in a cache line
  // What is read and written (kernels.h says what may be null).
  const Walk walk;  // from the end to the beginning, all rows
  const Parameters& parameters;
  const Gradients& gradients;
  const long I, H;
  const Sequence x, h, d_h, d_x;
  const T *initial, *d_final;
  T* d_initial;
  const bool second;  // d_x holds the other direction's part already

  // Working memory: packed weights; gate gradients of this chunk and of the one before; pointers to the chunk's rows.
  const long capacity, stride;  // rows of a chunk; from one row of gate gradients to the next
  const Buffer<T> recurrent, input, gates, zeros;
  const Buffer<const T*> x_rows, h_rows, gate_rows;
  const Buffer<T*> d_x_rows;
  long rows = 0, chunks = 0;  // of the chunk at hand; done before it
  const T* before = nullptr;  // gate gradients of the last position of the chunk before

  Side(Walk walk, const Parameters& parameters, const Gradients& gradients, long I, Sequence x, Sequence h, Sequence d_h, Sequence d_x, const T* initial, const T* d_final,
       T* d_initial, long capacity)
      : walk(walk), parameters(parameters), gradients(gradients), I(I), H(walk.net.H), x(x), h(h), d_h(d_h), d_x(d_x), initial(initial), d_final(d_final),
        d_initial(d_initial), second(!walk.reverse), capacity(capacity), stride(spread(G * H)), recurrent(G * H * panels(H) * kLanes<T>), input(d_x.data ? G * H * panels(I) * kLanes<T> : 0),
        gates(2 * capacity * stride), zeros(H), x_rows(capacity), h_rows(capacity), gate_rows(capacity), d_x_rows(d_x.data ? capacity : 0) {}

  bool ok() const { return recurrent.ok() && input.ok() && gates.ok() && zeros.ok() && x_rows.ok() && h_rows.ok() && gate_rows.ok() && d_x_rows.ok(); }
  static long panels(long columns) { return ceil_div(columns, kLanes<T>); }
  T* chunk_gates() const { return gates + (chunks % 2) * capacity * stride; }
  // Rows a power of two apart would share a few sets of the cache, and a column of them would not stay: an odd number of cache lines spreads them.
  static long spread(long width) { return (ceil_div(width, kLine) | 1) * kLine; }

  bool pack() const {
    const Buffer<const T*> w(G * H);
    if (!w.ok()) return false;
    for (long k = 0; k < G * H; ++k) w[k] = static_cast<const T*>(parameters.w_hh) + k * H;
    pack_rows<T>(w, G * H, H, 0, panels(H), recurrent);
    if (d_x.data) {
      for (long k = 0; k < G * H; ++k) w[k] = static_cast<const T*>(parameters.w_ih) + k * I;
      pack_rows<T>(w, G * H, I, 0, panels(I), input);
    }
    for (long i = 0; i < H; ++i) zeros[i] = T(0);
    return true;
  }

  // The gate gradients of positions begin..end-1 for some rows and column groups. Where the columns are split among threads, all meet after each step.
  bool scan(long begin, long end, const Walk& mine, long from, long to, Team* meet) const {
    const Buffer<const T*> after(mine.last - mine.first);
    if (!after.ok() && !meet) return false;
    const T* weights = recurrent + from * G * H * kLanes<T>;
    const T* last = before;
    T* now = chunk_gates();
    for (long s = begin; s < end; ++s) {
      const long n = mine.alive(s), old = mine.continuing(s), stay = mine.staying(s);
      T* mine_now = now + mine.first * stride;
      if (after.ok()) {
        for (long r = 0; r < n; ++r) after[r] = r < old ? last + (mine.first + r) * stride : nullptr;
        const T* d = d_h.data ? mine.at<T>(d_h, s, 0) : nullptr;
        const T* state = mine.at<T>(h, s, 0);
        Retreat<T, Cell> on{d, d_h.row, d_h.column, nullptr, state, h.row, mine_now, stride, H};
        product<T, 1>(old, Rows<T>{after}, G * H, weights, from, to, on);
        // Rows whose last step this is have nothing after them but the gradient of their final state.
        Retreat<T, Cell> starting{d ? d + old * d_h.row : nullptr, d_h.row, d_h.column, d_final ? d_final + (mine.first + old) * H : nullptr, state + old * h.row, h.row, mine_now + old * stride, stride, H};
        product<T, 1>(n - old, Rows<T>{after + old}, 0, weights, from, to, starting);
      }
      if (meet) meet->barrier();
      if (after.ok() && d_initial && stay < n) {
        for (long r = stay; r < n; ++r) after[r] = mine_now + r * stride;
        Plain<T> to_initial{d_initial + (mine.first + stay) * H, H, H, false};
        product<T, 1>(n - stay, Rows<T>{after + stay}, G * H, weights, from, to, to_initial);
      }
      last = now;
      now += walk.alive(s) * stride;
    }
    return after.ok();
  }

  // Before the products of a chunk: where its rows lie.
  void gather(long begin, long end) {
    rows = walk.template gather<const T>(x, begin, end, x_rows);
    if (d_x.data) walk.template gather<T>(d_x, begin, end, d_x_rows);
    const Walk forward = walk.back();
    for (long s = begin, m = 0; s < end; m += walk.alive(s++)) forward.gather_before<T>(h, walk.net.T - 1 - s, initial, H, zeros, h_rows + m);
    for (long m = 0; m < rows; ++m) gate_rows[m] = chunk_gates() + m * stride;
  }

  void finish_chunk(long end) {
    before = chunk_gates() + (rows - walk.alive(end - 1)) * stride;
    ++chunks;
  }

  long input_tasks() const { return d_x.data ? ceil_div(rows, kTaskRows) : 0; }
  long weight_tasks(const void* gradient, long columns) const { return gradient ? ceil_div(panels(columns), kTaskPanels) : 0; }
  bool wants_bias() const { return gradients.b_ih || gradients.b_hh; }
  long tasks() const { return input_tasks() + weight_tasks(gradients.w_ih, I) + weight_tasks(gradients.w_hh, H) + wants_bias(); }

  bool task(long i) const {
    if (i < input_tasks()) return input_gradient(i * kTaskRows, min(rows, (i + 1) * kTaskRows)), true;
    i -= input_tasks();
    if (i < weight_tasks(gradients.w_ih, I)) return weight_gradient(x_rows, I, i, static_cast<T*>(gradients.w_ih));
    i -= weight_tasks(gradients.w_ih, I);
    if (i < weight_tasks(gradients.w_hh, H)) return weight_gradient(h_rows, H, i, static_cast<T*>(gradients.w_hh));
    return bias_gradient();
  }

  void input_gradient(long from, long to) const {
    Scattered<T> into{d_x_rows + from, I, second};
    product<T, 1>(to - from, Rows<T>{gate_rows + from}, G * H, input, 0, panels(I), into);
  }

  bool weight_gradient(const T* const* inputs, long columns, long i, T* gradient) const {
    const long first = i * kTaskPanels, last = min(panels(columns), first + kTaskPanels), column = first * kLanes<T>;
    const Buffer<T> packed((last - first) * kLanes<T> * min(rows, kSumRows));
    if (!packed.ok()) return false;
    for (long from = 0; from < rows; from += kSumRows) {
      const long n = min(kSumRows, rows - from);
      pack_rows<T>(inputs + from, n, columns, first, last, packed);
      Plain<T> into{gradient + column, columns, columns - column, chunks > 0 || from > 0};
      product<T, 1>(G * H, Columns<T>{chunk_gates() + from * stride, stride}, n, packed, 0, last - first, into);
    }
    return true;
  }

  bool bias_gradient() const {
    const long n = G * H;
    T* sum = static_cast<T*>(gradients.b_ih ? gradients.b_ih : gradients.b_hh);
    const Buffer<T> part(n);
    if (!part.ok()) return false;
    for (long from = 0; from < rows; from += kSumRows) {
      for (long j = 0; j < n; ++j) part[j] = T(0);
      for (long m = from; m < min(rows, from + kSumRows); ++m)
        for (long j = 0; j < n; ++j) part[j] += gate_rows[m][j];
      const bool add = chunks > 0 || from > 0;
      for (long j = 0; j < n; ++j) sum[j] = add ? sum[j] + part[j] : part[j];
    }
    if (gradients.b_ih && gradients.b_hh) __builtin_memcpy(gradients.b_hh, gradients.b_ih, n * sizeof(T));
    return true;
  }
};

template <class T, class Cell>
bool layer_backward(const Network& net, const Parameters* parameters, const Gradients* gradients, long I, const Sequence& x, const Sequence& output,
                    const Sequence& d_output, const Sequence& d_x, const T* initial, const T* d_final, T* d_initial, Team& team) {
  constexpr int G = Cell::kGates;
  const long H = net.H, states = net.B * H, panels = ceil_div(H, kLanes<T>);
  const long chunk = max(1, min(net.T, kGradientBytes / static_cast<long>(sizeof(T)) / (G * H) / max(1, net.B)));
  const long together = chunk == net.T ? net.D : 1;  // directions walked at the same time: in opposite ways, so only where one chunk holds the whole
  const Division by = divide(net, G * H, panels, team.threads());
  bool failed = false;  // only ever set
  auto fail_unless = [&](bool ok) {
    if (!ok) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  };
  auto make = [&](long d, bool needed) {
    const Walk walk = Walk{net, d == 1, 0, net.B}.back();
    return Side<T, Cell>(walk, parameters[d], gradients[d], I, x, part<T>(output, d * H), part<T>(d_output, d_output.column * d * H), d_x, slice<T>(initial, d, states),
                         slice<T>(d_final, d, states), slice<T>(d_initial, d, states), needed ? chunk * net.B : 0);
  };
  for (long d = 0; d < net.D && !failed; d += together) {
    Side<T, Cell> a = make(d, true), b = make(together == 2 ? 1 : d, together == 2);
    Side<T, Cell>* sides[] = {&a, &b};
    if (!a.ok() || !b.ok()) return false;
    team.each(together, [&](std::int64_t i) { fail_unless(sides[i]->pack()); });
    for (long begin = 0; begin < net.T && !failed; begin += chunk) {
      const long end = min(net.T, begin + chunk);
      auto scan = [&](long i, long r, long c) {
        Walk mine = sides[i]->walk;
        mine.first = net.B * r / by.row_parts, mine.last = net.B * (r + 1) / by.row_parts;
        fail_unless(sides[i]->scan(begin, end, mine, panels * c / by.column_parts, panels * (c + 1) / by.column_parts, by.column_parts > 1 ? &team : nullptr));
      };
      if (by.column_parts > 1)
        for (long i = 0; i < together; ++i) team.each(by.column_parts, [&](std::int64_t c) { scan(i, 0, c); });
      else
        team.each(together * by.row_parts, [&](std::int64_t i) { scan(i / by.row_parts, i % by.row_parts, 0); });
      for (long i = 0; i < together; ++i) {
        sides[i]->gather(begin, end);
        team.each(sides[i]->tasks(), [&](std::int64_t task) { fail_unless(sides[i]->task(task)); });
        sides[i]->finish_chunk(end);
      }
    }
  }
  return !failed;
}

template <class T, class Cell>
bool backward(const Backward& f, Team& team) {
  const Network& net = f.net;
  const long width = net.D * net.H, states = net.D * net.B * net.H;
  const Buffer<T> scratch(min(2, net.L - 1) * net.rows * width);  // gradients of the layers' outputs take turns in it
  if (!scratch.ok()) return false;
  Sequence output = f.output, d_output = f.d_output;
  for (long l = net.L - 1; l >= 0; --l) {
    const Sequence x = l == 0 ? f.x : dense(net, const_cast<T*>(slice<T>(f.hidden, l - 1, net.rows * width)), width);
    const Sequence d_x = l == 0 ? f.d_x : dense(net, slice<T>(static_cast<void*>(scratch), (l - 1) % 2, net.rows * width), width);
    if (!layer_backward<T, Cell>(net, net.parameters + l * net.D, f.gradients + l * net.D, l == 0 ? net.I : width, x, output, d_output, d_x, slice<T>(f.initial, l, states),
                                 slice<T>(f.d_final, l, states), slice<T>(f.d_initial, l, states), team))
      return false;
    output = x, d_output = d_x;
  }
  return true;
}

}  // namespace elman::ELMAN_TARGET
