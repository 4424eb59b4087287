// The forward scan of one direction: at each step the products with the states before it, then the program's
// instructions over what came of them.
#pragma once

#include "places.h"
#include "weights.h"

namespace elman::ELMAN_TARGET {

// Bytes of the inputs' projections at hand: with the inputs they come from they should stay in a core's second-level
// cache.
constexpr long kProjected = 128 * 1024;

template <class T> class ProgramForwardScan {
 public:
  // Positions start..stop-1 of the order's sequences. `again`: the states are known, and what was not kept goes to
  // `kept` (arrays of `stride` numbers, the first row being that of position `start`'s or `stop - 1`'s step, whichever
  // comes first), SAVED, then the factors.
  ProgramForwardScan(const StepOrder& order, const DirectionOf<T>& direction, const ProgramWeights<T>& weights,
      const Code& code, long start, long stop)
      : order_(order), of_(direction), plan_(direction.plan()), weights_(weights), start_(start), stop_(stop),
        H_(direction.call.net.H), rows_(order.count()), plane_(plane<T>(rows_ * H_)),
        steps_(max(1,
            min(stop - start, kProjected / static_cast<long>(sizeof(T)) / max(1, plan_.inputs * H_) / max(1, rows_)))),
        values_(plan_, code, direction.parameters(), rows_, H_), projected_stride_(plane<T>(steps_ * rows_ * H_)),
        projected_(plan_.inputs * projected_stride_), x_(steps_ * rows_, direction.I),
        planes_((plan_.recurrents + 4 * plan_.states + plan_.products + plan_.step_inputs + plan_.draws + plan_.gates) *
            plane_),
        input_(plan_.inputs), recurrent_(plan_.recurrents), now_(plan_.states), before_(plan_.states), h_rows_(rows_),
        panels_to_(weights.most_panels()), panels_from_(weights.most_panels()), panel_strides_(weights.most_panels()) {}
  bool ok() const {
    return all_ok(values_, projected_, x_, planes_, input_, recurrent_, now_, before_, h_rows_, panels_to_,
        panels_from_, panel_strides_);
  }

  void run(const ProgramForward& call) {
    begin();
    for (long from = start_; from < stop_; from += steps_) {
      const long to = min(stop_, from + steps_);
      project(from, to);
      for (long s = from, m = 0; s < to; m += order_.rows(s++)) {
        const long n = order_.rows(s), row = of_.row_at(order_, s);
        for (int st = 0; st < plan_.states; ++st) {
          const T* previous = now_[st];
          before_[st] = of_.before(order_, s, st, previous, gathered(st));
          T* kept = st == 0 ? side_by_side<T>(order_, of_.h, s, H_) : of_.kept_state(st);
          now_[st] = !kept ? state_room(st, s % 2) : st == 0 ? kept : kept + row * H_;
        }
        const bool keeps = of_.call.kept && !of_.call.recompute;
        step(s, m, n, [&](Kind kind, int i) {
          if (kind == Kind::saved) return of_.saved(i) + row * H_;
          return keeps ? of_.factor(i) + row * H_ : factor_room(i);
        });
        if (now_[0] != side_by_side<T>(order_, of_.h, s, H_)) copy_out<T>(order_, now_[0], of_.h, s, H_);
        if (call.traced) trace(call, s);
        finish(call, s, n);
      }
    }
  }
  // Once more, where all states are known: to `kept`, arrays of `stride` numbers for SAVED and then for the factors, in
  // which the first row is number `first`.
  void run_again(T* kept, long stride, long first) {
    begin();
    for (long from = start_; from < stop_; from += steps_) {
      const long to = min(stop_, from + steps_);
      project(from, to);
      for (long s = from, m = 0; s < to; m += order_.rows(s++)) {
        const long row = of_.row_at(order_, s) - first;
        for (int st = 0; st < plan_.states; ++st) {
          before_[st] = of_.before(order_, s, st, gathered(st), state_room(st, 1));
          now_[st] = state_room(st, 0);
        }
        step(s, m, order_.rows(s),
            [&](Kind kind, int i) { return kept + (kind == Kind::saved ? i : plan_.saved + i) * stride + row * H_; });
      }
    }
  }

 private:
  // Arrays of (rows, H).
  PanelPlaces<T> panels() const { return {panels_to_, panels_from_, panel_strides_}; }
  T* room(int i) const { return planes_ + i * plane_; }
  T* gathered(int state) const { return room(plan_.recurrents + state); }
  T* state_room(int state, long which) const {
    return room(plan_.recurrents + (1 + static_cast<int>(which)) * plan_.states + state);
  }
  T* factor_room(int j) const { return room(plan_.recurrents + 4 * plan_.states + j); }
  T* step_input_room(int k) const { return factor_room(plan_.products + k); }
  T* draw_room(int k) const { return step_input_room(plan_.step_inputs + k); }
  T* gate_room(int g) const { return draw_room(plan_.draws + g); }

  void begin() {
    values_.begin();
    for (int st = 0; st < plan_.states; ++st) now_[st] = nullptr;
  }
  void project(long from, long to) {
    const long m = order_.template gather<const T>(of_.x, from, to, x_.rows);
    for (int g = 0; g < plan_.inputs; ++g) input_[g] = projected_ + g * projected_stride_;
    weights_.project(m, x_, input_, panels());
  }
  // Position s, whose inputs' parts are in row m and after. kept(kind, index): where SAVED and factors go.
  template <class F> void step(long s, long m, long n, F kept) {
    for (int k = 0; k < plan_.step_inputs; ++k)
      copy_in<T>(
          order_, of_.call.step_inputs[k].first, s, plan_.step_input_is_vector[k] ? H_ : 1, H_, step_input_room(k));
    for (int k = 0; k < plan_.draws; ++k) copy_in<T>(order_, of_.of(of_.call.draws[k]), s, H_, H_, draw_room(k));
    for (int g = 0; g < plan_.recurrents; ++g)
      recurrent_[g] = plan_.joined_input[g] >= 0 ? input_[plan_.joined_input[g]] + m * H_ : room(g);
    values_.move([&](Kind kind, int i) -> T* {
      switch (kind) {
        case Kind::input: return input_[i] + m * H_;
        case Kind::recurrent: return recurrent_[i];
        case Kind::state: return const_cast<T*>(before_[i]);
        case Kind::new_state: return now_[i];
        case Kind::step_input: return step_input_room(i);
        case Kind::draw: return draw_room(i);
        case Kind::gate: return gate_room(i);
        default: return kept(kind, i);
      }
    });
    for (int p = 0; p < plan_.products; ++p) {
      if (plan_.gate_products[p].count > 0) {
        const T* rows = p == 0 ? before_[0] : kept(Kind::factor, p - 1);
        for (long r = 0; r < n; ++r) h_rows_[r] = rows + r * H_;
        weights_.multiply(p, n, h_rows_, recurrent_, s % 2, panels());
      }
      values_.run(p, n, [](auto...) {});
    }
  }
  void trace(const ProgramForward& call, long s) const {
    for (int st = 1; st < plan_.states; ++st) copy_out<T>(order_, now_[st], of_.of(call.traced[st - 1]), s, H_);
    for (int g = 0; g < plan_.gates; ++g)
      copy_out<T>(order_, gate_room(g), of_.of(call.traced[plan_.states - 1 + g]), s, H_);
  }
  void finish(const ProgramForward& call, long s, long n) const {  // the states at the sequences' last steps
    for (int st = 0; st < plan_.states; ++st) {
      T* final = slice<T>(call.final[st], of_.index, call.batch * H_);
      for (long r = order_.staying(s); r < n; ++r)
        __builtin_memcpy(final + sequence_of(order_, r) * H_, now_[st] + r * H_, H_ * sizeof(T));
    }
  }

  const StepOrder order_;
  const DirectionOf<T>& of_;
  const Plan& plan_;
  const ProgramWeights<T>& weights_;
  const long start_, stop_, H_, rows_, plane_,
      steps_;  // sequences; numbers of an array; steps that are projected at a time
  Values<T> values_;
  const long projected_stride_;
  const Buffer<T> projected_;
  const Lhs<T> x_;
  const Buffer<T> planes_;
  const Buffer<T*> input_, recurrent_, now_;  // by gate and by state
  const Buffer<const T*> before_, h_rows_;
  const Buffer<T*> panels_to_;
  const Buffer<const T*> panels_from_;
  const Buffer<long> panel_strides_;
};

}  // namespace elman::ELMAN_TARGET
