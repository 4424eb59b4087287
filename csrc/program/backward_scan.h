// The backward scan of one direction: steps from the last to the first, in chunks. At each the program's gradient over
// what the forward pass kept, then the products of the gate gradients with the recurrent weights.
#pragma once

#include "../product/packing.h"
#include "../scan/halves.h"
#include "forward_scan.h"

namespace elman::ELMAN_TARGET {

// What one direction reads and writes on its way back, beyond what forward had.
template <class T> struct BackwardDirection {
  const DirectionOf<T> of;
  const ProgramBackward& call;
  const StepTensor grad_h, grad_x;  // grad_h may be nowhere: zeros; grad_x: not needed
  const bool accumulates;           // grad_x is added to what it holds
  const T* grad_final(int s) const { return slice<T>(call.grad_final[s], of.index, call.batch * call.net.H); }
  T* grad_initial(int s) const { return slice<T>(call.grad_initial[s], of.index, call.batch * call.net.H); }
  T* grad_fresh(int s) const { return slice<T>(call.grad_fresh[s], of.index, call.net.H); }
};

// What a direction's parts have in common: its weights, the gate gradients of a chunk, and sums of each sequence.
template <class T> class BackwardShared {
 public:
  const Plan& plan;
  const long B, H, stride;  // numbers from a row of gate gradients to the next
  const bool needs_x;
  const Buffer<T> gates;       // (capacity, columns·H), half by half
  const Buffer<T> w_hh, w_ih;  // each product's, packed; the input's

  BackwardShared(const BackwardDirection<T>& direction, long capacity)
      : plan(direction.of.plan()), B(capacity > 0 ? direction.call.net.B : 0), H(direction.call.net.H),
        stride(plane<T>(plan.columns * H)), needs_x(direction.grad_x.data && capacity > 0), gates(capacity * stride),
        w_hh(capacity > 0 ? plan.recurrents * H * panels<T>(H) * kLanes<T> : 0),
        w_ih(needs_x ? plan.inputs * H * panels<T>(direction.of.I) * kLanes<T> : 0), sums_(plan.owns * B * H),
        fresh_(direction.call.net.resets.data ? plan.states * B * H : 0), carry_(2 * plan.states * B * H), total_(H),
        positions_(B > 0 ? capacity / B : 0), direction_(direction) {}
  bool ok() const { return all_ok(gates, w_hh, w_ih, sums_, fresh_, carry_, total_); }

  bool pack_inputs() const {  // false: out of memory
    const Buffer<const T*> rows(needs_x ? plan.inputs * H : 0);
    if (!needs_x || !rows.ok()) return rows.ok();
    const long I = direction_.of.I;
    for (long g = 0, k = 0; g < plan.inputs; ++g)
      for (long j = 0; j < H; ++j)
        rows[k++] = static_cast<const T*>(direction_.of.parameters().w_ih) + (plan.input_order[g] * H + j) * I;
    pack_rows<T>(rows, plan.inputs * H, I, 0, panels<T>(I), w_ih);
    return true;
  }
  bool begin() const {  // false: out of memory
    const Buffer<const T*> rows(plan.recurrents * H);
    if (!rows.ok()) return false;
    const T* from = static_cast<const T*>(direction_.of.parameters().w_hh);
    long k = 0;
    for (int p = 0; p < plan.products; ++p) {
      const long first = k;
      for (int i = 0; i < plan.gate_products[p].count; ++i)
        for (long j = 0; j < H; ++j) rows[k++] = from + (plan.gate_products[p].gates[i] * H + j) * H;
      pack_rows<T>(rows + first, k - first, H, 0, panels<T>(H), w_hh + first * panels<T>(H) * kLanes<T>);
    }
    if (leaves_columns_out()) __builtin_memset(gates, 0, static_cast<std::size_t>(positions_ * B * stride) * sizeof(T));
    if (sums_) __builtin_memset(sums_, 0, static_cast<std::size_t>(plan.owns * B * H) * sizeof(T));
    if (fresh_) __builtin_memset(fresh_, 0, static_cast<std::size_t>(plan.states * B * H) * sizeof(T));
    return true;
  }
  const T* weights(int product, long panel) const {  // from a panel on
    const GateProduct& of = plan.gate_products[product];
    return w_hh + (of.before * panels<T>(H) + of.count * panel) * H * kLanes<T>;
  }
  // Of a position in a chunk, before which all sequences have `before` rows there.
  SplitRows<T> gate_rows(const StepOrder& part, long before) const {
    return rows_by_half<T>(gates, stride, positions_, part, before);
  }
  // Of the sequences of a part, (its sequences, H): an own parameter's gradient, a fresh state's, what arrives at a
  // state and what leaves it. A part's are neighbours: threads do not write near one another at each step.
  T* sum(int own, const StepOrder& part) const { return of_part(sums_, plan.owns, own, part); }
  T* fresh(int state, const StepOrder& part) const { return of_part(fresh_, plan.states, state, part); }
  T* carried(long which, int state, const StepOrder& part) const {
    return of_part(carry_, 2 * plan.states, which * plan.states + state, part);
  }

  // Summed by sequence first, so that threads change no bit.
  void finish(const ProgramGradients& gradients, const StepOrder& order, long parts) const {
    const auto add_up = [&](T* to, auto rows_of_part) {
      for (long j = 0; j < H; ++j) to[j] = T(0);
      for (long i = 0; i < parts; ++i) {
        const StepOrder part = batch_part(order, i, parts);
        const T* row = rows_of_part(part);
        for (long r = 0; r < part.count(); ++r) add_columns<T>(to, row + r * H, H, 0, panels<T>(H));
      }
    };
    for (int st = 0; st < plan.states; ++st)
      if (T* to = direction_.grad_fresh(st)) {
        if (fresh_) add_up(to, [&](const StepOrder& part) { return fresh(st, part); });
        else __builtin_memset(to, 0, H * sizeof(T));
      }
    for (int p = 0; p < plan.owns; ++p) {
      T* to = static_cast<T*>(gradients.own[p]);
      if (!to) continue;
      const auto sums_of = [&](const StepOrder& part) { return sum(p, part); };
      if (plan.own_is_vector[p]) add_up(to, sums_of);
      else add_up(total_, sums_of), row_sums<T>(total_, 1, H, [to](long, T sum) { *to = sum; });
    }
  }

 private:
  T* of_part(T* all, long arrays, long i, const StepOrder& part) const {
    return all + (arrays * part.first + i * part.count()) * H;
  }
  bool leaves_columns_out() const {  // no instruction writes them: they are zero
    int written = 0;
    for (int i = 0; i < plan.backward.stages[plan.backward.stage_count]; ++i) {
      const Kind kind = plan.backward.values[plan.backward.instructions[i].to].kind;
      written += kind == Kind::grad_input || kind == Kind::grad_recurrent;
    }
    return written < plan.columns;
  }
  const Buffer<T> sums_, fresh_, carry_;  // of all sequences
  const Buffer<T> total_;                 // (H,)
  const long positions_;                  // of a chunk
  const BackwardDirection<T>& direction_;
};

template <class T> class ProgramBackwardScan {
 public:
  // Of some columns; parts of them meet where `meets`.
  ProgramBackwardScan(const StepOrder& order, const BackwardDirection<T>& direction, const BackwardShared<T>& shared,
      const ColumnPart& columns, bool meets, Team& team)
      : order_(order), forward_(order.reversed()), direction_(direction), shared_(shared), plan_(shared.plan),
        columns_(columns), meets_(meets), team_(team), H_(shared.H), rows_(order.count()), plane_(plane<T>(rows_ * H_)),
        values_(plan_, plan_.backward, direction.of.parameters(), rows_, columns, H_),
        planes_((4 * plan_.states + plan_.products + 2 * plan_.step_inputs + plan_.draws + plan_.gates) * plane_),
        gate_rows_(rows_), before_(4 * plan_.states), exports_(plan_.backward.value_count),
        columns_of_(plan_.backward.value_count), export_ends_(plan_.products + 1), rooms_(planes_),
        sums_(shared.sum(0, order)) {}
  bool ok() const { return all_ok(values_, planes_, gate_rows_, before_, exports_, columns_of_, export_ends_); }

  // Positions begin..end-1, whose gate gradients begin at the shared ones' first row.
  void run(long begin, long end, const KeptArrays<T>& kept) {
    begin_values(kept);
    find_exports();
    for (int k = 0; k < plan_.step_inputs; ++k)
      __builtin_memset(grad_step_input(k), 0, static_cast<std::size_t>(plane_) * sizeof(T));
    long before = 0;
    const StepOrder all{order_.net, order_.reverse, 0, order_.net.B};
    for (long s = begin; s < end; ++s) {
      const long n = order_.rows(s);
      arrive(s, n);
      place(s, kept);
      step(n, shared_.gate_rows(order_, before), leaving()[0]);
      leave(s, n);
      before += all.rows(s);
    }
  }

 private:
  T* room(int i) const { return planes_ + i * plane_; }
  T* gathered(int state, int which) const { return room(which * plan_.states + state); }  // which: 0 to 3
  T* grad_factor(int j) const { return room(4 * plan_.states + j); }
  T* step_input(int k) const { return grad_factor(plan_.products + k); }
  T* grad_step_input(int k) const { return step_input(plan_.step_inputs + k); }
  T* draw(int k) const { return grad_step_input(plan_.step_inputs + k); }
  T* grad_gate(int g) const { return draw(plan_.draws + g); }
  // By state: before and after the step; the gradients that arrive, and leave.
  T** after() const { return before_ + plan_.states; }
  T** arriving() const { return before_ + 2 * plan_.states; }
  T** leaving() const { return before_ + 3 * plan_.states; }

  void begin_values(const KeptArrays<T>& kept) {
    kept_ = kept.data;
    values_.begin([&](Kind kind, int i) -> Place<T> {
      switch (kind) {
        case Kind::state: return {before_ + i};
        case Kind::new_state: return {after() + i};
        case Kind::saved: return {&kept_, i * kept.stride, along_kept};
        case Kind::factor: return {&kept_, (plan_.saved + i) * kept.stride, along_kept};
        case Kind::step_input: return {&rooms_, step_input(i) - rooms_};
        case Kind::draw: return {&rooms_, draw(i) - rooms_};
        case Kind::grad_new_state: return {arriving() + i};
        case Kind::grad_state: return {leaving() + i};
        case Kind::grad_factor: return {&rooms_, grad_factor(i) - rooms_};
        case Kind::grad_step_input: return {&rooms_, grad_step_input(i) - rooms_};
        case Kind::grad_gate: return {&rooms_, grad_gate(i) - rooms_};
        default: return {&sums_, i * rows_ * H_};
      }
    });
  }
  void find_exports() {
    const Code& code = plan_.backward;
    int count = 0;
    for (int stage = 0; stage < code.stage_count; ++stage) {
      for (int i = code.stages[stage]; i < code.stages[stage + 1]; ++i) {
        const int v = code.instructions[i].to;
        const Value& value = code.values[v];
        if (value.kind != Kind::grad_input && value.kind != Kind::grad_recurrent) continue;
        exports_[count] = v;
        columns_of_[count++] = value.kind == Kind::grad_input ? plan_.column_of_input[value.index]
                                                              : plan_.column_of_recurrent[value.index];
      }
      export_ends_[stage] = count;
    }
  }

  // Rows of the columns.
  void clear(T* rows, long n) const {
    for (long r = 0; r < n; ++r) __builtin_memset(rows + r * H_ + columns_.first, 0, columns_.count * sizeof(T));
  }
  void copy(T* to, const T* from) const {
    __builtin_memcpy(to + columns_.first, from + columns_.first, columns_.count * sizeof(T));
  }
  void add(T* to, const T* from) const { add_columns<T>(to, from, H_, columns_.from, columns_.to); }

  // The gradients that arrive at the states after position s: from the step after, or the final state's; and the
  // caller's.
  void arrive(long s, long n) {
    const long old = order_.continuing(s);
    for (int st = 0; st < plan_.states; ++st) {
      T* to = arriving()[st] = shared_.carried(s % 2, st, order_);
      leaving()[st] = shared_.carried((s + 1) % 2, st, order_);
      const T* final = old < n ? direction_.grad_final(st) : nullptr;
      for (long r = old; r < n; ++r)
        if (final) copy(to + r * H_, final + sequence_of(order_, r) * H_);
        else clear(to + r * H_, 1);
      if (st == 0) add_rows(direction_.grad_h, s, n, to);
      else if (direction_.call.grad_traced) add_rows(direction_.of.of(direction_.call.grad_traced[st - 1]), s, n, to);
    }
    for (int g = 0; g < plan_.gates; ++g) {
      clear(grad_gate(g), n);
      if (direction_.call.grad_traced)
        add_rows(direction_.of.of(direction_.call.grad_traced[plan_.states - 1 + g]), s, n, grad_gate(g));
    }
  }
  void add_rows(const StepTensor& x, long s, long n, T* to) const {
    const StepRows<const T> rows = order_.rows_of<const T>(x, s);
    if (!rows) return;
    for (long r = 0; r < n; ++r) {
      if (x.column) add(to + r * H_, rows[r]);
      else
        for (long j = 0; j < columns_.count; ++j) to[r * H_ + columns_.first + j] += *rows[r];
    }
  }

  void place(long s, const KeptArrays<T>& kept) {
    const DirectionOf<T>& of = direction_.of;
    const long position = order_.net.T - 1 - s;
    for (int k = 0; k < plan_.step_inputs; ++k)
      copy_in<T>(
          forward_, of.call.step_inputs[k].first, position, plan_.step_input_is_vector[k] ? H_ : 1, H_, step_input(k));
    for (int k = 0; k < plan_.draws; ++k) copy_in<T>(forward_, of.of(of.call.draws[k]), position, H_, H_, draw(k));
    for (int st = 0; st < plan_.states; ++st) {
      if (plan_.reads_state[st])
        before_[st] = const_cast<T*>(of.known_before(forward_, position, st, gathered(st, 0), gathered(st, 1)));
      if (plan_.reads_new_state[st]) after()[st] = const_cast<T*>(of.after(forward_, position, st, gathered(st, 2)));
    }
    values_.move(0, kept.rows.at(forward_, position));
  }

  // One step of n rows: the program's stages, each followed by a product of what it left. `to`: the gradient of the
  // first state before the step.
  void step(long n, const SplitRows<T>& gates, T* to) {
    for (int stage = 0; stage < plan_.products; ++stage) {
      const int first = stage == 0 ? 0 : export_ends_[stage - 1], last = export_ends_[stage];
      values_.run(stage, n, [&](T* const* at, long row, long rows, long column, long columns) {
        for (long r = 0; r < rows; ++r)
          for (int i = first; i < last; ++i)
            copy_columns<T, T>(gates[row + r] + columns_of_[i] * H_ + columns_.first + column,
                at[exports_[i]] + r * columns, 1, columns, 0, panels<T>(columns));
      });
      const int index = plan_.products - 1 - stage;
      const GateProduct& gate_product = plan_.gate_products[index];
      const bool add = index == 0 && plan_.writes_grad_state[0];
      if (gate_product.count == 0 && add) continue;
      if (meets_) team_.barrier();
      for (long r = 0; r < n; ++r) gate_rows_[r] = gates[r] + gate_product.column * H_;
      const StoreEpilogue<T, StepRows<T>> store{{index == 0 ? to : grad_factor(index - 1), H_, nullptr}, H_, add};
      product<T, 1>(n, Rows<T>{gate_rows_}, gate_product.count * H_, shared_.weights(index, columns_.from),
          columns_.from, columns_.to, store);
    }
  }

  // The gradients of the states before position s: to the step before, to what a reset started from, or to the initial
  // state.
  void leave(long s, long n) {
    const long position = order_.net.T - 1 - s, stay = order_.staying(s);
    const bool cut = cuts(forward_, position, n);
    for (int st = 0; st < plan_.states; ++st) {
      T* grad = leaving()[st];
      if (st > 0 && !plan_.writes_grad_state[st]) clear(grad, n);
      for (long r = 0; cut && r < n; ++r) {
        if (!forward_.resets(position, r)) continue;
        add(shared_.fresh(st, order_) + r * H_, grad + r * H_);
        clear(grad + r * H_, 1);
      }
      T* initial = stay < n ? direction_.grad_initial(st) : nullptr;
      for (long r = stay; initial && r < n; ++r) copy(initial + sequence_of(order_, r) * H_, grad + r * H_);
    }
    for (int k = 0; k < plan_.step_inputs; ++k) {
      const StepTensor to = direction_.of.of(direction_.call.grad_step_inputs[k]);
      if (!to.data) continue;
      if (plan_.step_input_is_vector[k]) copy_out<T>(order_, grad_step_input(k), to, s, H_, columns_);
      else row_sums<T>(grad_step_input(k), n, H_, [&](long r, T sum) { *order_.row_of<T>(to, s, r) = sum; });
    }
  }

  const StepOrder order_, forward_;  // from the end to the beginning, and the other way
  const BackwardDirection<T>& direction_;
  const BackwardShared<T>& shared_;
  const Plan& plan_;
  const ColumnPart columns_;
  const bool meets_;
  Team& team_;
  const long H_, rows_, plane_;
  Values<T> values_;
  const Buffer<T> planes_;
  const Buffer<const T*> gate_rows_;
  const Buffer<T*> before_;
  const Buffer<int> exports_, columns_of_,
      export_ends_;  // values that are gate gradients, and which; how many up to a stage
  T *const rooms_, *const sums_;
  T* kept_ = nullptr;
};

}  // namespace elman::ELMAN_TARGET
