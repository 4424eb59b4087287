#include "phases.h"

#include <algorithm>
#include <iterator>
#include <map>

namespace elman {
namespace {

bool is_scratch(const Value& v) { return v.kind == Kind::temp || v.kind == Kind::carry; }

// Each instruction that writes scratch gets a value of its own for it.
void name_apart(CodeLines& lines, bool (*renames)(const Value&)) {
  std::map<std::int32_t, std::int32_t> last;  // by scratch as it was, the value that holds what was last written there
  lines.rewrite([&](Instruction i, std::vector<Instruction>& to) {
    each_operand(i, [&](std::int32_t& operand) {
      if (const auto found = last.find(operand); found != last.end()) operand = found->second;
    });
    if (renames(lines.at(i.to))) {
      const auto made = static_cast<std::int32_t>(lines.values.size());
      lines.values.push_back({Kind::temp, made});
      last[i.to] = made, i.to = made;
    }
    to.push_back(i);
  });
}

// By value, the parts of a code, of instructions ends[i-1] .. ends[i]-1, in which it is written and last read: -1, in
// none.
struct Uses {
  std::vector<int> written, read;
  Uses(const CodeLines& lines, const std::vector<std::int32_t>& ends)
      : written(lines.values.size(), -1), read(lines.values.size(), -1) {
    std::int32_t at = 0;
    for (std::size_t part = 0; part < ends.size(); ++part)
      for (; at < ends[part]; ++at) {
        const Instruction& i = lines.instructions[index(at)];
        each_operand(i, [&](std::int32_t operand) { read[index(operand)] = static_cast<int>(part); });
        written[index(i.to)] = static_cast<int>(part);
      }
  }
};

}  // namespace

void compute_once(CodeLines& lines) {
  name_apart(lines, [](const Value& v) { return v.kind == Kind::temp; });
  std::vector<bool> is_known(lines.values.size());
  for (std::size_t v = 0; v < lines.values.size(); ++v)
    is_known[v] = lines.values[v].kind == Kind::constant || lines.values[v].kind == Kind::own;
  std::vector<Instruction> once;
  lines.rewrite([&](const Instruction& i, std::vector<Instruction>& to) {
    bool moves = lines.at(i.to).kind == Kind::temp;
    each_operand(i, [&](std::int32_t operand) { moves = moves && is_known[index(operand)]; });
    is_known[index(i.to)] = moves;
    (moves ? once : to).push_back(i);
  });
  const auto count = static_cast<std::int32_t>(once.size());
  lines.instructions.insert(lines.instructions.begin(), once.begin(), once.end());
  for (std::int32_t& stage : lines.stages) stage += count;
  const Uses uses(lines, lines.stages);
  for (std::size_t v = 0; v < lines.values.size(); ++v)
    if (lines.values[v].kind == Kind::temp && uses.written[v] == 0 && uses.read[v] > 0)
      lines.values[v] = {Kind::derived, static_cast<std::int32_t>(v)};
}

void divide_into_phases(CodeLines& lines, Kind arrives, Kind leaves, const std::vector<bool>& carried) {
  name_apart(lines, is_scratch);
  const auto is = [&](Kind kind) {
    std::vector<bool> found(lines.values.size());
    for (std::size_t v = 0; v < found.size(); ++v)
      found[v] = lines.values[v].kind == kind && carried[index(lines.values[v].index)];
    return found;
  };
  std::vector<bool> moves = is(arrives), needed = is(leaves);  // depends on the step before; the step after on it
  const auto first = lines.instructions.begin() + lines.stages.front();
  for (auto i = first; i != lines.instructions.end(); ++i)
    each_operand(*i, [&](std::int32_t operand) { moves[index(i->to)] = moves[index(i->to)] || moves[index(operand)]; });
  for (auto i = lines.instructions.end(); i != first;)
    if (--i; needed[index(i->to)]) each_operand(*i, [&](std::int32_t operand) { needed[index(operand)] = true; });
  const auto phase = [&](const Instruction& i) {
    if (lines.at(i.to).kind == Kind::sum_own) return own_sums;
    return !needed[index(i.to)] ? after_steps : moves[index(i.to)] ? each_step : before_steps;
  };
  std::vector<Instruction> divided(lines.instructions.begin(), first);
  lines.stages.resize(1);
  for (const Phase part : {before_steps, each_step, after_steps, own_sums}) {
    std::copy_if(first, lines.instructions.end(), std::back_inserter(divided),
        [&](const Instruction& i) { return phase(i) == part; });
    lines.stages.push_back(static_cast<std::int32_t>(divided.size()));
  }
  lines.instructions = std::move(divided);
  const Uses uses(lines, lines.stages);
  std::int32_t carries = 0;
  for (std::size_t v = 0; v < lines.values.size(); ++v)
    if (lines.values[v].kind == Kind::temp && uses.written[v] < uses.read[v])
      lines.values[v] = {Kind::carry, carries++};
}

void find_row_values(CodeLines& lines, const Plan& plan, std::vector<bool>& saved) {
  for (Value& v : lines.values) v.of_row = v.kind == Kind::saved && saved[index(v.index)];
  for (auto at = index(lines.stages[0]); at < lines.instructions.size(); ++at) {
    const Instruction& i = lines.instructions[at];
    bool one = true, of_row = false;
    each_operand(i, [&](std::int32_t operand) {
      const Value& v = lines.at(operand);
      of_row = of_row || v.of_row;
      one = one && (v.of_row || v.kind == Kind::constant || (v.kind == Kind::own && !plan.own_is_vector[v.index]));
    });
    Value& to = lines.values[index(i.to)];
    to.of_row = (is_over_rows(i.op) || (of_row && one)) &&
        (to.kind == Kind::temp || (to.kind == Kind::saved && !plan.independent));
    if (to.kind == Kind::saved) saved[index(to.index)] = to.of_row;
  }
}

void spread_row_values(CodeLines& lines) {
  const auto reads_rows = [&](const Instruction& i) { return lines.at(i.to).of_row && !is_over_rows(i.op); };
  std::vector<bool> read_as_rows(lines.values.size());
  for (const Instruction& i : lines.instructions)
    if (reads_rows(i)) each_operand(i, [&](std::int32_t operand) { read_as_rows[index(operand)] = true; });
  for (const Instruction& i : lines.instructions)  // spread by the operation itself
    if (Value& to = lines.values[index(i.to)]; is_over_rows(i.op) && to.kind == Kind::temp)
      to.of_row = read_as_rows[index(i.to)];
  std::map<std::int32_t, std::int32_t> spread;  // in this stage, where a row's number is spread
  std::int32_t at = lines.stages[0];
  lines.rewrite([&](Instruction i, std::vector<Instruction>& to) {
    if (std::find(lines.stages.begin(), lines.stages.end(), at++) != lines.stages.end()) spread.clear();
    i.of_rows = lines.at(i.to).of_row;
    if (!reads_rows(i))
      each_operand(i, [&](std::int32_t& operand) {
        if (!lines.at(operand).of_row) return;
        const auto made = static_cast<std::int32_t>(lines.values.size());
        const auto [found, is_new] = spread.insert({operand, made});
        if (is_new) lines.values.push_back({Kind::temp, made}), to.push_back({Op::spread, made, {operand}});
        operand = found->second;
      });
    to.push_back(i);
  });
}

// Each temp has a value of its own.
void share_scratch(CodeLines& lines) {
  std::vector<int> last(lines.values.size(), -1);  // by value, the instruction that reads it last
  for (std::size_t at = 0; at < lines.instructions.size(); ++at)
    each_operand(lines.instructions[at], [&](std::int32_t operand) { last[index(operand)] = static_cast<int>(at); });
  std::vector<Value> values;
  std::vector<std::int32_t> place(lines.values.size(), -1), temps, free;
  const auto is_temp = [&](std::int32_t v) { return lines.at(v).kind == Kind::temp; };
  const auto keep = [&](std::int32_t v) {
    if (place[index(v)] < 0) place[index(v)] = static_cast<std::int32_t>(values.size()), values.push_back(lines.at(v));
    return place[index(v)];
  };
  std::size_t stage = 0;
  for (std::size_t at = 0; at < lines.instructions.size(); ++at) {
    for (; stage < lines.stages.size() && index(lines.stages[stage]) <= at; ++stage) free = temps;
    Instruction& i = lines.instructions[at];
    std::vector<std::int32_t> reads;
    each_operand(i, [&](std::int32_t& operand) {
      const std::int32_t v = operand;
      operand = keep(v);
      if (is_temp(v) && last[index(v)] == static_cast<int>(at)) reads.push_back(operand);
    });
    std::sort(reads.begin(), reads.end());
    free.insert(free.end(), reads.begin(), std::unique(reads.begin(), reads.end()));
    const std::int32_t to = i.to;
    const auto room = std::find_if(free.rbegin(), free.rend(), [&](std::int32_t v) {
      return values[index(v)].of_row == lines.at(to).of_row;  // those of a number a row are apart: they are smaller
    });
    if (is_temp(to) && room != free.rend()) place[index(to)] = *room, free.erase(std::next(room).base());
    else if (is_temp(to)) temps.push_back(keep(to));
    i.to = keep(to);
    if (is_temp(to) && last[index(to)] < 0) free.push_back(i.to);
  }
  lines.values = std::move(values);
}

}  // namespace elman
