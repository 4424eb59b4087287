// The threads of an OpenMP runtime, where the process has one whose names are visible, as torch's is. Torch's operators
// leave its threads spinning for some milliseconds. While they do, threads of our own would have to share the
// processors with them (measured: 1.1 to 1.8 times the time in training), and they are awake already: a call is then
// one of their parallel regions. But such a region ends only when each of its threads has had its turn, which on a busy
// machine takes the system milliseconds. So it is asked first whether one of them is on a processor right now.
#pragma once

#include <dlfcn.h>

namespace elman {

struct Found {  // null where nothing has this name
  const char* name;
  template <class F> operator F*() const { return reinterpret_cast<F*>(dlsym(RTLD_DEFAULT, name)); }
};

struct OpenMp {
  // GNU's interface, which LLVM's and Intel's runtimes offer too.
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = Found{"GOMP_parallel"};
  int (*num_threads)() = Found{"omp_get_num_threads"};
  int (*max_threads)() = Found{"omp_get_max_threads"};
  int (*pause)(int) = Found{"omp_pause_resource_all"};  // OpenMP 5.0
#if defined(__linux__)
  bool usable() const { return parallel && num_threads && max_threads && pause; }
#else
  bool usable() const { return false; }  // whether its threads are awake cannot be told
#endif
};

inline const OpenMp& openmp() {
  static const OpenMp found;
  return found;
}

}  // namespace elman
