#include "dispatch.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

namespace elman {

// ELMAN_TARGETS: what the build has compiled target.cpp for, the best first, each as ELMAN_EACH(name).
#define ELMAN_EACH(name)      \
  namespace name {            \
  extern const Target target; \
  }
ELMAN_TARGETS
#undef ELMAN_EACH

namespace {

#define ELMAN_EACH(name) &name::target,
const Target* const kBuilt[] = {ELMAN_TARGETS};

double multiply_adds(const Network& net) {
  const double gates = static_cast<double>(net.cell->gates * net.D * net.H), out = static_cast<double>(net.P),
               width = static_cast<double>(net.D) * out;
  return static_cast<double>(net.rows) * gates *
      (static_cast<double>(net.I) + out + static_cast<double>(net.L - 1) * (width + out));
}

// Calls of one kind do the same in about the same proportions. `kind`: a number for whatever else tells them apart.
std::uint64_t kind_of(const Network& net, std::uint64_t kind) {
  for (const Long exact : {Long{net.cell->number}, static_cast<Long>(net.number), net.D, std::min<Long>(net.L, 15)})
    kind = kind * 16 + static_cast<std::uint64_t>(exact);
  for (const Long size : {net.rows, net.B, net.I + 1, net.H, net.P}) kind = kind * 128 + octaves(size);
  return kind;
}

template <class Call> void run(bool (*kernel)(const Call&, Team&), const Call& call, int threads) {
  bool ok = true;
  on_a_team(work(call), [&] { return kind(call); }, threads, [&](Team& team) { ok = kernel(call, team); });
  if (!ok) throw std::bad_alloc();
}

#if defined(ELMAN_SANITIZED)
constexpr std::size_t kArenaBytes = 0;  // so that the sanitizer sees every buffer
#else
constexpr std::size_t kArenaBytes = 4 * 1024 * 1024;
#endif

// Memory of each thread for its calls. Of small ones malloc would take up to a sixth of the time; of larger ones it
// would hand one thread what another has just written, which far processors fetch from one another line by line. Last
// taken, first back.
struct Arena {
  char* base = nullptr;
  std::size_t used = 0;
  bool closed = false, refused = false;  // for a while; for good: there was no memory
  ~Arena() { std::free(base); }
  static std::size_t round(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
  void* take(std::size_t bytes) {
    if (closed || refused || bytes > kArenaBytes || round(bytes) > kArenaBytes - used) return nullptr;
    refused = !base && posix_memalign(reinterpret_cast<void**>(&base), 64, kArenaBytes) != 0;
    if (refused) return base = nullptr;
    void* memory = base + used;
    used += round(bytes);
    return memory;
  }
  bool give_back(void* memory) {
    const auto at = reinterpret_cast<std::uintptr_t>(memory) - reinterpret_cast<std::uintptr_t>(base);
    if (!base || at >= kArenaBytes) return false;
    used = at;
    return true;
  }
};
thread_local Arena arena;

std::atomic<int> pairs_allowed{-1};

}  // namespace

void* allocate(std::size_t bytes) {
  if (void* memory = arena.take(bytes)) return memory;
  void* memory = nullptr;
  return posix_memalign(&memory, 64, bytes) == 0 ? memory : nullptr;
}

void release(void* memory) {
  if (memory && !arena.give_back(memory)) std::free(memory);
}

HeapScope::HeapScope() { arena.closed = true; }
HeapScope::~HeapScope() { arena.closed = false; }

std::vector<const Target*> supported_targets() {
  std::vector<const Target*> found;
  for (const Target* t : kBuilt)
    if (t->supported()) found.push_back(t);
  return found;
}

const Target& choose_target(const std::string& name) {
  const auto supported = supported_targets();
  if (name.empty()) return *supported.front();
  std::string names;
  for (const Target* t : supported) {
    if (t->name == name) return *t;
    names += (names.empty() ? "" : ", ") + std::string(t->name);
  }
  throw std::invalid_argument("no instruction set '" + name + "' here: this processor and this build offer " + names);
}

bool allows_pairs(bool fast) { return pairs_allowed < 0 ? fast : pairs_allowed > 0; }
void allow_pairs(int allowed) { pairs_allowed = allowed; }

const Target*& target() {
  static const Target* chosen = &choose_target("");
  return chosen;
}

std::uint64_t octaves(Long size) {
  int exponent;
  const bool upper = std::frexp(static_cast<double>(size), &exponent) >= 0.70710678;
  return 2 * static_cast<std::uint64_t>(exponent) + upper;
}

double work(const Forward& call) { return multiply_adds(call.net); }
double work(const Backward& call) { return 2 * multiply_adds(call.net); }

std::uint64_t kind(const Forward& call) { return kind_of(call.net, call.saved || call.hidden || call.checkpoints); }
std::uint64_t kind(const Backward& call) { return kind_of(call.net, call.grad_x.data ? 3 : 2); }

void run(const Target& target, const Forward& call, int threads) { run(target.forward, call, threads); }
void run(const Target& target, const Backward& call, int threads) { run(target.backward, call, threads); }

double peak(const Target& target, int threads) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  with_team(threads, [&](Team& team) {
    for (int round = 0; round < 20; ++round)
      team.each(team.threads(), [&](Long part) {
        team.barrier();
        const auto start = Clock::now();
        const double operations = target.peak(400'000) * team.threads();
        team.barrier();  // the slowest part ends the round
        if (part == 0) best = std::max(best, operations / std::chrono::duration<double>(Clock::now() - start).count());
      });
  });
  return best;
}

}  // namespace elman
