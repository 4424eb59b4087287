// A code as it comes from Python, and as it is once it has been checked.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "code.h"

namespace elman {

// Instructions (operation, to, a, b, c), operands (kind, index), constants, and the (first, end) of each stage, as
// Python's program.py has them.
struct CodeText {
  std::vector<std::array<int, 5>> instructions;
  std::vector<std::array<int, 2>> operands;
  std::vector<double> constants;
  std::vector<std::array<int, 2>> stages;
  int temps, carries;
};

inline std::size_t index(std::int32_t i) { return static_cast<std::size_t>(i); }

// What a Code is made of.
struct CodeLines {
  std::vector<Value> values;
  std::vector<Instruction> instructions;
  std::vector<std::int32_t> stages;
  std::vector<double> constants;

  int value(Kind kind, int index);  // its place, made if there is none
  Code code() const;
  // How often each value is read.
  std::vector<int> reads() const;
  // The stages, rewritten: f(instruction, to) appends to `to` what takes an instruction's place.
  template <class F> void rewrite(F f) {
    std::vector<Instruction> to(instructions.begin(), instructions.begin() + stages[0]);
    std::vector<std::int32_t> ends{stages[0]};
    for (std::size_t stage = 1; stage < stages.size(); ++stage) {
      for (auto i = stages[stage - 1]; i < stages[stage]; ++i) f(instructions[index(i)], to);
      ends.push_back(static_cast<std::int32_t>(to.size()));
    }
    instructions = std::move(to), stages = std::move(ends);
  }
  const Value& at(std::int32_t value) const { return values[index(value)]; }
};

// f of each operand that an instruction reads.
template <class I, class F> void each_operand(I& i, F f) {
  for (int k = 0; k < operand_count(i.op); ++k) f(i.from[k]);
}

constexpr int kMostOfAKind = 4096;
void expect_of_program(bool ok, const std::string& what);  // throws std::invalid_argument, "expected a program ..."

enum class Pass { infer, train, backward };

// The code, if the scan can run it: all operands exist, are written before they are read, and in time for the products.
// The plan says how many there are of each kind; product_of which product each recurrent gate has.
CodeLines checked(const CodeText& text, Pass pass, const Plan& plan, const std::vector<std::int32_t>& product_of);

}  // namespace elman
