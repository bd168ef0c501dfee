#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/layer_norm.hpp>
#include <blackmamba/verify/problems/norm_backward.hpp>
#include <blackmamba/verify/problems/rms_norm.hpp>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;
using verify::LayerNormProblem;
using verify::RmsNormProblem;

namespace {

void expect_right(verify::Report const& report) {
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

template <class Size>
std::vector<Size> sizes() {
  std::vector<Size> out;
  for (Index r : {1, 5, 1700})
    for (Index D : {4, 124, 512, 516, 1152, 1156, 1540, 2048, 2052})
      if (r < 10 || D == 124)  // many rows are many blocks at any width, and long for the reference
        for (int bits = 1; bits < 4; ++bits) {
          Size size;
          size.rows = r, size.D = D;
          size.with_x = bits & 1, size.with_residual = bits & 2;
          out.push_back(size);
        }
  return out;
}

}  // namespace

namespace {

/// Rows and widths about the edges of blocks and of what a thread holds; many rows are long for the reference.
std::vector<verify::NormBackwardSize> backward_sizes() {
  std::vector<verify::NormBackwardSize> out;
  for (Index r : {1, 5, 1700})
    for (Index D : {7, 4, 124, 512, 516, 1152, 1156, 1540, 2048, 2052})
      if (r < 10 || D == 7 || D == 124)
        for (int bits = 0; bits < 8; ++bits) out.push_back({r, D, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0});
  return out;
}

}  // namespace

GPU_TEST_TEMPLATE("rms_norm and layer_norm on a GPU: every shape and option agrees with the double reference", T, float, double,
                  Half, bf16) {
  Cuda const ctx;
  expect_right(verify::check<RmsNormProblem, T>(ctx));
  expect_right(verify::check<RmsNormProblem, T>(ctx, {}, sizes<verify::RmsNormSize>()));
  expect_right(verify::check<LayerNormProblem, T>(ctx));
  expect_right(verify::check<LayerNormProblem, T>(ctx, {}, sizes<verify::LayerNormSize>()));
}

GPU_TEST_TEMPLATE("rms_norm_backward and layer_norm_backward on a GPU: every shape and option agrees with the double reference", T,
                  float, double, Half, bf16) {
  Cuda const ctx;
  expect_right(verify::check<verify::RmsNormBackwardProblem, T>(ctx));
  expect_right(verify::check<verify::RmsNormBackwardProblem, T>(ctx, {}, backward_sizes()));
  expect_right(verify::check<verify::LayerNormBackwardProblem, T>(ctx));
  expect_right(verify::check<verify::LayerNormBackwardProblem, T>(ctx, {}, backward_sizes()));
}

GPU_TEST("norms on a GPU: forward and backward give the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  for (Index D : {1152, 37}) {
    Shape<2> const shape{1700, D};
    auto const x = to_device(ctx, random_tensor<bf16>(shape, 1)), d_y = to_device(ctx, random_tensor<bf16>(shape, 2));
    auto const weight = to_device(ctx, random_tensor<bf16>(Shape<1>{D}, 3));
    auto const stream = to_device(ctx, random_tensor<float>(shape, 4));
    DeviceTensor<bf16, 2> const y{ctx, shape}, d_x{ctx, shape};
    DeviceTensor<float, 1> const d_weight{ctx, Shape<1>{D}}, d_bias{ctx, Shape<1>{D}};
    auto const run = [&] {
      layer_norm(ctx, LayerNormArgs<bf16>{.x = x.view(), .weight = weight.view(), .bias = weight.view(), .y = y});
      layer_norm_backward(ctx, LayerNormBackwardArgs<bf16>{.weight = weight.view(),
                                                           .residual = stream.view(),
                                                           .d_y = y.view(),
                                                           .d_x = d_x,
                                                           .d_weight = d_weight,
                                                           .d_bias = d_bias});
      rms_norm(ctx, RmsNormArgs<bf16>{.x = d_x.view(), .weight = weight.view(), .y = y});
      rms_norm_backward(ctx, RmsNormBackwardArgs<bf16>{
                                 .x = y.view(), .weight = weight.view(), .d_y = d_y.view(), .d_x = d_x, .d_weight = d_weight});
    };
    auto const reset = [&] {
      test::poison(ctx, y), test::poison(ctx, d_x);
      set_zero(ctx, d_weight.view()), set_zero(ctx, d_bias.view());
    };
    test::expect_repeatable(ctx, reset, run, y, d_x, d_weight, d_bias);
  }
}
