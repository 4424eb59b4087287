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

class Team;

// Memory aligned to a cache line, not initialised; null where there is none left. On each thread what was taken last is
// released first. Null may be released.
void* allocate(std::size_t bytes);
void release(void* memory);

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
enum class Number : int { f32, f64, bf16 };  // bf16: forward only, nothing saved

// A cell's states: h, which is also its output, and c of a cell that has two. By state, for those the cell has.
constexpr int kMostStates = 2;

// A tensor (T, B, columns): step t of sequence b starts at data + t·step + b·sequence; its elements lie `column` apart
// (1; or 0: one number stands for them all). Padded: where the network is ragged, it lies as the caller has it all the
// same, for all of the caller's sequences and steps.
struct StepTensor {
  void* data;
  std::int64_t step, sequence;
  std::int64_t column = 1;
  bool padded = false;
};

// Where sequences end and fresh ones begin: not 0 at step t of a sequence of the caller's: what comes from t on is run
// as if apart from what was before.
struct Resets {
  const unsigned char* data;  // null: nowhere
  std::int64_t step, sequence;
};

// One direction of one layer. w_ih (G·H, columns), w_hh (G·H, P), b_* (G·H,), which may be null (both or neither), and
// w_hr (P, H), null without a projection.
struct Parameters {
  const void *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
};
struct Gradients {  // of the same shapes; any may be null: not needed
  void *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
};

struct Network {
  const CellInfo* cell;
  Number number;
  std::int64_t T, B, I, H, L, D;
  std::int64_t P;  // numbers in h: H, or fewer where the output of the units is projected
  // Null: every sequence has all T steps. Else the network is ragged: T counts, non-increasing, the first being B:
  // sequences 0..alive[t]-1 have step t. Then data is packed: step t of sequence b is row offset[t] + b, offset[t]
  // being the sum of alive[0..t-1], and StepTensor::step is not used; but for what is padded.
  const std::int64_t *alive, *offset;
  const std::int64_t* order;  // sequence b is the caller's order[b], in what is padded and in `resets`; null: the same,
                              // and nothing is padded
  std::int64_t rows;          // steps of all sequences: T·B, or the sum of alive
  const Parameters* parameters;  // L·D
  Resets resets;
  // What is saved of a ragged network (`hidden`, `saved`) is packed; or padded, for so many sequences of the caller's
  // at each step, and so many rows in all.
  std::int64_t padded_batch, padded_rows;  // 0: packed
  std::int64_t saved_rows() const { return padded_rows ? padded_rows : rows; }
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
  void* saved;        // (L·D, saved rows, K, H): what else it needs of each step (cells/*.h)
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

// The backward pass walks in chunks of so many steps: enough of them that adding a chunk to the gradients of large
// weights does not cost, few enough for the third-level cache. It does not depend on the instruction set.
constexpr std::int64_t backward_chunk(const Network& net) {
  const std::int64_t step_bytes = (net.number == Number::f32 ? 4 : 8) * net.cell->gates * net.H * net.B;
  const std::int64_t steps = step_bytes > 0 ? 8 * 1024 * 1024 / step_bytes : 1;  // 0: no sequence has a step
  return steps > net.T && net.T > 0 ? net.T : steps < 1 ? 1 : steps;
}
constexpr std::int64_t grad_gates_width(const CellInfo& cell, std::int64_t H) {
  return (cell.splits ? 2 : 1) * cell.gates * H;
}
constexpr std::int64_t number_of_checkpoints(const Network& net) {
  return (net.T + backward_chunk(net) - 1) / backward_chunk(net);
}

// A network of one direction whose weights are packed once, and which runs a step at a time, on the caller's thread.
// Its states are h (L, B, P) and c (L, B, H), dense, read and written where they lie when it is opened. The output of a
// step is the top layer's h.
struct Stream {
  // x: for each sequence I numbers, `sequence` apart from the next one's, and apart from the states.
  void (*step)(Stream*, const void* x, std::int64_t sequence);
  void (*close)(Stream*);
};

// What one instruction set offers.
struct Target {
  const char* name;
  std::span<const CellInfo> cells;  // by number: the same for all instruction sets
  bool (*supported)();
  bool (*forward)(const Forward&, Team&);  // false: out of memory
  bool (*backward)(const Backward&, Team&);
  void (*activation)(Activation, Number, const void* from, void* to, std::int64_t n);
  // Of float32 and float64; T does not matter, D is 1. Null: out of memory.
  Stream* (*stream)(const Network&, void* const* states);
  // Runs a register-only loop of multiply-adds; returns how many operations it did.
  double (*peak)(Number, std::int64_t iterations);
};

}  // namespace elman
