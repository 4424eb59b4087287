#include "program.h"

#include <algorithm>
#include <atomic>
#include <map>

#include "phases.h"

namespace elman {
namespace {

std::unique_ptr<bool[]> flags(const std::vector<bool>& from) {
  std::unique_ptr<bool[]> made(new bool[from.size() + 1]{});
  std::copy(from.begin(), from.end(), made.get());
  return made;
}

// By state, whether a code reads it, before the step or after it.
std::vector<bool> states_read(const CodeLines& lines, int states, Kind kind) {
  std::vector<bool> found(index(states));
  for (const Instruction& i : lines.instructions)
    each_operand(i, [&](std::int32_t operand) {
      if (const Value& v = lines.at(operand); v.kind == kind) found[index(v.index)] = true;
    });
  return found;
}

// Where a code reads x.g and r.g' once each, to add them: by recurrent gate the input gate and the instruction.
std::map<int, std::pair<int, const Instruction*>> sums_of_parts(const CodeLines& lines) {
  const std::vector<int> reads = lines.reads();
  std::map<int, std::pair<int, const Instruction*>> found;
  for (const Instruction& i : lines.instructions) {
    if (i.op != Op::add || reads[index(i.from[0])] != 1 || reads[index(i.from[1])] != 1) continue;
    Value a = lines.at(i.from[0]), b = lines.at(i.from[1]);
    if (a.kind == Kind::recurrent) std::swap(a, b);
    if (a.kind == Kind::input && b.kind == Kind::recurrent) found[b.index] = {a.index, &i};
  }
  return found;
}

// Takes such sums away: what read them reads the input's part.
void drop_sums(CodeLines& lines, const std::vector<std::int32_t>& joined) {
  std::map<std::int32_t, std::int32_t> stands_for;  // of a temp that held a sum, the input's part
  lines.rewrite([&](Instruction i, std::vector<Instruction>& to) {
    const std::int32_t written = i.to;
    std::int32_t input = -1;
    if (i.op == Op::add)
      for (const int k : {0, 1}) {
        const Value &one = lines.at(i.from[k]), &other = lines.at(i.from[1 - k]);
        if (one.kind == Kind::input && other.kind == Kind::recurrent && joined[index(other.index)] == one.index)
          input = i.from[k];
      }
    if (input >= 0 && lines.at(written).kind == Kind::temp) {
      stands_for[written] = input;
      return;
    }
    if (input >= 0) {
      to.push_back({Op::copy, written, {input}});
      return;
    }
    each_operand(i, [&](std::int32_t& operand) {
      if (const auto found = stands_for.find(operand); found != stands_for.end()) operand = found->second;
    });
    stands_for.erase(written);
    to.push_back(i);
  });
}

}  // namespace

Program::Program(const CodeText& infer, const CodeText& train, const CodeText& backward,
    const std::vector<std::vector<int>>& products, const Counts& counts, const std::vector<bool>& own,
    const std::vector<bool>& step_inputs) {
  static std::atomic<int> made{0};
  number_ = made.fetch_add(1);
  count(counts, own, step_inputs);
  assign(products);
  infer_ = checked(infer, Pass::infer, plan_, product_of_);
  train_ = checked(train, Pass::train, plan_, product_of_);
  backward_ = checked(backward, Pass::backward, plan_, product_of_);
  for (const CodeLines* lines : {&infer_, &train_, &backward_})
    for (const Instruction& i : lines->instructions) plan_.needs_rows = plan_.needs_rows || is_over_rows(i.op);
  weight_ = 3.0 * static_cast<double>(train_.instructions.size());
  find_states(), join_parts(), share_columns(), arrange_columns(), arrange_arrays(), sum_own_gradients(), hoist();
  keep_what_stages_share();
  plan_.phased_infer = phased_infer_.code(), plan_.phased_train = phased_train_.code();
  plan_.phased_backward = phased_backward_.code();
  plan_.infer = infer_.code(), plan_.train = train_.code(), plan_.backward = backward_.code();
}

void Program::count(const Counts& counts, const std::vector<bool>& own, const std::vector<bool>& step_inputs) {
  for (const int count : {counts.inputs, counts.recurrents, counts.states, counts.draws, counts.gates, counts.saved})
    expect_of_program(count >= 0 && count <= kMostOfAKind, "of up to 4096 of each kind, got " + std::to_string(count));
  expect_of_program(counts.states >= 1, "of at least one state");
  expect_of_program(
      own.size() <= kMostOfAKind && step_inputs.size() <= kMostOfAKind, "of up to 4096 parameters and step inputs");
  plan_.inputs = counts.inputs, plan_.recurrents = counts.recurrents, plan_.states = counts.states;
  plan_.draws = counts.draws, plan_.gates = counts.gates, plan_.saved = counts.saved;
  plan_.owns = static_cast<int>(own.size()), plan_.step_inputs = static_cast<int>(step_inputs.size());
  own_ = flags(own), step_inputs_ = flags(step_inputs);
  plan_.own_is_vector = own_.get(), plan_.step_input_is_vector = step_inputs_.get();
}

void Program::assign(const std::vector<std::vector<int>>& products) {
  expect_of_program(!products.empty() && products.size() <= kMostOfAKind, "that says which gates h is multiplied with");
  plan_.products = static_cast<int>(products.size());
  product_of_.assign(index(plan_.recurrents), -1);
  for (std::size_t p = 0; p < products.size(); ++p) {
    for (const int gate : products[p]) {
      expect_of_program(gate >= 0 && gate < plan_.recurrents && product_of_[index(gate)] < 0,
          "whose recurrent gates each have one product, got gate " + std::to_string(gate));
      product_of_[index(gate)] = static_cast<std::int32_t>(p);
    }
    product_gates_.emplace_back(products[p].begin(), products[p].end());
  }
  expect_of_program(
      std::count(product_of_.begin(), product_of_.end(), -1) == 0, "with a product for each recurrent gate");
  plan_.independent = plan_.products == 1 && plan_.recurrents == 0;
}

void Program::find_states() {
  const std::vector<bool> none(index(plan_.states));
  reads_state_ = flags(states_read(backward_, plan_.states, Kind::state));
  reads_new_state_ = flags(states_read(backward_, plan_.states, Kind::new_state)), writes_grad_state_ = flags(none);
  for (const Instruction& i : backward_.instructions)
    if (const Value& to = backward_.at(i.to); to.kind == Kind::grad_state) writes_grad_state_[index(to.index)] = true;
  plan_.reads_state = reads_state_.get(), plan_.reads_new_state = reads_new_state_.get();
  plan_.writes_grad_state = writes_grad_state_.get();
}

// Where both ways forward only add x.g and r.g', the product starts from x.g, and the addition goes.
void Program::join_parts() {
  joined_input_.assign(index(plan_.recurrents), -1), joined_recurrent_.assign(index(plan_.inputs), -1);
  const auto in_infer = sums_of_parts(infer_), in_train = sums_of_parts(train_);
  for (const auto& [recurrent, where] : in_infer) {
    const auto other = in_train.find(recurrent);
    if (other == in_train.end() || other->second.first != where.first) continue;
    joined_input_[index(recurrent)] = where.first, joined_recurrent_[index(where.first)] = recurrent;
  }
  drop_sums(infer_, joined_input_), drop_sums(train_, joined_input_);
  plan_.joined_input = joined_input_.data(), plan_.joined_recurrent = joined_recurrent_.data();
}

// A gate whose two gradients are one has one column for both, where the order of the columns allows it: for two
// products' gates.
void Program::share_columns() {
  sharing_input_.assign(index(plan_.recurrents), -1), shared_recurrent_.assign(index(plan_.inputs), -1);
  const std::vector<int> reads = backward_.reads();
  backward_.rewrite([&](const Instruction& i, std::vector<Instruction>& to) {
    const Value &grad = backward_.at(i.to), &from = backward_.at(i.from[0]);
    if (i.op == Op::copy && grad.kind == Kind::grad_input && from.kind == Kind::grad_recurrent &&
        reads[index(i.to)] == 0 && product_of_[index(from.index)] < 2 && sharing_input_[index(from.index)] < 0)
      shared_recurrent_[index(grad.index)] = from.index, sharing_input_[index(from.index)] = grad.index;
    else to.push_back(i);
  });
}

// The columns of the gate gradients: those of a product's gates are neighbours, and so are all inputs'.
void Program::arrange_columns() {
  column_of_input_.assign(index(plan_.inputs), -1), column_of_recurrent_.assign(index(plan_.recurrents), -1);
  std::int32_t column = 0;
  const auto put_product = [&](std::size_t p, bool shared) {
    if (p >= product_gates_.size()) return;
    for (const std::int32_t gate : product_gates_[p])
      if ((sharing_input_[index(gate)] >= 0) == shared) column_of_recurrent_[index(gate)] = column++;
  };
  put_product(1, false);
  plan_.input_column = column;
  put_product(1, true);
  for (int g = 0; g < plan_.inputs; ++g)
    if (shared_recurrent_[index(g)] < 0) column_of_input_[index(g)] = column++;
  put_product(0, true), put_product(0, false);
  for (std::size_t p = 2; p < product_gates_.size(); ++p) put_product(p, false);
  for (int g = 0; g < plan_.inputs; ++g) {
    if (const int shared = shared_recurrent_[index(g)]; shared >= 0)
      column_of_input_[index(g)] = column_of_recurrent_[index(shared)];
    input_order_.push_back(g);
  }
  plan_.columns = column;
  const auto by = [](const std::vector<std::int32_t>& columns) {
    return [&columns](std::int32_t a, std::int32_t b) { return columns[index(a)] < columns[index(b)]; };
  };
  std::sort(input_order_.begin(), input_order_.end(), by(column_of_input_));
  int before = 0;
  for (std::vector<std::int32_t>& gates : product_gates_) {
    std::sort(gates.begin(), gates.end(), by(column_of_recurrent_));
    const int count = static_cast<int>(gates.size());
    products_.push_back({gates.data(), count, before, gates.empty() ? 0 : column_of_recurrent_[index(gates[0])]});
    before += count;
  }
  plan_.gate_products = products_.data(), plan_.input_order = input_order_.data();
  plan_.column_of_input = column_of_input_.data(), plan_.column_of_recurrent = column_of_recurrent_.data();
}

void Program::arrange_arrays() {
  array_of_input_.assign(index(plan_.inputs), -1), array_of_recurrent_.assign(index(plan_.recurrents), -1);
  for (int g = 0; g < plan_.inputs; ++g)
    if (joined_recurrent_[index(g)] < 0) array_of_input_[index(g)] = plan_.arrays++;
  for (const std::vector<std::int32_t>& gates : product_gates_)
    for (const std::int32_t gate : gates) {
      if (const int input = joined_input_[index(gate)]; input >= 0) array_of_input_[index(input)] = plan_.arrays;
      array_of_recurrent_[index(gate)] = plan_.arrays++;
    }
  plan_.array_of_input = array_of_input_.data(), plan_.array_of_recurrent = array_of_recurrent_.data();
}

// What a step adds to the gradients of own parameters goes to sums of each sequence.
void Program::sum_own_gradients() {
  const std::vector<int> reads = backward_.reads();
  backward_.rewrite([&](const Instruction& i, std::vector<Instruction>& to) {
    if (backward_.at(i.to).kind != Kind::grad_own) return to.push_back(i);
    const std::int32_t sum = backward_.value(Kind::sum_own, backward_.at(i.to).index);
    const bool alone = reads[index(i.to)] == 0;
    if (alone && i.op == Op::mul) return to.push_back({Op::fma, sum, {i.from[0], i.from[1], sum}});
    if (alone && i.op == Op::copy) return to.push_back({Op::add, sum, {sum, i.from[0]}});
    to.push_back(i), to.push_back({Op::add, sum, {sum, i.to}});
  });
}

void Program::hoist() {
  for (CodeLines* lines : {&infer_, &train_, &backward_}) compute_once(*lines);
  std::vector<bool> saved(index(plan_.saved));  // which are one number of each row
  for (const auto& [lines, phased] : {std::pair{&infer_, &phased_infer_}, std::pair{&train_, &phased_train_},
           std::pair{&backward_, &phased_backward_}}) {
    const bool back = lines == &backward_;
    if (plan_.independent) {
      *phased = *lines;
      divide_into_phases(*phased, back ? Kind::grad_new_state : Kind::state, back ? Kind::grad_state : Kind::new_state,
          back ? std::vector<bool>(plan_.writes_grad_state, plan_.writes_grad_state + plan_.states)
               : states_read(*lines, plan_.states, Kind::state));
      find_row_values(*phased, plan_, saved), spread_row_values(*phased);
      fuse(*phased), share_scratch(*phased);
    }
    find_row_values(*lines, plan_, saved), spread_row_values(*lines);
    fuse(*lines), share_scratch(*lines);
  }
}

void Program::keep_what_stages_share() {
  for (CodeLines* lines : {&infer_, &train_, &backward_}) {
    std::map<std::int32_t, std::size_t> written;  // in which stage
    for (std::size_t stage = 0; stage + 1 < lines->stages.size(); ++stage)
      for (auto at = lines->stages[stage]; at < lines->stages[stage + 1]; ++at) {
        const Instruction& i = lines->instructions[index(at)];
        each_operand(i, [&](std::int32_t operand) {
          const auto found = written.find(operand);
          if (found != written.end() && found->second != stage) lines->values[index(operand)].kept = true;
        });
        written[i.to] = stage;
      }
  }
}

}  // namespace elman
