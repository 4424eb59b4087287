// What a call's or a stream's operands must be: all that kernels read or write is checked here, in the sizes they use.
#pragma once

#include <type_traits>

#include "batch.h"
#include "ragged.h"

namespace elman {

// The operands that are of one number type, of so many sequences.
class Operated {
 public:
  // `v`: one of them. In bfloat16 where that is said.
  Operated(const Stack& stack, const View& v, Long B, bool bfloat16)
      : stack_(stack), type_(v.type), wide_(type_ == kBfloat16 ? kFloat32 : type_), B_(B) {
    net_.cell = &stack.cell, net_.number = number_of(v, bfloat16);
    net_.I = stack.I, net_.H = stack.H, net_.L = stack.L, net_.D = stack.D, net_.P = stack.width(0), net_.B = B;
    product({stack.directions(), stack.rows(), std::max({stack.out(), stack.I, stack.H})});
    product({stack.directions(), B, stack.H});
  }

  void read_parameters(Views from) {
    reads_.reserve(from.size() + 12);
    net_.parameters = each_direction(from, "parameters", false, parameters_);
  }
  // States, (L·D, B, width), or what they start fresh from, (L·D, width); written where they are not to be const.
  template <class Pointer> void states(Views from, Pointer (&to)[kMostStates], bool fresh = false) {
    if (from.size() != stack_.states())
      throw Mismatch("one tensor for each of ", stack_.states(), " states, got ", from.size());
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
  void* dense(const View& v, const Shape& shape, bool written) {
    expect(v, shape, type_);
    return take(v, dense_elements(v), written ? writes_ : reads_);
  }
  // The addresses for each direction; null where there is none, or where none is written.
  template <class Weights>
  const Weights* each_direction(Views from, const char* name, bool written, std::vector<Weights>& to) {
    if (static_cast<Long>(from.size()) != stack_.count())
      throw Mismatch(stack_.count(), " ", name, ", got ", from.size());
    to.reserve(static_cast<std::size_t>(stack_.directions()));
    const View* v = from.data();
    for (Long d = 0; d < stack_.directions(); ++d) {
      void* at[Stack::kPlaces] = {};
      for (Long k = 0; k < stack_.each(); ++k, ++v) {
        const int place = stack_.place(k);
        if (!written || !v->none) at[place] = dense(*v, stack_.shape(d, place), written);
      }
      to.push_back({at[0], at[1], at[2], at[3], at[4]});
    }
    return to.data();
  }

  const Stack& stack_;
  const Type type_, wide_;  // the operands', and what they are computed in
  const Long B_;
  Network net_{};
  Ranges reads_, writes_;
  std::vector<Parameters> parameters_;
};

// One call, its inputs checked. Its sequences lie (T, B, columns), (B, T, columns) or packed (N, columns).
class Contract : public Operated {
 public:
  Contract(const Stack& stack, const CallViews& views, bool batch_first, bool pad_saved)
      : Contract(stack, views, {stack.I, views[kX], views[kBatchSizes], views[kLengths], batch_first}, pad_saved) {}

  Forward forward() {
    auto f = begin<Forward>(true);
    for (const View& v : views_.all(kFinal))
      if (v.none) throw Mismatch("a final state for each of the cell's states, got none");
    states(views_.all(kFinal), f.final);
    if (stack_.left_out && views_[kOutput].none) f.output = {f.final[0], 0, stack_.out(), 1};
    check_apart();
    return f;
  }

  Backward backward() {
    auto f = begin<Backward>(false);
    const bool lives = net_.rows > 0;
    if (lives && stack_.L > 1 && !f.hidden) throw Mismatch("hidden, the lower layers' outputs, got none");
    if (lives && stack_.states() > 1 && !f.saved && !f.checkpoints)
      throw Mismatch("saved or checkpoints, got none of them");
    if (const View& v = views_[kGradOutput]; !v.none) f.grad_output = step_tensor(v, stack_.out(), false, true);
    f.grad_hidden = hidden(kGradHidden, false), f.grad_saved = saved(kGradSaved, false);
    if (f.grad_saved && !f.saved) throw Mismatch("saved, at which its gradient arrives, got none");
    states(views_.all(kGradFinal), f.grad_final);
    if (const View& v = views_[kGradX]; !v.none) f.grad_x = step_tensor(v, stack_.I, true);
    states(views_.all(kGradInitial), f.grad_initial), states(views_.all(kGradFresh), f.grad_fresh, true);
    const Long gates = grad_gates_width(stack_.cell, stack_.H);
    f.grad_gates = rows(views_[kGradGates], product({stack_.directions(), net_.saved_rows()}), {gates}, type_, true);
    f.gradients = each_direction(views_.all(kGradParams), "gradients of parameters", true, gradients_);
    check_apart();
    return f;
  }

  template <class Call> double work(const Call& call) const { return elman::work(call); }
  template <class Call> std::uint64_t kind(const Call& call) const { return elman::kind(call); }
  template <class Call> void run(const Target& target, const Call& call, int threads) const {
    for (std::size_t i = 0; net_.rows == 0 && i < writes_.size(); ++i)  // no kernel runs: what is dense is zeros
      if (const Range& w = writes_[i]; w.view != &views_[kGradX] && w.view != &views_[kOutput])
        std::fill_n(reinterpret_cast<char*>(w.from), w.own, 0);
    ragged_.exists() ? ragged_.run(target, call, threads) : elman::run(target, call, threads);
  }

 private:
  Contract(const Stack& stack, const CallViews& views, Batch batch, bool pad_saved)
      : Operated(stack, views[kX], batch.B, true), views_(views), batch_(std::move(batch)), pad_saved_(pad_saved) {
    net_.T = batch_.T, net_.rows = batch_.rows;
    if (batch_.packed()) net_.alive = batch_.alive.data(), net_.offset = batch_.offset.data();
    product({stack.directions(), net_.rows, std::max({stack.out(), stack.I, stack.cell.saved * stack.H})});
    read_parameters(views.all(kParams));
    if (const View& reset = views[kReset]; !reset.none) {
      expect(reset, {net_.T, net_.B}, reset.type == kUint8 ? kUint8 : kBool);
      const Long step = stride(reset, 0), sequence = stride(reset, 1);
      const Long bytes = 1 + product({net_.T - 1, step}) + product({net_.B - 1, sequence});
      net_.resets = {static_cast<const unsigned char*>(take(reset, bytes, reads_)), step, sequence};
    }
  }

  // What both passes take, and one writes for the other. After the output the network is as kernels see it.
  template <class Call> Call begin(bool writes) {
    Call call{};
    writes_.reserve(views_.all(kGradParams).size() + 9);
    call.x = step_tensor(views_[kX], stack_.I, false);
    const View& output = views_[kOutput];
    if (!output.none || !writes || !stack_.left_out) call.output = step_tensor(output, stack_.out(), writes);
    if (!batch_.lengths.empty())
      ragged_ = Ragged(batch_.lengths.data(), batch_.T, batch_.B), ragged_.describe(net_, pad_saved_);
    call.net = net_;
    states(views_.all(kInitial), call.initial), states(views_.all(kFresh), call.fresh, true);
    call.hidden = hidden(kHidden, writes), call.saved = saved(kSaved, writes);
    const bool some = net_.rows > 0 && stack_.states() > 1;
    const Long checkpoints = some ? product({stack_.directions(), number_of_checkpoints(net_), net_.B}) : 0;
    call.checkpoints = rows(views_[kCheckpoints], checkpoints, {stack_.H}, wide_, writes, true);
    return call;
  }

  // Rows of this shape, in any number of axes before; `more`: there may be more of them than so many.
  void* rows(const View& v, Long count, const Shape& row, Type type, bool written, bool more = false) {
    if (v.none) return nullptr;
    const int before = v.shape.axes - row.axes;
    const bool fits = before >= 0 && v.type == type && std::equal(row.size, row.size + row.axes, v.shape.size + before);
    const Long needed = product({count, product(row)}), elements = fits ? dense_elements(v) : 0;
    if (!fits || (more ? elements < needed : elements != needed))
      throw Mismatch(v, " of ", count, " rows of shape ", row, " and ", type, ", got ", v.shape, " and ", v.type);
    return take(v, needed, written ? writes_ : reads_);
  }
  void* hidden(Role role, bool written) {
    return rows(views_[role], product({stack_.L - 1, net_.saved_rows()}), {stack_.out()}, type_, written);
  }
  void* saved(Role role, bool written) {
    const Long count = product({stack_.directions(), net_.saved_rows()});
    return rows(views_[role], count, {stack_.cell.saved, stack_.H}, wide_, written);
  }

  StepTensor step_tensor(const View& v, Long columns, bool written, bool spread = false) {
    return elman::step_tensor(v, batch_, type_, columns, written, spread, written ? writes_ : reads_);
  }

  const CallViews& views_;
  const Batch batch_;
  const bool pad_saved_;
  Ragged ragged_;
  std::vector<Gradients> gradients_;
};

}  // namespace elman
