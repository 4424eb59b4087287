// Runs every instruction set of a build against plain loops, without Python: for processors that an emulator stands in
// for (`make neon`). Every cell in one layer and direction, forward and backward, over sizes around those of vectors
// and tiles, and with sequences of different lengths and resets, in float32, float64 and bfloat16; then tanh and
// sigmoid over a sample of all floats. The hash of an instruction set's numbers is the same whatever compiler built it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "dispatch.h"
#include "ragged.h"

using namespace elman;

namespace {

int failures = 0;
std::uint64_t hash = 0;  // of all numbers of an instruction set, bit by bit

double logistic(double a) { return 1 / (1 + std::exp(-a)); }

// A bfloat16, rounded to the nearest, ties to even. In it the loops store what the kernels store: h, and projected
// units.
struct Narrow {
  std::uint16_t bits = 0;
  Narrow() = default;
  explicit Narrow(double value) {
    const float rounded = float(value);
    std::uint32_t wide;
    std::memcpy(&wide, &rounded, 4);
    bits = std::isnan(rounded) ? 0x7fc0 : (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
  }
  operator double() const {
    const std::uint32_t wide = std::uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }
};

template <class T> constexpr bool kIsNarrow = std::is_same_v<T, Narrow>;
template <class T> constexpr Number kNumber = kIsNarrow<T> ? Number::bf16 : sizeof(T) == 4 ? Number::f32 : Number::f64;
// Here a slip of a lane is looked for; the derived bounds are the Python tests'. In bfloat16 gradients of gates may be
// rounded, too.
template <class T> constexpr double kTolerance = kIsNarrow<T> ? 0x1p-5 : sizeof(T) == 4 ? 2e-5 : 1e-12;

bool is(const CellInfo& cell, const char* name) { return std::strcmp(cell.name, name) == 0; }

using Doubles = std::vector<double>;

// One sequence's step in the loops.
struct Step {
  Doubles h, c;        // before it
  Doubles gate[4], q;  // GRU: r, z, n and the recurrent part of n; LSTM: i, f, g, o
  Doubles units, after_c;
};

struct Gradient {  // of everything, in the order in which it is compared
  Doubles x, h_0, c_0, w_ih, w_hh, b_ih, b_hh, w_hr, fresh_h, fresh_c;
};

template <class T> struct Run {
  using Wide = std::conditional_t<kIsNarrow<T>, float, T>;  // in which the kernels compute and save
  const CellInfo& cell;
  const long T_, B, I, H, P, G, S;  // S: states
  const bool projects;
  std::mt19937 generator{0};
  std::vector<T> w_ih, w_hh, b_ih, b_hh, w_hr, x, h_0, c_0, grad_output, d_h, d_c;  // given
  std::vector<T> output, h_n, c_n;                                                  // by the kernels
  std::vector<Wide> saved, checkpoints;
  std::vector<T> grad_x, d_h_0, d_c_0, d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_w_hr, d_fresh_h, d_fresh_c;
  std::vector<std::int64_t> lengths;  // of each sequence
  std::vector<unsigned char> resets;  // (T, B); empty: the sequences are whole
  std::vector<T> fresh_h, fresh_c;
  Doubles expected_output, expected_h_n, expected_c_n;  // by the loops
  Gradient expected;

  std::vector<T> numbers(long n) {
    std::vector<T> v(n);
    for (T& value : v) value = T(std::uniform_real_distribution<double>(-1, 1)(generator) / std::sqrt(double(H)));
    return v;
  }

  Run(const CellInfo& cell, long steps, long B, long I, long H, long P = 0)
      : cell(cell), T_(steps), B(B), I(I), H(H), P(P ? P : H), G(cell.gates), S(cell.states), projects(P) {
    const long width = this->P;
    w_ih = numbers(G * H * I), w_hh = numbers(G * H * width), b_ih = numbers(G * H), b_hh = numbers(G * H),
    w_hr = numbers(width * H), x = numbers(T_ * B * I);
    h_0 = numbers(B * width), c_0 = numbers(B * H), grad_output = numbers(T_ * B * width), d_h = numbers(B * width),
    d_c = numbers(B * H);
    output.resize(T_ * B * width), h_n.resize(B * width), c_n.resize(B * H), saved.resize(T_ * B * cell.saved * H + 1);
    grad_x.resize(T_ * B * I), d_h_0.resize(B * width), d_c_0.resize(B * H), d_w_ih.resize(G * H * I),
        d_w_hh.resize(G * H * width), d_b_ih.resize(G * H), d_b_hh.resize(G * H), d_w_hr.resize(width * H);
    d_fresh_h.resize(width), d_fresh_c.resize(H);
    lengths.assign(B, T_);
  }

  // Sequences of different lengths, the last of them without a step, cut by resets.
  Run& ragged() {
    for (long b = 0; b < B; ++b) lengths[b] = B > 1 && b == B - 1 ? 0 : 1 + (3 * b + T_ - 2) % T_;
    for (long i = 0; i < T_ * B; ++i) resets.push_back(generator() % 4 == 0);
    fresh_h = numbers(P), fresh_c = numbers(H);
    return *this;
  }

  void poison() {
    for (auto* v : {&grad_x, &d_h_0, &d_c_0, &d_w_ih, &d_w_hh, &d_b_ih, &d_b_hh, &d_w_hr, &d_fresh_h, &d_fresh_c})
      v->assign(v->size(), T(NAN));
  }

  void kernels(const Target& target) {  // with what is saved, then without
    const Parameters parameters{w_ih.data(), w_hh.data(), b_ih.data(), b_hh.data(), projects ? w_hr.data() : nullptr};
    const Gradients gradients{
        d_w_ih.data(), d_w_hh.data(), d_b_ih.data(), d_b_hh.data(), projects ? d_w_hr.data() : nullptr};
    Network net{};
    net.cell = &cell, net.number = kNumber<T>;
    net.T = T_, net.B = B, net.I = I, net.H = H, net.P = P, net.L = net.D = 1, net.rows = T_ * B,
    net.parameters = &parameters;
    const bool cut = !resets.empty();
    const Ragged ragged = cut ? Ragged(lengths.data(), T_, B) : Ragged();
    if (cut) ragged.describe(net, false), net.resets = {resets.data(), B, 1};
    const auto go = [&](const auto& call) { cut ? ragged.run(target, call, 2) : run(target, call, 2); };
    checkpoints.resize(number_of_checkpoints(net) * B * H);
    for (auto* v : {&output, &h_n, &c_n}) v->assign(v->size(), T(NAN));
    for (auto* v : {&saved, &checkpoints}) v->assign(v->size(), Wide(NAN));
    const StepTensor in{x.data(), B * I, I}, out{output.data(), B * P, P}, d_out{grad_output.data(), B * P, P},
        d_in{grad_x.data(), B * I, I};
    go(Forward{net, in, {h_0.data(), c_0.data()}, {fresh_h.data(), fresh_c.data()}, out, {h_n.data(), c_n.data()},
        nullptr, saved.data(), checkpoints.data()});
    compare(target, "output", output, expected_output);
    compare(target, "h_n", h_n, expected_h_n);
    if (S > 1) compare(target, "c_n", c_n, expected_c_n);
    if (!cut && !kIsNarrow<T>) stream(target, net);  // there are no streams in bfloat16
    for (const void* saves : {static_cast<const void*>(saved.data()), static_cast<const void*>(nullptr)}) {
      poison();
      go(Backward{net, in, out, {h_0.data(), c_0.data()}, {fresh_h.data(), fresh_c.data()}, nullptr, saves,
          checkpoints.data(), d_out, nullptr, nullptr, {d_h.data(), d_c.data()}, d_in, {d_h_0.data(), d_c_0.data()},
          {d_fresh_h.data(), d_fresh_c.data()}, nullptr, &gradients});
      compare(target, "grad_x", grad_x, expected.x);
      compare(target, "d_h_0", d_h_0, expected.h_0);
      if (S > 1) compare(target, "d_c_0", d_c_0, expected.c_0);
      compare(target, "d_w_ih", d_w_ih, expected.w_ih);
      compare(target, "d_w_hh", d_w_hh, expected.w_hh);
      compare(target, "d_b_ih", d_b_ih, expected.b_ih);
      compare(target, "d_b_hh", d_b_hh, expected.b_hh);
      if (projects) compare(target, "d_w_hr", d_w_hr, expected.w_hr);
      compare(target, "d_fresh_h", d_fresh_h, expected.fresh_h);
      if (S > 1) compare(target, "d_fresh_c", d_fresh_c, expected.fresh_c);
    }
  }

  void stream(const Target& target, const Network& net) {  // step by step, the same bits
    std::vector<T> h = h_0, c = c_0;
    void* const states[] = {h.data(), c.data()};
    Stream* stream = target.stream(net, states);
    bool same = true;
    for (long t = 0; t < T_; ++t) {
      stream->step(stream, &x[t * B * I], I);
      same = same && std::memcmp(h.data(), &output[t * B * P], h.size() * sizeof(T)) == 0;
    }
    stream->close(stream);
    same = same && std::memcmp(h.data(), h_n.data(), h.size() * sizeof(T)) == 0 &&
        (S == 1 || std::memcmp(c.data(), c_n.data(), c.size() * sizeof(T)) == 0);
    if (!same)
      std::printf("%s f%zu cell %d B=%ld I=%ld H=%ld P=%ld: a stream differs\n", target.name, 8 * sizeof(T),
          cell.number, B, I, H, P),
          ++failures;
  }

  void loops() {
    expected_output.assign(T_ * B * P, 0), expected_h_n.assign(B * P, 0), expected_c_n.assign(B * H, 0);
    expected = {Doubles(T_ * B * I), Doubles(B * P), Doubles(B * H), Doubles(G * H * I), Doubles(G * H * P),
        Doubles(G * H), Doubles(G * H), Doubles(P * H), Doubles(P), Doubles(H)};
    for (long b = 0; b < B; ++b) sequence(b);
  }

  void sequence(long b) {
    std::vector<Step> steps;
    Doubles h(h_0.begin() + b * P, h_0.begin() + (b + 1) * P), c(c_0.begin() + b * H, c_0.begin() + (b + 1) * H);
    const auto cut = [&](long t) { return !resets.empty() && resets[t * B + b]; };
    for (long t = 0; t < lengths[b]; ++t) {
      if (cut(t)) h.assign(fresh_h.begin(), fresh_h.end()), c.assign(fresh_c.begin(), fresh_c.end());
      steps.push_back(forward(h, c, &x[(t * B + b) * I]));
      c = steps.back().after_c;
      h = store(steps.back().units);
      if (projects) {
        h.assign(P, 0);
        for (long p = 0; p < P; ++p)
          for (long i = 0; i < H; ++i) h[p] += double(w_hr[p * H + i]) * steps.back().units[i];
        store(h);
      }
      std::copy(h.begin(), h.end(), expected_output.begin() + (t * B + b) * P);
    }
    std::copy(h.begin(), h.end(), expected_h_n.begin() + b * P);
    std::copy(c.begin(), c.end(), expected_c_n.begin() + b * H);
    Doubles d_h(this->d_h.begin() + b * P, this->d_h.begin() + (b + 1) * P),
        d_c(this->d_c.begin() + b * H, this->d_c.begin() + (b + 1) * H);
    for (long t = lengths[b] - 1; t >= 0; --t) {
      for (long p = 0; p < P; ++p) d_h[p] += grad_output[(t * B + b) * P + p];
      backward(steps[t], d_h, d_c, t * B + b);
      if (!cut(t)) continue;
      for (long p = 0; p < P; ++p) expected.fresh_h[p] += d_h[p], d_h[p] = 0;
      for (long i = 0; i < H; ++i) expected.fresh_c[i] += d_c[i], d_c[i] = 0;
    }
    std::copy(d_h.begin(), d_h.end(), expected.h_0.begin() + b * P);
    std::copy(d_c.begin(), d_c.end(), expected.c_0.begin() + b * H);
  }

  static Doubles& store(Doubles& values) {
    if (kIsNarrow<T>)
      for (double& value : values) value = Narrow(value);
    return values;
  }

  Step forward(const Doubles& h, const Doubles& c, const T* x) const {
    Step s{h, c, {}, Doubles(H), Doubles(H), Doubles(H)};
    for (Doubles& gate : s.gate) gate.assign(H, 0);
    for (long i = 0; i < H; ++i) {
      double a[4] = {}, q[4] = {};
      for (long g = 0; g < G; ++g) {
        const long unit = g * H + i;
        a[g] = b_ih[unit], q[g] = b_hh[unit];
        for (long k = 0; k < I; ++k) a[g] += double(w_ih[unit * I + k]) * x[k];
        for (long k = 0; k < P; ++k) q[g] += w_hh[unit * P + k] * h[k];
      }
      const auto gate = [&](int g) -> double& { return s.gate[g][i]; };
      if (is(cell, "rnn_tanh")) {
        s.units[i] = std::tanh(a[0] + q[0]);
      } else if (is(cell, "rnn_relu")) {
        s.units[i] = std::fmax(a[0] + q[0], 0);
      } else if (is(cell, "gru")) {
        gate(0) = logistic(a[0] + q[0]), gate(1) = logistic(a[1] + q[1]), s.q[i] = q[2],
        gate(2) = std::tanh(a[2] + gate(0) * q[2]);
        s.units[i] = (1 - gate(1)) * gate(2) + gate(1) * h[i];
      } else {
        for (int g = 0; g < 4; ++g) gate(g) = g == 2 ? std::tanh(a[g] + q[g]) : logistic(a[g] + q[g]);
        s.after_c[i] = gate(1) * c[i] + gate(0) * gate(2);
        s.units[i] = gate(3) * std::tanh(s.after_c[i]);
      }
    }
    return s;
  }

  // Turns the gradients of the states after a step into those of the states before it; adds up those of the parameters.
  void backward(const Step& s, Doubles& d_h, Doubles& d_c, long row) {
    Doubles d_units = d_h, d_a(G * H), d_q(G * H), direct(P);
    if (projects) {
      d_units.assign(H, 0);
      for (long p = 0; p < P; ++p)
        for (long i = 0; i < H; ++i)
          d_units[i] += d_h[p] * w_hr[p * H + i], expected.w_hr[p * H + i] += d_h[p] * s.units[i];
    }
    for (long i = 0; i < H; ++i) {
      const double d = d_units[i], y = s.units[i];
      const double a = s.gate[0][i], b = s.gate[1][i], n = s.gate[2][i], o = s.gate[3][i];
      double to[4] = {};
      if (is(cell, "rnn_tanh")) {
        to[0] = d * (1 - y * y);
      } else if (is(cell, "rnn_relu")) {
        to[0] = y > 0 ? d : 0;
      } else if (is(cell, "gru")) {
        to[2] = d * (1 - b) * (1 - n * n), to[1] = d * (s.h[i] - n) * b * (1 - b), to[0] = to[2] * s.q[i] * a * (1 - a);
        direct[i] = d * b;
      } else {
        const double shown = std::tanh(s.after_c[i]), after = d_c[i] + d * o * (1 - shown * shown);
        to[0] = after * n * a * (1 - a), to[1] = after * s.c[i] * b * (1 - b), to[2] = after * a * (1 - n * n),
        to[3] = d * shown * o * (1 - o);
        d_c[i] = after * b;
      }
      for (long g = 0; g < G; ++g) d_a[g * H + i] = d_q[g * H + i] = to[g];
      if (is(cell, "gru")) d_q[2 * H + i] *= a;
    }
    d_h = direct;
    for (long unit = 0; unit < G * H; ++unit) {
      expected.b_ih[unit] += d_a[unit], expected.b_hh[unit] += d_q[unit];
      for (long k = 0; k < I; ++k)
        expected.w_ih[unit * I + k] += d_a[unit] * x[row * I + k],
            expected.x[row * I + k] += d_a[unit] * w_ih[unit * I + k];
      for (long k = 0; k < P; ++k)
        expected.w_hh[unit * P + k] += d_q[unit] * s.h[k], d_h[k] += d_q[unit] * w_hh[unit * P + k];
    }
  }

  void compare(const Target& target, const char* name, const std::vector<T>& got, const Doubles& expected) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      std::uint64_t bits = 0;
      std::memcpy(&bits, &got[i], sizeof(T));
      hash = (hash ^ bits) * 0x9e3779b97f4a7c15u, hash ^= hash >> 32;
    }
    for (std::size_t i = 0; i < expected.size(); ++i)
      if (!(std::fabs(got[i] - expected[i]) <= kTolerance<T> * std::fmax(1.0, std::fabs(expected[i])))) {
        std::printf("%s f%zu cell %d T=%ld B=%ld I=%ld H=%ld P=%ld: %s[%zu] is %g, not %g\n", target.name,
            8 * sizeof(T), cell.number, T_, B, I, H, P, name, i, double(got[i]), expected[i]);
        ++failures;
        return;
      }
  }

  void check(const Target& target) {
    loops();
    kernels(target);
  }
};

// Where `exact` is below the normal numbers a unit is the distance between two numbers there.
void check_activation(const Target& target, Activation which, const char* name, double (*exact)(double), float from,
    float to, double most) {
  double worst = 0;
  std::uint32_t first, last;
  std::memcpy(&first, &from, 4), std::memcpy(&last, &to, 4);
  for (std::uint32_t bits = first; bits < last; bits += 1021)
    for (std::uint32_t sign : {0u, 1u << 31}) {
      const std::uint32_t pattern = bits | sign;
      float x, y;
      std::memcpy(&x, &pattern, 4);
      target.activation(which, Number::f32, &x, &y, 1);
      const double value = exact(double(x)), unit = std::ldexp(1.0, std::max(std::ilogb(value), -126) - 23);
      worst = std::fmax(worst, std::fabs(y - value) / unit);
    }
  std::printf("%s: %s is within %.2f units in the last place\n", target.name, name, worst);
  if (!(worst <= most)) ++failures;
}

}  // namespace

int main() {
  long runs = 0;
  for (const Target* target : supported_targets()) {
    hash = 0;
    for (const CellInfo& cell : target->cells) {
      for (long H : {1, 2, 3, 4, 5, 8, 9, 17, 33})
        for (long B : {1, 2, 3, 5, 7, 8, 9, 11, 17}) {
          const long I = 1 + (H + B) % 7;
          Run<float>(cell, 5, B, I, H).check(*target);
          Run<double>(cell, 5, B, I, H).check(*target);
          Run<float>(cell, 5, B, I, H).ragged().check(*target);
          Run<double>(cell, 5, B, I, H).ragged().check(*target);
          Run<Narrow>(cell, 5, B, I, H).check(*target);
          Run<Narrow>(cell, 5, B, I, H).ragged().check(*target);
          runs += 6;
          if (!is(cell, "lstm") || H == 1) continue;
          Run<float>(cell, 5, B, I, H, H / 2).check(*target);
          Run<double>(cell, 5, B, I, H, H / 2).ragged().check(*target);
          Run<Narrow>(cell, 5, B, I, H, H / 2).ragged().check(*target);
          runs += 3;
        }
      Run<double>(cell, 40, 1, 5, 260).check(*target);  // columns on threads
      Run<Narrow>(cell, 40, 1, 5, 260).check(*target);
      Run<double>(cell, 40, 1, 5, 260).ragged().check(*target);
      Run<double>(cell, 1600 / cell.gates, 120, 5, 6).check(*target);  // two chunks
      Run<double>(cell, 1600 / cell.gates, 130, 5, 6).ragged().check(*target);
      if (is(cell, "lstm")) Run<double>(cell, 40, 1, 5, 260, 70).check(*target);
    }
    std::printf("%s: all numbers hash to %016llx\n", target->name, static_cast<unsigned long long>(hash));
    check_activation(*target, Activation::tanh, "tanh", [](double x) { return std::tanh(x); }, 0x1p-13f, 10, 2.6);
    check_activation(*target, Activation::sigmoid, "sigmoid", logistic, 0x1p-13f, 104, 2.5);
  }
  std::printf("%ld runs, %d failures\n", runs, failures);
  return failures != 0;
}
