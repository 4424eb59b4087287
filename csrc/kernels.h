// What the kernels take: plain structs of addresses, sizes and strides. Nothing here depends on an instruction set.
//
// Words: T steps, B sequences (the batch), I inputs, H units, L layers, D directions, G gates. Strides count elements.
// All matrices of parameters are dense. "May be null" is said where it is so; all else must point to as many elements
// as stated. No output may overlap anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace elman {

using Long = std::int64_t;
class Team;
struct ProgramForward;  // program/call.h
struct ProgramBackward;

// Memory aligned to a cache line, not initialised; null: none left. Each thread releases first what it took last.
void* allocate(std::size_t bytes);
void release(void* memory);  // null may be

// While one lives, what its thread allocates may be released in any order and by any thread.
struct HeapScope {
  HeapScope();
  ~HeapScope();
};

// What there is to know of a cell beside its arithmetic: its struct (cells/) says so itself.
struct CellInfo {
  const char* name;
  int number;  // its place in the table (cells/all.h)
  int gates, states;
  int saved;      // K: numbers of each unit and step that the backward pass needs, beyond the output
  bool projects;  // its output may be projected
  bool splits;    // a gate's recurrent part is taken apart from its input part, and so are their gradients
};

enum class Activation : int { tanh, relu, sigmoid };
enum class Number : int { f32, f64, bf16 };
constexpr Long element_size(Number number) { return number == Number::bf16 ? 2 : number == Number::f32 ? 4 : 8; }
// What a number type is computed in.
constexpr Number wide_number(Number number) { return number == Number::bf16 ? Number::f32 : number; }
// Whether bfloat16 is multiplied in pairs, where the processor can: where that is fast, unless tests say otherwise.
bool allows_pairs(bool fast);

// A cell's states: h, which is also its output, and c of a cell that has two. By state, for those the cell has.
constexpr int kMostStates = 2;

// A tensor (T, B, columns): step t of sequence b starts at data + t·step + b·sequence; its elements lie `column` apart
// (1; or 0: one number for all). Padded: as the caller has it, with all sequences and steps, in a ragged network too.
struct StepTensor {
  void* data;
  Long step, sequence;
  Long column = 1;
  bool padded = false;
};

// Where fresh sequences begin: not 0 at step t of a sequence of the caller's: from t on it is run as if on its own.
struct Resets {
  const unsigned char* data;  // null: nowhere
  Long step, sequence;
};

// Of a layer and direction: w_ih (G·H, columns), w_hh (G·H, P), b_* (G·H,) or both null, w_hr (P, H) or null.
template <class Data> struct Weights {
  Data *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
};
using Parameters = Weights<const void>;
using Gradients = Weights<void>;  // any may be null: not needed

struct Network {
  const CellInfo* cell;
  Number number;
  Long T, B, I, H, L, D;
  Long P;  // numbers in h: H, or fewer where the output of the units is projected
  // Null: every sequence has all T steps. Else the network is ragged: T counts, non-increasing, the first being B:
  // sequences 0..alive[t]-1 have step t. Then data is packed: step t of sequence b is row offset[t] + b, offset[t]
  // being the sum of alive[0..t-1], and StepTensor::step is not used; but for what is padded.
  const Long *alive, *offset;
  const Long* order;  // sequence b is the caller's order[b], in what is padded and in `resets`; null: the same,
                      // and nothing is padded
  Long rows;          // steps of all sequences: T·B, or the sum of alive
  const Parameters* parameters;  // L·D
  Resets resets;
  // What is saved of a ragged network is packed; or padded, to so many sequences at each step and rows in all.
  Long padded_batch, padded_rows;  // 0: packed
  Long saved_rows() const { return padded_rows ? padded_rows : rows; }
};

// States are dense: h (L·D, B, P) and c (L·D, B, H).
struct Forward {
  Network net;
  StepTensor x;                      // (T, B, I)
  const void* initial[kMostStates];  // null: zeros
  const void* fresh[kMostStates];    // (L·D, P) and (L·D, H): what resets start from; null: zeros
  StepTensor output;                 // (T, B, D·P), written
  void* final[kMostStates];          // written
  // For the backward pass, dense; null: not saved.
  void* hidden;       // (L-1, saved rows, D·P): the lower layers' outputs
  void* saved;        // (L·D, saved rows, K, H): what else it needs of each step (cells/*.h); wide, as checkpoints are
  void* checkpoints;  // (L·D, number of checkpoints, B, H): c before each of its chunks; it can do without `saved` then
};

struct Backward {
  Network net;
  StepTensor x, output;  // as the forward pass took and gave them
  const void *initial[kMostStates], *fresh[kMostStates], *hidden, *saved, *checkpoints;
  StepTensor grad_output;  // (T, B, D·P); data may be null: zeros
  // Gradients that arrive at `hidden` and `saved` themselves, which lie likewise; null: zeros.
  const void *grad_hidden, *grad_saved;
  const void* grad_final[kMostStates];  // null: zeros
  StepTensor grad_x;                    // (T, B, I), written; data null: not needed
  void* grad_initial[kMostStates];      // written; null: not needed
  void* grad_fresh[kMostStates];        // written; null: not needed
  void* grad_gates;  // (L·D, saved rows, G·H): of the gates before their activation, written; null: not needed. Where
                     // the cell splits a gate twice as wide: of the input's parts, then of the recurrent parts
  const Gradients* gradients;  // L·D, written
};

// Bytes of caches: a core's, and shared. Not detected: where work is cut follows from them, and the bits from that.
constexpr Long kSecondLevel = 1024 * 1024, kThirdLevel = 8 * 1024 * 1024;

// Whether a direction's recurrent weights leave half of a second-level cache to what they are multiplied with.
[[gnu::always_inline]] constexpr bool has_small_weights(const Network& net) {
  return 2 * element_size(wide_number(net.number)) * net.cell->gates * net.H * net.H <= kSecondLevel;
}
// The backward pass walks in chunks of about the same length. Where the weights are small, a chunk's gate gradients
// fill the second-level caches of two cores, which have a half of the sequences each, but have at least as many rows as
// a weight's gradient sums at once, and eight steps. Else, or of two directions, which run at the same time where one
// chunk holds all steps, they fill the third-level cache: each chunk is added to the weights' gradients. Fewer
// sequences or steps never have more chunks. It does not depend on the instruction set. backends/operator.py has the
// same.
[[gnu::always_inline]] constexpr Long backward_chunk(const Network& net) {
  constexpr Long kRows = 512, kSteps = 8;
  const Long bytes = element_size(wide_number(net.number)) * (net.cell->gates + net.cell->splits) * net.H * net.B;
  if (bytes == 0 || net.T == 0) return 1;  // no sequence has a step
  const Long all = kThirdLevel > bytes ? kThirdLevel / bytes : 1, second = 2 * kSecondLevel / bytes;
  const Long least = kRows > kSteps * net.B ? kRows / net.B : kSteps, few = second > least ? second : least;
  const Long most = net.D == 2 || !has_small_weights(net) || all < few ? all : few;
  const Long chunks = (net.T + most - 1) / most;
  return (net.T + chunks - 1) / chunks;
}
constexpr Long grad_gates_width(const CellInfo& cell, Long H) { return (cell.splits ? 2 : 1) * cell.gates * H; }
[[gnu::always_inline]] constexpr Long number_of_checkpoints(const Network& net) {
  return (net.T + backward_chunk(net) - 1) / backward_chunk(net);
}

// A network of one direction, its weights packed once, that runs a step at a time on the caller's thread. Its states, h
// (L, B, P) and c (L, B, H), dense, are read and written where they lie when it is opened. The top h is the output.
struct Stream {
  // x: for each sequence I numbers, `sequence` apart from the next one's, and apart from the states.
  void (*step)(Stream*, const void* x, Long sequence);
  void (*close)(Stream*);
};

// What one instruction set offers.
struct Target {
  const char* name;
  std::span<const CellInfo> cells;  // by number: the same for all instruction sets
  bool (*supported)();
  bool (*forward)(const Forward&, Team&);  // false: out of memory
  bool (*backward)(const Backward&, Team&);
  void (*activation)(Activation, Number, const void* from, void* to, Long n);
  // Of float32 and float64; T does not matter, D is 1. Null: out of memory.
  Stream* (*stream)(const Network&, void* const* states);
  // Runs a register-only loop of multiply-adds of float32; returns how many operations it did.
  double (*peak)(Long iterations);
  bool (*program_forward)(const ProgramForward&, Team&);  // false: out of memory
  bool (*program_backward)(const ProgramBackward&, Team&);
};

}  // namespace elman
