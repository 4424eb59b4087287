// What the kernels take: plain structs of addresses, sizes and strides. Nothing here depends on an instruction set.
//
// Words: T steps, B rows (sequences), I inputs, H units, L layers, D directions, G gates. Strides count elements. All
// matrices of parameters are dense. "May be null" is said where it is so; all else must point to as many elements as
// stated. No output may overlap anything.
#pragma once

#include <cstddef>
#include <cstdint>

namespace elman {

class Team;

// Memory aligned to a cache line, not initialised; null where there is none left. On each thread what was taken last is
// released first. Null may be released.
void* allocate(std::size_t bytes);
void release(void* memory);

// While one lives, what its thread allocates may be released in any order and by any thread.
struct Lasting {
  Lasting();
  ~Lasting();
};

enum class CellKind : int { rnn_tanh, rnn_relu, gru, lstm };
enum class Activation : int { tanh, relu, sigmoid };
enum class Number : int { f32, f64, bf16 };  // bf16: forward only, nothing kept

// A cell's states: h, which is also its output, and for an LSTM c. By state, for those the cell has.
constexpr int kMostStates = 2;

// A sequence of rows: row r of step t starts at data + t·step + r·row; its elements lie `column` apart (1; or 0: one
// number stands for them all). Padded: where the network is ragged, it lies as the caller has it all the same, for all
// of the caller's rows and steps.
struct Sequence {
  void* data;
  std::int64_t step, row;
  std::int64_t column = 1;
  bool padded = false;
};

// Where sequences end and fresh ones begin: not 0 at step t of a row of the caller's: what comes from t on is run as if
// apart from what was before.
struct Resets {
  const unsigned char* data;  // null: nowhere
  std::int64_t step, row;
};

// One direction of one layer. w_ih (G·H, columns), w_hh (G·H, P), b_* (G·H,), which may be null (both or neither), and
// w_hr (P, H), null without a projection.
struct Parameters {
  const void *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
};
struct Gradients {  // of the same shapes; any may be null: not wanted
  void *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
};

struct Network {
  CellKind cell;
  Number number;
  std::int64_t T, B, I, H, L, D;
  std::int64_t P;  // numbers in h: H, or fewer where the output of an LSTM's units is projected
  // Null: every row lives all T steps. Else the network is ragged: T counts, non-increasing, the first being B: at step
  // t rows 0..alive[t]-1 live. Then data is packed: row r of step t is row offset[t] + r, offset[t] being the sum of
  // alive[0..t-1], and Sequence::step is not used; but for what is padded.
  const std::int64_t *alive, *offset;
  const std::int64_t* order;  // row r is the caller's row order[r], in what is padded and in `resets`; null: the same,
                              // and nothing is padded
  std::int64_t rows;          // in all: T·B, or the sum of alive
  const Parameters* parameters;  // L·D
  Resets resets;
  // What is kept of a ragged network (`hidden`, `kept`) is packed; or padded, for so many rows of the caller's at each
  // step, and so many in all.
  std::int64_t padded_batch, padded_rows;  // 0: packed
  std::int64_t kept_rows() const { return padded_rows ? padded_rows : rows; }
};

// States are dense: h (L·D, B, P) and c (L·D, B, H).
struct Forward {
  Network net;
  Sequence x;                        // (T, B, I)
  const void* initial[kMostStates];  // null: zeros
  const void* fresh[kMostStates];    // (L·D, P) and (L·D, H): what resets start from; null: zeros
  Sequence output;                   // (T, B, D·P), written
  void* final[kMostStates];          // written
  void* hidden;  // (L-1, kept rows, D·P), dense: the lower layers' outputs, kept for the backward pass; null: not kept
  void* kept;    // (L·D, kept rows, K, H), dense: what else backward needs of each step (cells/*.h); null: not kept
  void* marks;   // (L·D, number of marks, B, H), dense: c before each chunk of the backward pass, which can do without
                 // `kept` then; null: not kept
};

struct Backward {
  Network net;
  Sequence x, output;  // as the forward pass took and gave them
  const void *initial[kMostStates], *fresh[kMostStates], *hidden, *kept, *marks;
  Sequence d_output;  // (T, B, D·P); data may be null: zeros
  const void *d_hidden,
      *d_kept;  // gradients that arrive at `hidden` and `kept` themselves, which lie likewise; null: zeros
  const void* d_final[kMostStates];  // null: zeros
  Sequence d_x;                      // (T, B, I), written; data null: not wanted
  void* d_initial[kMostStates];      // written; null: not wanted
  void* d_fresh[kMostStates];        // written; null: not wanted
  const Gradients* gradients;        // L·D, written
};

// How many numbers K a cell keeps of each unit and step for the backward pass, beyond its output.
constexpr std::int64_t kept_numbers(CellKind cell) {
  return cell == CellKind::lstm ? 5 : cell == CellKind::gru ? 4 : 0;
}
constexpr std::int64_t gates_of(CellKind cell) { return cell == CellKind::lstm ? 4 : cell == CellKind::gru ? 3 : 1; }
constexpr int states_of(CellKind cell) { return cell == CellKind::lstm ? 2 : 1; }

// The backward pass walks in chunks of so many steps: enough of them that adding a chunk to the gradients of large
// weights does not cost, few enough for the third-level cache. It does not depend on the instruction set.
constexpr std::int64_t backward_chunk(const Network& net) {
  const std::int64_t bytes = 8 * 1024 * 1024,
                     row = (net.number == Number::f32 ? 4 : 8) * gates_of(net.cell) * net.H * net.B;
  const std::int64_t steps = bytes / row;
  return steps < 1 ? 1 : steps > net.T ? net.T : steps;
}
constexpr std::int64_t number_of_marks(const Network& net) {
  return (net.T + backward_chunk(net) - 1) / backward_chunk(net);
}

// A network of one direction whose weights are packed once, and which runs a step at a time, on the caller's thread.
// Its states are h (L, B, P) and c (L, B, H), dense, read and written where they lie when it is opened. The output of a
// step is the top layer's h.
struct Stream {
  // x: B rows of I numbers, `row` apart, apart from the states.
  void (*step)(Stream*, const void* x, std::int64_t row);
  void (*close)(Stream*);
};

// What one instruction set offers.
struct Target {
  const char* name;
  bool (*supported)();
  bool (*forward)(const Forward&, Team&);  // false: out of memory
  bool (*backward)(const Backward&, Team&);
  void (*activation)(Activation, Number, const void* from, void* to, std::int64_t n);
  Stream* (*stream)(
      const Network&, void* const* states);  // float32 and float64; T does not matter, D is 1; null: out of memory
  double (*peak)(Number,
      std::int64_t iterations);  // runs a register-only loop of multiply-adds; returns how many operations it did
};

}  // namespace elman
