// The forward scan of one direction: at each step the products with the states before it, then the program's
// instructions over what came of them.
#pragma once

#include "places.h"

namespace elman::ELMAN_TARGET {

template <class T> class ProgramForwardScan {
 public:
  using Projection = InputProjection<ProgramWeights<T>>;
  // What parts of the columns read of one another's lies in so many arrays of (rows, H): h before and after a step, and
  // the factors.
  static long met(const Plan& plan) { return 1 + plan.products; }

  // The projected positions of the order's sequences, in the projected columns, whose parts meet in each step where
  // `meets`. `meeting`: the arrays in which they do; null: h is known, or this is the only part.
  ProgramForwardScan(const StepOrder& order, const DirectionOf<T>& direction, const Code& code, Projection& projection,
      bool meets, T* meeting, Team& team)
      : order_(order), of_(direction), plan_(direction.plan()), weights_(projection.weights), projection_(projection),
        columns_(panel_columns<T>(direction.call.net.H, projection.from, projection.to)), meets_(meets), team_(team),
        H_(direction.call.net.H), rows_(order.count()), plane_(plane<T>(rows_ * H_)),
        values_(plan_, code, direction.parameters(), rows_, columns_, H_),
        planes_(
            (3 * plan_.states + plan_.step_inputs + plan_.draws + plan_.gates + (meeting ? 0 : met(plan_))) * plane_),
        now_(plan_.states), before_(plan_.states), h_rows_(rows_), rooms_(planes_),
        met_(meeting ? meeting : gate_room(plan_.gates)) {}
  bool ok() const { return all_ok(projection_, values_, planes_, now_, before_, h_rows_); }

  void run(const ProgramForward& call) {
    begin(call.kept && !call.recompute ? of_.saved_and_factors() : KeptArrays<T>{});
    each_position([&](long s, long m, long n) {
      const long old = order_.continuing(s), stay = order_.staying(s), row = of_.rows.at(order_, s);
      const bool goes_on = old == n && !cuts(order_, s, n);
      T* h = side_by_side<T>(order_, of_.h, s, H_);
      for (int st = 0; st < plan_.states; ++st) {
        T* kept = st == 0 ? h : of_.kept_state(st);
        before_[st] = goes_on ? now_[st] : const_cast<T*>(of_.before(order_, s, st, now_[st], gathered(st)));
        now_[st] = !kept ? state_room(st, s % 2) : st == 0 ? kept : kept + row * H_;
      }
      step(s, m, n, row);
      if (!h) copy_out<T>(order_, now_[0], of_.h, s, H_, columns_);
      if (call.traced) trace(call, s);
      if (stay < n) finish(call, stay, n);
      if (meets_) team_.barrier();
    });
  }
  // Once more, where all states are known, to `kept`.
  void run_again(const KeptArrays<T>& kept) {
    begin(kept);
    each_position([&](long s, long m, long n) {
      for (int st = 0; st < plan_.states; ++st) {
        before_[st] = const_cast<T*>(of_.known_before(order_, s, st, gathered(st), state_room(st, 1)));
        now_[st] = state_room(st, 0);
      }
      step(s, m, n, kept.rows.at(order_, s));
    });
  }

 private:
  // Arrays of (rows, H).
  T* room(int i) const { return planes_ + i * plane_; }
  T* gathered(int state) const { return room(state); }
  T* state_room(int state, long which) const {
    return state == 0 ? met_ + which * plane_ : room((1 + static_cast<int>(which)) * plan_.states + state);
  }
  T* step_input_room(int k) const { return room(3 * plan_.states + k); }
  T* draw_room(int k) const { return step_input_room(plan_.step_inputs + k); }
  T* gate_room(int g) const { return draw_room(plan_.draws + g); }
  T* factor(int j, long row) const {
    return kept_.data ? kept_.data + (plan_.saved + j) * kept_.stride + row * H_ : met_ + (2 + j) * plane_;
  }

  // kept: where SAVED and factors go; nowhere: they are not kept.
  void begin(const KeptArrays<T>& kept) {
    kept_ = kept;
    for (int st = 0; st < plan_.states; ++st) now_[st] = nullptr;
    values_.begin([&](Kind kind, int i) -> Place<T> {
      switch (kind) {
        case Kind::input: return {&z_, weights_.input_at(i, columns_), along_chunk};
        case Kind::recurrent: return {&z_, weights_.recurrent_at(i, columns_), along_chunk};
        case Kind::state: return {before_ + i};
        case Kind::new_state: return {now_ + i};
        case Kind::step_input: return {&rooms_, step_input_room(i) - rooms_};
        case Kind::draw: return {&rooms_, draw_room(i) - rooms_};
        case Kind::gate: return {&rooms_, gate_room(i) - rooms_};
        case Kind::saved: return {&kept_.data, i * kept.stride, along_kept};
        default:
          if (kept.data) return {&kept_.data, (plan_.saved + i) * kept.stride, along_kept};
          return {&met_, (2 + i) * plane_};
      }
    });
  }
  // f(position, its first row in the chunk, how many it has).
  template <class F> void each_position(const F& f) {
    for (long chunk = 0; chunk < projection_.chunks(); ++chunk) {
      z_ = projection_.take(chunk);
      for (long s = projection_.begin(chunk), m = 0; s < projection_.end(chunk); ++s) {
        const long n = order_.rows(s);
        f(s, m, n);
        m += n;
      }
      projection_.wavefront.advance(projection_.end(chunk));
    }
  }
  // Position s, of n rows, whose inputs' parts are in row m and after, and whose SAVED and factors go to `row`.
  void step(long s, long m, long n, long row) {
    for (int k = 0; k < plan_.step_inputs; ++k)
      copy_in<T>(
          order_, of_.call.step_inputs[k].first, s, plan_.step_input_is_vector[k] ? H_ : 1, H_, step_input_room(k));
    for (int k = 0; k < plan_.draws; ++k) copy_in<T>(order_, of_.of(of_.call.draws[k]), s, H_, H_, draw_room(k));
    T* const z = z_ + m * weights_.row;
    values_.move(m * weights_.row, row);
    for (int p = 0; p < plan_.products; ++p) {
      if (plan_.gate_products[p].count > 0) {
        const T* rows = p == 0 ? before_[0] : factor(p - 1, row);
        for (long r = 0; r < n; ++r) h_rows_[r] = rows + r * H_;
        weights_.multiply(p, n, h_rows_, columns_.from, columns_.to, z, s % 2);
      }
      values_.run(p, n, [](auto...) {});
      if (meets_ && p + 1 < plan_.products) team_.barrier();
    }
  }
  void trace(const ProgramForward& call, long s) const {
    for (int st = 1; st < plan_.states; ++st)
      copy_out<T>(order_, now_[st], of_.of(call.traced[st - 1]), s, H_, columns_);
    for (int g = 0; g < plan_.gates; ++g)
      copy_out<T>(order_, gate_room(g), of_.of(call.traced[plan_.states - 1 + g]), s, H_, columns_);
  }
  void finish(const ProgramForward& call, long stay, long n) const {  // the states at the sequences' last steps
    for (int st = 0; st < plan_.states; ++st) {
      T* final = slice<T>(call.final[st], of_.index, call.batch * H_) + columns_.first;
      for (long r = stay; r < n; ++r)
        copy_rows(1, columns_.count, now_[st] + r * H_ + columns_.first, 0, final + sequence_of(order_, r) * H_, 0);
    }
  }

  const StepOrder order_;
  const DirectionOf<T>& of_;
  const Plan& plan_;
  const ProgramWeights<T>& weights_;
  Projection& projection_;
  const ColumnPart columns_;
  const bool meets_;
  Team& team_;
  const long H_, rows_, plane_;  // sequences; numbers of an array
  Values<T> values_;
  const Buffer<T> planes_;
  const Buffer<T*> now_, before_;  // by state
  const Buffer<const T*> h_rows_;
  T *const rooms_, *const met_;
  T* z_ = nullptr;
  KeptArrays<T> kept_{};
};

}  // namespace elman::ELMAN_TARGET
