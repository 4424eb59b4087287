// One direction's weights as the forward scan's products read them.
#pragma once

#include "../product/packing.h"

namespace elman::ELMAN_TARGET {

template <class T, class Weights> struct ProjectionEpilogue {
  const Weights& weights;
  Wide<T>* z;   // (rows, groups, G, W)
  long stride;  // from one row to the next
  ELMAN_INLINE Vec<T> init(long, long group, int gate) const { return load(weights.bias(group, gate)); }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* unit) const {
    constexpr int G = Weights::G;
    for (int g = 0; g < G; ++g) store(z + row * stride + (group * G + g) * kLanes<T>, unit[g]);
  }
  ELMAN_INLINE bool place(long row, long, long group, long groups, SumsInPlace<Wide<T>>& sums) const {
    constexpr int G = Weights::G;
    sums.apart = stride, sums.adds = false;
    for (long i = 0; i < groups * G; ++i)
      sums.place(i, weights.bias(group, 0) + i * kLanes<T>, 0, z + row * stride + (group * G + i) * kLanes<T>);
    return true;
  }
};

// Column groups begin..end-1: a group is the G gates of a vector of units.
template <class T, class Cell> class PackedWeights {
 public:
  using Element = T;
  static constexpr int G = Cell::kGates;
  static constexpr long W = kLanes<T>, kColumns = G * W;  // of a group
  const long H, I, P, groups, begin, end;
  const long stride;      // from one row's projected input to the next
  const long out_groups;  // of the projected output, vectors; 0 without a projection

  PackedWeights(const Network& net, long I, long begin, long end)
      : H(net.H), I(I), P(net.P), groups(ceil_div(H, W)), begin(begin), end(end), stride(groups * kColumns),
        out_groups(net.parameters->w_hr ? ceil_div(P, W) : 0), w_ih_((end - begin) * kColumns * depth<T>(I)),
        w_hh_((end - begin) * kColumns * depth<T>(P)), bias_((end - begin) * kColumns),
        split_bias_(Cell::kSplitGate >= 0 ? (end - begin) * W : 0), w_hr_(out_groups * W * depth<T>(H)) {}
  bool ok() const { return all_ok(w_ih_, w_hh_, bias_, split_bias_, w_hr_); }

  Wide<T>* w_ih(long group) const { return w_ih_ + (group - begin) * kColumns * depth<T>(I); }
  Wide<T>* w_hh(long group) const { return w_hh_ + (group - begin) * kColumns * depth<T>(P); }
  Wide<T>* w_hr(long group) const { return w_hr_ + group * W * depth<T>(H); }
  // The sum of both biases; of the split gate the input's alone, and the recurrent one by itself.
  Wide<T>* bias(long group, int gate) const { return bias_ + ((group - begin) * G + gate) * W; }
  Wide<T>* split_bias(long group) const { return split_bias_ + (group - begin) * W; }

  long room(long rows) const { return rows * stride; }
  // Of M rows of x, column groups from..to-1.
  void project(long M, const Rows<Factor<T>>& x, long from, long to, Wide<T>* z) const {
    product<Factor<T>, G>(M, x, I, w_ih(from), from, to, ProjectionEpilogue<T, PackedWeights>{*this, z, stride});
  }

  void pack(const Parameters& p, long from, long to) const {  // column groups from..to-1
    pack_transposed<T, G>(static_cast<const T*>(p.w_ih), H, I, from, to, w_ih(from));
    pack_transposed<T, G>(static_cast<const T*>(p.w_hh), H, P, from, to, w_hh(from));
    const T *b_ih = static_cast<const T*>(p.b_ih), *b_hh = static_cast<const T*>(p.b_hh);
    for (long j = from; j < to; ++j)
      for (int g = 0; g < G; ++g)
        for (long i = 0; i < W; ++i) {
          const long unit = j * W + i;
          const bool some = b_ih && unit < H;
          const Wide<T> in = some ? Wide<T>(b_ih[g * H + unit]) : 0, back = some ? Wide<T>(b_hh[g * H + unit]) : 0;
          bias(j, g)[i] = g == Cell::kSplitGate ? in : in + back;
          if (g == Cell::kSplitGate) split_bias(j)[i] = back;
        }
  }
  void pack_projection(const Parameters& p, long from, long to) const {  // groups of the projected output
    pack_transposed<T, 1>(static_cast<const T*>(p.w_hr), P, H, from, to, w_hr(from));
  }

 private:
  // (groups, G, depth, W) and (out_groups, depth, W), see product.h; biases (groups, G, W) and (groups, W).
  const Buffer<Wide<T>> w_ih_, w_hh_, bias_, split_bias_, w_hr_;
};

}  // namespace elman::ELMAN_TARGET
