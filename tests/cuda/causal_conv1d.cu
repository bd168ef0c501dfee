#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/causal_conv1d_backward.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;
using verify::CausalConv1dBackwardProblem;
using verify::CausalConv1dProblem;
using verify::CausalConv1dSize;
using verify::CausalConv1dStepProblem;

namespace {

void expect_right(verify::Report const& report) {
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

/// Lengths and channels about the edges of units, groups and blocks, packed and not; and few channels of so many times that each
/// warp has many groups of rows, and begins and ends anywhere in a row.
std::vector<CausalConv1dSize> sizes() {
  std::vector<CausalConv1dSize> out{{.batch = 7, .L = 9001, .D = 4},
                                    {.batch = 1, .L = 150003, .D = 8},
                                    {.batch = 3, .L = 40000, .D = 4, .with_bias = false, .silu = false, .with_state = false},
                                    {.L = 120005, .D = 4, .packed = 301},
                                    {.L = 60000, .D = 4, .with_state = false, .packed = 20000}};
  for (Index L : {1, 2, 3, 4, 7, 8, 9, 11, 31, 32, 33, 63, 64, 65, 130})
    for (Index D : {4, 12, 260}) {
      out.push_back({.batch = 2, .L = L, .D = D});
      out.push_back({.batch = 1, .L = L, .D = D, .with_bias = false, .silu = false, .with_state = false});
      out.push_back({.L = L, .D = D, .packed = 1 + L / 3});
    }
  return out;
}

/// A convolution on the device, its gradients and its outputs.
struct OnDevice {
  Cuda ctx;
  DeviceTensor<bf16, 3> x, d_y;
  DeviceTensor<bf16, 2> weight;
  DeviceTensor<bf16, 1> bias;
  DeviceTensor<bf16, 3> y, d_x;
  DeviceTensor<float, 2> d_weight;
  DeviceTensor<float, 1> d_bias;

  OnDevice(Cuda const& context, Shape<3> shape)
      : ctx{context},
        x{to_device(ctx, random_tensor<bf16>(shape, 1))},
        d_y{to_device(ctx, random_tensor<bf16>(shape, 2))},
        weight{to_device(ctx, random_tensor<bf16>(Shape<2>{shape[2], 4}, 3))},
        bias{to_device(ctx, random_tensor<bf16>(Shape<1>{shape[2]}, 4))},
        y{ctx, shape},
        d_x{ctx, shape},
        d_weight{ctx, weight.shape()},
        d_bias{ctx, bias.shape()} {}

  void reset() const {
    for (auto const* out : {&y, &d_x})
      detail::check_cuda(cudaMemsetAsync(out->data(), 0xff, static_cast<std::size_t>(out->size()) * 2, ctx.stream()), "memset");
    detail::check_cuda(cudaMemsetAsync(d_weight.data(), 0, static_cast<std::size_t>(d_weight.size()) * 4, ctx.stream()), "memset");
    detail::check_cuda(cudaMemsetAsync(d_bias.data(), 0, static_cast<std::size_t>(d_bias.size()) * 4, ctx.stream()), "memset");
  }
  void run(View<Index const, 1> offsets = {}) const {
    causal_conv1d(ctx,
                  CausalConv1dArgs<bf16>{.x = x.view(), .weight = weight.view(), .bias = bias.view(), .offsets = offsets, .y = y});
    causal_conv1d_backward(ctx, CausalConv1dBackwardArgs<bf16>{.x = x.view(),
                                                               .weight = weight.view(),
                                                               .bias = bias.view(),
                                                               .offsets = offsets,
                                                               .d_y = d_y.view(),
                                                               .d_x = d_x,
                                                               .d_weight = d_weight,
                                                               .d_bias = d_bias});
  }
};

}  // namespace

GPU_TEST_TEMPLATE("causal_conv1d on a GPU: every shape, width and option agrees with the double reference", T, float, double, Half,
                  bf16) {
  expect_right(verify::check<CausalConv1dProblem, T>(Cuda{}));
  expect_right(verify::check<CausalConv1dProblem, T>(Cuda{}, {}, sizes()));
}

GPU_TEST_TEMPLATE("causal_conv1d_step on a GPU: every shape, width and option agrees with the double reference", T, float, double,
                  Half, bf16) {
  expect_right(verify::check<CausalConv1dStepProblem, T>(Cuda{}));
}

GPU_TEST_TEMPLATE("causal_conv1d_backward on a GPU: every shape, width and option agrees with the double reference", T, float,
                  double, Half, bf16) {
  expect_right(verify::check<CausalConv1dBackwardProblem, T>(Cuda{}));
  expect_right(verify::check<CausalConv1dBackwardProblem, T>(Cuda{}, {}, sizes()));
}

GPU_TEST("causal_conv1d on a GPU: forward and backward give the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  OnDevice const device{ctx, Shape<3>{3, 300, 260}};
  test::expect_repeatable(
      ctx, [&] { device.reset(); }, [&] { device.run(); }, device.y, device.d_x, device.d_weight, device.d_bias);
}

GPU_TEST("causal_conv1d_backward on a GPU: a gradient that is left out changes no other") {
  Cuda const ctx;
  for (Index L : {5, 300}) {
    OnDevice const device{ctx, Shape<3>{3, L, 260}};
    device.reset(), device.run();
    auto const d_x = to_host(ctx, device.d_x);
    auto const d_weight = to_host(ctx, device.d_weight);
    auto const d_bias = to_host(ctx, device.d_bias);
    auto const close = [](auto const& a, auto const& b) {
      return std::equal(a.data(), a.data() + a.size(), b.data(),
                        [](float p, float q) { return std::abs(p - q) <= 1e-4f * (1 + std::abs(q)); });
    };
    for (int kept : {1, 2, 4, 6}) {
      device.reset();
      CausalConv1dBackwardArgs<bf16> args{
          .x = device.x.view(), .weight = device.weight.view(), .bias = device.bias.view(), .d_y = device.d_y.view()};
      if (kept & 1) args.d_x = device.d_x;
      if (kept & 2) args.d_weight = device.d_weight;
      if (kept & 4) args.d_bias = device.d_bias;
      causal_conv1d_backward(ctx, args);
      if (kept & 1) CHECK(test::same_bits(to_host(ctx, device.d_x), d_x));
      if (kept & 2) CHECK(close(to_host(ctx, device.d_weight), d_weight));
      if (kept & 4) CHECK(close(to_host(ctx, device.d_bias), d_bias));
    }
  }
}

GPU_TEST("causal_conv1d on a GPU: offsets that are no sequences are told by the next wait, and touch nothing outside") {
  Cuda const ctx;
  for (auto const& one : {std::pair<std::array<Index, 4>, char const*>{{-5, 70, 10, 1000}, "offsets[0] is -5"},
                          {{10, 20, 50, 99}, "offsets[0] is 10"},
                          {{0, 20, 10, 99}, "offsets[2] is 10"},
                          {{0, 20, 30, 50}, "offsets[3] is 50"}}) {
    char const* const first = one.second;
    Tensor<Index, 1> host{Shape<1>{4}};
    std::copy(one.first.begin(), one.first.end(), host.data());
    auto const offsets = to_device(ctx, host);
    for (Index D : {7, 8}) {
      OnDevice const device{ctx, Shape<3>{1, 99, D}};
      // The states of three sequences, and room around them that nothing may be written to.
      Shape<3> const shape{5, 3, D};
      auto const initial = to_device(ctx, random_tensor<bf16>(shape, 5));
      auto const d_last = to_device(ctx, random_tensor<float>(shape, 6));
      DeviceTensor<bf16, 3> const last{ctx, shape};
      DeviceTensor<float, 3> const d_initial{ctx, shape};
      detail::check_cuda(cudaMemsetAsync(last.data(), 0xff, static_cast<std::size_t>(last.size()) * 2, ctx.stream()), "memset");
      detail::check_cuda(cudaMemsetAsync(d_initial.data(), 0xff, static_cast<std::size_t>(d_initial.size()) * 4, ctx.stream()),
                         "memset");
      auto const inner = [](auto const& states) { return states.view().slice(0, 1, 3); };
      auto const expect_told = [&](char const* op) {
        CHECK_THROWS_WITH_AS(ctx.synchronize(), concat(op, ": ", first, ", and offsets must ascend from 0 to the length").c_str(),
                             value_error);
      };
      causal_conv1d(ctx, CausalConv1dArgs<bf16>{.x = device.x.view(),
                                                .weight = device.weight.view(),
                                                .bias = device.bias.view(),
                                                .offsets = offsets.view(),
                                                .initial_state = inner(initial),
                                                .last_state = inner(last),
                                                .y = device.y});
      expect_told("causal_conv1d");
      causal_conv1d_backward(ctx, CausalConv1dBackwardArgs<bf16>{.x = device.x.view(),
                                                                 .weight = device.weight.view(),
                                                                 .bias = device.bias.view(),
                                                                 .offsets = offsets.view(),
                                                                 .initial_state = inner(initial),
                                                                 .d_y = device.d_y.view(),
                                                                 .d_last_state = inner(d_last),
                                                                 .d_x = device.d_x,
                                                                 .d_weight = device.d_weight,
                                                                 .d_bias = device.d_bias,
                                                                 .d_initial_state = inner(d_initial)});
      expect_told("causal_conv1d_backward");
      auto const states = to_host(ctx, last);
      auto const gradients = to_host(ctx, d_initial);
      for (Index s : {0, 4})
        for (Index k = 0; k < 3; ++k)
          for (Index d = 0; d < D; ++d) CHECK((std::isnan(widen(states(s, k, d))) && std::isnan(gradients(s, k, d))));
    }
  }
}
