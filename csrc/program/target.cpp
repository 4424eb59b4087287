// The kernels of programs: compiled for each instruction set as ../target.cpp is.
#include "backward.h"
#include "forward.h"

namespace elman::ELMAN_TARGET {

bool run_program_forward(const ProgramForward& call, Team& team) {
  return call.net.number == Number::f32 ? program_forward<float>(call, team) : program_forward<double>(call, team);
}

bool run_program_backward(const ProgramBackward& call, Team& team) {
  return call.net.number == Number::f32 ? program_backward<float>(call, team) : program_backward<double>(call, team);
}

}  // namespace elman::ELMAN_TARGET
