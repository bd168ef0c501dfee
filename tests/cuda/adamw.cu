#include <blackmamba/cuda.cuh>
#include <blackmamba/train/optimiser.hpp>
#include <blackmamba/verify/problems/adamw.hpp>
#include <blackmamba/verify/problems/sum_squares.hpp>

#include <cmath>
#include <limits>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;
using test::same_bits;
using verify::AdamWProblem;
using verify::AdamWSize;
using verify::Cost;
using verify::SumSquaresProblem;

namespace {

void expect_right(verify::Report const& report) {
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

/// Half of them decay; the last three elements are padding.
std::vector<AdamWSegment> halves(Index n) { return {{0, n / 2, true}, {n / 2, n - n / 2 - 3, false}}; }

template <class A>
Tensor<A, 1> gradient(Index n, Index step) {
  return random_tensor<A>(Shape{n}, 100 + static_cast<std::uint64_t>(step));
}

template <class T>
struct OnDevice {
  using A = accumulator_t<T>;
  DeviceTensor<T, 1> weights;
  DeviceTensor<A, 1> gradients;
  AdamW<T, Cuda> optimiser;

  OnDevice(Cuda const& ctx, Tensor<T, 1> const& start, AdamWOptions const& options = {})
      : weights{to_device(ctx, start)}, gradients{ctx, start.shape()}, optimiser{ctx, weights, halves(start.size()), options} {}
};

}  // namespace

GPU_TEST_TEMPLATE("adamw on a GPU: every length and segmentation agrees with the double reference", T, float, double, Half, bf16) {
  Cuda const ctx;
  expect_right(verify::check<AdamWProblem, T>(ctx));
  std::vector<AdamWSize> const sizes{{70001, 3, 5, true}, {70001, 64, 2, true}, {70001, 30000, 7, false}, {8192, 8192, 1, true}};
  expect_right(verify::check<AdamWProblem, T>(ctx, {}, sizes));
}

GPU_TEST("adamw on a GPU: strided arrays and those that are not aligned agree with the reference") {
  Cuda const ctx;
  Index const n = 301;
  auto const start = random_tensor<float>(Shape{n}, 1);
  auto const g = gradient<float>(n, 1);
  AdamWSegment const segments[]{{1, 100, true}, {104, 197, false}};
  auto const run = [&](auto const& where, View<float, 1> master, View<float const, 1> along, View<float, 1> first,
                       View<float, 1> second, View<bf16, 1> weights) {
    adamw(where, AdamWArgs<bf16>{.master = master,
                                 .gradient = along,
                                 .first = first,
                                 .second = second,
                                 .weights = weights,
                                 .segments = {segments, Shape<1>{2}},
                                 .learning_rate = 0.25,
                                 .weight_decay = 0.5});
  };
  auto master = start.clone();
  Tensor<float, 1> first{Shape{n}}, second{Shape{n}};
  Tensor<bf16, 1> weights{Shape{n}};
  run(Reference{}, master, g, first, second, weights);
  for (Index stride : {1, 3}) {  // from the second element on
    Tensor<float, 2> room{Shape<2>{n + 1, stride}};
    for (Index i = 0; i < n; ++i) room(i + 1, 0) = start(i);
    auto const there = to_device(ctx, room), moments = to_device(ctx, Tensor<float, 2>{Shape<2>{2, n}});
    auto const along = to_device(ctx, g);
    auto const narrow = to_device(ctx, Tensor<bf16, 1>{Shape{n}});
    auto const column = there.view().transposed(0, 1)[0].slice(0, 1, n);
    run(ctx, column, along.view(), moments.view()[0], moments.view()[1], narrow);
    auto const back = to_host(ctx, there);
    Tensor<float, 1> got{Shape{n}};
    for (Index i = 0; i < n; ++i) got(i) = back(i + 1, 0);
    CHECK_CLOSE(verify::compare(got.view(), converted<double>(master).view(), Cost{.terms = 4, .scale = 1}));
    CHECK_CLOSE(verify::compare(to_host(ctx, narrow).view(), converted<double>(weights).view(), Cost{.terms = 4, .scale = 1}));
    CHECK(got(0) == start(0));
    CHECK(got(102) == start(102));
  }
}

GPU_TEST_TEMPLATE("sum_squares on a GPU: every length agrees with the reference, strided or not, and two runs give the same bits",
                  T, float, double, Half, bf16) {
  Cuda const ctx;
  expect_right(verify::check<SumSquaresProblem, T>(ctx));
  auto const x = random_tensor<T>(Shape<2>{1003, 3}, 1);
  auto const there = to_device(ctx, x);
  DeviceTensor<double, 1> const sum{ctx, Shape<1>{1}};
  for (auto const& [device, host] :
       {std::pair{there.view().transposed(0, 1)[1], x.view().transposed(0, 1)[1]},
        std::pair{there.view().reshaped(Shape<1>{3009}).slice(0, 1, 3008), x.view().reshaped(Shape<1>{3009}).slice(0, 1, 3008)}}) {
    auto const expected = static_cast<double>(sum_squares(Reference{}, SumSquaresArgs<T>{.x = host}));
    double got[2];
    for (double& one : got) {
      sum_squares(ctx, SumSquaresArgs<T>{.x = device, .sum = sum});
      one = to_host(ctx, sum)(0);
    }
    CHECK(got[0] == got[1]);
    CHECK(got[0] == doctest::Approx(expected).epsilon(1e-13));
  }
}

GPU_TEST_TEMPLATE("sum_squares on a GPU: one element that is not finite, anywhere, makes a sum that is not finite", T, float,
                  bf16) {
  Cuda const ctx;
  DeviceTensor<double, 1> const sum{ctx, Shape<1>{1}};
  for (Index at : {0, 17, 20010})
    for (float bad : {HUGE_VALF, -HUGE_VALF, NAN}) {
      auto x = random_tensor<T>(Shape<1>{20011}, 1);
      x(at) = static_cast<T>(bad);
      auto const there = to_device(ctx, x);
      sum_squares(ctx, SumSquaresArgs<T>{.x = there.view(), .sum = sum});
      CHECK_FALSE(std::isfinite(to_host(ctx, sum)(0)));
    }
  Tensor<float, 1> largest{Shape<1>{5}};
  for (float& value : largest) value = std::numeric_limits<float>::max();
  auto const there = to_device(ctx, largest);
  sum_squares(ctx, SumSquaresArgs<float>{.x = there.view(), .sum = sum});
  CHECK(std::isfinite(to_host(ctx, sum)(0)));
}

GPU_TEST("sum_squares on a GPU: a place for the sum must be given") {
  Cuda const ctx;
  CHECK_THROWS_AS(sum_squares(ctx, SumSquaresArgs<float>{}), shape_error);
}

GPU_TEST_TEMPLATE("optimiser on a GPU: twelve steps are those of the host, and the report tells the same", T, float, double, Half,
                  bf16) {
  using A = accumulator_t<T>;
  constexpr Index n = 20011;
  Cuda const ctx;
  for (double clip : {0.0, 1.0}) {
    auto const start = random_tensor<T>(Shape<1>{n}, 1);
    auto weights = start.clone();
    AdamW<T> host{weights, halves(n), {.clip = clip}};
    OnDevice<T> device{ctx, start, {.clip = clip}};
    for (Index step = 0; step < 12; ++step) {
      auto const g = gradient<A>(n, step);
      upload(ctx, g.view(), device.gradients.view());
      auto const expected = host.step(Reference{}, g, 0.01 / static_cast<double>(step + 1), 0.5);
      device.optimiser.step(ctx, device.gradients.view(), 0.01 / static_cast<double>(step + 1), 0.5);
      auto const got = device.optimiser.report();
      CHECK(got.applied);
      CHECK(got.gradient_norm == doctest::Approx(expected.gradient_norm).epsilon(1e-12));
      CHECK(got.clip_factor == doctest::Approx(expected.clip_factor).epsilon(1e-12));
    }
    CHECK(device.optimiser.steps() == 12);
    // Each step adds the roundings of one step to sums of unit size.
    verify::Cost const cost{.terms = 12 * 4, .scale = 1};
    auto const master = to_host(ctx, device.optimiser.master());
    CHECK_CLOSE(verify::compare(master.view(), host.master(), cost));
    auto const rounded = to_host(ctx, device.weights);
    for (Index i = 0; i < n - 3; ++i) CHECK(widen(rounded(i)) == widen(static_cast<T>(master(i))));
  }
}

GPU_TEST(
    "optimiser on a GPU: a graph replays with the rate of each request, counts its steps and leaves out a gradient that is not "
    "finite") {
  constexpr Index n = 20011;
  Cuda const ctx;
  auto const start = random_tensor<bf16>(Shape<1>{n}, 1);
  OnDevice<bf16> queued{ctx, start}, replayed{ctx, start};
  queued.optimiser.request(ctx, 0.0);
  queued.optimiser.queue(ctx, queued.gradients.view());  // sizes the scratch memory, and moves nothing
  queued.optimiser.restart();
  test::Graph const graph{ctx, [&] { replayed.optimiser.queue(ctx, replayed.gradients.view()); }};
  for (Index step = 0; step < 6; ++step) {
    auto g = gradient<float>(n, step);
    if (step == 2) g(77) = NAN;
    if (step == 4) g(n - 4) = HUGE_VALF;
    upload(ctx, g.view(), queued.gradients.view());
    upload(ctx, g.view(), replayed.gradients.view());
    double const rate = 0.01 * static_cast<double>(step + 1), scale = step < 3 ? 1 : 0.25;
    queued.optimiser.step(ctx, queued.gradients.view(), rate, scale);
    replayed.optimiser.request(ctx, rate, scale);
    graph.replay();
    bool const bad = step == 2 || step == 4;
    CHECK(replayed.optimiser.report().applied == !bad);
    CHECK(std::isfinite(replayed.optimiser.report().gradient_norm) == !bad);
    CHECK(same_bits(to_host(ctx, queued.weights), to_host(ctx, replayed.weights)));
    CHECK(same_bits(to_host(ctx, queued.optimiser.master()), to_host(ctx, replayed.optimiser.master())));
  }
  CHECK(queued.optimiser.steps() == 4);
  CHECK(replayed.optimiser.steps() == 4);
}

GPU_TEST_TEMPLATE("optimiser on a GPU: weights, arrays and steps taken to the host and back go on to the same bits", T, float,
                  bf16) {
  using A = accumulator_t<T>;
  constexpr Index n = 5003;
  Cuda const ctx;
  auto const start = random_tensor<T>(Shape<1>{n}, 1);
  OnDevice<T> whole{ctx, start}, first{ctx, start};
  auto const train = [&](OnDevice<T>& one, Index from, Index to) {
    for (Index step = from; step < to; ++step) {
      upload(ctx, gradient<A>(n, step).view(), one.gradients.view());
      one.optimiser.step(ctx, one.gradients.view(), 0.01);
    }
  };
  train(whole, 0, 7);
  train(first, 0, 3);
  OnDevice<T> resumed{ctx, to_host(ctx, first.weights)};
  std::vector<Tensor<A, 1>> saved;
  first.optimiser.for_each_array([&](char const*, View<A, 1> array) { saved.push_back(download(ctx, array)); });
  std::size_t at = 0;
  resumed.optimiser.for_each_array([&](char const*, View<A, 1> array) { upload(ctx, saved[at++].view(), array); });
  resumed.optimiser.set_steps(first.optimiser.steps());
  train(resumed, 3, 7);
  CHECK(resumed.optimiser.steps() == 7);
  CHECK(same_bits(to_host(ctx, whole.weights), to_host(ctx, resumed.weights)));
  CHECK(same_bits(to_host(ctx, whole.optimiser.master()), to_host(ctx, resumed.optimiser.master())));
}

GPU_TEST("optimiser on a GPU: what moves a master reaches the weights when it is published, and only that") {
  Cuda const ctx;
  auto const before = random_tensor<bf16>(Shape<1>{128}, 1);
  OnDevice<bf16> one{ctx, before};
  View<bf16, 2> const tensor{one.weights.data() + 64, Shape<2>{3, 4}};
  auto const master = one.optimiser.master(tensor);
  Tensor<float, 2> moved{Shape<2>{3, 4}};
  for (Index i = 0; i < 12; ++i) moved.data()[i] = 2 + static_cast<float>(i);
  upload(ctx, moved.view(), master);
  one.optimiser.publish(ctx, tensor);
  auto const after = to_host(ctx, one.weights);
  for (Index i = 0; i < 128; ++i) CHECK(widen(after(i)) == (i >= 64 && i < 76 ? 2 + static_cast<float>(i - 64) : widen(before(i))));
}
