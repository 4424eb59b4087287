// What the operands of a program's run must be: everything that its kernels read or write passes here, against the
// sizes that they will use.
#pragma once

#include <cmath>

#include "../batch.h"
#include "../ragged.h"
#include "run.h"

namespace elman {

// What runs: a program's sizes, layers and directions.
struct ProgramStack {
  const Program& program;
  Long I, H, L, D;
  bool bias, recompute;
  Long members, left_out;  // as a Stack's

  ProgramStack(const Program& program_, Long I_, Long H_, Long L_, Long D_, bool bias_, bool recompute_, Long members_,
      Long left_out_)
      : program(program_), I(I_), H(H_), L(L_), D(D_), bias(bias_), recompute(recompute_), members(members_),
        left_out(left_out_) {
    check(I >= 0 && members >= 0 && H >= 1 && L >= 1 && (D == 1 || D == 2),
        "sizes must be L, H >= 1, I, members >= 0 and D 1 or 2");
    check(I <= kMost && H <= kMost && L <= kMost && members <= kMost, "a size is too large");
  }
  const Plan& plan() const { return program.plan(); }
  std::size_t states() const { return 0; }  // for which None may stand: a program says how many it has
  Long directions() const { return L * D; }
  Long out() const { return D * H; }
  // The parameters of a direction come in this order, those that there are of w_ih, w_hh, b_ih, b_hh; then own ones.
  static constexpr int kWeights = 4;
  bool has(int place) const { return (place < 2 || bias) && (place % 2 == 0 ? plan().inputs : plan().recurrents) > 0; }
  Long each() const {
    Long count = plan().owns;
    for (int p = 0; p < kWeights; ++p) count += has(p);
    return count;
  }
  Shape shape(Long direction, int place) const {
    if (place >= kWeights) return plan().own_is_vector[place - kWeights] ? Shape{H} : Shape{};
    const Long rows = product({place % 2 == 0 ? plan().inputs : plan().recurrents, H});
    if (place == 0) return {rows, direction < D ? I : out()};
    return place == 1 ? Shape{rows, H} : Shape{rows};
  }
  // (T, B) or (T, B, H); of a gradient, where there are several directions, each one's: (L·D, T, B) or (L·D, T, B, H).
  Shape step_input(const Batch& batch, bool vector, bool gradient) const {
    Shape shape;
    if (gradient && directions() > 1) shape[shape.axes++] = directions();
    shape[shape.axes++] = batch.T, shape[shape.axes++] = batch.B;
    if (vector) shape[shape.axes++] = H;
    return shape;
  }
};

class ProgramContract {
 public:
  // `padded`: what is kept of the lower layers' outputs has a row for all T·B steps.
  ProgramContract(const ProgramStack& stack, const CallViews& views, bool batch_first, bool padded)
      : stack_(stack), plan_(stack.plan()), views_(views), type_(views[kX].type),
        batch_(stack.I, views[kX], views[kBatchSizes], views[kLengths], batch_first) {
    if (type_ != kFloat32 && type_ != kFloat64) throw Mismatch("x of float32 or float64, got ", type_);
    if (batch_.packed()) throw Mismatch("x that is not packed, got batch_sizes");
    net_.number = type_ == kFloat32 ? Number::f32 : Number::f64;
    net_.T = batch_.T, net_.B = batch_.B, net_.rows = batch_.rows;
    net_.I = stack.I, net_.H = net_.P = stack.H, net_.L = stack.L, net_.D = stack.D;
    const Long widest = std::max(stack.out(), stack.I), gates = std::max(plan_.inputs + plan_.recurrents, 1);
    product({stack.directions(), gates, stack.H, std::max(widest, stack.H)});
    product({stack.directions(), batch_.rows, plan_.saved + plan_.products + plan_.states + gates, widest + 64});
    reads_.reserve(views.all(kParams).size() + 16), writes_.reserve(views.all(kGradParams).size() + 16);
    if (const View& reset = views[kReset]; !reset.none) {
      expect(reset, {net_.T, net_.B}, reset.type == kUint8 ? kUint8 : kBool);
      const Long step = stride(reset, 0), sequence = stride(reset, 1);
      const Long bytes = 1 + product({net_.T - 1, step}) + product({net_.B - 1, sequence});
      net_.resets = {static_cast<const unsigned char*>(take(reset, bytes, reads_)), step, sequence};
    }
    if (!batch_.lengths.empty())
      ragged_ = Ragged(batch_.lengths.data(), batch_.T, batch_.B), ragged_.describe(net_, padded);
  }

  ProgramForward forward() {
    auto f = begin<ProgramForward>(true);
    f.final = states(views_.all(kFinal), final_, false, true);
    for (const void* final : final_)
      if (!final) throw Mismatch("a final state for each of the program's states, got none");
    f.traced = traced(views_.all(kTraced), traced_, true);
    if (!f.traced && plan_.gates > 0) throw Mismatch("memory for what a traced program shows, got none");
    check_overlap(reads_, writes_);
    return f;
  }

  ProgramBackward backward() {
    auto f = begin<ProgramBackward>(false);
    const bool lives = net_.rows > 0;
    if (lives && stack_.L > 1 && !f.hidden) throw Mismatch("hidden, the lower layers' outputs, got none");
    if (lives && !f.kept && kept_size_ > 0) throw Mismatch("what forward kept, got none");
    f.parts = lives && kept_size_ > 0 ? parts(told_parts(f)) : 1;
    if (const View& v = views_[kGradOutput]; !v.none) f.grad_output = step_tensor(v, stack_.out(), false, true);
    f.grad_hidden = hidden(kGradHidden, false);
    f.grad_final = states(views_.all(kGradFinal), grad_final_, false, false);
    f.grad_traced = traced(views_.all(kGradTraced), traced_, false);
    if (const View& v = views_[kGradX]; !v.none) f.grad_x = step_tensor(v, stack_.I, true);
    f.grad_initial = states(views_.all(kGradInitial), grad_initial_, false, true);
    f.grad_fresh = states(views_.all(kGradFresh), grad_fresh_, true, true);
    f.grad_step_inputs = step_inputs(kGradStepInputs, grad_step_inputs_, true);
    f.gradients = each_direction(views_.all(kGradParams), "gradients of parameters", true, gradients_, grad_own_);
    check_overlap(reads_, writes_);
    return f;
  }

  template <class Call> double work(const Call& call) const { return elman::work(stack_.program, call); }
  template <class Call> std::uint64_t kind(const Call& call) const { return elman::kind(stack_.program, call); }
  template <class Call> void run(const Target& target, const Call& call, int threads) const {
    elman::run(target, stack_.program, call, ragged_, threads);
  }
  const Batch& batch() const { return batch_; }

 private:
  template <class Call> Call begin(bool writes) {
    Call call{};
    call.plan = &plan_, call.batch = batch_.B, call.recompute = stack_.recompute;
    call.parameters = each_direction(views_.all(kParams), "parameters", false, parameters_, own_);
    call.x = step_tensor(views_[kX], stack_.I, false), call.output = step_tensor(views_[kOutput], stack_.out(), writes);
    call.net = net_;
    call.initial = states(views_.all(kInitial), initial_, false, false);
    call.fresh = states(views_.all(kFresh), fresh_, true, false);
    call.step_inputs = step_inputs(kStepInputs, step_inputs_, false);
    call.draws = draws();
    call.hidden = hidden(kHidden, writes);
    kept_size_ = kept_size(plan_, stack_.recompute, net_);
    if (const View& v = views_[kSaved]; !v.none) call.kept = dense(v, {kept_size_}, writes);
    return call;
  }
  Long parts(const void* told) const {  // read once: memory may change
    const double parts =
        net_.number == Number::f32 ? *static_cast<const float*>(told) : *static_cast<const double*>(told);
    if (parts >= 1 && parts <= static_cast<double>(net_.alive ? 1 : net_.B) && parts == std::floor(parts))
      return static_cast<Long>(parts);
    throw Mismatch("what forward kept of this call, in the ", kept_size_, " numbers of kept, got other ones");
  }
  void* dense(const View& v, const Shape& shape, bool written) {
    expect(v, shape, type_);
    return take(v, dense_elements(v), written ? writes_ : reads_);
  }
  StepTensor step_tensor(const View& v, Long columns, bool written, bool spread = false) {
    StepTensor x = elman::step_tensor(v, batch_, type_, columns, written, spread, written ? writes_ : reads_);
    x.padded = ragged_.exists();
    return x;
  }
  // By state, (L·D, B, H), or what they start fresh from, (L·D, H); null where there is none.
  template <class Pointer> Pointer* states(Views from, std::vector<Pointer>& to, bool fresh, bool written) {
    const auto count = static_cast<std::size_t>(plan_.states);
    if (!from.empty() && from.size() != count)
      throw Mismatch("one tensor for each of ", count, " states, got ", from.size());
    to.assign(count, nullptr);
    for (std::size_t s = 0; s < from.size(); ++s)
      if (!from[s].none)
        to[s] = fresh ? dense(from[s], {stack_.directions(), stack_.H}, written)
                      : dense(from[s], {stack_.directions(), batch_.B, stack_.H}, written);
    return to.data();
  }
  template <class Weights, class Pointer> const Weights* each_direction(
      Views from, const char* name, bool written, std::vector<Weights>& to, std::vector<Pointer>& own) {
    const Long count = stack_.directions() * stack_.each();
    if (static_cast<Long>(from.size()) != count) throw Mismatch(count, " ", name, ", got ", from.size());
    const auto owns = static_cast<std::size_t>(plan_.owns);
    own.assign(static_cast<std::size_t>(stack_.directions()) * owns + 1, nullptr);
    const View* v = from.data();
    Pointer* mine = own.data();
    for (Long d = 0; d < stack_.directions(); ++d, mine += owns) {
      void* at[ProgramStack::kWeights] = {};
      const auto read = [&](int place) {
        return !written || !v->none ? dense(*v, stack_.shape(d, place), written) : nullptr;
      };
      for (int place = 0; place < ProgramStack::kWeights; ++place)
        if (stack_.has(place)) at[place] = read(place), ++v;
      for (int p = 0; p < plan_.owns; ++p, ++v) mine[p] = read(ProgramStack::kWeights + p);
      to.push_back({at[0], at[1], at[2], at[3], mine});
    }
    return to.data();
  }
  StepTensor steps(void* data, Long step, Long sequence) const { return {data, step, sequence, 1, ragged_.exists()}; }

  const DirectionTensor* step_inputs(Role role, std::vector<DirectionTensor>& to, bool written) {
    const Views from = views_.all(role);
    const auto count = static_cast<std::size_t>(plan_.step_inputs);
    if (from.size() != count && !(written && from.empty())) throw Mismatch(count, " step inputs, got ", from.size());
    to.assign(count + 1, {});
    const Long T = batch_.T, B = batch_.B, H = stack_.H;
    for (std::size_t k = 0; k < from.size(); ++k) {
      if (written && from[k].none) continue;
      const bool vector = plan_.step_input_is_vector[k];
      const Long width = vector ? H : 1;
      void* data = dense(from[k], stack_.step_input(batch_, vector, written), written);
      to[k] = {steps(data, B * width, width), written ? T * B * width : 0};
    }
    return to.data();
  }
  // (L·D, T, B, H), or the same at all steps: (L·D, B, H).
  const DirectionTensor* draws() {
    const Views from = views_.all(kDraws);
    if (static_cast<int>(from.size()) != plan_.draws) throw Mismatch(plan_.draws, " draws, got ", from.size());
    draws_.assign(from.size() + 1, {});
    const Long T = batch_.T, B = batch_.B, H = stack_.H, D = stack_.directions();
    for (std::size_t k = 0; k < from.size(); ++k) {
      const bool every = from[k].none || from[k].shape.axes != 3;
      void* data = dense(from[k], every ? Shape{D, T, B, H} : Shape{D, B, H}, false);
      draws_[k] = {steps(data, every ? B * H : 0, H), every ? T * B * H : B * H};
    }
    return draws_.data();
  }
  // (L·D, T, B, H) each: the states but the first, then the gates. Null where there are none.
  const DirectionTensor* traced(Views from, std::vector<DirectionTensor>& to, bool written) {
    if (from.empty()) return nullptr;
    const auto count = static_cast<std::size_t>(plan_.states - 1 + plan_.gates);
    if (from.size() != count) throw Mismatch(count, " traced states and gates, got ", from.size());
    to.assign(count, {});
    const Long T = batch_.T, B = batch_.B, H = stack_.H;
    for (std::size_t i = 0; i < count; ++i)
      if (written || !from[i].none)
        to[i] = {steps(dense(from[i], {stack_.directions(), T, B, H}, written), B * H, H), T * B * H};
    return to.data();
  }
  void* hidden(Role role, bool written) {  // (L-1, rows, D·H) or (L-1, T, B, D·H)
    const View& v = views_[role];
    if (v.none) return nullptr;
    const Long out = stack_.out(), elements = dense_elements(v),
               needed = product({stack_.L - 1, net_.saved_rows(), out});
    if (v.type != type_ || v.shape.axes < 1 || v.shape[v.shape.axes - 1] != out || elements != needed)
      throw Mismatch(
          v, " of ", needed / out, " rows of shape ", Shape{out}, " and ", type_, ", got ", v.shape, " and ", v.type);
    return take(v, elements, written ? writes_ : reads_);
  }

  const ProgramStack& stack_;
  const Plan& plan_;
  const CallViews& views_;
  const Type type_;
  const Batch batch_;
  Network net_{};
  Ragged ragged_;
  Ranges reads_, writes_;
  Long kept_size_ = 0;
  std::vector<ProgramParameters> parameters_;
  std::vector<ProgramGradients> gradients_;
  std::vector<const void*> own_, initial_, fresh_, grad_final_;
  std::vector<void*> grad_own_, final_, grad_initial_, grad_fresh_;
  std::vector<DirectionTensor> step_inputs_, grad_step_inputs_, draws_, traced_;
};

}  // namespace elman
