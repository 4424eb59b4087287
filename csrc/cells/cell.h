// What the scan asks of a cell, on vectors of units. A cell is a type with
//   kGates            pre-activations per unit: blocks of H rows in the weights, side by side in the register tile
//   kApart            the gate whose recurrent part is needed apart from its input part; -1: none
//   kReadsState       whether forward() looks at h before the step
//   kMemory           whether there is a second state, c, which lives beside h
//   kKept             numbers that forward() leaves for backward()
//   forward(a, x, h, c)   a[0..kGates) in: pre-activations (of the gate apart: its recurrent part; x is its input
//   part). h: the state before.
//                         c: the second state, before and after. a[0..kKept) out: what backward needs. Returns the new
//                         h, before any projection.
//   kColumns          gate gradients per unit. Those of the input's parts come first, in the order of input_gate();
//   those of the recurrent parts last, in
//                     the order of the gates. Where no gate is apart the two are the same.
//   kReadsOutput, kReadsBefore  whether backward() looks at the new h; at the state before: c where there is one, else
//   h backward(a, d, h, before, carry)  a[0..kKept) in; d: gradient of the new h; carry: in, the gradient of the second
//   state, or what the step after added to d
//                         past its products; out, the same for the step before. a[0..kColumns) out.
//   backward_traced(a, arriving, d, h, before, carry)  the same where gradients arrive at the kept numbers themselves,
//   too
#pragma once

#include "../math.h"
