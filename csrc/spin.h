// Waiting for another thread that is at work.
#pragma once

#include <thread>

namespace elman {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins while `busy()`; gives the processor away now and then, for machines with fewer free cores than threads.
template <class F> inline void spin_while(F busy) {
  for (int i = 1; busy(); i = i % 200 + 1) {
    pause();
    if (i == 200) std::this_thread::yield();  // some microseconds
  }
}

}  // namespace elman
