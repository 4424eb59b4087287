// The forward scan: a template on the cell.
//
// Per chunk of steps: one product projects the chunk's inputs (and biases) into a buffer that stays in cache; then each
// step is one product of the states before it with the packed recurrent weights, which starts from the projection and
// ends in the cell, tile by tile, in registers. The states before a step are read where the step before wrote them: h
// in the output, c where the final c will be.
#pragma once

#include "product.h"
#include "threads.h"
#include "walk.h"
#include "widen.h"

namespace elman::ELMAN_TARGET {

// Bytes of the projections at hand: with the inputs they come from they should stay in a core's second-level cache.
constexpr long kProjectionBytes = 128 * 1024;
// Where threads follow one another through a sequence: how many chunks one may be ahead, and of how many rows.
constexpr long kChunksAhead = 4, kRowsAhead = 24;
// Splitting the columns of a step repays a barrier where a thread is left with so many multiply-adds, and with so many
// for each second that the barrier takes.
constexpr long kLeastPart = 6'000;
constexpr double kPerBarrierSecond = 100e9;

// Up to so many rows of a single step, the weights are packed block by block of so many column groups, right before the
// block's only use: packed whole, they would go to memory and back.
constexpr long kFewRows = 64, kBlock = 8;

// Column groups begin..end-1 of one direction of one layer, packed for the scan.
template <class T, class Cell> struct Packed {
  static constexpr int G = Cell::kGates;
  static constexpr bool kSplitGate = Cell::kSplitGate >= 0;
  static constexpr long W = kLanes<T>, kUnit = G * W;  // columns of a group
  const long H, I, P, groups, begin, end;
  const long out_groups;  // of the projected output; 0 without a projection
  const Buffer<Wide<T>> input, recurrent, bias, apart,
      projection;  // apart: the recurrent bias of the gate that is apart

  Packed(const Network& net, long I, long begin, long end)
      : H(net.H), I(I), P(net.P), groups(ceil_div(H, W)), begin(begin), end(end),
        out_groups(net.parameters->w_hr ? ceil_div(P, W) : 0), input((end - begin) * kUnit * depth<T>(I)),
        recurrent((end - begin) * kUnit * depth<T>(P)), bias((end - begin) * kUnit),
        apart(kSplitGate ? (end - begin) * W : 0), projection(out_groups * W * depth<T>(H)) {}
  bool ok() const { return input.ok() && recurrent.ok() && bias.ok() && apart.ok() && projection.ok(); }

  Wide<T>* inputs(long group) const { return input + (group - begin) * kUnit * depth<T>(I); }
  Wide<T>* recurrents(long group) const { return recurrent + (group - begin) * kUnit * depth<T>(P); }
  Wide<T>* projections(long group) const { return projection + group * W * depth<T>(H); }
  Wide<T>* biases(long group, int gate) const { return bias + ((group - begin) * G + gate) * W; }
  Wide<T>* biases_apart(long group) const { return apart + (group - begin) * W; }

  void pack(const Parameters& p, long from, long to) const {  // column groups from..to-1
    pack_transposed<T, G>(static_cast<const T*>(p.w_ih), H, I, from, to, inputs(from));
    pack_transposed<T, G>(static_cast<const T*>(p.w_hh), H, P, from, to, recurrents(from));
    const T *b_ih = static_cast<const T*>(p.b_ih), *b_hh = static_cast<const T*>(p.b_hh);
    for (long j = from; j < to; ++j)
      for (int g = 0; g < G; ++g)
        for (long i = 0; i < W; ++i) {
          const long unit = j * W + i;
          const bool some = b_ih && unit < H;
          const Wide<T> in = some ? Wide<T>(b_ih[g * H + unit]) : 0, back = some ? Wide<T>(b_hh[g * H + unit]) : 0;
          biases(j, g)[i] = g == Cell::kSplitGate ? in : in + back;
          if (g == Cell::kSplitGate) biases_apart(j)[i] = back;
        }
  }
  void pack_projection(const Parameters& p, long from, long to) const {  // groups of the projected output
    pack_transposed<T, 1>(static_cast<const T*>(p.w_hr), P, H, from, to, projections(from));
  }
};

template <class T, class Cell> struct Project {  // z = bias + W_ih x
  static constexpr int G = Cell::kGates;
  const Packed<T, Cell>& w;
  Wide<T>* z;
  long stride;
  ELMAN_INLINE void prefetch(long, long) const {}
  ELMAN_INLINE Vec<T> init(long, long group, int p) const { return load(w.biases(group, p)); }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* unit) const {
    for (int p = 0; p < G; ++p) store(z + row * stride + (group * G + p) * kLanes<T>, unit[p]);
  }
};

template <class T, class Cell> struct Advance {  // one step of the cell
  static constexpr int G = Cell::kGates;
  const Packed<T, Cell>& w;
  const Wide<T>* z;
  long stride;
  const T* const* before;  // h before the step
  Strip<T> h;              // after it; nowhere: not wanted
  Wide<T>* c;              // (rows, H): before the step, and after it
  Strip<T> saved;          // (K, H) of each row; nowhere: not wanted
  ELMAN_INLINE void prefetch(long, long) const {}
  ELMAN_INLINE Vec<T> init(long row, long group, int p) const {
    return p == Cell::kSplitGate ? load(w.biases_apart(group)) : load(z + row * stride + (group * G + p) * kLanes<T>);
  }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* unit) const {
    const long column = group * kLanes<T>, H = w.H;
    Vec<T> a[G + Cell::kSaved], x{}, state{}, memory{};
    for (int p = 0; p < G; ++p) a[p] = unit[p];
    if constexpr (Cell::kSplitGate >= 0) x = load(z + row * stride + (group * G + Cell::kSplitGate) * kLanes<T>);
    if constexpr (Cell::kReadsPreviousH) state = Row<T>::get(before[row], column, H);
    if constexpr (Cell::kHasCellState) memory = Row<Wide<T>>::get(c + row * H, column, H);
    const Vec<T> out = Cell::forward(a, x, state, memory);
    if constexpr (Cell::kHasCellState) Row<Wide<T>>::put(c + row * H, column, H, memory);
    if (h) Row<T>::put(h[row], column, H, out);
    if (Cell::kSaved > 0 && saved)
      for (int k = 0; k < Cell::kSaved; ++k) Row<T>::put(saved[row] + k * H, column, H, a[k]);
  }
};

template <class T> struct Plain {  // a product itself
  Strip<T> to;
  long width;
  bool add;                  // to what is there
  const T* start = nullptr;  // dense rows, added to the product; null: none
  ELMAN_INLINE void prefetch(long, long) const {}
  ELMAN_INLINE Vec<T> init(long row, long group, int) const {
    return start ? Row<T>::get(start + row * width, group * kLanes<T>, width) : Vec<T>{};
  }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* sum) const {
    const long column = group * kLanes<T>;
    T* p = to[row];
    Row<T>::put(p, column, width, add ? Row<T>::get(p, column, width) + sum[0] : sum[0]);
  }
};

// What one direction of one layer reads and writes on its way forward.
template <class T> struct Track {
  StepTensor x, h;
  const T* initial;             // (B, P): h before the first step; null: zeros
  const T* fresh[kMostStates];  // (P,) and (H,): what resets start from; null: zeros
  Wide<T>* c;        // (B, H): c before the first step, and after each row's last; null where the cell has none
  T* units;          // (B, H): the units' output before its projection; null where nothing is projected
  StepTensor saved;  // data null: not saved
  T* checkpoints;    // c at the checkpoints, (number of checkpoints, B, H); null: not wanted
  bool again;        // h is there already; only c and what is saved are wanted
};

// How far the layers of a wave have come: each follows the one below, a chunk behind. Counts positions; null: nobody
// follows, or nobody is followed.
struct Wave {
  const std::int64_t* below = nullptr;
  std::int64_t* mine = nullptr;
  bool exists() const { return below || mine; }
  void advance(std::int64_t to) const {
    if (mine) __atomic_store_n(mine, to, __ATOMIC_RELEASE);
  }
};

// The projections of a direction's inputs, chunk by chunk: positions start..stop-1, column groups from..to-1. One
// thread takes the chunks in turn. Another may run ahead of it: whoever comes first to a chunk projects it, so that
// neither depends on the other's being there.
template <class T, class Cell> class Projection {
 public:
  const long start, stop, from, to;
  const long stride;  // from one row's projection to the next
  const Wave wave;

  Projection(const Walk& walk, const Packed<T, Cell>& w, const StepTensor& x, long start, long stop, long from, long to,
      bool ahead, const Wave& wave = {})
      : start(start), stop(stop), from(from), to(to), stride(w.groups * Cell::kGates * kLanes<T>), wave(wave),
        walk_(walk), w_(w), x_(x), rows_(walk.last - walk.first), slots_(ahead ? kChunksAhead : 1),
        chunk_(max(1,
            min(min(stop - start, ahead || wave.exists() ? max(1, kRowsAhead / max(1, rows_)) : stop - start),
                kProjectionBytes / static_cast<long>(sizeof(Wide<T>)) / stride / slots_ / max(1, rows_)))),
        z_(slots_ * chunk_ * rows_ * stride), mine_(chunk_ * rows_, w.I), others_(ahead ? chunk_ * rows_ : 0, w.I) {}
  bool ok() const { return z_.ok() && mine_.ok() && others_.ok(); }

  long chunks() const { return ceil_div(stop - start, chunk_); }
  long begin(long chunk) const { return start + chunk * chunk_; }
  long end(long chunk) const { return min(stop, begin(chunk) + chunk_); }

  // Chunk after chunk. What take() gave before is given back.
  const Wide<T>* take(long chunk) {
    __atomic_store_n(&taken_, chunk, __ATOMIC_RELEASE);
    if (claim(chunk)) project(chunk, mine_);
    else Team::wait(ready_[chunk % slots_], chunk + 1);
    return slot(chunk);
  }
  // Where take() will not be called: the other thread waits for it no longer.
  void abandon() {
    __atomic_store_n(&next_, chunks(), __ATOMIC_RELEASE);
    __atomic_store_n(&taken_, chunks(), __ATOMIC_RELEASE);
  }
  // What the other thread does.
  void run_ahead() {
    for (;;) {
      const std::int64_t chunk = __atomic_load_n(&next_, __ATOMIC_RELAXED);
      if (chunk >= chunks()) return;
      Team::wait(taken_, chunk - slots_ + 1);
      if (!claim(chunk)) continue;
      project(chunk, others_);
      __atomic_store_n(&ready_[chunk % slots_], chunk + 1, __ATOMIC_RELEASE);
    }
  }

 private:
  bool claim(std::int64_t chunk) {
    return __atomic_compare_exchange_n(&next_, &chunk, chunk + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
  }
  Wide<T>* slot(long chunk) const { return z_ + (chunk % slots_) * chunk_ * rows_ * stride; }
  void project(long chunk, const Left<T>& left) const {
    if (wave.below) Team::wait(*wave.below, end(chunk));
    const long m = walk_.template gather<const T>(x_, begin(chunk), end(chunk), left.rows);
    product<Factor<T>, Cell::kGates>(
        m, left.take(m), w_.I, w_.inputs(from), from, to, Project<T, Cell>{w_, slot(chunk), stride});
  }
  const Walk walk_;
  const Packed<T, Cell>& w_;
  const StepTensor x_;
  const long rows_, slots_, chunk_;
  const Buffer<Wide<T>> z_;
  const Left<T> mine_, others_;
  std::int64_t next_ = 0, taken_ = 0,
               ready_[kChunksAhead] =
                   {};  // the first that nobody has claimed; the one in use; those projected, plus one
};

// The checkpoints are before the positions at which the chunks of the backward pass end, which are counted from the
// way's end; and before the first.
inline long checkpoint_at(const Network& net, long s) { return ceil_div(net.T - s, backward_chunk(net)) - 1; }
inline bool is_checkpoint(const Network& net, long s) { return s == 0 || (net.T - s) % backward_chunk(net) == 0; }

// The projected positions for rows walk.first..walk.last-1 and the part-th of `parts` parts of the columns. Where there
// are several, the threads that do them meet after each step.
template <class T, class Cell> bool scan_forward(const Walk& walk, const Packed<T, Cell>& w, const Track<T>& track,
    Projection<T, Cell>& projection, long part, long parts, Team& team) {
  constexpr int G = Cell::kGates;
  const long from = projection.from, to = projection.to, stride = projection.stride, B = walk.last - walk.first,
             H = w.H;
  const bool projects = track.units && !track.again, meets = parts > 1;
  const Buffer<T> zeros(w.P);
  const Left<T> before(B, w.P), units(projects ? B : 0, H);
  const bool ok = projection.ok() && zeros.ok() && before.ok() && units.ok();
  if (!ok) projection.abandon();
  if (!ok && !meets) return false;
  if (ok) {
    for (long i = 0; i < w.P; ++i) zeros[i] = T{};
    for (long r = 0; projects && r < B; ++r) units.rows[r] = track.units + (walk.first + r) * H;
  }
  Wide<T>* c = Cell::kHasCellState ? track.c + walk.first * H : nullptr;
  for (long chunk = 0; chunk < projection.chunks(); ++chunk) {
    const Wide<T>* z = ok ? projection.take(chunk) : nullptr;
    for (long s = projection.begin(chunk); s < projection.end(chunk); ++s) {
      const long n = walk.alive(s);
      if (ok) {
        if (c && walk.net.resets.data)
          for (long r = 0; r < n; ++r)
            if (walk.cut(s, r)) copy_part(c + r * H, track.fresh[1], 1, H, from, to);
        if (track.checkpoints && is_checkpoint(walk.net, s)) {
          T* checkpoint = track.checkpoints + (checkpoint_at(walk.net, s) * walk.net.B + walk.first) * H;
          copy_part(checkpoint, c, B, H, from, to);
        }
        walk.template gather_before<T>(track.h, s, track.initial, track.fresh[0], w.P, zeros, before.rows);
        Advance<T, Cell> advance{w, z, stride, before.rows, {}, c, walk.template strip<T>(track.saved, s)};
        if (projects) advance.h = {track.units + walk.first * H, H};
        else if (!track.again) advance.h = walk.template strip<T>(track.h, s);
        product<Factor<T>, G>(n, before.take(n), w.P, w.recurrents(from), from, to, advance, s % 2);
        z += n * stride;
      }
      if (meets && !track.again) team.barrier();
      if (projects) {
        const long first = w.out_groups * part / parts, last = w.out_groups * (part + 1) / parts;
        if (ok)
          product<Factor<T>, 1>(n, units.take(n), H, w.projections(first), first, last,
              Plain<T>{walk.template strip<T>(track.h, s), w.P, false});
        if (meets) team.barrier();
      }
    }
    projection.wave.advance(projection.end(chunk));
  }
  return ok;
}

// How the scan of a layer is divided: by rows (no barrier) as far as there are rows, else by columns of each step.
struct Division {
  long row_parts, column_parts;
};
inline Division divide(const Network& net, long units, long groups, Team& team) {
  const int threads = team.threads();
  if (threads == 1) return {1, 1};
  const long row_parts = min(threads, net.B);
  if (net.D * row_parts >= threads) return {row_parts, 1};
  const long part = net.B * units * net.H / threads;
  const bool columns = groups >= threads && part >= kLeastPart &&
      static_cast<double>(part) >= kPerBarrierSecond * team.barrier_seconds();
  return columns ? Division{1, threads} : Division{row_parts, 1};
}

// The first row of the i-th of `parts` parts with about as many steps each.
inline long row_cut(const Network& net, long i, long parts) {
  if (!net.alive || i == 0 || i == parts) return net.B * i / parts;
  long row = 0, steps = 0;
  for (long t = net.T; t-- > 0;)  // the longest come first
    for (; row < net.alive[t]; ++row, steps += t + 1)
      if (steps * parts >= net.rows * i) return row;
  return row;
}

template <class T> ELMAN_INLINE T* slice(void* base, long index, long size) {
  return base ? static_cast<T*>(base) + index * size : nullptr;
}
template <class T> ELMAN_INLINE const T* slice(const void* base, long index, long size) {
  return base ? static_cast<const T*>(base) + index * size : nullptr;
}

// The sequence of a dense (rows, width) buffer that holds all of a layer's rows; and of one of what is saved.
inline StepTensor dense(const Network& net, void* data, long width) { return {data, net.B * width, width}; }
inline StepTensor dense_saved(const Network& net, void* data, long width) {
  return net.padded_rows ? StepTensor{data, net.padded_batch * width, width, 1, true} : dense(net, data, width);
}
template <class T> ELMAN_INLINE StepTensor part(const StepTensor& q, long column) {
  return {q.data ? static_cast<T*>(q.data) + column : nullptr, q.step, q.sequence, q.column, q.padded};
}

// The index-th layer and direction's states, (B, width), out of all; and what is saved of it.
template <class T> ELMAN_INLINE T* states_of(void* all, const Network& net, long index, long width) {
  return slice<T>(all, index, net.B * width);
}
template <class T> ELMAN_INLINE const T* states_of(const void* all, const Network& net, long index, long width) {
  return slice<T>(all, index, net.B * width);
}
template <class T> ELMAN_INLINE StepTensor saved_of(const Network& net, const void* all, long index) {
  const long width = saved_numbers(net.cell) * net.H;
  return dense_saved(net, const_cast<T*>(slice<T>(all, index, net.saved_rows() * width)), width);
}

template <class T, class Cell> bool layer_forward(
    const Forward& f, long layer, const StepTensor& x, const StepTensor& output, Team& team, const Wave& wave = {}) {
  constexpr int G = Cell::kGates;
  const Network& net = f.net;
  const long H = net.H, P = net.P, I = layer == 0 ? net.I : net.D * P, groups = ceil_div(H, kLanes<T>);
  const Parameters* parameters = net.parameters + layer * net.D;
  const bool projects = parameters->w_hr;
  const Buffer<T> units(projects ? net.D * net.B * H : 0);
  if (!units.ok()) return false;
  bool failed = false;  // only ever set
  auto fail_unless = [&](bool ok) {
    if (!ok) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  };
  auto index = [&](long d) { return layer * net.D + d; };
  if constexpr (Cell::kHasCellState)
    for (long d = 0; d < net.D; ++d) {
      const Wide<T>* c_0 = states_of<Wide<T>>(f.initial[1], net, index(d), H);
      Wide<T>* c = states_of<Wide<T>>(f.final[1], net, index(d), H);
      if (c_0) __builtin_memcpy(c, c_0, net.B * H * sizeof(*c));
      else __builtin_memset(c, 0, net.B * H * sizeof(*c));
    }
  auto scan = [&](const Walk& walk, const Packed<T, Cell>& w, Projection<T, Cell>& projection, long d, long part_,
                  long parts) {
    const Track<T> track{x, part<T>(output, d * P), states_of<T>(f.initial[0], net, index(d), P),
        {slice<T>(f.fresh[0], index(d), P), slice<T>(f.fresh[1], index(d), H)},
        Cell::kHasCellState ? states_of<Wide<T>>(f.final[1], net, index(d), H) : nullptr,
        projects ? units + d * net.B * H : nullptr, saved_of<T>(net, f.saved, index(d)),
        Cell::kHasCellState ? slice<T>(f.checkpoints, index(d) * number_of_checkpoints(net), net.B * H) : nullptr,
        false};
    fail_unless(scan_forward<T, Cell>(walk, w, track, projection, part_, parts, team));
  };
  // Direction d, a part of the rows and of the columns.
  auto scan_part = [&](const Packed<T, Cell>& w, long d, long first, long last, long part_, long parts) {
    const Walk walk{net, d == 1, first, last};
    const long width = w.end - w.begin;
    Projection<T, Cell> projection(
        walk, w, x, 0, net.T, w.begin + width * part_ / parts, w.begin + width * (part_ + 1) / parts, false, wave);
    scan(walk, w, projection, d, part_, parts);
  };
  if (net.T == 1 && net.B <= kFewRows && !projects) {
    const long blocks = ceil_div(groups, kBlock);
    team.each(net.D * blocks, [&](std::int64_t i) {
      const long d = i / blocks, from = i % blocks * kBlock, to = min(groups, from + kBlock);
      const Packed<T, Cell> w(net, I, from, to);
      if (!w.ok()) return fail_unless(false);
      w.pack(parameters[d], from, to);
      scan_part(w, d, 0, net.B, 0, 1);
    });
  } else {
    const Packed<T, Cell> a(net, I, 0, groups), b(net, I, 0, net.D == 2 ? groups : 0);
    if (!a.ok() || !b.ok()) return false;
    const Packed<T, Cell>* packed[] = {&a, &b};
    const long slices = team.threads() == 1 ? 1 : min(groups, 8);
    team.each(net.D * slices, [&](std::int64_t i) {
      const long d = i / slices, s = i % slices;
      packed[d]->pack(parameters[d], groups * s / slices, groups * (s + 1) / slices);
      if (projects)
        packed[d]->pack_projection(parameters[d], a.out_groups * s / slices, a.out_groups * (s + 1) / slices);
    });
    const Division by = divide(net, G * H, groups, team);
    if (by.column_parts > 1) {
      for (long d = 0; d < net.D; ++d)
        team.each(by.column_parts, [&](std::int64_t c) { scan_part(*packed[d], d, 0, net.B, c, by.column_parts); });
    } else if (by.row_parts == 1 && team.threads() >= 2 * net.D) {  // threads to spare: they project ahead
      const Walk walks[] = {{net, false, 0, net.B}, {net, true, 0, net.B}};
      Projection<T, Cell> first(walks[0], a, x, 0, net.T, 0, groups, true),
          second(walks[1], b, x, 0, net.D == 2 ? net.T : 0, 0, groups, true);
      Projection<T, Cell>* projections[] = {&first, &second};
      team.each(2 * net.D, [&](std::int64_t i) {
        const long d = i % net.D;
        if (i < net.D) scan(walks[d], *packed[d], *projections[d], d, 0, 1);
        else if (projections[d]->ok()) projections[d]->run_ahead();
      });
    } else {
      team.each(net.D * by.row_parts, [&](std::int64_t i) {
        const long d = i / by.row_parts, r = i % by.row_parts;
        scan_part(*packed[d], d, row_cut(net, r, by.row_parts), row_cut(net, r + 1, by.row_parts), 0, 1);
      });
    }
  }
  if (failed) return false;

  for (long d = 0; d < net.D; ++d) {
    const Walk walk{net, d == 1, 0, net.B};
    const StepTensor h = part<T>(output, d * P);
    T* final = states_of<T>(f.final[0], net, index(d), P);
    for (long s = net.alive ? 0 : net.T - 1; s < net.T; ++s)
      for (long r = walk.staying(s), n = walk.alive(s); r < n; ++r)
        __builtin_memcpy(final + r * P, walk.at<T>(h, s, r), P * sizeof(T));
  }
  return true;
}

// Whether the layers run as a wave: where neither rows nor directions nor columns occupy the threads.
inline bool runs_as_wave(const Network& net, long units, long groups, Team& team) {
  if (net.L == 1 || net.D == 2 || net.T <= kRowsAhead || team.threads() == 1) return false;
  const Division by = divide(net, units, groups, team);
  return by.column_parts == 1 && by.row_parts == 1;
}

template <class T, class Cell> bool forward(const Forward& f, Team& team) {
  const Network& net = f.net;
  const long width = net.D * net.P, size = net.rows * width, saved_size = net.saved_rows() * width;
  const bool wave = runs_as_wave(net, Cell::kGates * net.H, ceil_div(net.H, kLanes<T>), team);
  const bool keep = f.hidden || net.L == 1;
  const long buffers = keep ? 0 : wave ? net.L - 1 : min(2, net.L - 1);  // the layers' outputs take turns in them
  const Buffer<T> scratch(buffers * size);
  const Buffer<std::int64_t> progress(wave ? net.L : 0);
  if (!scratch.ok() || !progress.ok()) return false;
  const auto output = [&](long layer) {
    if (layer == net.L - 1) return f.output;
    return keep ? dense_saved(net, slice<T>(f.hidden, layer, saved_size), width)
                : dense(net, slice<T>(static_cast<void*>(scratch), layer % buffers, size), width);
  };
  const auto input = [&](long layer) { return layer == 0 ? f.x : output(layer - 1); };
  if (!wave) {
    for (long l = 0; l < net.L; ++l)
      if (!layer_forward<T, Cell>(f, l, input(l), output(l), team)) return false;
    return true;
  }
  for (long l = 0; l < net.L; ++l) progress[l] = 0;
  bool failed = false;                    // only ever set
  team.each(net.L, [&](std::int64_t l) {  // taken in order, so that whoever waits waits for a layer that runs
    Team alone;
    const Wave mine{l == 0 ? nullptr : progress + l - 1, progress + l};
    if (!layer_forward<T, Cell>(f, l, input(l), output(l), alone, mine))
      __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    mine.advance(net.T);  // nobody waits for a layer that failed
  });
  return !failed;
}

}  // namespace elman::ELMAN_TARGET
