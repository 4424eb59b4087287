#include <algorithm>

#include "phases.h"

namespace elman {

// Each temp has a value of its own.
void fuse(CodeLines& lines) {
  const std::vector<int> reads = lines.reads();
  std::vector<int> wrote(lines.values.size(), -1);  // the last instruction that wrote a value
  std::vector<bool> gone(lines.instructions.size());
  // The instruction that can be operand k of another: alone reads it, and nothing has written what it reads since; -1:
  // none.
  const auto inner_of = [&](const Instruction& outer, int k, Op op) {
    const std::int32_t v = outer.from[k];
    const int found = wrote[index(v)];
    if (lines.at(v).kind != Kind::temp || reads[index(v)] != 1 || found < 0) return -1;
    const Instruction& inner = lines.instructions[index(found)];
    bool fits = inner.op == op;
    each_operand(inner, [&](std::int32_t operand) { fits = fits && wrote[index(operand)] <= found; });
    return fits ? found : -1;
  };
  const auto fuse_once = [&](Instruction& outer) {
    for (const Fusion& f : kFusions) {
      if (f.outer != outer.op) continue;
      for (const int k : {f.at, twin(f.outer, f.at)}) {
        const int found = inner_of(outer, k, f.inner);
        if (found < 0) continue;
        std::swap(outer.from[k], outer.from[f.at]);
        Instruction made{f.made, outer.to, {}, outer.of_rows};
        std::int32_t* to = std::copy(outer.from, outer.from + f.at, made.from);
        each_operand(lines.instructions[index(found)], [&](std::int32_t operand) { *to++ = operand; });
        std::copy(outer.from + f.at + 1, outer.from + operand_count(outer.op), to);
        outer = made, gone[index(found)] = true;
        return true;
      }
    }
    return false;
  };
  for (int at = lines.stages.front(); at < lines.stages.back(); ++at) {
    while (fuse_once(lines.instructions[index(at)]));
    wrote[index(lines.instructions[index(at)].to)] = at;
  }
  int at = lines.stages.front();
  lines.rewrite([&](const Instruction& i, std::vector<Instruction>& to) {
    if (!gone[index(at++)]) to.push_back(i);
  });
}

}  // namespace elman
