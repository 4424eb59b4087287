#include "check.h"

#include <map>
#include <set>
#include <stdexcept>

namespace elman {
namespace {

#define ELMAN_TEXT(name) #name,
const char* const kKindNames[] = {ELMAN_KINDS(ELMAN_TEXT)};
#undef ELMAN_TEXT
constexpr int kGivenKinds = static_cast<int>(Kind::sum_own);

std::string name(const Value& v) { return kKindNames[static_cast<int>(v.kind)] + std::to_string(v.index); }

// One code against what the scan will do with it: operands exist, are written before they are read, and in time for
// the products.
class Check {
 public:
  Check(const CodeText& text, Pass pass, const Plan& plan, const std::vector<std::int32_t>& product_of)
      : plan_(plan), product_of_(product_of), backward_(pass == Pass::backward), saves_(pass == Pass::train),
        last_stage_(plan.products - 1), text_(text) {}

  CodeLines run() {
    expect_of_program(static_cast<int>(text_.stages.size()) == last_stage_ + 1,
        "of " + std::to_string(last_stage_ + 1) + " stages, one more than it has products of factors, got " +
            std::to_string(text_.stages.size()));
    expect_of_program(text_.instructions.size() <= 16 * kMostOfAKind && text_.operands.size() <= 16 * kMostOfAKind,
        "of fewer instructions and operands");
    expect_of_program(
        text_.temps >= 0 && text_.temps <= kMostOfAKind && text_.carries >= 0 && text_.carries <= kMostOfAKind,
        "with a sensible number of temps and carries");
    lines_.constants = text_.constants;
    for (const auto& [kind, index] : text_.operands) {
      expect_of_program(
          kind >= 0 && kind < kGivenKinds, "whose operands are of known roles, got role " + std::to_string(kind));
      const Value v{static_cast<Kind>(kind), index};
      expect_of_program(index >= 0 && index < count(v.kind),
          "that has its operands, got " + name(v) + " of " + std::to_string(count(v.kind)));
      expect_of_program(
          listed_.insert({v.kind, index}).second, "that lists each operand once, got " + name(v) + " again");
      lines_.values.push_back(v);
    }
    int at = 0;
    lines_.stages.push_back(0);
    for (stage_ = 0; stage_ <= last_stage_; ++stage_) {
      const auto [first, end] = text_.stages[index(stage_)];
      expect_of_program(first == at && end >= first && end <= static_cast<int>(text_.instructions.size()),
          "whose stages follow one another, got one from " + std::to_string(first) + " to " + std::to_string(end));
      for (; at < end; ++at) add(text_.instructions[index(at)]);
      lines_.stages.push_back(at);
    }
    expect_of_program(at == static_cast<int>(text_.instructions.size()), "whose stages hold all instructions");
    if (!backward_) all_are_written(Kind::new_state), all_are_written(Kind::factor);
    if (!backward_) all_are_written(Kind::gate);
    if (saves_) all_are_written(Kind::saved);
    return std::move(lines_);
  }

 private:
  int count_of(Kind kind) const {
    switch (kind) {
      case Kind::input:
      case Kind::grad_input: return plan_.inputs;
      case Kind::recurrent:
      case Kind::grad_recurrent: return plan_.recurrents;
      case Kind::state:
      case Kind::new_state:
      case Kind::grad_new_state:
      case Kind::grad_state: return plan_.states;
      case Kind::own:
      case Kind::grad_own:
      case Kind::sum_own: return plan_.owns;
      case Kind::step_input:
      case Kind::grad_step_input: return plan_.step_inputs;
      case Kind::draw: return plan_.draws;
      case Kind::saved: return plan_.saved;
      case Kind::factor:
      case Kind::grad_factor: return plan_.products - 1;
      case Kind::gate:
      case Kind::grad_gate: return plan_.gates;
      default: return 0;
    }
  }
  int count(Kind kind) const {
    if (kind == Kind::temp) return text_.temps;
    if (kind == Kind::carry) return text_.carries;
    return kind == Kind::constant ? static_cast<int>(text_.constants.size()) : count_of(kind);
  }
  void all_are_written(Kind kind) const {
    for (int i = 0; i < count(kind); ++i)
      expect_of_program(written_.count({kind, i}) > 0, "that writes " + name({kind, i}) + ", got one that does not");
  }
  void add(const std::array<int, 5>& text) {
    const auto [op, to, a, b, c] = text;
    expect_of_program(op >= 0 && op < static_cast<int>(Op::spread), "of known operations, got " + std::to_string(op));
    const int operands[] = {a, b, c}, needed = operand_count(static_cast<Op>(op));
    for (int i = 0; i < 3; ++i) {
      if (i >= needed) expect_of_program(operands[i] == -1, "whose operations have as many operands as they take");
      else read(value(operands[i]));
    }
    write(value(to));
    lines_.instructions.push_back({static_cast<Op>(op), to, {a, b, c}});
  }
  const Value& value(int at) const {
    expect_of_program(at >= 0 && at < static_cast<int>(lines_.values.size()),
        "whose instructions have operands that it lists, got " + std::to_string(at));
    return lines_.values[index(at)];
  }
  void read(const Value& v) const {
    bool given = false;
    switch (v.kind) {
      case Kind::constant:
      case Kind::state:
      case Kind::own:
      case Kind::step_input:
      case Kind::draw: given = true; break;
      case Kind::input: given = !backward_; break;
      // A product is there from its stage on; the gradient of a factor after that product's.
      case Kind::recurrent: given = !backward_ && product_of_[index(v.index)] <= stage_; break;
      case Kind::grad_factor: given = backward_ && stage_ > last_stage_ - 1 - v.index; break;
      case Kind::grad_new_state:
      case Kind::grad_gate:
      case Kind::new_state:
      case Kind::saved:
      case Kind::factor: given = backward_; break;
      default: break;
    }
    const auto found = written_.find({v.kind, v.index});
    const bool lives = found != written_.end() && (v.kind != Kind::temp || found->second == stage_);
    expect_of_program(
        given || lives, "that writes what it reads, got " + name(v) + " in stage " + std::to_string(stage_));
  }
  void write(const Value& v) {
    int until = last_stage_;  // the last stage in which it may be written
    bool may = false;
    switch (v.kind) {
      case Kind::temp:
      case Kind::carry: may = true; break;
      case Kind::new_state:
      case Kind::gate: may = !backward_; break;
      case Kind::saved: may = saves_; break;
      case Kind::factor: may = !backward_, until = v.index; break;
      case Kind::grad_recurrent: may = backward_, until = last_stage_ - product_of_[index(v.index)]; break;
      case Kind::grad_input:
      case Kind::grad_state:
      case Kind::grad_own:
      case Kind::grad_step_input: may = backward_; break;
      default: break;
    }
    expect_of_program(
        may && stage_ <= until, "that writes what it may, got " + name(v) + " in stage " + std::to_string(stage_));
    const bool again = !written_.insert_or_assign({v.kind, v.index}, stage_).second;
    expect_of_program(!again || v.kind == Kind::temp || v.kind == Kind::carry, "that writes " + name(v) + " once");
  }

  const Plan& plan_;
  const std::vector<std::int32_t>& product_of_;
  const bool backward_, saves_;
  const int last_stage_;
  const CodeText& text_;
  CodeLines lines_;
  int stage_ = 0;
  std::set<std::pair<Kind, int>> listed_;
  std::map<std::pair<Kind, int>, int> written_;  // and in which stage last
};

}  // namespace

int CodeLines::value(Kind kind, int index) {
  for (std::size_t v = 0; v < values.size(); ++v)
    if (values[v].kind == kind && values[v].index == index) return static_cast<int>(v);
  values.push_back({kind, index});
  return static_cast<int>(values.size()) - 1;
}
Code CodeLines::code() const {
  return {values.data(), instructions.data(), stages.data(), constants.data(), static_cast<int>(values.size()),
      static_cast<int>(stages.size()) - 1};
}
std::vector<int> CodeLines::reads() const {
  std::vector<int> count(values.size());
  for (const Instruction& i : instructions) each_operand(i, [&](std::int32_t operand) { ++count[index(operand)]; });
  return count;
}

void expect_of_program(bool ok, const std::string& what) {
  if (!ok) throw std::invalid_argument("expected a program " + what);
}

CodeLines checked(const CodeText& text, Pass pass, const Plan& plan, const std::vector<std::int32_t>& product_of) {
  return Check(text, pass, plan, product_of).run();
}

}  // namespace elman
