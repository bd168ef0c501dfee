#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/causal_conv1d.hpp>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;
using test::same_bits;
using verify::CausalConv1dProblem;
using verify::CausalConv1dSize;
using verify::CausalConv1dStepProblem;
using verify::Cost;
using verify::Inputs;
using verify::Output;

namespace {

void expect_right(verify::Report const& report) {
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

/// Lengths and channels about the edges of tiles, packed and not.
std::vector<CausalConv1dSize> sizes() {
  std::vector<CausalConv1dSize> out;
  for (Index L : {1, 2, 3, 4, 31, 32, 33, 63, 64, 65, 130})
    for (Index D : {4, 12, 260}) {
      out.push_back({.batch = 2, .L = L, .D = D});
      out.push_back({.batch = 1, .L = L, .D = D, .with_bias = false, .silu = false, .with_state = false});
      out.push_back({.L = L, .D = D, .packed = 1 + L / 3});
    }
  return out;
}

}  // namespace

namespace test {

/// The gradients, as a problem that the library's check knows how to judge.
template <Scalar T>
struct BackwardProblem {
  using Size = CausalConv1dSize;
  using Acc = accumulator_t<T>;
  static constexpr char const* name = "causal_conv1d_backward";
  static constexpr auto operation = causal_conv1d_backward;
  static std::vector<Size> sizes() { return CausalConv1dProblem<T>::sizes(); }

  Size size;
  Tensor<T, 3> x, d_y;
  Tensor<T, 2> weight;
  Tensor<T, 1> bias;
  Tensor<Index, 1> offsets;
  Tensor<T, 3> initial_state;
  Tensor<Acc, 3> d_last_state;
  Tensor<Acc, 2> d_weight;
  Tensor<Acc, 1> d_bias;
  Tensor<T, 3> d_x;
  Tensor<Acc, 3> d_initial_state;

  template <class Stored>
  BackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<3>{s.batch, s.L, s.D})},
        d_y{in.template storage<T>(Shape<3>{s.batch, s.L, s.D})},
        weight{in.template storage<T>(Shape<2>{s.D, s.K})},
        bias{in.template storage<T>(Shape<1>{s.D})},
        offsets{in.offsets(s.packed, s.L)},
        initial_state{in.template storage<T>(Shape<3>{s.packed ? s.packed : s.batch, s.K - 1, s.D})},
        d_last_state{in.template accumulator<Acc>(initial_state.shape())},
        d_weight{in.template accumulator<Acc>(Shape<2>{s.D, s.K})},
        d_bias{in.template accumulator<Acc>(Shape<1>{s.D})},
        d_x{verify::unwritten<T>(x.shape())},
        d_initial_state{verify::unwritten<Acc>(initial_state.shape())} {}

  auto args(auto& place) {
    return CausalConv1dBackwardArgs<T>{.x = place.in(x),
                                       .weight = place.in(weight),
                                       .bias = place.in(bias, size.with_bias),
                                       .offsets = place.in(offsets, size.packed > 0),
                                       .initial_state = place.in(initial_state, size.with_state),
                                       .silu = size.silu,
                                       .d_y = place.in(d_y),
                                       .d_last_state = place.in(d_last_state, size.with_state),
                                       .d_x = place.out(d_x),
                                       .d_weight = place.out(d_weight),
                                       .d_bias = place.out(d_bias, size.with_bias),
                                       .d_initial_state = place.out(d_initial_state)};
  }

  auto outputs() const {
    // An element sums up to K outputs, a weight all of them, and each knows its own K inputs.
    Cost const cost{.terms = static_cast<double>(2 * size.K + size.batch * size.L), .scale = 1};
    return std::tuple{Output{"d_x", d_x, cost}, Output{"d_weight", d_weight, cost}, Output{"d_bias", d_bias, cost, size.with_bias},
                      Output{"d_initial_state", d_initial_state, cost}};
  }
};

}  // namespace test

namespace {

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
  auto results() const { return std::tuple{to_host(ctx, y), to_host(ctx, d_x), to_host(ctx, d_weight), to_host(ctx, d_bias)}; }
};

template <class Results>
void expect_same(Results const& a, Results const& b) {
  CHECK(same_bits(std::get<0>(a), std::get<0>(b)));
  CHECK(same_bits(std::get<1>(a), std::get<1>(b)));
  CHECK(same_bits(std::get<2>(a), std::get<2>(b)));
  CHECK(same_bits(std::get<3>(a), std::get<3>(b)));
}

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
  expect_right(verify::check<test::BackwardProblem, T>(Cuda{}));
  expect_right(verify::check<test::BackwardProblem, T>(Cuda{}, {}, sizes()));
}

GPU_TEST("causal_conv1d on a GPU: forward and backward give the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  OnDevice const device{ctx, Shape<3>{3, 300, 260}};
  device.reset(), device.run();
  auto const expected = device.results();
  device.reset(), device.run();
  expect_same(device.results(), expected);
  test::Graph const graph{ctx, [&] { device.run(); }};
  for (int i = 0; i < 2; ++i) {
    device.reset();
    graph.replay();
    expect_same(device.results(), expected);
  }
}

GPU_TEST("causal_conv1d on a GPU: offsets that leave the length touch nothing outside of it") {
  Cuda const ctx;
  Tensor<Index, 1> wrong{Shape<1>{4}};
  wrong(0) = -5, wrong(1) = 70, wrong(2) = 10, wrong(3) = 1000;
  auto const offsets = to_device(ctx, wrong);
  for (Index D : {7, 8}) {
    OnDevice const device{ctx, Shape<3>{1, 99, D}};
    device.run(offsets.view());
    CHECK_NOTHROW(ctx.synchronize());
  }
}
