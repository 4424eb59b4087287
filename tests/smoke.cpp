// Runs every instruction set of a build against plain loops, without Python: for processors that an emulator stands in for (`make neon`).
// One layer, one direction, forward and backward, over sizes around those of vectors and tiles; then tanh over a sample of all floats.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "dispatch.h"

using namespace elman;

namespace {

int failures = 0;

template <class T>
struct Run {
  long T_, B, I, H;
  std::vector<T> w_ih, w_hh, b_ih, b_hh, x, h_0, d_output, d_final;                   // given
  std::vector<T> output, final, d_x, d_h_0, d_w_ih, d_w_hh, d_b_ih, d_b_hh;           // by the kernels
  std::vector<double> expected_output, expected_d_x, expected_d_w_ih, expected_d_w_hh;  // by the loops

  std::vector<T> numbers(long n) {
    static std::mt19937 generator(0);
    std::vector<T> v(n);
    for (T& value : v) value = T(std::uniform_real_distribution<double>(-1, 1)(generator) / std::sqrt(double(H)));
    return v;
  }

  Run(long steps, long B, long I, long H) : T_(steps), B(B), I(I), H(H) {
    w_ih = numbers(H * I), w_hh = numbers(H * H), b_ih = numbers(H), b_hh = numbers(H), x = numbers(T_ * B * I), h_0 = numbers(B * H);
    d_output = numbers(T_ * B * H), d_final = numbers(B * H);
    for (auto* v : {&output, &d_x, &d_w_ih, &d_w_hh, &final, &d_h_0, &d_b_ih, &d_b_hh}) v->assign(T_ * B * H + T_ * B * I + H * (H + I), T(NAN));
  }

  void kernels(const Target& target) {
    const Parameters parameters{w_ih.data(), w_hh.data(), b_ih.data(), b_hh.data()};
    const Gradients gradients{d_w_ih.data(), d_w_hh.data(), d_b_ih.data(), d_b_hh.data()};
    Network net{};
    net.number = sizeof(T) == 4 ? Number::f32 : Number::f64;
    net.T = T_, net.B = B, net.I = I, net.H = H, net.L = net.D = 1, net.rows = T_ * B, net.parameters = &parameters;
    const Sequence in{x.data(), B * I, I}, out{output.data(), B * H, H}, d_out{d_output.data(), B * H, H}, d_in{d_x.data(), B * I, I};
    run(target, Forward{net, in, h_0.data(), out, final.data(), nullptr}, 2);
    run(target, Backward{net, in, out, h_0.data(), nullptr, d_out, d_final.data(), d_in, d_h_0.data(), &gradients}, 2);
  }

  void loops() {
    expected_output.assign(T_ * B * H, 0), expected_d_x.assign(T_ * B * I, 0), expected_d_w_ih.assign(H * I, 0), expected_d_w_hh.assign(H * H, 0);
    for (long b = 0; b < B; ++b) {
      std::vector<double> h(h_0.begin() + b * H, h_0.begin() + (b + 1) * H);
      for (long t = 0; t < T_; ++t) {
        std::vector<double> next(H);
        for (long i = 0; i < H; ++i) {
          double a = double(b_ih[i]) + b_hh[i];
          for (long k = 0; k < I; ++k) a += double(w_ih[i * I + k]) * x[(t * B + b) * I + k];
          for (long k = 0; k < H; ++k) a += w_hh[i * H + k] * h[k];
          next[i] = std::tanh(a);
        }
        h = next;
        std::copy(h.begin(), h.end(), expected_output.begin() + (t * B + b) * H);
      }
      std::vector<double> d_h(d_final.begin() + b * H, d_final.begin() + (b + 1) * H);
      for (long t = T_ - 1; t >= 0; --t) {
        std::vector<double> d_a(H), before(H);
        for (long i = 0; i < H; ++i) {
          const double value = expected_output[(t * B + b) * H + i];
          before[i] = t ? expected_output[((t - 1) * B + b) * H + i] : h_0[b * H + i];
          d_a[i] = (d_h[i] + d_output[(t * B + b) * H + i]) * (1 - value * value);
        }
        d_h.assign(H, 0);
        for (long i = 0; i < H; ++i) {
          for (long k = 0; k < I; ++k) {
            expected_d_w_ih[i * I + k] += d_a[i] * x[(t * B + b) * I + k];
            expected_d_x[(t * B + b) * I + k] += d_a[i] * w_ih[i * I + k];
          }
          for (long k = 0; k < H; ++k) {
            expected_d_w_hh[i * H + k] += d_a[i] * before[k];
            d_h[k] += d_a[i] * w_hh[i * H + k];
          }
        }
      }
    }
  }

  void compare(const Target& target, const char* name, const std::vector<T>& got, const std::vector<double>& expected) {
    const double tolerance = sizeof(T) == 4 ? 2e-5 : 1e-12;  // the derived bounds are the Python tests'; here a slip of a lane is looked for
    for (std::size_t i = 0; i < expected.size(); ++i)
      if (!(std::fabs(got[i] - expected[i]) <= tolerance * std::fmax(1.0, std::fabs(expected[i])))) {
        std::printf("%s f%zu T=%ld B=%ld I=%ld H=%ld: %s[%zu] is %g, not %g\n", target.name, 8 * sizeof(T), T_, B, I, H, name, i, double(got[i]), expected[i]);
        ++failures;
        return;
      }
  }

  void check(const Target& target) {
    kernels(target);
    loops();
    compare(target, "output", output, expected_output);
    compare(target, "d_x", d_x, expected_d_x);
    compare(target, "d_w_ih", d_w_ih, expected_d_w_ih);
    compare(target, "d_w_hh", d_w_hh, expected_d_w_hh);
  }
};

void check_tanh(const Target& target) {
  double worst = 0;
  for (std::uint32_t bits = 0x39000000; bits < 0x41200000; bits += 1021) {  // 2^-13 to 10
    float x, y;
    std::memcpy(&x, &bits, 4);
    target.activation(CellKind::rnn_tanh, Number::f32, &x, &y, 1);
    const double exact = std::tanh(double(x));
    worst = std::fmax(worst, std::fabs(y - exact) / std::ldexp(1.0, std::ilogb(exact) - 23));
  }
  std::printf("%s: tanh is within %.2f units in the last place\n", target.name, worst);
  if (!(worst <= 2.6)) ++failures;
}

}  // namespace

int main() {
  long runs = 0;
  for (const Target* target : supported_targets()) {
    for (long H : {1, 2, 3, 4, 5, 8, 9, 17, 33, 70})
      for (long B : {1, 2, 3, 5, 7, 8, 9, 11, 17})
        for (long I : {1, 4, 7}) {
          Run<float>(6, B, I, H).check(*target);
          Run<double>(6, B, I, H).check(*target);
          runs += 2;
        }
    Run<double>(80, 1, 5, 260).check(*target);  // columns on threads
    Run<float>(300, 12, 5, 60).check(*target);  // several chunks
    check_tanh(*target);
  }
  std::printf("%ld runs, %d failures\n", runs, failures);
  return failures != 0;
}
