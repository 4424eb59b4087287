// The sequences of a batch, as x tells with its batch sizes or lengths.
#pragma once

#include <algorithm>
#include <vector>

#include "memory.h"
#include "stack.h"

namespace elman {

struct Batch {
  Long T = 0, B = 0, rows = 0;      // rows: steps of all sequences, T·B or those that are packed
  bool batch_first;                 // x is (B, T, columns), not (T, B, columns)
  std::vector<Long> alive, offset;  // where x is packed: how many sequences have each step, and its first row
  std::vector<Long> lengths;        // where there are any, of each sequence

  Batch(Long columns, const View& x, const View& batch_sizes, const View& lengths_, bool batch_first_)
      : batch_first(batch_first_) {
    const bool packed = !batch_sizes.none;
    const std::string axes = packed ? "(N, " : batch_first ? "(B, T, " : "(T, B, ";
    if (x.none || x.shape.axes != (packed ? 2 : 3) || x.shape[x.shape.axes - 1] != columns)
      throw Mismatch("x of shape ", axes, columns, "), got ", x.none ? "none" : x.shape.text());
    if (packed) {
      unpack(x, batch_sizes);
    } else {
      T = x.shape[batch_first ? 1 : 0], B = x.shape[batch_first ? 0 : 1];
      rows = product({T, B});
    }
    if (T < 1 || B < 1) throw Mismatch("x of at least one step and one sequence, got shape ", x.shape);
    if (lengths_.none) return;
    if (packed) throw Mismatch("batch_sizes or lengths, got both");
    lengths = integers(lengths_, B);
    for (const Long length : lengths)
      if (length < 0 || length > T) throw Mismatch("lengths from 0 to ", T, ", the steps of x, got ", length);
    if (std::count(lengths.begin(), lengths.end(), T) == B) lengths.clear();  // as if there were none
  }
  bool packed() const { return !alive.empty(); }
  Shape shape(Long columns) const {  // of what lies as x
    if (packed()) return {rows, columns};
    return batch_first ? Shape{B, T, columns} : Shape{T, B, columns};
  }

  // Of what is saved for the backward pass: steps, sequences at most of one, and rows. `pad`: those that x has.
  struct Saved {
    Long T, B, rows;
  };
  Saved saved(bool pad) const {
    if (lengths.empty() || pad) return {T, B, rows};
    Saved s{0, 0, 0};
    for (const Long length : lengths) s.T = std::max(s.T, length), s.B += length > 0, s.rows += length;
    return s;
  }

 private:
  void unpack(const View& x, const View& batch_sizes) {
    alive = integers(batch_sizes, batch_sizes.shape.axes == 1 ? batch_sizes.shape[0] : 1);
    offset.reserve(alive.size());
    for (std::size_t t = 0; t < alive.size(); ++t) {
      if (alive[t] < 1 || alive[t] > (t == 0 ? x.shape[0] : alive[t - 1]) || alive[t] > x.shape[0] - rows)
        throw Mismatch("batch_sizes that never increase, nor fall below 1, nor count more than x's ", x.shape[0],
            " rows, got ", alive[t], " at step ", t);
      offset.push_back(rows);
      rows += alive[t];
    }
    if (rows != x.shape[0])
      throw Mismatch("as many packed rows as batch_sizes count, ", rows, ", got x of shape ", x.shape);
    T = static_cast<Long>(alive.size()), B = alive.empty() ? 0 : alive[0];
  }
};

// A tensor of all steps, whose rows may lie anywhere; those that are written must not overlap one another. One number
// may stand for a row where `spread`.
inline StepTensor step_tensor(
    const View& v, const Batch& batch, Type type, Long columns, bool written, bool spread, Ranges& to) {
  const Long T = batch.T, B = batch.B, all = batch.rows;
  const bool packed = batch.packed(), batch_first = batch.batch_first;
  expect(v, batch.shape(columns), type);
  const Long column = columns > 1 ? v.strides[v.shape.axes - 1] : 1, width = column == 0 ? 1 : columns;
  if (column != 1 && !(spread && column == 0))
    throw Mismatch(v, " with its features side by side, got strides ", v.strides);
  const Long step = packed ? 0 : stride(v, batch_first ? 1 : 0), sequence = stride(v, packed || batch_first ? 0 : 1);
  const Long last = packed ? product({all - 1, sequence}) : product({T - 1, step}) + product({B - 1, sequence});
  if (written && all > 1) {
    std::pair near(sequence, packed ? all : B), far(step, packed ? 1 : T);  // strides, and how many: the far ones hold
    if (near > far) std::swap(near, far);                                   // all of the near
    if ((near.second > 1 && near.first < width) ||
        (far.second > 1 && far.first < product({near.second - 1, near.first}) + width))
      throw Mismatch("rows of ", v, " that do not overlap one another, got strides ", v.strides);
  }
  return {take(v, width == 0 ? 0 : last + width, to), step, sequence, column};
}

}  // namespace elman
