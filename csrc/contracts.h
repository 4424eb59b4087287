// What the operands of a call must be, told of views of them: everything that a kernel reads or writes passes here,
// against the sizes that it will use. A call and a stream share it.
#pragma once

#include <type_traits>

#include "batch.h"
#include "ragged.h"

namespace elman {

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

// The operands that are of one number type, of so many sequences.
class Operated {
 public:
  Operated(const Stack& stack, Type type, Long B) : stack_(stack), type_(type), B_(B) {
    net_.cell = &stack.cell,
    net_.number = type == kFloat32 ? Number::f32
        : type == kFloat64         ? Number::f64
                                   : Number::bf16;
    net_.I = stack.I, net_.H = stack.H, net_.L = stack.L, net_.D = stack.D, net_.P = stack.width(0), net_.B = B;
    const Long widest = std::max(stack.out(), stack.I);
    product({stack.directions(), stack.rows(), std::max(widest, stack.H)});
    product({stack.directions(), B, stack.H});
  }

  void read_parameters(Views from) {
    if (static_cast<Long>(from.size()) != stack_.count()) refuse_count(from, "parameters");
    reads_.reserve(from.size() + 12);
    parameters_.resize(static_cast<std::size_t>(stack_.directions()));
    for_each_direction(
        from, false, [&](std::size_t d, void* const* at) { parameters_[d] = {at[0], at[1], at[2], at[3], at[4]}; });
    net_.parameters = parameters_.data();
  }
  // States, (L·D, B, width), or what they start fresh from, (L·D, width); written where what they are to be is not
  // const.
  template <class Pointer> void states(Views from, Pointer (&to)[kMostStates], bool fresh = false) {
    if (from.size() != stack_.states())
      throw Mismatch("expected one tensor for each of " + std::to_string(stack_.states()) + " states, got " +
          std::to_string(from.size()));
    constexpr bool written = !std::is_const_v<std::remove_pointer_t<Pointer>>;
    for (int s = 0; s < stack_.cell.states; ++s) {
      const View& v = from[static_cast<std::size_t>(s)];
      const Long width = stack_.width(s);
      to[s] = v.none ? nullptr
          : fresh    ? dense(v, {stack_.directions(), width}, written)
                     : dense(v, {stack_.directions(), B_, width}, written);
    }
  }
  void check_apart() const { check_overlap(reads_, writes_); }
  const Network& network() const { return net_; }

 protected:
  [[noreturn]] void refuse_count(Views got, const char* name) const {
    throw Mismatch("expected " + std::to_string(stack_.count()) + " " + name + ", got " + std::to_string(got.size()));
  }
  void* dense(const View& v, std::initializer_list<Long> shape, bool written) {
    expect(v, shape, type_);
    const Long elements = product(shape);
    check_dense(v, elements);
    return take(v, elements, written ? writes_ : reads_);
  }
  // f(direction, its addresses by place) for each; null where there is none, or where none is written.
  template <class F> void for_each_direction(Views from, bool written, F f) {
    const View* v = from.data();
    for (Long d = 0; d < stack_.directions(); ++d) {
      void* at[Stack::kPlaces] = {};
      for (Long k = 0; k < stack_.each(); ++k, ++v) {
        const int place = stack_.place(k);
        const auto [rows, columns] = stack_.shape(d, place);
        if (written && v->none) continue;
        at[place] = place == 2 || place == 3 ? dense(*v, {rows}, written) : dense(*v, {rows, columns}, written);
      }
      f(static_cast<std::size_t>(d), at);
    }
  }

  const Stack& stack_;
  const Type type_;
  const Long B_;
  Network net_{};
  Ranges reads_, writes_;
  std::vector<Parameters> parameters_;
};

// Throws where the kernels cannot read these parameters as they lie.
inline void check_parameters(const Stack& stack, Views params) {
  const Type type = params.empty() ? kOther : params[0].type;
  if (type != kFloat32 && type != kFloat64 && type != kBfloat16)
    throw Mismatch("expected parameters of float32, float64 or bfloat16, got " + type.name());
  Operated(stack, type, 0).read_parameters(params);
}

// One call, its inputs checked.
class Contract : public Operated {
 public:
  Contract(const Stack& stack, const Inputs& in, bool bfloat16_too)
      : Contract(stack, in, {stack.I, in.x, in.batch_sizes, in.lengths, in.batch_first}, bfloat16_too) {}

  Forward forward(const ForwardViews& to) {
    if (type_ == kBfloat16 && !(to.hidden.none && to.saved.none && to.checkpoints.none))
      throw Mismatch("expected nothing to be saved in bfloat16, which has no backward pass");
    writes_.reserve(8);
    auto f = begin<Forward>(step_tensor(to.output, stack_.out(), true));
    for (const View& v : to.final)
      if (v.none) throw Mismatch("expected a final state for each of the cell's states, got none");
    states(to.final, f.final);
    f.hidden = hidden(to.hidden, true), f.saved = saved(to.saved, true);
    f.checkpoints = checkpoints(to.checkpoints, true);
    check_apart();
    return f;
  }

  Backward backward(const BackwardViews& v) {
    writes_.reserve(v.grad_params.size() + 8);
    auto f = begin<Backward>(step_tensor(v.output, stack_.out(), false));
    f.hidden = hidden(v.hidden, false), f.saved = saved(v.saved, false);
    f.checkpoints = checkpoints(v.checkpoints, false);
    const bool lives = net_.rows > 0;
    if (lives && stack_.L > 1 && !f.hidden) throw Mismatch("expected hidden, the lower layers' outputs, got none");
    if (lives && stack_.states() > 1 && !f.saved && !f.checkpoints)
      throw Mismatch("expected saved or checkpoints, got none of them");
    if (!v.grad_output.none) f.grad_output = step_tensor(v.grad_output, stack_.out(), false, true);
    f.grad_hidden = hidden(v.grad_hidden, false), f.grad_saved = saved(v.grad_saved, false);
    if (f.grad_saved && !f.saved) throw Mismatch("expected saved, at which its gradient arrives, got none");
    states(v.grad_final, f.grad_final);
    if (!v.grad_x.none) f.grad_x = step_tensor(v.grad_x, stack_.I, true);
    states(v.grad_initial, f.grad_initial), states(v.grad_fresh, f.grad_fresh, true);
    if (static_cast<Long>(v.grad_params.size()) != stack_.count())
      refuse_count(v.grad_params, "gradients of parameters");
    gradients_.resize(parameters_.size());
    for_each_direction(v.grad_params, true,
        [&](std::size_t d, void* const* at) { gradients_[d] = {at[0], at[1], at[2], at[3], at[4]}; });
    f.gradients = gradients_.data();
    check_apart();
    return f;
  }

  template <class Call> void run(const Target& target, const Call& call, int threads) const {
    ragged_.exists() ? ragged_.run(target, call, threads) : elman::run(target, call, threads);
  }

 private:
  Contract(const Stack& stack, const Inputs& in, Batch batch, bool bfloat16_too)
      : Operated(stack, in.x.type, batch.B), batch_(std::move(batch)), pad_saved_(in.pad_saved) {
    if (type_ != kFloat32 && type_ != kFloat64 && !(bfloat16_too && type_ == kBfloat16))
      throw Mismatch(std::string("expected x of float32") + (bfloat16_too ? ", float64 or bfloat16" : " or float64") +
          ", got " + type_.name());
    net_.T = batch_.T, net_.rows = batch_.rows;
    if (batch_.packed()) net_.alive = batch_.alive.data(), net_.offset = batch_.offset.data();
    product({stack.directions(), net_.rows, std::max({stack.out(), stack.I, stack.cell.saved * stack.H})});
    read_parameters(in.params);
    if (!in.reset.none) {
      const View& reset = in.reset;
      expect(reset, {net_.T, net_.B}, reset.type == kUint8 ? kUint8 : kBool);
      const Long step = stride(reset, 0), sequence = stride(reset, 1);
      const Long bytes = 1 + product({net_.T - 1, step}) + product({net_.B - 1, sequence});
      net_.resets = {static_cast<const unsigned char*>(take(reset, bytes, reads_)), step, sequence};
    }
    x_ = step_tensor(in.x, stack.I, false);
    states(in.initial, initial_), states(in.fresh, fresh_, true);
  }

  // Once the output is known to be there: from here on the network is as the kernels see it, the batch the caller's.
  template <class Call> Call begin(const StepTensor& output) {
    if (!batch_.lengths.empty())
      ragged_ = Ragged(batch_.lengths.data(), batch_.T, batch_.B), ragged_.describe(net_, pad_saved_);
    Call call{};
    call.net = net_, call.x = x_, call.output = output;
    for (int s = 0; s < kMostStates; ++s) call.initial[s] = initial_[s], call.fresh[s] = fresh_[s];
    return call;
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
      throw Mismatch("expected " + v.who() + " of " + std::to_string(count) + " rows of shape " +
          View::shown({row.begin(), row.size()}) + " and " + type_.name() + ", got " + v.sizes() + " and " +
          v.type.name());
    return take(v, needed, written ? writes_ : reads_);
  }
  void* hidden(const View& v, bool written) {
    return rows(v, product({stack_.L - 1, net_.saved_rows()}), {stack_.out()}, written);
  }
  void* saved(const View& v, bool written) {
    return rows(v, product({stack_.directions(), net_.saved_rows()}), {stack_.cell.saved, stack_.H}, written);
  }
  void* checkpoints(const View& v, bool written) {
    const bool some = net_.rows > 0 && stack_.states() > 1;
    const Long count = some ? product({stack_.directions(), number_of_checkpoints(net_), net_.B}) : 0;
    return rows(v, count, {stack_.H}, written, true);
  }

  // A tensor of all steps, whose rows may lie anywhere; those that are written must not overlap one another. One number
  // may stand for a row where `spread`.
  StepTensor step_tensor(const View& v, Long columns, bool written, bool spread = false) {
    const Long T = batch_.T, B = batch_.B, all = batch_.rows;
    const bool packed = batch_.packed(), batch_first = batch_.batch_first;
    packed            ? expect(v, {all, columns}, type_)
        : batch_first ? expect(v, {B, T, columns}, type_)
                      : expect(v, {T, B, columns}, type_);
    const Long column = columns > 1 ? v.strides[v.axes - 1] : 1, width = column == 0 ? 1 : columns;
    if (column != 1 && !(spread && column == 0))
      throw Mismatch("expected " + v.who() + " with its features side by side, got strides " + v.steps());
    const Long step = packed ? 0 : stride(v, batch_first ? 1 : 0), sequence = stride(v, packed || batch_first ? 0 : 1);
    const Long last = packed ? product({all - 1, sequence}) : product({T - 1, step}) + product({B - 1, sequence});
    if (written && all > 1) {
      bool apart = packed || T == 1 ? sequence >= width : step >= width;
      if (!packed && T > 1 && B > 1)
        apart = sequence <= step ? sequence >= width && step >= product({B - 1, sequence}) + width
                                 : step >= width && sequence >= product({T - 1, step}) + width;
      if (!apart)
        throw Mismatch("expected rows of " + v.who() + " that do not overlap one another, got strides " + v.steps());
    }
    return {take(v, width == 0 ? 0 : last + width, written ? writes_ : reads_), step, sequence, column};
  }

  const Batch batch_;
  const bool pad_saved_;
  Ragged ragged_;
  std::vector<Gradients> gradients_;
  StepTensor x_{};
  const void *initial_[kMostStates] = {}, *fresh_[kMostStates] = {};
};

}  // namespace elman
