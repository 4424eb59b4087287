#include "tuner.h"

#include <algorithm>

namespace elman {
namespace {

// Multiply-adds below which one thread is tried first (some 2 ms): beyond, all are.
constexpr double kSoon = 1e8;
// So many calls on one thread before a team is tried: the first of all finds nothing in the caches. Then so many with
// all threads, more where calls are short, since threads may have to be started and moved. The quickest counts.
constexpr int kWarm = 2, kWarmShort = 8;
// Below so many (1 ms) it shows whether a team was awake: it is tried several times in a row, not counting the first.
constexpr double kShort = 5e7;
constexpr int kInARow = 4;
// What trying again may cost, as a share of the time that calls take: where nothing is known yet, and later.
constexpr double kFirstTryShare = 0.05, kTryShare = 0.005;
// What a try costs at least, as a share of a call: sets apart the tries of team sizes that are equally fast.
constexpr double kLeastCost = 0.1;
// Teams earn credit where they are faster than one thread, and use it up where they are slower. Once it is used up they
// are barred. Alone, calls earn so much of their time, until there is enough for a try. So what teams lose, even by
// being halted for a slice of the system's time in one of many calls, stays within that share.
constexpr double kEarned = 0.02;
// What there is at first and the most that can be saved up, in slices of the system's time or calls. No call loses more
// than a slice or twice its time: what halts one longer halts all. Enough for a try: a tenth of a slice, half a call.
constexpr double kSaved = 4, kSlice = 5e-3, kEnough = 0.1 * kSlice, kEnoughCalls = 0.5;
// What one thread may be expected to do in a second, before it has been seen.
constexpr double kExpected = 50e9;
// A moving average's weight of a new time that is longer, and of a shorter one: slow for once says little, since
// whatever is halted is slow; the account sees the cost. No time counts as more than so many averages.
constexpr double kLonger = 1.0 / 8, kShorter = 1.0 / 2, kMostOften = 2;

// Calls of a size that are seen before it is judged.
int warm(int size, const Effort& call) { return size > 0 && call.multiply_adds < kShort ? kWarmShort : kWarm; }

}  // namespace

int Tuner::size_for(int threads) {
  int size = 0;
  while (size < kSizes - 1 && (1 << size) < threads) ++size;
  return size;
}

Tuner::Record& Tuner::record(const Effort& call) {
  Record& found = records_[call.kind * 0x9e3779b97f4a7c15u >> 54];  // 1024 places: a kind replaces another there
  if (found.kind != call.kind) {
    found = Record{};
    found.kind = call.kind;
    found.credit = kSaved * kSlice;
  }
  return found;
}

int Tuner::choose(const Effort& call, int most) {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return 1;  // another call is under way
  Record& r = record(call);
  const int last = size_for(most);
  const auto threads_of = [&](int size) { return std::min(1 << size, most); };
  if (r.seen[0] < kWarm && call.multiply_adds < kSoon) return 1;
  const bool teams = !r.barred || r.rate[0] == 0;
  if (r.tries > 0 && r.tried <= last && teams) return --r.tries, threads_of(r.tried);
  int best = -1;
  for (int size = 0; size <= last; ++size)
    if (r.rate[size] > 0 && (best < 0 || r.rate[size] < r.rate[best])) best = size;
  if (best < 0 || (teams && r.seen[last] < warm(last, call))) return most;
  if (!teams) best = 0;
  const double now = r.rate[best] * call.multiply_adds;  // what the call takes
  for (int size : {0, best - 1, best + 1}) {
    if (size < 0 || size > last || size == best || (size > 0 && !teams)) continue;
    const bool known = r.rate[size] > 0;
    // Threads may bring all they can, or nothing; unless what they took is more than one thread is expected to.
    const double unknown = size > 0 ? now : now > call.multiply_adds / kExpected ? 0 : (threads_of(best) - 1) * now;
    const double cost = known ? std::max(r.rate[size] * call.multiply_adds - now, kLeastCost * now) : unknown;
    const int calls = size > 0 && call.multiply_adds < kShort ? kInARow : 1;
    if (r.waited[size] * (known ? kTryShare : kFirstTryShare) < calls * cost) continue;
    r.tried = size, r.tries = calls - 1;
    return threads_of(size);
  }
  return threads_of(best);
}

void Tuner::learn(const Effort& call, int threads, double seconds) {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  Record& r = record(call);
  const int size = size_for(threads);
  const double rate = seconds / call.multiply_adds;
  const double known = r.rate[size];
  const bool counts = size == 0 || size == r.before || call.multiply_adds >= kShort;
  r.before = size;
  if (counts) {
    if (r.seen[size] < warm(size, call)) ++r.seen[size], r.rate[size] = known > 0 ? std::min(rate, known) : rate;
    else r.rate[size] = known + (rate < known ? kShorter : kLonger) * (std::min(rate, kMostOften * known) - known);
  }
  for (double& waited : r.waited) waited += seconds;
  r.waited[size] = 0;
  const double alone = r.rate[0] * call.multiply_adds;
  r.credit += kEarned * seconds;
  if (size > 0 && alone > 0) r.credit += std::max(alone - seconds, -std::max(kSlice, alone));
  const double most = kSaved * std::max(kSlice, alone);
  r.credit = size == 0 && r.seen[0] == 1 ? most : std::min(r.credit, most);
  r.barred = r.credit < (r.barred ? std::max(kEnough, kEnoughCalls * alone) : 0);
}

}  // namespace elman
