// What the operands of a call must be: shape, number type, strides, alignment, and nothing written may overlap
// anything. Told of views of memory, whoever showed it; everything that a kernel reads or writes passes here, against
// the sizes that it will use.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.h"
#include "ragged.h"

namespace elman {

using Long = std::int64_t;
using Address = std::uintptr_t;

constexpr Long kMost =
    Long{1} << 40;  // no size or stride beyond this: products of two then fit in 80 bits, and are checked in 128
constexpr Address kEnd = Address{1} << 63;  // no process has memory beyond
constexpr int kMostAxes = 5,
              kTensors = 5;  // of an operand; parameters of a layer and direction: w_ih, w_hh, b_ih, b_hh, w_hr

// An operand is not as the call needs it. Says what was expected and what came.
struct Misfit : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void check(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(std::string("elman._native: ") + what);
}

// The type of an element, as DLPack has it.
struct Type {
  unsigned char code, bits;
  bool operator==(const Type&) const = default;
  std::string name() const {
    static const char* const names[] = {"int", "uint", "float", "?", "bfloat", "complex", "bool"};
    return code > 6 ? "another type" : code == 6 ? "bool" : names[code] + std::to_string(bits);
  }
};
constexpr Type kFloat32{2, 32}, kFloat64{2, 64}, kBfloat16{4, 16}, kInt64{0, 64}, kUint8{1, 8}, kBool{6, 8},
    kOther{255, 0};

// Where an operand lies. Strides count elements.
struct View {
  const char* name;
  Long index;  // which of those of this name; -1: there is one
  bool none;   // there is no such operand; the rest means nothing then
  Type type = kOther;
  int axes = 0;
  Address at = 0;
  Long shape[kMostAxes], strides[kMostAxes];  // of so many axes

  View(const char* name_, Long index_, bool none_) : name(name_), index(index_), none(none_) {}
  std::string who() const { return index < 0 ? name : std::string(name) + " " + std::to_string(index); }
  std::string sizes() const { return shown(std::span(shape, static_cast<std::size_t>(axes))); }
  std::string steps() const { return shown(std::span(strides, static_cast<std::size_t>(axes))); }
  static std::string shown(std::span<const Long> sizes) {
    std::string text = "(";
    for (std::size_t d = 0; d < sizes.size(); ++d) text += (d ? ", " : "") + std::to_string(sizes[d]);
    return text + (sizes.size() == 1 ? ",)" : ")");
  }
};
using Views = std::span<const View>;

inline Long product(std::initializer_list<Long> factors) {
  __int128 p = 1;
  for (Long f : factors) {
    p *= f;
    if (p > kMost * 64)
      throw Misfit("expected operands that memory can hold, got sizes that multiply to more elements");
  }
  return static_cast<Long>(p);
}

// A network in plain numbers. P is 0 without a projection.
struct What {
  CellKind cell;
  Long I, H, P, L, D;
  bool bias;

  What(int cell_, Long I_, Long H_, Long P_, Long L_, Long D_, bool bias_)
      : cell(cell_of(cell_)), I(I_), H(H_), P(P_), L(L_), D(D_), bias(bias_) {
    check(I >= 0 && H >= 1 && L >= 1 && (D == 1 || D == 2), "sizes must be H, L >= 1, I >= 0 and D 1 or 2");
    check(I <= kMost && H <= kMost && L <= kMost, "a size is too large");
    check(P == 0 || (cell == CellKind::lstm && P >= 1 && P < H), "a projection is an LSTM's, and smaller than H");
  }
  static CellKind cell_of(int cell) {
    check(cell >= 0 && cell <= 3, "the cell must be 0 (rnn_tanh), 1 (rnn_relu), 2 (gru) or 3 (lstm)");
    return static_cast<CellKind>(cell);
  }
  Long width(int state) const { return state == 0 && P ? P : H; }
  Long out() const { return D * width(0); }
  Long directions() const { return L * D; }
  Long rows() const { return gates_of(cell) * H; }
  int states() const { return states_of(cell); }
  // The parameters come in torch's order, those that there are: so many of a direction, and of these the i-th is this
  // one of the five.
  Long each() const { return 2 + (bias ? 2 : 0) + (P ? 1 : 0); }
  Long count() const { return directions() * each(); }
  int slot(Long i) const { return static_cast<int>(i < 2 || (bias && i < 4) ? i : 4); }
  // The shape of the one of the five in a direction, counted through all layers; the second size is 0 where there is
  // one axis.
  std::pair<Long, Long> shape(Long direction, int slot) const {
    if (slot == 0) return {rows(), direction < D ? I : out()};
    if (slot == 1) return {rows(), width(0)};
    if (slot == 4) return {P, H};
    return {rows(), 0};
  }
};

// What every call begins with, and where its sequences lie: (T, B, columns), with batch_first (B, T, columns), packed
// (N, columns).
struct Inputs {
  const View &x, &batch_sizes, &lengths, &reset;
  Views params, initial, fresh;
  bool batch_first, pad_saved;
};
struct ForwardViews {
  const View &output, &hidden, &saved, &checkpoints;
  Views final;
};
struct BackwardViews {
  const View &output, &hidden, &saved, &checkpoints, &grad_output, &grad_hidden, &grad_saved, &grad_x;
  Views grad_final, grad_initial, grad_fresh, grad_params;
};

// One call, its inputs checked.
class Contract {
 public:
  Contract(const What& what, const Inputs& in, bool bfloat16_too)
      : what_(what), type_(in.x.type), batch_first_(in.batch_first) {
    const View& x = in.x;
    const bool packed = !in.batch_sizes.none;
    if (x.axes != (packed ? 2 : 3) || x.shape[x.axes - 1] != what.I)
      throw Misfit("expected x of shape " +
          std::string(packed     ? "(N, "
                  : batch_first_ ? "(B, T, "
                                 : "(T, B, ") +
          std::to_string(what.I) + "), got " + x.sizes());
    if (type_ != kFloat32 && type_ != kFloat64 && !(bfloat16_too && type_ == kBfloat16))
      throw Misfit(std::string("expected x of float32") + (bfloat16_too ? ", float64 or bfloat16" : " or float64") +
          ", got " + type_.name());
    Network& net = net_;
    net.cell = what.cell, net.number = type_ == kFloat32 ? Number::f32 : type_ == kFloat64 ? Number::f64 : Number::bf16;
    if (packed) alive_ = integers(in.batch_sizes, in.batch_sizes.axes == 1 ? in.batch_sizes.shape[0] : 1);
    net.T = packed ? static_cast<Long>(alive_.size()) : x.shape[batch_first_ ? 1 : 0];
    if (net.T < 1 || (!packed && x.shape[batch_first_ ? 0 : 1] < 1))
      throw Misfit("expected x of at least one step and one row, got shape " + x.sizes());
    net.B = packed ? alive_[0] : x.shape[batch_first_ ? 0 : 1];
    net.I = what.I, net.H = what.H, net.L = what.L, net.D = what.D, net.P = what.width(0);
    if (packed) {
      offset_.reserve(alive_.size());
      for (std::size_t t = 0; t < alive_.size(); ++t) {
        if (alive_[t] < 1 || alive_[t] > (t == 0 ? x.shape[0] : alive_[t - 1]) || alive_[t] > x.shape[0] - net.rows)
          throw Misfit("expected batch_sizes that never increase, nor fall below 1, nor count more than x's " +
              std::to_string(x.shape[0]) + " rows, got " + std::to_string(alive_[t]) + " at step " + std::to_string(t));
        offset_.push_back(net.rows);
        net.rows += alive_[t];
      }
      if (net.rows != x.shape[0])
        throw Misfit("expected as many packed rows as batch_sizes count, " + std::to_string(net.rows) +
            ", got x of shape " + x.sizes());
      net.alive = alive_.data(), net.offset = offset_.data();
    } else {
      net.rows = product({net.T, net.B});
    }
    const Long widest = std::max(what.out(), what.I);
    product({what.directions(), net.rows, std::max(widest, saved_numbers(what.cell) * what.H)});
    product({what.directions(), what.rows(), std::max(widest, what.H)});
    product({what.directions(), net.B, what.H});
    check_count(what, in.params, "parameters");
    reads_.reserve(in.params.size() + 12);
    read_parameters(in.params);
    net.parameters = parameters_.data();
    if (!in.lengths.none) {
      if (packed) throw Misfit("expected batch_sizes or lengths, got both");
      lengths_ = integers(in.lengths, net.B);
      for (Long length : lengths_)
        if (length < 0 || length > net.T)
          throw Misfit("expected lengths from 0 to " + std::to_string(net.T) + ", the steps of x, got " +
              std::to_string(length));
    }
    if (!in.reset.none) {
      const View& reset = in.reset;
      expect(reset, {net.T, net.B}, reset.type == kUint8 ? kUint8 : kBool);
      const Long step = stride(reset, 0), row = stride(reset, 1);
      net.resets = {static_cast<const unsigned char*>(
                        take(reset, 1 + product({net.T - 1, step}) + product({net.B - 1, row}), reads_)),
          step, row};
    }
    T_ = net.T, B_ = net.B, rows_ = net.rows, kept_padded_ = in.pad_saved;
    x_ = sequence(x, what.I, false);
    states(in.initial, initial_), states(in.fresh, fresh_, true);
  }

  // Throws where the kernels cannot read these parameters as they lie.
  static void check_parameters(const What& what, Views params) {
    check_count(what, params, "parameters");
    const Type type = params[0].type;
    if (type != kFloat32 && type != kFloat64 && type != kBfloat16)
      throw Misfit("expected parameters of float32, float64 or bfloat16, got " + type.name());
    Contract(what, type).read_parameters(params);
  }

  // What a function reads and writes, number by number.
  static std::pair<const void*, void*> elementwise(const View& from, const View& to) {
    if (from.none || from.axes != 1 || (from.type != kFloat32 && from.type != kFloat64))
      throw Misfit(
          "expected source of one axis and float32 or float64, got " + from.sizes() + " and " + from.type.name());
    expect(to, {from.shape[0]}, from.type);
    Ranges reads, writes;
    const std::pair<const void*, void*> both{
        take(from, dense_elements(from), reads), take(to, dense_elements(to), writes)};
    check_overlap(reads, writes);
    return both;
  }

  Forward forward(const ForwardViews& to) {
    if (type_ == kBfloat16 && !(to.hidden.none && to.saved.none && to.checkpoints.none))
      throw Misfit("expected nothing to be saved in bfloat16, which has no backward pass");
    writes_.reserve(8);
    auto f = begin<Forward>(sequence(to.output, what_.out(), true));
    for (const View& v : to.final)
      if (v.none) throw Misfit("expected a final state for each of the cell's states, got none");
    states(to.final, f.final);
    f.hidden = hidden(to.hidden, true), f.saved = saved(to.saved, true),
    f.checkpoints = checkpoints(to.checkpoints, true);
    check_overlap(reads_, writes_);
    return f;
  }

  Backward backward(const BackwardViews& v) {
    writes_.reserve(v.grad_params.size() + 8);
    auto f = begin<Backward>(sequence(v.output, what_.out(), false));
    f.hidden = hidden(v.hidden, false), f.saved = saved(v.saved, false),
    f.checkpoints = checkpoints(v.checkpoints, false);
    const bool lives = net_.rows > 0;
    if (lives && what_.L > 1 && !f.hidden) throw Misfit("expected hidden, the lower layers' outputs, got none");
    if (lives && what_.states() > 1 && !f.saved && !f.checkpoints)
      throw Misfit("expected saved or checkpoints, got none of them");
    f.grad_output = v.grad_output.none ? StepTensor{} : sequence(v.grad_output, what_.out(), false, true);
    f.grad_hidden = hidden(v.grad_hidden, false), f.grad_saved = saved(v.grad_saved, false);
    if (f.grad_saved && !f.saved) throw Misfit("expected saved, at which grad_saved arrives, got none");
    states(v.grad_final, f.grad_final);
    f.grad_x = v.grad_x.none ? StepTensor{} : sequence(v.grad_x, what_.I, true);
    states(v.grad_initial, f.grad_initial), states(v.grad_fresh, f.grad_fresh, true);
    check_count(what_, v.grad_params, "gradients of parameters");
    gradients_.resize(parameters_.size());
    for_each_direction(v.grad_params, true,
        [&](std::size_t d, void* const* five) { gradients_[d] = {five[0], five[1], five[2], five[3], five[4]}; });
    f.gradients = gradients_.data();
    check_overlap(reads_, writes_);
    return f;
  }

  template <class Call> void run(const Target& target, const Call& call, int threads) const {
    ragged_.exists() ? ragged_.run(target, call, threads) : elman::run(target, call, threads);
  }

 private:
  struct Range {
    const View* view;
    Address from, to;
  };
  using Ranges = std::vector<Range>;

  Contract(const What& what, Type type) : what_(what), type_(type), batch_first_(false) {}
  static void check_count(const What& what, Views params, const char* name) {
    if (static_cast<Long>(params.size()) != what.count())
      throw Misfit("expected " + std::to_string(what.count()) + " " + name + ", got " + std::to_string(params.size()));
  }

  // Once the output is known to be there: from here on the network is as the kernels see it, whereas T_ and B_ are the
  // caller's.
  template <class Call> Call begin(const StepTensor& output) {
    if (!lengths_.empty()) ragged_ = Ragged(lengths_.data(), T_, B_), ragged_.describe(net_, kept_padded_);
    Call call{};
    call.net = net_, call.x = x_, call.output = output;
    for (int s = 0; s < kMostStates; ++s) call.initial[s] = initial_[s], call.fresh[s] = fresh_[s];
    return call;
  }

  [[noreturn]] static void refuse(const View& v, std::span<const Long> shape, Type type) {
    throw Misfit("expected " + v.who() + " of shape " + View::shown(shape) + " and " + type.name() + ", got " +
        (v.none ? "none" : v.sizes() + " and " + v.type.name()));
  }
  static void expect(const View& v, std::initializer_list<Long> shape, Type type) {
    bool fits = !v.none && v.axes == static_cast<int>(shape.size()) && v.type == type;
    for (int d = 0; fits && d < v.axes; ++d) fits = v.shape[d] == shape.begin()[d];
    if (!fits) refuse(v, {shape.begin(), shape.size()}, type);
  }
  // From one to the next along an axis; of one alone it means nothing.
  static Long stride(const View& v, int axis) {
    if (v.shape[axis] == 1) return 0;
    if (v.strides[axis] < 0 || v.strides[axis] > kMost)
      throw Misfit("expected strides of " + v.who() + " that are not negative, nor too large, got " +
          std::to_string(v.strides[axis]));
    return v.strides[axis];
  }
  static Long dense_elements(const View& v) {
    Long elements = 1;
    for (int d = 0; d < v.axes; ++d) elements = product({elements, v.shape[d]});
    check_dense(v, elements);
    return elements;
  }
  static void check_dense(const View& v, Long elements) {
    Long stride = 1;
    for (int d = v.axes; elements && d-- > 0; stride *= v.shape[d])
      if (v.shape[d] != 1 && v.strides[d] != stride)
        throw Misfit("expected " + v.who() + " to be contiguous, got strides " + v.steps());
  }
  // So many elements from an operand's first to its last.
  static void* take(const View& v, Long elements, Ranges& to) {
    if (elements == 0) return nullptr;
    const auto size = static_cast<Address>(v.type.bits / 8), bytes = static_cast<Address>(elements) * size;
    if (v.at == 0)
      throw Misfit("expected " + v.who() + " to lie in memory, got a null pointer: was its storage freed?");
    if (v.at % size != 0)
      throw Misfit("expected " + v.who() + " aligned to its elements of " + std::to_string(size) +
          " bytes, got address " + std::to_string(v.at));
    if (v.at > kEnd - bytes)
      throw Misfit("expected " + v.who() + " to end within memory, got " + std::to_string(bytes) +
          " bytes at address " + std::to_string(v.at));
    to.push_back({&v, v.at, v.at + bytes});
    return reinterpret_cast<void*>(v.at);
  }
  void* dense(const View& v, std::initializer_list<Long> shape, bool written) {
    expect(v, shape, type_);
    const Long elements = product(shape);
    check_dense(v, elements);
    return take(v, elements, written ? writes_ : reads_);
  }
  // f(direction, its five pointers) for each; null where there is none, or where none is wanted.
  template <class F> void for_each_direction(Views from, bool written, F f) {
    const View* v = from.data();
    for (Long d = 0; d < what_.directions(); ++d) {
      void* five[kTensors] = {};
      for (Long k = 0; k < what_.each(); ++k, ++v) {
        const int slot = what_.slot(k);
        const auto [rows, columns] = what_.shape(d, slot);
        if (!written || !v->none)
          five[slot] = slot == 2 || slot == 3 ? dense(*v, {rows}, written) : dense(*v, {rows, columns}, written);
      }
      f(static_cast<std::size_t>(d), five);
    }
  }
  void read_parameters(Views from) {
    parameters_.resize(static_cast<std::size_t>(what_.directions()));
    for_each_direction(from, false,
        [&](std::size_t d, void* const* five) { parameters_[d] = {five[0], five[1], five[2], five[3], five[4]}; });
  }
  static std::vector<Long> integers(const View& v, Long count) {  // a copy: others may write while the lock is released
    expect(v, {count}, kInt64);
    dense_elements(v);
    if (count && (v.at == 0 || v.at % sizeof(Long) != 0))
      throw Misfit("expected " + v.who() + " aligned in memory, got address " + std::to_string(v.at));
    const auto* from = reinterpret_cast<const Long*>(v.at);
    return std::vector<Long>(from, from + count);
  }

  // States, (L·D, B, width), or what they start fresh from, (L·D, width); written where what they are to be is not
  // const.
  template <class Pointer> void states(Views from, Pointer (&to)[kMostStates], bool fresh = false) {
    if (from.size() != static_cast<std::size_t>(what_.states()))
      throw Misfit("expected one tensor for each of " + std::to_string(what_.states()) + " states, got " +
          std::to_string(from.size()));
    for (int s = 0; s < what_.states(); ++s) {
      constexpr bool written = !std::is_const_v<std::remove_pointer_t<Pointer>>;
      const View& v = from[static_cast<std::size_t>(s)];
      to[s] = v.none ? nullptr
          : fresh    ? dense(v, {what_.directions(), what_.width(s)}, written)
                     : dense(v, {what_.directions(), B_, what_.width(s)}, written);
    }
  }

  // Rows of this shape, in any number of axes before; `more`: there may be more of them than so many.
  void* rows(const View& v, Long count, std::initializer_list<Long> row, bool written, bool more = false) {
    if (v.none) return nullptr;
    const int before = v.axes - static_cast<int>(row.size());
    Long needed = count;
    bool fits = before >= 0 && v.type == type_;
    for (int d = 0; fits && d < static_cast<int>(row.size()); ++d)
      fits = v.shape[before + d] == row.begin()[d], needed = product({needed, row.begin()[d]});
    const Long elements = fits ? dense_elements(v) : 0;
    if (!fits || (more ? elements < needed : elements != needed))
      throw Misfit("expected " + v.who() + " of " + std::to_string(count) + " rows of shape " +
          View::shown({row.begin(), row.size()}) + " and " + type_.name() + ", got " + v.sizes() + " and " +
          v.type.name());
    return take(v, needed, written ? writes_ : reads_);
  }
  void* hidden(const View& v, bool written) {
    return rows(v, product({what_.L - 1, net_.saved_rows()}), {what_.out()}, written);
  }
  void* saved(const View& v, bool written) {
    return rows(v, product({what_.directions(), net_.saved_rows()}), {saved_numbers(what_.cell), what_.H}, written);
  }
  void* checkpoints(const View& v, bool written) {
    const bool some = net_.rows > 0 && what_.states() > 1;
    return rows(
        v, some ? product({what_.directions(), number_of_checkpoints(net_), net_.B}) : 0, {what_.H}, written, true);
  }

  // A sequence, whose rows may lie anywhere; those that are written must not overlap one another. One number may stand
  // for a row where `spread`.
  StepTensor sequence(const View& v, Long columns, bool written, bool spread = false) {
    const bool packed = !alive_.empty();
    packed             ? expect(v, {rows_, columns}, type_)
        : batch_first_ ? expect(v, {B_, T_, columns}, type_)
                       : expect(v, {T_, B_, columns}, type_);
    const Long column = columns > 1 ? v.strides[v.axes - 1] : 1, width = column == 0 ? 1 : columns;
    if (column != 1 && !(spread && column == 0))
      throw Misfit("expected " + v.who() + " with its features side by side, got strides " + v.steps());
    const Long step = packed ? 0 : stride(v, batch_first_ ? 1 : 0), row = stride(v, packed || batch_first_ ? 0 : 1);
    const Long last = packed ? product({rows_ - 1, row}) : product({T_ - 1, step}) + product({B_ - 1, row});
    if (written && rows_ > 1) {
      bool apart = packed || T_ == 1 ? row >= width : step >= width;
      if (!packed && T_ > 1 && B_ > 1)
        apart = row <= step ? row >= width && step >= product({B_ - 1, row}) + width
                            : step >= width && row >= product({T_ - 1, step}) + width;
      if (!apart)
        throw Misfit("expected rows of " + v.who() + " that do not overlap one another, got strides " + v.steps());
    }
    return {take(v, width == 0 ? 0 : last + width, written ? writes_ : reads_), step, row, column};
  }

  static void check_overlap(const Ranges& reads, const Ranges& writes) {
    const auto apart = [](const Range& a, const Range& b) {
      if (a.from < b.to && b.from < a.to)
        throw Misfit("expected " + a.view->who() + ", which is written, apart from " + b.view->who() +
            ", got memory that overlaps");
    };
    for (std::size_t i = 0; i < writes.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) apart(writes[i], writes[j]);
      for (const Range& r : reads) apart(writes[i], r);
    }
  }

  const What what_;
  const Type type_;
  const bool batch_first_;
  Network net_{};
  Long T_ = 0, B_ = 0, rows_ = 0;
  bool kept_padded_ = false;
  std::vector<Long> alive_, offset_, lengths_;
  Ragged ragged_;
  std::vector<Parameters> parameters_;
  std::vector<Gradients> gradients_;
  StepTensor x_{};
  const void *initial_[kMostStates] = {}, *fresh_[kMostStates] = {};
  Ranges reads_, writes_;
};

}  // namespace elman
