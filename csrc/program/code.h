// A program: the step of a cell, and its gradient, as elementwise operations on arrays of (sequences, H) numbers. Plain
// structs that know no instruction set.
#pragma once

#include <cstdint>

namespace elman {

// What an instruction does, and of how many operands. Python numbers them in this order.
#define ELMAN_OPS(of)                                                                                             \
  of(copy, 1) of(add, 2) of(sub, 2) of(mul, 2) of(div, 2) of(neg, 1) of(fma, 3) of(pow, 2) of(min, 2) of(max, 2)  \
      of(where, 3) of(lt, 2) of(le, 2) of(gt, 2) of(ge, 2) of(eq, 2) of(ne, 2) of(abs, 1) of(sign, 1) of(sqrt, 1) \
          of(rsqrt, 1) of(exp, 1) of(log, 1) of(log1p, 1) of(expm1, 1) of(tanh, 1) of(sigmoid, 1) of(relu, 1)     \
              of(softplus, 1) of(sin, 1) of(cos, 1) of(erf, 1) of(reciprocal, 1) of(square, 1) of(row_sum, 1)     \
                  of(row_mean, 1) of(row_max, 1) of(fnma, 3) of(row_sum_fma, 3) of(row_mean_fma, 3) of(spread, 1)

// Two operations in one, without a value in between: `outer`, whose operand number `at` is `inner`. First those to
// prefer. Of what may change places, the inner one is where it is here.
#define ELMAN_FUSIONS(of)                                                                                           \
  of(mul_fnma, mul, 1, fnma) of(mul_mul_fnma, mul_fnma, 0, mul) of(mul_sub, mul, 1, sub) of(fma_mul, fma, 2, mul)   \
      of(fma_mul_sub, fma, 2, mul_sub) of(fnma_mul, fnma, 2, mul) of(fma_of_fnma, fma, 0, fnma) of(                 \
          fma_of_sub, fma, 0, sub) of(fma_of_mul, fma, 0, mul) of(fma_fma, fma, 2, fma) of(mul_mul, mul, 0, mul)    \
          of(mul_fma, mul, 1, fma) of(mul_tanh, mul, 1, tanh) of(tanh_fma, tanh, 0, fma) of(tanh_add, tanh, 0, add) \
              of(sigmoid_fma, sigmoid, 0, fma) of(sigmoid_fma_of_mul, sigmoid, 0, fma_of_mul)                       \
                  of(sigmoid_add, sigmoid, 0, add) of(relu_fma, relu, 0, fma) of(where_le, where, 0, le)            \
                      of(where_lt, where, 0, lt) of(sub_sub, sub, 0, sub) of(neg_sub_sub, sub_sub, 0, neg)          \
                          of(row_mean_fma_fma, row_mean_fma, 2, fma) of(row_mean_fma_add, row_mean_fma, 2, add)     \
                              of(row_mean_fma_sub_sub, row_mean_fma, 2, neg_sub_sub)

#define ELMAN_NAME(name, ...) name,
enum class Op : std::int32_t { ELMAN_OPS(ELMAN_NAME) ELMAN_FUSIONS(ELMAN_NAME) };
#undef ELMAN_NAME
struct Fusion {
  Op made, outer;
  int at;
  Op inner;
};
#define ELMAN_FUSION(made, outer, at, inner) {Op::made, Op::outer, at, Op::inner},
constexpr Fusion kFusions[] = {ELMAN_FUSIONS(ELMAN_FUSION)};
#undef ELMAN_FUSION
constexpr bool is_fused(Op op) { return op >= kFusions[0].made; }
constexpr const Fusion& fusion(Op op) { return kFusions[static_cast<int>(op) - static_cast<int>(kFusions[0].made)]; }

constexpr int operand_count(Op op) {
#define ELMAN_COUNT(name, operands) operands,
  constexpr int counts[] = {ELMAN_OPS(ELMAN_COUNT)};
#undef ELMAN_COUNT
  if (is_fused(op)) return operand_count(fusion(op).outer) + operand_count(fusion(op).inner) - 1;
  return counts[static_cast<int>(op)];
}
constexpr int kMostOperands = 5;
static_assert([] {
  for (const Fusion& f : kFusions)
    if (operand_count(f.made) > kMostOperands) return false;
  return true;
}());
constexpr Op outermost(Op op) { return is_fused(op) ? outermost(fusion(op).outer) : op; }
constexpr bool is_over_rows(Op op) {
  op = outermost(op);
  return (op >= Op::row_sum && op <= Op::row_max) || op == Op::row_sum_fma || op == Op::row_mean_fma;
}
// The operand that changes places with number k: itself, where none does.
constexpr int twin(Op op, int k) { return (op == Op::mul || op == Op::fma) && k < 2 ? 1 - k : k; }

// What a value is to the scan. Python numbers them in this order; the last two are the scan's: to `sum_own` the
// contributions to an own parameter's gradient are added, for each sequence; `derived` is computed once a call.
#define ELMAN_KINDS(of)                                                                                           \
  of(temp) of(constant) of(input) of(recurrent) of(state) of(new_state) of(own) of(step_input) of(draw) of(saved) \
      of(factor) of(gate) of(grad_new_state) of(grad_input) of(grad_recurrent) of(grad_factor) of(grad_state)     \
          of(grad_own) of(grad_step_input) of(grad_gate) of(carry) of(sum_own) of(derived)
#define ELMAN_NAME(name) name,
enum class Kind : std::int32_t { ELMAN_KINDS(ELMAN_NAME) };
#undef ELMAN_NAME

// The index-th of its kind. `kept`: read in a stage after the one that writes it, so that a block's memory is not
// enough for it.
struct Value {
  Kind kind;
  std::int32_t index;
  bool kept = false;
  bool of_row = false;  // one number of each row
};
struct Instruction {
  Op op;
  std::int32_t to, from[kMostOperands];  // places among the values
  bool of_rows = false;                  // it writes one number of each row
};

// Stage i is instructions stages[i] .. stages[i+1]-1; those before the first stage run once a call. There is a stage
// for each product; in phased code one for each phase.
struct Code {
  const Value* values;
  const Instruction* instructions;
  const std::int32_t* stages;
  const double* constants;
  int value_count, stage_count;
};

// Over a block of steps at once, what the recurrence needs; step by step the recurrence, all that lies between what
// comes from the step before and what goes on to the next; over the block at once, what is left.
// And the sums of own parameters' gradients, step by step.
enum Phase { before_steps, each_step, after_steps, own_sums };

// The product of h (the first), or of factor j (the one after it, j + 1), with the weights of some recurrent gates.
struct GateProduct {
  const std::int32_t* gates;
  int count, before;  // gates; those of the products before
  int column;         // the gates' gradients are neighbouring columns in this order, from this one on
};

struct Plan {
  int inputs, recurrents, states, owns, step_inputs, draws, saved, gates, products;  // how many there are of each
  bool needs_rows;            // an operation reads all H numbers of a sequence
  bool independent;           // there is no product: units meet in such operations alone
  const bool* own_is_vector;  // H numbers, not one
  const bool* step_input_is_vector;
  Code infer, train, backward;
  Code phased_infer, phased_train, phased_backward;  // where units are independent
  const GateProduct* gate_products;
  // Where a gate's two parts are only ever added to one another, the product is added to the input's part where that
  // lies: by recurrent gate, the input's; -1: its own place. By input gate, the recurrent one.
  const std::int32_t *joined_input, *joined_recurrent;
  // The arrays that the parts lie in, of H numbers for a row: how many; by gate. A product's are neighbours, in its
  // order.
  int arrays;
  const std::int32_t *array_of_input, *array_of_recurrent;
  // The gate gradients of a step of a sequence: `columns` blocks of H. The inputs' are neighbours, from input_column
  // on, in an order of their own: input_order[i] is whose the i-th is.
  int columns, input_column;
  const std::int32_t *column_of_input, *column_of_recurrent, *input_order;
  // Of each state: whether backward reads it before or after the step, and whether backward writes its gradient.
  const bool *reads_state, *reads_new_state, *writes_grad_state;
};

}  // namespace elman
