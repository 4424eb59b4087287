// A GPU on one thread of the processor: every thread of a launch is a fiber, and which goes on next is drawn from a
// seed. What the kernels' sources ask of it: barriers, copies and messages that arrive late, and the tensor cores'
// product.
#pragma once

namespace elman::emulated {

struct Index {
  unsigned x, y, z;
};
struct Place {
  Index thread, block;
};

extern Place* current;  // of the fiber that runs

[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...);  // ends the launch

char* shared_memory();                      // of the block
unsigned shared_address(const void* p);     // the block's rank in its group, and how far from the beginning
char* at_shared_address(unsigned address);  // of this block
unsigned address_in(unsigned address, unsigned rank);

void block_barrier();
void warp_barrier();
void group_barrier();  // of all blocks that run together

// A copy to shared memory is done at once, or only when it is waited for. Bytes beyond `valid` are zeros.
void copy_late(unsigned to, const void* from, int valid, int bytes);
void commit_copies();
void wait_for_copies(int pending);

void barrier_init(unsigned address, int arrivals);
void barrier_expect(unsigned address, unsigned bytes);
void barrier_wait(unsigned address, unsigned parity);
void send(unsigned to, const unsigned (&words)[4], unsigned barrier);

// Other blocks see it some time later: at the latest after the release of a flag that it comes before.
void store_late(void* to, const unsigned (&words)[4]);
void release(unsigned* flag, unsigned value);
unsigned acquire(const unsigned* flag);

enum Factors { kBFloat16, kFloat16, kTf32 };
void multiply(Factors factors, float* const (&d)[4],
    const unsigned (&operands)[6]);        // a0..a3, b0, b1, as the instruction takes them
float shuffle_xor(float value, int mask);  // the value of the warp's lane whose number differs in the mask's bits

template <class Call> void run(void (*kernel)(Call), const void* call) { kernel(*(const Call*)call); }

}  // namespace elman::emulated

extern "C" void elman_run_thread(const void* call);  // the kernel's, for the fiber that runs
