// What the kernels take: plain structs of addresses, sizes and strides. Nothing here depends on an instruction set.
//
// Words: T steps, B rows (sequences), I inputs, H units, L layers, D directions, G gates. Strides count elements. All matrices of parameters are
// dense. "May be null" is said where it is so; all else must point to as many elements as stated. No output may overlap anything.
#pragma once

#include <cstddef>
#include <cstdint>

namespace elman {

class Team;

// Memory aligned to a cache line, not initialised; null where there is none left. Null may be released.
void* allocate(std::size_t bytes);
void release(void* memory);

enum class CellKind : int { rnn_tanh, rnn_relu };
enum class Number : int { f32, f64 };

// A sequence of rows: row r of step t starts at data + t·step + r·row; its elements lie `column` apart (1; or 0: one number stands for them all).
struct Sequence {
  void* data;
  std::int64_t step, row;
  std::int64_t column = 1;
};

// One direction of one layer; each (G·H, columns) or (G·H,), b_* may be null (both or neither).
struct Parameters {
  const void *w_ih, *w_hh, *b_ih, *b_hh;
};
struct Gradients {  // of the same shapes; any may be null: not wanted
  void *w_ih, *w_hh, *b_ih, *b_hh;
};

struct Network {
  CellKind cell;
  Number number;
  std::int64_t T, B, I, H, L, D;
  // Null: every row lives all T steps. Else T counts, non-increasing, the first being B: at step t rows 0..alive[t]-1 live. Then data is packed: row r
  // of step t is row offset[t] + r, offset[t] being the sum of alive[0..t-1], and Sequence::step is not used.
  const std::int64_t *alive, *offset;
  std::int64_t rows;             // in all: T·B, or the sum of alive
  const Parameters* parameters;  // L·D
};

struct Forward {
  Network net;
  Sequence x;                 // (T, B, I)
  const void* initial;        // (L·D, B, H), dense; null: zeros
  Sequence output;            // (T, B, D·H), written
  void* final;                // (L·D, B, H), dense, written
  void* hidden;               // (L-1, rows, D·H), dense: the lower layers' outputs, kept for the backward pass; null: not kept
};

struct Backward {
  Network net;
  Sequence x, output;         // as the forward pass took and gave them
  const void *initial, *hidden;
  Sequence d_output;          // (T, B, D·H); data may be null: zeros
  const void* d_final;        // (L·D, B, H), dense; null: zeros
  Sequence d_x;               // (T, B, I), written; data null: not wanted
  void* d_initial;            // (L·D, B, H), dense, written; null: not wanted
  const Gradients* gradients; // L·D, written
};

// What one instruction set offers.
struct Target {
  const char* name;
  bool (*supported)();
  bool (*forward)(const Forward&, Team&);    // false: out of memory
  bool (*backward)(const Backward&, Team&);
  void (*activation)(CellKind, Number, const void* from, void* to, std::int64_t n);
  double (*peak)(Number, std::int64_t iterations);  // runs a register-only loop of multiply-adds; returns how many operations it did
};

}  // namespace elman
