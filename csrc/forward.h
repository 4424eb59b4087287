// The forward scan: a template on the cell.
//
// Per chunk of steps: one product projects the chunk's inputs (and biases) into a buffer that stays in cache; then each step is one product of the
// states before it with the packed recurrent weights, which starts from the projection and ends in the cell, tile by tile, in registers.
// The states before a step are read where the step before wrote them: in the output.
#pragma once

#include "cells/elman.h"
#include "product.h"
#include "threads.h"
#include "walk.h"

namespace elman::ELMAN_TARGET {

// Bytes of a chunk's projection: with the chunk's inputs it should stay in a core's second-level cache.
constexpr long kProjectionBytes = 128 * 1024;
// Multiply-adds of one step and one thread from which splitting its columns repays a barrier at each step.
constexpr long kWorthABarrier = 16'000;

// Up to so many rows of a single step, the weights are packed block by block of so many column groups, right before the block's only use: packed whole, they
// would go to memory and back.
constexpr long kFewRows = 64, kBlock = 8;

// Column groups begin..end-1 of one direction of one layer, packed for the scan.
template <class T, class Cell>
struct Packed {
  static constexpr int G = Cell::kGates;
  static constexpr long kUnit = G * kLanes<T>;  // columns of a group
  const long H, I, groups, begin;
  const Buffer<T> input, recurrent, bias;

  Packed(long H, long I, long begin, long end)
      : H(H), I(I), groups(ceil_div(H, kLanes<T>)), begin(begin), input((end - begin) * kUnit * I), recurrent((end - begin) * kUnit * H), bias(groups * kUnit) {}
  Packed(long H, long I) : Packed(H, I, 0, ceil_div(H, kLanes<T>)) {}
  bool ok() const { return input.ok() && recurrent.ok() && bias.ok(); }

  T* inputs(long group) const { return input + (group - begin) * kUnit * I; }
  T* recurrents(long group) const { return recurrent + (group - begin) * kUnit * H; }

  void pack(const Parameters& p, long from, long to) const {  // column groups from..to-1
    pack_transposed<T, G>(static_cast<const T*>(p.w_ih), H, I, from, to, inputs(from));
    pack_transposed<T, G>(static_cast<const T*>(p.w_hh), H, H, from, to, recurrents(from));
    const T *b_ih = static_cast<const T*>(p.b_ih), *b_hh = static_cast<const T*>(p.b_hh);
    for (long j = from; j < to; ++j)
      for (int g = 0; g < G; ++g)
        for (long i = 0; i < kLanes<T>; ++i) {
          const long unit = j * kLanes<T> + i;
          bias[(j * G + g) * kLanes<T> + i] = b_ih && unit < H ? b_ih[g * H + unit] + b_hh[g * H + unit] : T(0);
        }
  }
};

template <class T, int G>
struct Project {  // z = bias + W_ih x
  const T* bias;
  T* z;
  long stride;
  ELMAN_INLINE void prefetch(long, long) const {}
  ELMAN_INLINE Vec<T> init(long, long group, int p) const { return load(bias + (group * G + p) * kLanes<T>); }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* unit) const {
    for (int p = 0; p < G; ++p) store(z + row * stride + (group * G + p) * kLanes<T>, unit[p]);
  }
};

template <class T, class Cell>
struct Advance {  // h = f(z + W_hh h')
  static constexpr int G = Cell::kGates;
  const T* z;
  long stride;
  T* h;
  long h_stride, H;
  ELMAN_INLINE void prefetch(long, long) const {}
  ELMAN_INLINE Vec<T> init(long row, long group, int p) const { return load(z + row * stride + (group * G + p) * kLanes<T>); }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* unit) const {
    Row<T>::put(h + row * h_stride, group * kLanes<T>, H, Cell::forward(unit));
  }
};

// Rows walk.first..last-1, column groups from..to-1. Where the columns of a step are split among threads, all of them meet after each step.
template <class T, class Cell>
bool scan_forward(const Walk& walk, const Packed<T, Cell>& w, const Sequence& x, const Sequence& h, const T* initial, long from, long to, Team* meet) {
  constexpr int G = Cell::kGates;
  const long T_ = walk.net.T, B = walk.last - walk.first, stride = w.groups * G * kLanes<T>;
  const long chunk = max(1, min(T_, kProjectionBytes / static_cast<long>(sizeof(T)) / stride / max(1, B)));
  const Buffer<T> z(chunk * B * stride), zeros(w.H);
  const Buffer<const T*> rows(chunk * B);
  const bool ok = z.ok() && zeros.ok() && rows.ok();
  if (!ok && !meet) return false;
  if (ok)
    for (long i = 0; i < w.H; ++i) zeros[i] = T(0);
  for (long begin = 0; begin < T_; begin += chunk) {
    const long end = min(T_, begin + chunk);
    if (ok) {
      const long m = walk.gather<const T>(x, begin, end, rows);
      Project<T, G> project{w.bias, z, stride};
      product<T, G>(m, Rows<T>{rows}, w.I, w.inputs(from), from, to, project);
    }
    T* zs = z;
    for (long s = begin; s < end; ++s) {
      const long n = walk.alive(s);
      if (ok) {
        walk.gather_before<T>(h, s, initial, w.H, zeros, rows);
        Advance<T, Cell> advance{zs, stride, walk.at<T>(h, s, 0), h.row, w.H};
        product<T, G>(n, Rows<T>{rows}, w.H, w.recurrents(from), from, to, advance);
        zs += n * stride;
      }
      if (meet) meet->barrier();
    }
  }
  return ok;
}

// How the scan of a layer is divided: by rows (no barrier) as far as there are rows, else by columns of each step.
struct Division {
  long row_parts, column_parts;
};
inline Division divide(const Network& net, long units, long groups, int threads) {
  if (threads == 1) return {1, 1};
  const long row_parts = min(threads, net.B);
  if (net.D * row_parts >= threads) return {row_parts, 1};
  const bool columns = net.B * units * net.H / threads >= kWorthABarrier && groups >= threads;
  return columns ? Division{1, threads} : Division{row_parts, 1};
}

template <class T>
ELMAN_INLINE T* slice(void* base, long index, long size) {
  return base ? static_cast<T*>(base) + index * size : nullptr;
}
template <class T>
ELMAN_INLINE const T* slice(const void* base, long index, long size) {
  return base ? static_cast<const T*>(base) + index * size : nullptr;
}

// The sequence of a dense (rows, width) buffer that holds all of a layer's outputs.
inline Sequence dense(const Network& net, void* data, long width) { return {data, net.B * width, width, 1}; }
template <class T>
ELMAN_INLINE Sequence part(const Sequence& q, long column) {
  return {q.data ? static_cast<T*>(q.data) + column : nullptr, q.step, q.row, q.column};
}

template <class T, class Cell>
bool layer_forward(const Network& net, const Parameters* parameters, long I, const Sequence& x, const Sequence& output, const T* initial, T* final, Team& team) {
  constexpr int G = Cell::kGates;
  const long H = net.H;
  bool failed = false;  // only ever set
  auto fail_unless = [&](bool ok) {
    if (!ok) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  };
  // Direction d, a part of the rows and of the column groups.
  auto scan = [&](const Packed<T, Cell>& w, long d, long first, long last, long from, long to, Team* meet) {
    const Walk walk{net, d == 1, first, last};
    fail_unless(scan_forward<T, Cell>(walk, w, x, part<T>(output, d * H), slice<T>(initial, d, net.B * H), from, to, meet));
  };
  const long groups = ceil_div(H, kLanes<T>);
  if (net.T == 1 && net.B <= kFewRows) {
    const long blocks = ceil_div(groups, kBlock);
    team.each(net.D * blocks, [&](std::int64_t i) {
      const long d = i / blocks, from = i % blocks * kBlock, to = min(groups, from + kBlock);
      const Packed<T, Cell> w(H, I, from, to);
      if (!w.ok()) return fail_unless(false);
      w.pack(parameters[d], from, to);
      scan(w, d, 0, net.B, from, to, nullptr);
    });
  } else {
    const Packed<T, Cell> a(H, I), b(net.D == 2 ? H : 0, net.D == 2 ? I : 0);
    if (!a.ok() || !b.ok()) return false;
    const Packed<T, Cell>* packed[] = {&a, &b};
    const long slices = team.threads() == 1 ? 1 : min(groups, 8);
    team.each(net.D * slices, [&](std::int64_t i) {
      const long d = i / slices, part = i % slices;
      packed[d]->pack(parameters[d], groups * part / slices, groups * (part + 1) / slices);
    });
    const Division by = divide(net, G * H, groups, team.threads());
    if (by.column_parts > 1)
      for (long d = 0; d < net.D; ++d)
        team.each(by.column_parts, [&](std::int64_t c) { scan(*packed[d], d, 0, net.B, groups * c / by.column_parts, groups * (c + 1) / by.column_parts, &team); });
    else
      team.each(net.D * by.row_parts, [&](std::int64_t i) {
        const long d = i / by.row_parts, r = i % by.row_parts;
        scan(*packed[d], d, net.B * r / by.row_parts, net.B * (r + 1) / by.row_parts, 0, groups, nullptr);
      });
  }
  if (failed) return false;

  for (long d = 0; d < net.D; ++d) {
    const Walk walk{net, d == 1, 0, net.B};
    const Sequence h = part<T>(output, d * H);
    for (long s = net.alive ? 0 : net.T - 1; s < net.T; ++s)
      for (long r = walk.staying(s), n = walk.alive(s); r < n; ++r) __builtin_memcpy(final + (d * net.B + r) * H, walk.at<T>(h, s, r), H * sizeof(T));
  }
  return true;
}

template <class T, class Cell>
bool forward(const Forward& f, Team& team) {
  const Network& net = f.net;
  const long width = net.D * net.H;
  const bool keep = f.hidden || net.L == 1;
  const Buffer<T> scratch(keep ? 0 : min(2, net.L - 1) * net.rows * width);  // the layers' outputs take turns in it
  if (!scratch.ok()) return false;
  Sequence x = f.x;
  for (long l = 0; l < net.L; ++l) {
    const long states = net.D * net.B * net.H;
    T* hidden = keep ? slice<T>(f.hidden, l, net.rows * width) : slice<T>(static_cast<void*>(scratch), l % 2, net.rows * width);
    const Sequence output = l == net.L - 1 ? f.output : dense(net, hidden, width);
    if (!layer_forward<T, Cell>(net, f.net.parameters + l * net.D, l == 0 ? net.I : width, x, output, slice<T>(f.initial, l, states),
                                slice<T>(f.final, l, states), team))
      return false;
    x = output;
  }
  return true;
}

}  // namespace elman::ELMAN_TARGET
