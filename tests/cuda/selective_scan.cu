#include <blackmamba/cuda.cuh>

#include <vector>

#include "cuda/support.cuh"
#include "support/scan_problem.hpp"

using namespace blackmamba;
using Half = blackmamba::half;
using test::same_bits;
using test::ScanOptions;
using test::ScanProblem;
using test::ScanResult;
using test::ScanSizes;

namespace {

/// A problem's tensors on the device.
template <class T>
struct OnDevice {
  using Acc = accumulator_t<T>;
  Cuda ctx;
  ScanOptions options;
  DeviceTensor<T, 3> u, delta, z, y;
  DeviceTensor<Acc, 2> A;
  DeviceTensor<T, 4> B, C;
  DeviceTensor<T, 1> D, bias;
  DeviceTensor<Acc, 3> initial, last;

  OnDevice(Cuda const& context, ScanProblem<T> const& p)
      : ctx{context},
        options{p.options},
        u{to_device(ctx, p.u)},
        delta{to_device(ctx, p.delta)},
        z{to_device(ctx, p.z)},
        y{ctx, p.u.shape()},
        A{to_device(ctx, p.A)},
        B{to_device(ctx, p.B)},
        C{to_device(ctx, p.C)},
        D{to_device(ctx, p.D)},
        bias{to_device(ctx, p.bias)},
        initial{to_device(ctx, p.initial)},
        last{ctx, p.initial.shape()} {
    poison(y), poison(last);
  }

  template <class E, int Rank>
  void poison(DeviceTensor<E, Rank> const& t) const {
    detail::check_cuda(cudaMemsetAsync(t.data(), 0xff, static_cast<std::size_t>(t.size()) * sizeof(E), ctx.stream()), "memset");
  }

  SelectiveScanArgs<T> args() const {
    SelectiveScanArgs<T> a{.u = u.view(),
                           .delta = delta.view(),
                           .A = A.view(),
                           .B = B.view(),
                           .C = C.view(),
                           .delta_softplus = options.softplus,
                           .last_state = last,
                           .y = y};
    if (options.D) a.D = D.view();
    if (options.z) a.z = z.view();
    if (options.bias) a.delta_bias = bias.view();
    if (options.initial) a.initial_state = initial.view();
    return a;
  }

  ScanResult<T> run() const { return run(args()); }
  ScanResult<T> run(SelectiveScanArgs<T> const& a) const {
    selective_scan(ctx, a);
    return {to_host(ctx, y), to_host(ctx, last)};
  }
};

template <class T>
void check(Cuda const& ctx, ScanSizes const& s, ScanOptions const& options) {
  INFO(concat("B ", s.B, ", L ", s.L, ", D ", s.D, ", N ", s.N, ", G ", s.G, ", "), options.describe());
  auto const problem = ScanProblem<T>::make(s, options);
  auto const exact_problem = problem.template in<double>();
  auto const exact = test::run_scan(Reference{}, exact_problem.args());
  auto const got = OnDevice<T>{ctx, problem}.run();
  CHECK_CLOSE(verify::compare(got.y.view(), exact.y.view(), problem.cost()));
  CHECK_CLOSE(verify::compare(got.last.view(), exact.last.view(), problem.cost()));
}

}  // namespace

GPU_TEST_TEMPLATE("selective_scan on a GPU: every option agrees with the double reference", T, float, double, Half, bf16) {
  Cuda const ctx;
  for (int bits = 0; bits < 32; ++bits) {
    check<T>(ctx, {2, 5, 10, 3, 1}, ScanOptions::from_bits(bits));
    check<T>(ctx, {2, 37, 72, 16, 1}, ScanOptions::from_bits(bits));
  }
}

GPU_TEST_TEMPLATE("selective_scan on a GPU: every shape agrees with the double reference", T, float, double, Half, bf16) {
  Cuda const ctx;
  for (ScanSizes const& s :
       {ScanSizes{0, 3, 4, 2, 1}, ScanSizes{2, 0, 6, 3, 1}, ScanSizes{2, 3, 0, 4, 1}, ScanSizes{1, 4, 6, 0, 1},
        ScanSizes{1, 1, 1, 1, 1}, ScanSizes{1, 9, 8, 16, 2}, ScanSizes{2, 4, 9, 17, 3}, ScanSizes{1, 6, 17, 64, 1},
        ScanSizes{1, 3, 66, 13, 3}, ScanSizes{1, 31, 64, 16, 1}, ScanSizes{1, 32, 72, 16, 1}, ScanSizes{1, 33, 130, 16, 1},
        ScanSizes{3, 4, 6, 5, 6}, ScanSizes{1, 127, 48, 16, 2}, ScanSizes{5, 65, 136, 16, 1}, ScanSizes{2, 129, 8, 16, 1}})
    check<T>(ctx, s, ScanOptions{});
}

GPU_TEST_TEMPLATE("selective_scan on a GPU: sequences split over time agree with the double reference", T, float, Half, bf16) {
  Cuda const ctx;
  for (Index L : {256, 257, 1000, 3001})
    for (Index B : {1, 2}) check<T>(ctx, {B, L, 72, 16, 1}, ScanOptions{});
  check<T>(ctx, {1, 777, 24, 16, 1}, ScanOptions{.initial = false});
}

GPU_TEST("selective_scan on a GPU: blocks that hand states on agree with the double reference") {
  // More tiles than blocks run at once, and not a multiple: blocks begin and end inside of tiles.
  Cuda const ctx;
  Index const tiles = 3 * ctx.multiprocessors() + 50;
  check<float>(ctx, {tiles, 70, 16, 16, 1}, ScanOptions{});
  check<bf16>(ctx, {tiles / 2, 41, 96, 16, 1}, ScanOptions{});
}

GPU_TEST_TEMPLATE("selective_scan on a GPU: two runs give the same bits", T, float, bf16) {
  Cuda const ctx;
  for (ScanSizes const& s : {ScanSizes{700, 40, 16, 16, 1}, ScanSizes{1, 2001, 72, 16, 1}, ScanSizes{2, 50, 9, 17, 1}}) {
    OnDevice<T> const device{ctx, ScanProblem<T>::make(s, ScanOptions{})};
    auto const one = device.run();
    device.poison(device.y), device.poison(device.last);
    auto const two = device.run();
    CHECK(same_bits(one.y, two.y));
    CHECK(same_bits(one.last, two.last));
  }
}

GPU_TEST("selective_scan on a GPU: a sequence cut anywhere and continued from its last state equals the whole, bit for bit") {
  Cuda const ctx;
  for (ScanSizes const& s : {ScanSizes{2, 21, 24, 16, 1}, ScanSizes{2, 11, 7, 19, 1}}) {
    auto const problem = ScanProblem<float>::make(s, ScanOptions{});
    auto const whole = OnDevice<float>{ctx, problem}.run();
    for (Index cut = 0; cut <= s.L; ++cut) {
      OnDevice<float> const device{ctx, problem};
      for (auto const& [begin, count] : {std::pair{Index{0}, cut}, std::pair{cut, s.L - cut}}) {
        auto args = device.args();
        args.u = args.u.slice(1, begin, count);
        args.delta = args.delta.slice(1, begin, count);
        args.z = args.z.slice(1, begin, count);
        args.B = args.B.slice(1, begin, count);
        args.C = args.C.slice(1, begin, count);
        args.y = args.y.slice(1, begin, count);
        args.last_state = device.initial;
        selective_scan(ctx, args);
      }
      CHECK(same_bits(to_host(ctx, device.y), whole.y));
      CHECK(same_bits(to_host(ctx, device.initial), whole.last));
    }
  }
}

GPU_TEST_TEMPLATE("selective_scan on a GPU: packed sequences of unequal length equal separate ones, bit for bit", T, float,
                  double) {
  Cuda const ctx;
  Tensor<Index, 1> offsets{Shape{Index{7}}};
  Index const ends[]{0, 0, 40, 41, 41, 98, 98};
  std::copy_n(ends, 7, offsets.data());
  auto const problem = ScanProblem<T>::make({1, 98, 72, 16, 1}, ScanOptions{}, 6);
  auto const device_offsets = to_device(ctx, offsets);
  OnDevice<T> const device{ctx, problem};
  auto args = device.args();
  args.offsets = device_offsets.view();
  auto const packed = device.run(args);
  OnDevice<T> const alone{ctx, problem};
  for (Index q = 0; q < 6; ++q) {
    Index const begin = ends[q], count = ends[q + 1] - begin;
    auto one = alone.args();
    one.u = one.u.slice(1, begin, count);
    one.delta = one.delta.slice(1, begin, count);
    one.z = one.z.slice(1, begin, count);
    one.B = one.B.slice(1, begin, count);
    one.C = one.C.slice(1, begin, count);
    one.y = one.y.slice(1, begin, count);
    one.initial_state = one.initial_state.slice(0, q, 1);
    one.last_state = one.last_state.slice(0, q, 1);
    selective_scan(ctx, one);
  }
  CHECK(same_bits(to_host(ctx, alone.y), packed.y));
  CHECK(same_bits(to_host(ctx, alone.last), packed.last));
}

GPU_TEST("selective_scan on a GPU: offsets that are no sequences are told by the next wait") {
  Cuda const ctx;
  Tensor<Index, 1> offsets{Shape{Index{4}}};
  Index const wrong[]{-5, 30, 10, 1000};
  std::copy_n(wrong, 4, offsets.data());
  auto const device_offsets = to_device(ctx, offsets);
  OnDevice<float> const device{ctx, ScanProblem<float>::make({1, 33, 8, 16, 1}, ScanOptions{}, 3)};
  auto args = device.args();
  args.offsets = device_offsets.view();
  CHECK_THROWS_WITH_AS(device.run(args), "selective_scan: offsets[0] is -5, and offsets must ascend from 0 to the length",
                       value_error);
}

GPU_TEST_TEMPLATE("selective_scan on a GPU: y may be u, delta or z, and last_state the initial state", T, float, bf16) {
  Cuda const ctx;
  for (Index L : {6, 45, 700}) {
    auto const problem = ScanProblem<T>::make({2, L, 24, 16, 1}, ScanOptions{});
    auto const expected = OnDevice<T>{ctx, problem}.run();
    for (int which = 0; which < 3; ++which) {
      OnDevice<T> const device{ctx, problem};
      auto const& in_place = which == 0 ? device.u : which == 1 ? device.delta : device.z;
      auto args = device.args();
      args.y = in_place;
      args.last_state = device.initial;
      selective_scan(ctx, args);
      CHECK(same_bits(to_host(ctx, in_place), expected.y));
      CHECK(same_bits(to_host(ctx, device.initial), expected.last));
    }
  }
}

GPU_TEST_TEMPLATE("selective_scan on a GPU: strides change little: halves of wider rows, time innermost, a transposed A", T, double,
                  float, Half) {
  Cuda const ctx;
  ScanSizes const s{2, 37, 48, 16, 2};
  auto const problem = ScanProblem<T>::make(s, ScanOptions{});
  auto const exact_problem = problem.template in<double>();
  auto const exact = test::run_scan(Reference{}, exact_problem.args());
  Tensor<T, 3> wide{Shape{s.B, s.L, 2 * s.D}}, delta{Shape{s.B, s.D, s.L}};
  Tensor<T, 4> B{Shape{s.B, s.G, s.N, s.L}};
  Tensor<accumulator_t<T>, 2> A{Shape{s.N, s.D}};
  for (Index b = 0; b < s.B; ++b)
    for (Index d = 0; d < s.D; ++d) {
      for (Index t = 0; t < s.L; ++t) {
        wide(b, t, d) = problem.u(b, t, d);
        wide(b, t, s.D + d) = problem.z(b, t, d);
        delta(b, d, t) = problem.delta(b, t, d);
      }
      for (Index n = 0; n < s.N; ++n) A(n, d) = problem.A(d, n);
    }
  for (Index b = 0; b < s.B; ++b)
    for (Index t = 0; t < s.L; ++t)
      for (Index g = 0; g < s.G; ++g)
        for (Index n = 0; n < s.N; ++n) B(b, g, n, t) = problem.B(b, t, g, n);
  auto const device_wide = to_device(ctx, wide), device_delta = to_device(ctx, delta);
  auto const device_A = to_device(ctx, A);
  auto const device_B = to_device(ctx, B);
  OnDevice<T> const device{ctx, problem};
  for (int variant = 0; variant < 3; ++variant) {
    auto args = device.args();
    args.u = device_wide.view().slice(2, 0, s.D);
    args.z = device_wide.view().slice(2, s.D, s.D);
    if (variant > 0) {
      args.A = device_A.view().transposed(0, 1);
      args.B = device_B.view().transposed(2, 3).transposed(1, 2);
    }
    if (variant > 1) args.delta = device_delta.view().transposed(1, 2);
    device.poison(device.y), device.poison(device.last);
    auto const got = device.run(args);
    CHECK_CLOSE(verify::compare(got.y.view(), exact.y.view(), problem.cost()));
    CHECK_CLOSE(verify::compare(got.last.view(), exact.last.view(), problem.cost()));
  }
}

GPU_TEST_TEMPLATE("selective_scan on a GPU: B and C may be parts of a product's rows, wherever they begin", T, float, Half, bf16) {
  Cuda const ctx;
  ScanSizes const s{2, 70, 64, 16, 1};
  auto const problem = ScanProblem<T>::make(s, ScanOptions{});
  OnDevice<T> const device{ctx, problem};
  auto const expected = device.run();
  for (Index begin : {0, 4, 8, 1, 6}) {
    Index const width = begin + 2 * s.N + begin % 4;
    Tensor<T, 4> rows{Shape{s.B, s.L, s.G, width}};
    for (Index b = 0; b < s.B; ++b)
      for (Index t = 0; t < s.L; ++t)
        for (Index n = 0; n < s.N; ++n)
          rows(b, t, 0, begin + n) = problem.B(b, t, 0, n), rows(b, t, 0, begin + s.N + n) = problem.C(b, t, 0, n);
    auto const there = to_device(ctx, rows);
    auto args = device.args();
    args.B = there.view().slice(3, begin, s.N), args.C = there.view().slice(3, begin + s.N, s.N);
    device.poison(device.y), device.poison(device.last);
    auto const got = device.run(args);
    INFO(concat("begin ", begin));
    CHECK(same_bits(got.y, expected.y));
    CHECK(same_bits(got.last, expected.last));
  }
}

GPU_TEST("selective_scan on a GPU: extreme step sizes forget or keep the state, and NaN stays where it is") {
  Cuda const ctx;
  ScanSizes const s{1, 3, 10, 4, 1};
  auto problem = ScanProblem<float>::make(s, ScanOptions{.D = false, .z = false, .bias = false, .softplus = false});
  for (float& x : problem.delta) x = 0;
  problem.delta(0, 1, 3) = 1e30f;  // this channel forgets everything, and δ B u is still finite
  problem.u(0, 2, 5) = std::numeric_limits<float>::quiet_NaN();
  auto const got = OnDevice<float>{ctx, problem}.run();
  for (Index d = 0; d < s.D; ++d)
    for (Index n = 0; n < s.N; ++n) {
      if (d == 3)
        CHECK(got.last(0, d, n) == 1e30f * problem.u(0, 1, d) * problem.B(0, 1, 0, n));
      else if (d == 5)
        CHECK(std::isnan(got.last(0, d, n)));
      else
        CHECK(got.last(0, d, n) == problem.initial(0, d, n));
    }
}

GPU_TEST("selective_scan on a GPU: it is captured in a graph, whose replays give the same bits and allocate nothing") {
  Cuda const ctx;
  for (ScanSizes const& s : {ScanSizes{500, 40, 16, 16, 1}, ScanSizes{1, 2001, 72, 16, 1}, ScanSizes{2, 50, 9, 17, 1}}) {
    OnDevice<bf16> const device{ctx, ScanProblem<bf16>::make(s, ScanOptions{})};
    auto const reset = [&] { device.poison(device.y), device.poison(device.last); };
    test::expect_repeatable(
        ctx, reset, [&] { selective_scan(ctx, device.args()); }, device.y, device.last);
  }
}
