// The backward scan: a template on the cell.
//
// The way is walked from its end, in chunks. In a chunk each step is one product, of the gate gradients of the step
// after with the recurrent weights, that starts from the output's gradient and ends in the cell's derivative. The gate
// gradients of the chunk then give the gradients of inputs and weights in a few large products instead of many small
// ones. Which block adds to which sum, and when, does not depend on the threads.
//
// Where what the cell needs was not saved, the chunk's steps are first run again, forward, from the checkpoint before
// them.
#pragma once

#include "forward.h"

namespace elman::ELMAN_TARGET {

// Rows summed in one go into a weight's gradient, which is read and written once for each. Summing by blocks also saves
// long sums accurate.
constexpr long kSumRows = 512;
// Rows of an input's gradient, and panels of a weight's, in one task.
constexpr long kTaskRows = 96, kTaskPanels = 6;

template <class T> struct Arriving {  // the gradient that arrives at h from outside, for some rows
  Strip<const T> output;              // nowhere: zeros
  long column;
  const T* final;  // dense, `width` long; null: zeros
  long width;
  ELMAN_INLINE void prefetch(long row, long group) const {
    if (output && column) __builtin_prefetch(output[row] + group * kLanes<T>);
  }
  ELMAN_INLINE Vec<T> get(long row, long group) const {
    const long at = group * kLanes<T>;
    Vec<T> d{};
    if (output) d = column ? Row<T>::get(output[row], at, width) : splat(*output[row]);
    if (final) d += Row<T>::get(final + row * width, at, width);
    return d;
  }
  Arriving after(long rows, const T* ends) const {
    return {output.after(rows), column, ends ? ends + rows * width : nullptr, width};
  }
};

template <class T, class Cell>
struct Retreat {  // from the gradient of the states, through the cell, to the gradients of the gates
  static constexpr int K = Cell::kSaved, kGateGradients = Cell::kGateGradients,
                       kMost = K > kGateGradients ? K : kGateGradients;
  const Arriving<T> arriving;
  const Strip<const T> h, saved;    // the new h; (K, H)
  const Strip<const T> grad_saved;  // what arrives at it; nowhere: zeros
  const T* const* before;           // the state before the step
  T* carry;                         // (rows, H)
  T* gates;                         // (rows, kGateGradients·H)
  long gates_stride, H;
  ELMAN_INLINE void prefetch(long row, long group) const {
    if constexpr (Cell::kBackwardReadsH) __builtin_prefetch(h[row] + group * kLanes<T>);
    for (int k = 0; k < K; ++k) __builtin_prefetch(saved[row] + k * H + group * kLanes<T>);
    arriving.prefetch(row, group);
  }
  ELMAN_INLINE Vec<T> init(long row, long group, int) const { return arriving.get(row, group); }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* d) const {
    const long column = group * kLanes<T>;
    Vec<T> a[kMost], now{}, old{}, carried{};
    for (int k = 0; k < K; ++k) a[k] = Row<T>::get(saved[row] + k * H, column, H);
    if constexpr (Cell::kBackwardReadsH) now = Row<T>::get(h[row], column, H);
    if constexpr (Cell::kBackwardReadsPrevious)
      old = Row<T>::get(before[row], column, H), carried = Row<T>::get(carry + row * H, column, H);
    if constexpr (K > 0)
      if (grad_saved) {
        Vec<T> arriving[K];
        for (int k = 0; k < K; ++k) arriving[k] = Row<T>::get(grad_saved[row] + k * H, column, H);
        Cell::backward_traced(a, arriving, d[0], now, old, carried);
        return put(row, column, a, carried);
      }
    Cell::backward(a, d[0], now, old, carried);
    put(row, column, a, carried);
  }
  ELMAN_INLINE void put(long row, long column, const Vec<T>* a, Vec<T> carried) const {
    if constexpr (Cell::kBackwardReadsPrevious) Row<T>::put(carry + row * H, column, H, carried);
    for (int g = 0; g < kGateGradients; ++g) Row<T>::put(gates + row * gates_stride + g * H, column, H, a[g]);
  }
  Retreat after(long rows, const T* ends) const {
    return {arriving.after(rows, ends), h.after(rows), saved.after(rows), grad_saved.after(rows),
        Cell::kBackwardReadsPrevious ? before + rows : before, Cell::kBackwardReadsPrevious ? carry + rows * H : carry,
        gates + rows * gates_stride, gates_stride, H};
  }
};

template <class T> struct Arrive {  // the gradient of h itself, where a projection lies between it and the cell
  const Arriving<T> arriving;
  T* to;
  long stride;
  ELMAN_INLINE void prefetch(long row, long group) const { arriving.prefetch(row, group); }
  ELMAN_INLINE Vec<T> init(long row, long group, int) const { return arriving.get(row, group); }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* d) const {
    Row<T>::put(to + row * stride, group * kLanes<T>, arriving.width, d[0]);
  }
  Arrive after(long rows, const T* ends) const { return {arriving.after(rows, ends), to + rows * stride, stride}; }
};

template <class T> struct Scattered {  // a product into rows behind pointers
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

// What one direction of one layer reads and writes on its way back (kernels.h says what may be null).
template <class T> struct TrackBack {
  StepTensor x, h, saved, d_h, grad_saved, grad_x;
  bool added;  // grad_x holds something already, to be added to
  const T *initial[kMostStates], *fresh[kMostStates];
  const T* checkpoints;
  const T* grad_final[kMostStates];
  T *grad_initial[kMostStates], *grad_fresh[kMostStates];
};

// One direction of one layer on its way back.
template <class T, class Cell> struct Side {
  static constexpr int G = Cell::kGates, K = Cell::kSaved, kGateGradients = Cell::kGateGradients;
  static constexpr long W = kLanes<T>, kLine = 64 / static_cast<long>(sizeof(T));  // numbers in a cache line
  const Walk walk;  // from the end to the beginning, all rows
  const Parameters& parameters;
  const Gradients& gradients;
  const long I, H, P;
  const TrackBack<T> track;
  const bool projects;
  const bool again;  // what the cell needs was not saved

  // Working memory: packed weights; gate gradients, and where there is a projection those of h, of this chunk and of
  // the one before; carry; pointers to the chunk's rows.
  const long capacity, stride, d_stride;  // rows of a chunk; from one row of gate gradients to the next, and of h's
  const Buffer<T> recurrent, input, projection, gates, d_units, carry, zeros, sums, d_h_fresh,
      d_c_fresh;  // the last two: by row
  const Buffer<const T*> x_rows, h_rows, saved_rows;
  const Buffer<T*> d_x_rows;
  // Where steps are run again: what the forward scan needs, and what the chunk's steps keep.
  const Packed<T, Cell> packed;
  const Buffer<T> chunk_kept, c;
  long rows = 0, chunks = 0;  // of the chunk at hand; done before it
  const T* before = nullptr;  // gate gradients of the last position of the chunk before

  Side(Walk walk, const Parameters& parameters, const Gradients& gradients, long I, const TrackBack<T>& track,
      long capacity)
      : walk(walk), parameters(parameters), gradients(gradients), I(I), H(walk.net.H), P(walk.net.P), track(track),
        projects(parameters.w_hr), again(K > 0 && !track.saved.data), capacity(capacity),
        stride(spread(kGateGradients * H)), d_stride(spread(P)), recurrent(G * H * panels(P) * W),
        input(track.grad_x.data ? G * H * panels(I) * W : 0), projection(projects ? P * panels(H) * W : 0),
        gates(2 * capacity * stride), d_units(projects ? capacity * d_stride : 0),
        carry(Cell::kBackwardReadsPrevious ? walk.net.B * H : 0), zeros(max(H, walk.net.resets.data ? G * H : 0)),
        sums(wants_bias() ? kGateGradients * H : 0), d_h_fresh(track.grad_fresh[0] ? walk.net.B * P : 0),
        d_c_fresh(track.grad_fresh[1] ? walk.net.B * H : 0), x_rows(capacity), h_rows(capacity),
        saved_rows(projects ? capacity : 0), d_x_rows(track.grad_x.data ? capacity : 0),
        packed(walk.net, I, 0, again ? panels(H) : 0), chunk_kept(again ? capacity * K * H : 0),
        c(again && Cell::kHasCellState ? walk.net.B * H : 0) {}

  bool ok() const {
    return recurrent.ok() && input.ok() && projection.ok() && gates.ok() && d_units.ok() && carry.ok() && zeros.ok() &&
        sums.ok() && d_h_fresh.ok() && d_c_fresh.ok() && x_rows.ok() && h_rows.ok() && saved_rows.ok() &&
        d_x_rows.ok() && packed.ok() && chunk_kept.ok() && c.ok();
  }
  static long panels(long columns) { return ceil_div(columns, W); }
  T* chunk_gates() const { return gates + (chunks % 2) * capacity * stride; }
  static constexpr long kRecurrent = kGateGradients - G;  // the first column of the recurrent parts
  // Rows a power of two apart would share a few sets of the cache, and a column of them would not stay: an odd number
  // of cache lines spreads them.
  static long spread(long width) { return (ceil_div(width, kLine) | 1) * kLine; }

  bool pack() const {
    const Buffer<const T*> w(max(G * H, P));
    if (!w.ok()) return false;
    for (long k = 0; k < G * H; ++k) w[k] = static_cast<const T*>(parameters.w_hh) + k * P;
    pack_rows<T>(w, G * H, P, 0, panels(P), recurrent);
    if (track.grad_x.data) {
      for (long g = 0, k = 0; g < G; ++g)
        for (long j = 0; j < H; ++j)
          w[k++] = static_cast<const T*>(parameters.w_ih) + (Cell::input_gate(static_cast<int>(g)) * H + j) * I;
      pack_rows<T>(w, G * H, I, 0, panels(I), input);
    }
    if (projects) {
      for (long k = 0; k < P; ++k) w[k] = static_cast<const T*>(parameters.w_hr) + k * H;
      pack_rows<T>(w, P, H, 0, panels(H), projection);
    }
    for (long i = 0, n = max(H, walk.net.resets.data ? G * H : 0); i < n; ++i) zeros[i] = T(0);
    for (long i = 0; track.grad_fresh[0] && i < walk.net.B * P; ++i) d_h_fresh[i] = T(0);
    for (long i = 0; track.grad_fresh[1] && i < walk.net.B * H; ++i) d_c_fresh[i] = T(0);
    if (again) packed.pack(parameters, 0, panels(H));
    return true;
  }

  // Where what was saved lies: with the rest of the sequence, or where the chunk begin..end-1 was run again.
  StepTensor saved(long begin, long end) const {
    if (!again) return track.saved;
    const long first = min(walk.step(begin), walk.step(end - 1)),
               row = walk.net.offset ? walk.net.offset[first] : first * walk.net.B;
    return dense(walk.net, chunk_kept - row * K * H, K * H);
  }

  // The chunk's steps once more, for some rows and a part of the columns.
  bool run_again(long begin, long end, const Walk& mine, long part, long parts, Team& team) const {
    const Walk forward = mine.back();
    if constexpr (Cell::kHasCellState) {
      const T* checkpoint =
          track.checkpoints + (checkpoint_at(walk.net, walk.net.T - end) * walk.net.B + mine.first) * H;
      copy_part<T, T>(c + mine.first * H, checkpoint, mine.last - mine.first, H, panels(H) * part / parts,
          panels(H) * (part + 1) / parts);
    }
    const Track<T> on{track.x, track.h, track.initial[0], {track.fresh[0], track.fresh[1]}, c, nullptr,
        saved(begin, end), nullptr, true};
    Projection<T, Cell> projection(forward, packed, track.x, walk.net.T - end, walk.net.T - begin,
        panels(H) * part / parts, panels(H) * (part + 1) / parts, false);
    return scan_forward<T, Cell>(forward, packed, on, projection, part, parts, team);
  }

  // The states before position s that backward() looks at, for each row of `mine`: h, or c where there is one.
  void gather_before(const Walk& mine, long s, long end, const StepTensor& saved, const T** rows) const {
    const Walk forward = mine.back();
    const long position = walk.net.T - 1 - s;
    if (!Cell::kHasCellState)
      return forward.gather_before<T>(track.h, position, track.initial[0], track.fresh[0], P, zeros, rows);
    const T* checkpoint =
        again && s == end - 1 ? track.checkpoints + checkpoint_at(walk.net, position) * walk.net.B * H : nullptr;
    if (checkpoint)
      for (long r = mine.first; r < mine.last; ++r) *rows++ = checkpoint + r * H;
    else
      forward.gather_before<T>(part<T>(saved, (K - 1) * H), position, track.initial[1], track.fresh[1], H, zeros, rows);
  }

  // What comes after the last step of rows from..to-1 of `mine`, in column groups first..last-1: the gradient of the
  // final c, or nothing.
  void begin_carry(const Walk& mine, long from, long to, long first, long last) const {
    const T* d_c = Cell::kHasCellState ? track.grad_final[1] : nullptr;
    const long at = (mine.first + from) * H;
    copy_part<T, T>(carry + at, d_c ? d_c + at : nullptr, to - from, H, first, last);
  }

  // What comes to the state before position s of those rows where a reset cuts, whose state is a fresh one: it goes
  // there, and not to the step before.
  void leave_fresh(const Walk& mine, long s, const T* now, long from, long to, const T* weights, long p_from, long p_to,
      const T** gates_of, T** fresh_of) const {
    const Walk forward = mine.back();
    long m = 0;
    for (long r = 0, n = mine.alive(s); r < n; ++r) {
      if (!forward.cut(walk.net.T - 1 - s, r)) continue;
      const long row = mine.first + r;
      if (track.grad_fresh[0]) gates_of[m] = now + r * stride + kRecurrent * H, fresh_of[m++] = d_h_fresh + row * P;
      if constexpr (Cell::kBackwardReadsPrevious) {
        if (Cell::kHasCellState && track.grad_fresh[1]) add_part(d_c_fresh + row * H, carry + row * H, H, from, to);
        if (Cell::kReadsPreviousH && track.grad_fresh[0]) add_part(d_h_fresh + row * P, carry + row * H, H, from, to);
        copy_part<T, T>(carry + row * H, nullptr, 1, H, from, to);
      }
    }
    product<T, 1>(m, Rows<T>{gates_of}, G * H, weights, p_from, p_to, Scattered<T>{fresh_of, P, true});
  }
  static void add_part(T* to, const T* from, long width, long first, long last) {
    for (long g = first; g < last; ++g)
      Row<T>::put(to, g * W, width, Row<T>::get(to, g * W, width) + Row<T>::get(from, g * W, width));
  }
  void finish_fresh() const {
    const T* by_row[] = {d_h_fresh, d_c_fresh};
    for (int i = 0; i < kMostStates; ++i)
      if (T* d = track.grad_fresh[i]) {
        const long width = i == 0 ? P : H;
        copy_part<T, T>(d, nullptr, 1, width, 0, panels(width));
        for (long r = 0; r < walk.net.B; ++r) add_part(d, by_row[i] + r * width, width, 0, panels(width));
      }
  }

  // The gate gradients of positions begin..end-1 for some rows and the part-th of `parts` parts of the columns. Where
  // there are several, all meet after each step.
  bool scan(long begin, long end, const Walk& mine, long part_, long parts, Team& team) const {
    const bool meets = parts > 1, cuts = walk.net.resets.data;
    const Walk forward = mine.back();
    const Buffer<const T*> after(mine.last - mine.first),
        old(Cell::kBackwardReadsPrevious ? mine.last - mine.first : 0), d_rows(projects ? mine.last - mine.first : 0);
    const Buffer<T*> fresh_rows(cuts ? mine.last - mine.first : 0);
    bool ok = after.ok() && old.ok() && d_rows.ok() && fresh_rows.ok();
    if (!ok && !meets) return false;
    if (again && !run_again(begin, end, mine, part_, parts, team)) {
      if (!meets) return false;
      ok = false;
    }
    const long from = panels(H) * part_ / parts, to = panels(H) * (part_ + 1) / parts;      // of the units
    const long p_from = panels(P) * part_ / parts, p_to = panels(P) * (part_ + 1) / parts;  // of h
    const T* weights = recurrent + p_from * G * H * W;
    const StepTensor saved = this->saved(begin, end);
    const T* last = before;
    T *now = chunk_gates(), *d_now = d_units;
    for (long s = begin; s < end; ++s) {
      const long n = mine.alive(s), continuing = mine.continuing(s), stay = mine.staying(s);
      T *mine_now = now + mine.first * stride, *d_mine = d_now + mine.first * d_stride;
      if (ok) {
        const long position = walk.net.T - 1 - s;
        for (long r = 0; r < continuing; ++r)
          after[r] = cuts && forward.cut(position + 1, r) ? zeros : last + (mine.first + r) * stride + kRecurrent * H;
        const T* grad_final = track.grad_final[0] ? track.grad_final[0] + mine.first * P : nullptr;
        const Arriving<T> arriving{mine.strip<const T>(track.d_h, s), track.d_h.column, nullptr, P};
        if constexpr (Cell::kBackwardReadsPrevious)
          gather_before(mine, s, end, saved, old), begin_carry(mine, continuing, n, from, to);
        T* carried = Cell::kBackwardReadsPrevious ? carry + mine.first * H : nullptr;
        const Retreat<T, Cell> retreat{arriving, mine.strip<const T>(track.h, s), mine.strip<const T>(saved, s),
            mine.strip<const T>(track.grad_saved, s), old, carried, mine_now, stride, H};
        // Rows whose last step this is have nothing after them but the gradient of their final state.
        if (!projects) {
          product<T, 1>(continuing, Rows<T>{after}, G * H, weights, from, to, retreat, s % 2);
          if (n > continuing)
            product<T, 1>(n - continuing, Rows<T>{after + continuing}, 0, weights, from, to,
                retreat.after(continuing, grad_final));
        } else {
          const Arrive<T> arrive{arriving, d_mine, d_stride};
          product<T, 1>(continuing, Rows<T>{after}, G * H, weights, p_from, p_to, arrive);
          product<T, 1>(n - continuing, Rows<T>{after + continuing}, 0, weights, p_from, p_to,
              arrive.after(continuing, grad_final));
        }
      }
      if (projects) {
        if (meets) team.barrier();
        if (ok) {
          for (long r = 0; r < n; ++r) d_rows[r] = d_mine + r * d_stride;
          const Retreat<T, Cell> retreat{Arriving<T>{{}, 0, nullptr, H}, mine.strip<const T>(track.h, s),
              mine.strip<const T>(saved, s), mine.strip<const T>(track.grad_saved, s), old, carry + mine.first * H,
              mine_now, stride, H};
          product<T, 1>(n, Rows<T>{d_rows}, P, projection + from * P * W, from, to, retreat);
        }
      }
      if (meets) team.barrier();
      if (ok && cuts) leave_fresh(mine, s, mine_now, from, to, weights, p_from, p_to, after, fresh_rows);
      if (ok && stay < n) {
        const long first = mine.first + stay;
        if (T* d_h = track.grad_initial[0]) {
          for (long r = stay; r < n; ++r)
            after[r] = cuts && forward.cut(walk.net.T - 1 - s, r) ? zeros : mine_now + r * stride + kRecurrent * H;
          const Plain<T> to_initial{
              {d_h + first * P, P}, P, false, Cell::kReadsPreviousH ? carry + first * H : nullptr};
          product<T, 1>(n - stay, Rows<T>{after + stay}, G * H, weights, p_from, p_to, to_initial);
        }
        if (T* d_c = Cell::kHasCellState ? track.grad_initial[1] : nullptr)
          copy_part<T, T>(d_c + first * H, carry + first * H, n - stay, H, from, to);
      }
      last = now;
      now += walk.alive(s) * stride, d_now += walk.alive(s) * d_stride;
    }
    return ok;
  }

  // Before the products of a chunk: where its rows lie.
  void gather(long begin, long end) {
    rows = walk.template gather<const T>(track.x, begin, end, x_rows);
    if (track.grad_x.data) walk.template gather<T>(track.grad_x, begin, end, d_x_rows);
    if (projects) walk.template gather<const T>(saved(begin, end), begin, end, saved_rows);
    const Walk forward = walk.back();
    for (long s = begin, m = 0; s < end; m += walk.alive(s++))
      forward.gather_before<T>(track.h, walk.net.T - 1 - s, track.initial[0], track.fresh[0], P, zeros, h_rows + m);
  }

  void finish_chunk(long end) {
    before = chunk_gates() + (rows - walk.alive(end - 1)) * stride;
    ++chunks;
  }

  long input_tasks() const { return track.grad_x.data ? ceil_div(rows, kTaskRows) : 0; }
  long weight_tasks(const void* gradient, long columns) const {
    return gradient ? ceil_div(panels(columns), kTaskPanels) : 0;
  }
  bool wants_bias() const { return gradients.b_ih || gradients.b_hh; }
  long tasks() const {
    return input_tasks() + weight_tasks(gradients.w_ih, I) + weight_tasks(gradients.w_hh, P) +
        weight_tasks(gradients.w_hr, H) + wants_bias();
  }

  bool task(long i) const {
    if (i < input_tasks()) return input_gradient(i * kTaskRows, min(rows, (i + 1) * kTaskRows));
    i -= input_tasks();
    if (i < weight_tasks(gradients.w_ih, I)) return weight_gradient(x_rows, I, i, 0, static_cast<T*>(gradients.w_ih));
    i -= weight_tasks(gradients.w_ih, I);
    if (i < weight_tasks(gradients.w_hh, P))
      return weight_gradient(h_rows, P, i, kRecurrent, static_cast<T*>(gradients.w_hh));
    i -= weight_tasks(gradients.w_hh, P);
    if (i < weight_tasks(gradients.w_hr, H)) return projection_gradient(i);
    return bias_gradient();
  }

  bool input_gradient(long from, long to) const {
    const Buffer<const T*> gate_rows(to - from);
    if (!gate_rows.ok()) return false;
    for (long m = from; m < to; ++m) gate_rows[m - from] = chunk_gates() + m * stride;
    product<T, 1>(
        to - from, Rows<T>{gate_rows}, G * H, input, 0, panels(I), Scattered<T>{d_x_rows + from, I, track.added});
    return true;
  }

  // Panels of the i-th task out of `columns` columns: pack(first row, rows, first panel, last panel, to) gives them;
  // add(block of rows, packed) what they are multiplied with.
  template <class Pack, class Multiply> bool sum_rows(long columns, long i, Pack pack, Multiply multiply) const {
    const long first = i * kTaskPanels, last = min(panels(columns), first + kTaskPanels);
    const Buffer<T> packed((last - first) * W * min(rows, kSumRows));
    if (!packed.ok()) return false;
    for (long from = 0; from < rows; from += kSumRows) {
      const long n = min(kSumRows, rows - from);
      pack(from, n, first, last, packed);
      multiply(from, n, first * W, last - first, packed, chunks > 0 || from > 0);
    }
    return true;
  }

  // The gate gradients whose first column is `column`, times what the weights were multiplied with.
  bool weight_gradient(const T* const* inputs, long columns, long i, long column, T* gradient) const {
    return sum_rows(
        columns, i,
        [&](long from, long n, long first, long last, T* to) {
          pack_rows<T>(inputs + from, n, columns, first, last, to);
        },
        [&](long from, long n, long at, long groups, const T* b, bool add) {
          const T* a = chunk_gates() + from * stride + column * H;
          if (kGateGradients == G)
            return product<T, 1>(
                G * H, Columns<T>{a, stride}, n, b, 0, groups, Plain<T>{{gradient + at, columns}, columns - at, add});
          for (int g = 0; g < G; ++g) {  // the input's parts lie in an order of their own
            const long gate = column == 0 ? Cell::input_gate(g) : g;
            product<T, 1>(H, Columns<T>{a + g * H, stride}, n, b, 0, groups,
                Plain<T>{{gradient + gate * H * columns + at, columns}, columns - at, add});
          }
        });
  }

  bool projection_gradient(long i) const {
    if constexpr (!Cell::kHasCellState) return true;
    else
      return sum_rows(
          H, i,
          [&](long from, long n, long first, long last, T* to) {
            for (long g = first; g < last; ++g)
              for (long k = 0; k < n; ++k, to += W) {
                const T* saved = saved_rows[from + k];
                store(to,
                    Cell::output(
                        Row<T>::get(saved + (K - 2) * H, g * W, H), Row<T>::get(saved + (K - 1) * H, g * W, H)));
              }
          },
          [&](long from, long n, long at, long groups, const T* b, bool add) {
            product<T, 1>(P, Columns<T>{d_units + from * d_stride, d_stride}, n, b, 0, groups,
                Plain<T>{{static_cast<T*>(gradients.w_hr) + at, H}, H - at, add});
          });
  }

  bool bias_gradient() const {
    const long n = kGateGradients * H;
    const Buffer<T> part(n);
    if (!part.ok()) return false;
    for (long from = 0; from < rows; from += kSumRows) {
      for (long j = 0; j < n; ++j) part[j] = T(0);
      for (long m = from; m < min(rows, from + kSumRows); ++m) {
        const T* row = chunk_gates() + m * stride;
        for (long j = 0; j < n; ++j) part[j] += row[j];
      }
      const bool add = chunks > 0 || from > 0;
      for (long j = 0; j < n; ++j) sums[j] = add ? sums[j] + part[j] : part[j];
    }
    for (int g = 0; g < G; ++g) {  // so far; the last chunk's are the whole
      if (gradients.b_ih)
        __builtin_memcpy(static_cast<T*>(gradients.b_ih) + Cell::input_gate(g) * H, sums + g * H, H * sizeof(T));
      if (gradients.b_hh)
        __builtin_memcpy(static_cast<T*>(gradients.b_hh) + g * H, sums + (kRecurrent + g) * H, H * sizeof(T));
    }
    return true;
  }
};

template <class T, class Cell> bool layer_backward(const Backward& f, long layer, const StepTensor& x,
    const StepTensor& output, const StepTensor& grad_output, const StepTensor& grad_x, bool added, Team& team) {
  constexpr int G = Cell::kGates;
  const Network& net = f.net;
  const long H = net.H, P = net.P, I = layer == 0 ? net.I : net.D * P, panels = ceil_div(H, kLanes<T>);
  const long chunk = backward_chunk(net);
  const long together = chunk == net.T
      ? net.D
      : 1;  // directions walked at the same time: in opposite ways, so only where one chunk holds the whole
  const Division by = divide(net, G * H, panels, team);
  bool failed = false;  // only ever set
  auto fail_unless = [&](bool ok) {
    if (!ok) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  };
  auto make = [&](long d, bool needed) {
    const Walk walk = Walk{net, d == 1, 0, net.B}.back();
    const long index = layer * net.D + d;
    TrackBack<T> track{x, part<T>(output, d * P), saved_of<T>(net, f.saved, index),
        part<T>(grad_output, grad_output.column * d * P), saved_of<T>(net, f.grad_saved, index), grad_x,
        added || d == 1, {}, {}, nullptr, {}, {}, {}};
    for (int s = 0; s < kMostStates; ++s) {
      const long width = s == 0 ? P : H;
      track.initial[s] = states_of<T>(f.initial[s], net, index, width);
      track.fresh[s] = slice<T>(f.fresh[s], index, width);
      track.grad_fresh[s] = slice<T>(f.grad_fresh[s], index, width);
      track.grad_final[s] = states_of<T>(f.grad_final[s], net, index, width);
      track.grad_initial[s] = states_of<T>(f.grad_initial[s], net, index, width);
    }
    if (Cell::kHasCellState) track.checkpoints = slice<T>(f.checkpoints, index * number_of_checkpoints(net), net.B * H);
    return Side<T, Cell>(walk, net.parameters[index], f.gradients[index], I, track, needed ? chunk * net.B : 0);
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
        mine.first = row_cut(net, r, by.row_parts), mine.last = row_cut(net, r + 1, by.row_parts);
        fail_unless(sides[i]->scan(begin, end, mine, c, by.column_parts, team));
      };
      if (by.column_parts > 1)
        for (long i = 0; i < together; ++i) team.each(by.column_parts, [&](std::int64_t c) { scan(i, 0, c); });
      else team.each(together * by.row_parts, [&](std::int64_t i) { scan(i / by.row_parts, i % by.row_parts, 0); });
      for (long i = 0; i < together; ++i) {
        sides[i]->gather(begin, end);
        team.each(sides[i]->tasks(), [&](std::int64_t task) { fail_unless(sides[i]->task(task)); });
        sides[i]->finish_chunk(end);
      }
    }
    for (long i = 0; i < together; ++i) sides[i]->finish_fresh();
  }
  return !failed;
}

template <class T> void copy_rows(const Network& net, const StepTensor& from, const StepTensor& to, long width) {
  const Walk walk{net, false, 0, net.B};
  for (long t = 0; t < net.T; ++t)
    for (long r = 0, n = walk.alive(t); r < n; ++r)
      __builtin_memcpy(walk.at<T>(to, t, r), walk.at<T>(from, t, r), width * sizeof(T));
}

template <class T, class Cell> bool backward(const Backward& f, Team& team) {
  const Network& net = f.net;
  const long width = net.D * net.P;
  const Buffer<T> scratch(min(2, net.L - 1) * net.rows * width);  // gradients of the layers' outputs take turns in it
  if (!scratch.ok()) return false;
  const auto hidden = [&](const void* all, long layer) {
    return dense_saved(net, const_cast<T*>(slice<T>(all, layer, net.saved_rows() * width)), width);
  };
  StepTensor output = f.output, grad_output = f.grad_output;
  for (long l = net.L - 1; l >= 0; --l) {
    const StepTensor x = l == 0 ? f.x : hidden(f.hidden, l - 1),
                     grad_x = l == 0
        ? f.grad_x
        : dense(net, slice<T>(static_cast<void*>(scratch), (l - 1) % 2, net.rows * width), width);
    const bool added = l > 0 && f.grad_hidden;
    if (added) copy_rows<T>(net, hidden(f.grad_hidden, l - 1), grad_x, width);
    if (!layer_backward<T, Cell>(f, l, x, output, grad_output, grad_x, added, team)) return false;
    output = x, grad_output = grad_x;
  }
  return true;
}

}  // namespace elman::ELMAN_TARGET
