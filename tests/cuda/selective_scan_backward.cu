#include <blackmamba/cuda.cuh>

#include <algorithm>
#include <cmath>

#include "cuda/support.cuh"
#include "support/scan_problem.hpp"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;
using test::same_bits;
using test::ScanOptions;
using test::ScanProblem;
using test::ScanSizes;

namespace {

/// Every gradient that the operation gives, on the host.
template <class T>
struct Gradients {
  using Acc = accumulator_t<T>;
  Tensor<T, 3> u, delta, z;
  Tensor<Acc, 2> A;
  Tensor<T, 4> B, C;
  Tensor<Acc, 1> D, bias;
  Tensor<Acc, 3> initial;

  template <class Other, class Body>
  void with(Other const& other, Body&& body) const {
    body("d_u", u, other.u), body("d_delta", delta, other.delta), body("d_z", z, other.z), body("d_A", A, other.A);
    body("d_B", B, other.B), body("d_C", C, other.C), body("d_D", D, other.D), body("d_delta_bias", bias, other.bias);
    body("d_initial_state", initial, other.initial);
  }
};

/// What comes back through the outputs.
template <class T>
struct Incoming {
  Tensor<T, 3> y;
  Tensor<accumulator_t<T>, 3> last;

  static Incoming make(ScanProblem<T> const& p) {
    return {random_tensor<T>(p.u.shape(), 10), random_tensor<accumulator_t<T>>(p.initial.shape(), 11)};
  }
};

template <class T>
SelectiveScanBackwardArgs<T> inputs(SelectiveScanArgs<T> const& forward) {
  return {.u = forward.u,
          .delta = forward.delta,
          .A = forward.A,
          .B = forward.B,
          .C = forward.C,
          .D = forward.D,
          .z = forward.z,
          .delta_bias = forward.delta_bias,
          .delta_softplus = forward.delta_softplus,
          .initial_state = forward.initial_state};
}

Gradients<double> reference(ScanProblem<double> const& p, Incoming<double> const& incoming, View<Index const, 1> offsets) {
  Gradients<double> out{Tensor<double, 3>{p.u.shape()}, Tensor<double, 3>{p.u.shape()},    Tensor<double, 3>{p.u.shape()},
                        Tensor<double, 2>{p.A.shape()}, Tensor<double, 4>{p.B.shape()},    Tensor<double, 4>{p.C.shape()},
                        Tensor<double, 1>{p.D.shape()}, Tensor<double, 1>{p.bias.shape()}, Tensor<double, 3>{p.initial.shape()}};
  auto a = inputs(p.args());
  a.offsets = offsets;
  a.d_y = incoming.y, a.d_last_state = incoming.last;
  a.d_u = out.u, a.d_delta = out.delta, a.d_A = out.A, a.d_B = out.B, a.d_C = out.C, a.d_initial_state = out.initial;
  if (p.options.D) a.d_D = out.D;
  if (p.options.z) a.d_z = out.z;
  if (p.options.bias) a.d_delta_bias = out.bias;
  selective_scan_backward(Reference{}, a);
  return out;
}

/// A problem and its gradients on the device: those that are overwritten poisoned, those that are added to zero.
template <class T>
struct OnDevice {
  using Acc = accumulator_t<T>;
  Cuda ctx;
  ScanOptions options;
  DeviceTensor<T, 3> u, delta, z, d_y;
  DeviceTensor<Acc, 2> A;
  DeviceTensor<T, 4> B, C;
  DeviceTensor<T, 1> D, bias;
  DeviceTensor<Acc, 3> initial, d_last;
  DeviceTensor<T, 3> d_u, d_delta, d_z;
  DeviceTensor<Acc, 2> d_A;
  DeviceTensor<T, 4> d_B, d_C;
  DeviceTensor<Acc, 1> d_D, d_bias;
  DeviceTensor<Acc, 3> d_initial;

  OnDevice(Cuda const& context, ScanProblem<T> const& p, Incoming<T> const& incoming)
      : ctx{context},
        options{p.options},
        u{to_device(ctx, p.u)},
        delta{to_device(ctx, p.delta)},
        z{to_device(ctx, p.z)},
        d_y{to_device(ctx, incoming.y)},
        A{to_device(ctx, p.A)},
        B{to_device(ctx, p.B)},
        C{to_device(ctx, p.C)},
        D{to_device(ctx, p.D)},
        bias{to_device(ctx, p.bias)},
        initial{to_device(ctx, p.initial)},
        d_last{to_device(ctx, incoming.last)},
        d_u{ctx, p.u.shape()},
        d_delta{ctx, p.u.shape()},
        d_z{ctx, p.u.shape()},
        d_A{ctx, p.A.shape()},
        d_B{ctx, p.B.shape()},
        d_C{ctx, p.C.shape()},
        d_D{ctx, p.D.shape()},
        d_bias{ctx, p.bias.shape()},
        d_initial{ctx, p.initial.shape()} {
    reset();
  }

  void reset() const {
    auto const fill = [&](auto const& t, int byte) {
      auto const bytes = static_cast<std::size_t>(t.size()) * sizeof(*t.data());
      detail::check_cuda(cudaMemsetAsync(t.data(), byte, bytes, ctx.stream()), "cudaMemsetAsync");
    };
    fill(d_u, 0xff), fill(d_delta, 0xff), fill(d_B, 0xff), fill(d_C, 0xff), fill(d_initial, 0xff);
    fill(d_z, options.z ? 0xff : 0), fill(d_A, 0), fill(d_D, 0), fill(d_bias, 0);
  }

  SelectiveScanBackwardArgs<T> args() const {
    SelectiveScanBackwardArgs<T> a{.u = u.view(),
                                   .delta = delta.view(),
                                   .A = A.view(),
                                   .B = B.view(),
                                   .C = C.view(),
                                   .delta_softplus = options.softplus,
                                   .d_y = d_y.view(),
                                   .d_last_state = d_last.view(),
                                   .d_u = d_u,
                                   .d_delta = d_delta,
                                   .d_A = d_A,
                                   .d_B = d_B,
                                   .d_C = d_C,
                                   .d_initial_state = d_initial};
    if (options.D) a.D = D.view(), a.d_D = d_D;
    if (options.z) a.z = z.view(), a.d_z = d_z;
    if (options.bias) a.delta_bias = bias.view(), a.d_delta_bias = d_bias;
    if (options.initial) a.initial_state = initial.view();
    return a;
  }

  Gradients<T> results() const {
    return {to_host(ctx, d_u), to_host(ctx, d_delta), to_host(ctx, d_z),    to_host(ctx, d_A),      to_host(ctx, d_B),
            to_host(ctx, d_C), to_host(ctx, d_D),     to_host(ctx, d_bias), to_host(ctx, d_initial)};
  }
  Gradients<T> run(SelectiveScanBackwardArgs<T> const& a) const {
    reset();
    selective_scan_backward(ctx, a);
    return results();
  }
};

/// Sums run over the states, over time, over the batch, and over the channels of a group; rounded once.
verify::Cost cost(ScanSizes const& s) { return {.terms = static_cast<double>(s.N + s.B * s.L + s.L + s.D), .scale = 1}; }

template <class T>
void expect_close(Gradients<T> const& got, Gradients<double> const& exact, ScanSizes const& s) {
  got.with(exact, [&](char const* name, auto const& mine, auto const& theirs) {
    INFO(name);
    CHECK_CLOSE(verify::compare(mine.view(), theirs.view(), cost(s)));
  });
}

template <class T>
void expect_same(Gradients<T> const& a, Gradients<T> const& b) {
  a.with(b, [](char const* name, auto const& one, auto const& other) {
    INFO(name);
    CHECK(same_bits(one, other));
  });
}

template <class T>
void check(Cuda const& ctx, ScanSizes const& s, ScanOptions const& options, View<Index const, 1> offsets = {}) {
  INFO(concat("B ", s.B, ", L ", s.L, ", D ", s.D, ", N ", s.N, ", G ", s.G, ", "), options.describe());
  auto const problem = ScanProblem<T>::make(s, options, offsets ? offsets.extent(0) - 1 : -1);
  auto const incoming = Incoming<T>::make(problem);
  auto const exact =
      reference(problem.template in<double>(), {converted<double>(incoming.y), converted<double>(incoming.last)}, offsets);
  OnDevice<T> const device{ctx, problem, incoming};
  auto args = device.args();
  DeviceTensor<Index, 1> const device_offsets = offsets ? to_device(ctx, offsets) : DeviceTensor<Index, 1>{ctx, Shape<1>{1}};
  if (offsets) args.offsets = device_offsets.view();
  expect_close(device.run(args), exact, s);
}

Tensor<Index, 1> offsets_of(std::initializer_list<Index> values) {
  Tensor<Index, 1> out{Shape{static_cast<Index>(values.size())}};
  std::copy(values.begin(), values.end(), out.data());
  return out;
}

}  // namespace

GPU_TEST_TEMPLATE("selective_scan_backward on a GPU: every option agrees with the double reference", T, float, double, Half, bf16) {
  Cuda const ctx;
  for (int bits = 0; bits < 32; ++bits) {
    check<T>(ctx, {2, 5, 9, 3, 1}, ScanOptions::from_bits(bits));
    check<T>(ctx, {2, 37, 72, 16, 1}, ScanOptions::from_bits(bits));
  }
}

GPU_TEST_TEMPLATE("selective_scan_backward on a GPU: every shape agrees with the double reference", T, float, double, Half, bf16) {
  Cuda const ctx;
  for (ScanSizes const& s :
       {ScanSizes{0, 3, 8, 2, 1}, ScanSizes{2, 0, 8, 3, 1}, ScanSizes{2, 0, 5, 3, 1}, ScanSizes{2, 3, 0, 4, 1},
        ScanSizes{1, 4, 8, 0, 1}, ScanSizes{1, 1, 1, 1, 1}, ScanSizes{1, 1, 8, 16, 1}, ScanSizes{1, 9, 16, 16, 2},
        ScanSizes{2, 4, 9, 17, 3}, ScanSizes{1, 6, 17, 64, 1}, ScanSizes{1, 7, 64, 15, 1}, ScanSizes{1, 8, 136, 13, 1},
        ScanSizes{3, 17, 48, 5, 6}, ScanSizes{5, 65, 136, 16, 1}, ScanSizes{1, 127, 48, 16, 2}, ScanSizes{2, 129, 8, 16, 1},
        ScanSizes{1, 200, 12, 20, 3}})
    check<T>(ctx, s, ScanOptions{});
}

GPU_TEST_TEMPLATE("selective_scan_backward on a GPU: long sequences, in several segments, agree with the double reference", T,
                  float, bf16) {
  Cuda const ctx;
  check<T>(ctx, {1, 3001, 72, 16, 1}, ScanOptions{});
  check<T>(ctx, {2, 777, 24, 16, 1}, ScanOptions{.initial = false});
}

GPU_TEST_TEMPLATE("selective_scan_backward on a GPU: packed sequences, empty ones among them, agree with the double reference", T,
                  float, double, bf16) {
  Cuda const ctx;
  for (Index D : {19, 72}) {
    check<T>(ctx, {1, 40, D, 5, 1}, ScanOptions{}, offsets_of({0, 0, 4, 5, 5, 23, 40, 40}));
    check<T>(ctx, {1, 700, D, 16, 1}, ScanOptions{}, offsets_of({0, 0, 64, 64, 65, 400, 401, 409, 417, 417, 700, 700}));
    check<T>(ctx, {1, 500, D, 16, 1}, ScanOptions{.initial = false}, offsets_of({0, 500}));
    check<T>(ctx, {1, 0, D, 3, 1}, ScanOptions{}, offsets_of({0, 0, 0}));
  }
}

GPU_TEST("selective_scan_backward on a GPU: offsets that are no sequences are told by the next wait") {
  Cuda const ctx;
  for (Index D : {5, 8}) {
    auto const problem = ScanProblem<float>::make({1, 33, D, 16, 1}, ScanOptions{}, 3);
    OnDevice<float> const device{ctx, problem, Incoming<float>::make(problem)};
    auto const offsets = to_device(ctx, offsets_of({-5, 30, 10, 1000}));
    auto args = device.args();
    args.offsets = offsets.view();
    CHECK_THROWS_WITH_AS(device.run(args),
                         "selective_scan_backward: offsets[0] is -5, and offsets must ascend from 0 to the length", value_error);
  }
}

GPU_TEST_TEMPLATE("selective_scan_backward on a GPU: two runs give the same bits", T, float, bf16) {
  Cuda const ctx;
  for (ScanSizes const& s : {ScanSizes{40, 40, 64, 16, 1}, ScanSizes{1, 2001, 72, 16, 1}, ScanSizes{2, 90, 9, 17, 1}}) {
    auto const problem = ScanProblem<T>::make(s, ScanOptions{});
    OnDevice<T> const device{ctx, problem, Incoming<T>::make(problem)};
    auto const once = device.run(device.args());
    expect_same(device.run(device.args()), once);
  }
}

GPU_TEST("selective_scan_backward on a GPU: parameters' gradients are added to, the others overwritten") {
  Cuda const ctx;
  for (Index D : {9, 24}) {
    ScanSizes const s{2, 20, D, 4, 3};
    auto const problem = ScanProblem<float>::make(s, ScanOptions{});
    OnDevice<float> const device{ctx, problem, Incoming<float>::make(problem)};
    auto const once = device.run(device.args());
    selective_scan_backward(ctx, device.args());
    auto const twice = device.results();
    CHECK(same_bits(once.u, twice.u));
    CHECK(same_bits(once.B, twice.B));
    CHECK(same_bits(once.initial, twice.initial));
    for (Index i = 0; i < once.A.size(); ++i) CHECK(twice.A.data()[i] == 2 * once.A.data()[i]);
    for (Index i = 0; i < D; ++i) CHECK(twice.D(i) == 2 * once.D(i));
    for (Index i = 0; i < D; ++i) CHECK(twice.bias(i) == 2 * once.bias(i));
  }
}

GPU_TEST("selective_scan_backward on a GPU: any gradient may be left out, and the others are the same bits") {
  Cuda const ctx;
  for (Index D : {10, 24}) {
    auto const problem = ScanProblem<float>::make({1, 19, D, 4, 2}, ScanOptions{});
    OnDevice<float> const device{ctx, problem, Incoming<float>::make(problem)};
    auto const all = device.run(device.args());
    for (int left_out = 0; left_out < 9; ++left_out) {
      auto args = device.args();
      int at = 0;
      auto const drop = [&](auto& view) {
        if (at++ == left_out) view = {};
      };
      drop(args.d_u), drop(args.d_delta), drop(args.d_z), drop(args.d_A), drop(args.d_B), drop(args.d_C), drop(args.d_D);
      drop(args.d_delta_bias), drop(args.d_initial_state);
      auto const some = device.run(args);
      at = 0;
      some.with(all, [&](char const* name, auto const& mine, auto const& theirs) {
        INFO(name);
        if (at++ != left_out) CHECK(same_bits(mine, theirs));
      });
    }
  }
}

GPU_TEST("selective_scan_backward on a GPU: it is captured in a graph, whose replays give the same bits and allocate nothing") {
  Cuda const ctx;
  for (ScanSizes const& s : {ScanSizes{1, 2001, 72, 16, 1}, ScanSizes{2, 70, 9, 17, 1}}) {
    auto const problem = ScanProblem<bf16>::make(s, ScanOptions{});
    OnDevice<bf16> const device{ctx, problem, Incoming<bf16>::make(problem)};
    auto const run = [&] { selective_scan_backward(ctx, device.args()); };
    test::expect_repeatable(
        ctx, [&] { device.reset(); }, run, device.d_u, device.d_delta, device.d_z, device.d_A, device.d_B, device.d_C, device.d_D,
        device.d_bias, device.d_initial);
  }
}
