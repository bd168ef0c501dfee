// The optimiser's step and the norm of the gradient on a GPU, over as many parameters as the published models have: slices of all
// arrays are checked against the reference in double, then both are timed.
//
// Times are medians of graph replays; the arrays are far larger than the L2 cache. Bytes: sum_squares reads the gradient; adamw
// reads the gradient and reads and writes masters and both moments, and writes narrow weights. The share is that of the copy
// bandwidth of this run.

#include <cmath>
#include <cstdio>
#include <limits>

#include <blackmamba/cuda.cuh>
#include <blackmamba/train/optimiser.hpp>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

template <class T>
void run(Cuda const& ctx, bench::Ceilings const& ceilings, Index n, int tensors) {
  Shape<1> const shape{n};
  auto const weights = bench::random_on_device<T>(ctx, shape, 1);
  auto const gradient = bench::random_on_device<float>(ctx, shape, 2);
  std::vector<AdamWSegment> segments;
  Index const each = n / tensors / 64 * 64;
  for (int i = 0; i < tensors; ++i) segments.push_back({i * each, i + 1 < tensors ? each - i % 64 : n - i * each, i % 3 != 0});
  AdamW<T, Cuda> optimiser{ctx, weights, segments, {.clip = 1}};

  // Some elements from everywhere, after two steps.
  constexpr Index part = 1000;
  std::vector<Index> const places{0, n / 2 - 500, n - part};
  std::vector<Tensor<double, 1>> before, along;
  for (Index at : places) {
    before.push_back(converted<double>(to_host(ctx, weights.view().slice(0, at, part))));
    along.push_back(converted<double>(to_host(ctx, gradient.view().slice(0, at, part))));
  }
  constexpr bool masters = AdamW<T>::has_masters;
  if (masters) bench::poison(ctx, weights);  // which are rounded masters from the first step on
  AdamWResult result;
  for (int step = 0; step < 2; ++step) {
    optimiser.step(ctx, gradient.view(), 1e-2, 0.5);
    result = optimiser.report();
  }
  // Numbers uniform on (-1, 1) have the mean square 1/3; with n of them the standard deviation of the norm is about 0.15.
  double const norm = 0.5 * std::sqrt(static_cast<double>(n) / 3);
  bench::expect(std::fabs(result.gradient_norm - norm) <= 1, concat("norm: ", result.gradient_norm, ", not ", norm));
  for (std::size_t p = 0; p < places.size(); ++p) {
    Tensor<double, 1> first{Shape<1>{part}}, second{Shape<1>{part}};
    std::vector<AdamWSegment> here;
    for (auto const& s : segments) {
      Index const from = std::max(s.offset, places[p]), to = std::min(s.offset + s.elements, places[p] + part);
      if (from < to) here.push_back({from - places[p], to - from, s.decays});
    }
    for (Index step = 1; step <= 2; ++step)
      adamw(Reference{}, AdamWArgs<double>{.master = before[p],
                                           .gradient = along[p],
                                           .first = first,
                                           .second = second,
                                           .segments = {here.data(), Shape<1>{static_cast<Index>(here.size())}},
                                           .step = step,
                                           .learning_rate = 1e-2,
                                           .weight_decay = 0.1,
                                           .gradient_scale = 0.5 * result.clip_factor});
    auto const compare = [&]<class S>(char const* name, Tensor<S, 1> const& got, Tensor<double, 1> const& expected) {
      // Two steps of four roundings each. Moments of a clipped gradient are small: no absolute scale.
      bench::expect_close<S>(concat(name, " at ", places[p]).c_str(), got, expected, {.terms = 8});
    };
    compare("master", to_host(ctx, optimiser.master().slice(0, places[p], part)), before[p]);
    // What no segment holds stays as it was.
    Tensor<double, 1> rounded{Shape<1>{part}};
    for (double& x : rounded) x = std::numeric_limits<double>::quiet_NaN();
    for (auto const& s : here)
      for (Index i = s.offset; i < s.offset + s.elements; ++i) rounded(i) = before[p](i);
    compare("weights", to_host(ctx, weights.view().slice(0, places[p], part)), masters ? rounded : before[p]);
  }

  double const elements = static_cast<double>(n), narrow = masters ? sizeof(T) : 0;
  auto const report = [&](char const* what, double ms, double bytes) {
    std::printf("%-12s %-5s %11lld %8d %9.3f %7.0f %6.1f%%\n", what, scalar_traits<T>::name, n, tensors, ms, bytes / ms * 1e-6,
                1e5 * bytes / ms / ceilings.bytes_per_second);
  };
  DeviceTensor<double, 1> const sum{ctx, Shape<1>{1}};
  report("sum_squares",
         bench::milliseconds(
             ctx, 1, [&](int) { sum_squares(ctx, SumSquaresArgs<float>{.x = gradient.view(), .sum = sum}); }, 7),
         4 * elements);
  optimiser.request(ctx, 1e-3);
  double const squares = 4 * elements, step = (28 + narrow) * elements;
  report("whole step",
         bench::milliseconds(
             ctx, 1, [&](int) { optimiser.queue(ctx, gradient.view()); }, 7),
         squares + step);
}

}  // namespace

int main() {
  return bench::program("every checked output is within its allowed error", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    std::printf("what         type     elements  tensors        ms    GB/s   share\n");
    run<bf16>(ctx, ceilings, Index{1500} * 1000 * 1000, 300);
    run<bf16>(ctx, ceilings, Index{2800} * 1000 * 1000, 500);
    run<float>(ctx, ceilings, Index{1500} * 1000 * 1000, 300);
    run<bf16>(ctx, ceilings, Index{1} << 24, 1);
  });
}
