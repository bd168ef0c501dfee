#pragma once
// A selective scan with all its arguments, from seeded numbers rounded to T: what the tests of the scan and of its step start from.

#include <blackmamba/ops/selective_scan/selective_scan.hpp>

#include "support/op_test.hpp"

namespace test {

struct ScanSizes {
  Index B, L, D, N, G;
};

/// Which optional arguments are given.
struct ScanOptions {
  bool D = true, z = true, bias = true, softplus = true, initial = true;

  static ScanOptions from_bits(int bits) {
    return {(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0, (bits & 16) != 0};
  }
  std::string describe() const {
    return concat("D ", D, ", z ", z, ", bias ", bias, ", softplus ", softplus, ", initial state ", initial);
  }
};

template <class T>
struct ScanProblem {
  using Acc = accumulator_t<T>;
  ScanSizes sizes;
  ScanOptions options;
  Tensor<T, 3> u, delta, z;
  Tensor<Acc, 2> A;
  Tensor<T, 4> B, C;
  Tensor<T, 1> D, bias;
  Tensor<Acc, 3> initial;

  /// `sequences` is the number of states, where it is not the batch.
  static ScanProblem make(ScanSizes s, ScanOptions options, Index sequences = -1) {
    if (sequences < 0) sequences = s.B;
    ScanProblem p{s, options, random_tensor<T>(Shape{s.B, s.L, s.D}, 1),
                  // Without softplus a step size is a positive number, and with it anything.
                  random_tensor<T>(Shape{s.B, s.L, s.D}, 2, options.softplus ? 1 : 0.1, options.softplus ? -1 : 0.5),
                  random_tensor<T>(Shape{s.B, s.L, s.D}, 3), random_tensor<Acc>(Shape{s.D, s.N}, 4, 0.5),
                  random_tensor<T>(Shape{s.B, s.L, s.G, s.N}, 5), random_tensor<T>(Shape{s.B, s.L, s.G, s.N}, 6),
                  random_tensor<T>(Shape{s.D}, 7), random_tensor<T>(Shape{s.D}, 8, 0.1),
                  random_tensor<Acc>(Shape{sequences, s.D, s.N}, 9)};
    for (Acc& x : p.A) x = -exp(x);
    return p;
  }

  /// The same problem, from the same rounded numbers, in another scalar.
  template <class To>
  ScanProblem<To> in() const {
    using ToAcc = accumulator_t<To>;
    return {sizes,
            options,
            converted<To>(u),
            converted<To>(delta),
            converted<To>(z),
            converted<ToAcc>(A),
            converted<To>(B),
            converted<To>(C),
            converted<To>(D),
            converted<To>(bias),
            converted<ToAcc>(initial)};
  }

  SelectiveScanArgs<T> args() const {
    SelectiveScanArgs<T> a{.u = u, .delta = delta, .A = A, .B = B, .C = C, .delta_softplus = options.softplus};
    if (options.D) a.D = D;
    if (options.z) a.z = z;
    if (options.bias) a.delta_bias = bias;
    if (options.initial) a.initial_state = initial;
    return a;
  }

  /// An output sums N products, and each state remembers at most L steps.
  verify::Cost cost() const { return {.terms = static_cast<double>(sizes.N + sizes.L)}; }
};

template <class T>
struct ScanResult {
  Tensor<T, 3> y;
  Tensor<accumulator_t<T>, 3> last;
};

/// Runs `args` with fresh outputs.
template <class T, class Ctx>
ScanResult<T> run_scan(Ctx const& ctx, SelectiveScanArgs<T> args) {
  Index const sequences = args.offsets ? args.offsets.extent(0) - 1 : args.u.extent(0);
  ScanResult<T> out{Tensor<T, 3>{args.u.shape()},
                    Tensor<accumulator_t<T>, 3>{Shape<3>{sequences, args.u.extent(2), args.A.extent(1)}}};
  args.y = out.y;
  args.last_state = out.last;
  selective_scan(ctx, args);
  return out;
}

}  // namespace test
