#pragma once
// The ceiling of products: what a square one reaches in this run.

#include <blackmamba/ops/linear/linear.hpp>

#include "support/cuda.cuh"

namespace bench {

/// Floating-point operations a second of the 8192³ product in bf16. The kernels must be in sight where this is included.
inline double product_flops_per_second(Cuda const& ctx) {
  constexpr Index n = 8192;
  auto const a = random_on_device<bf16>(ctx, Shape<2>{n, n}, 1), b = random_on_device<bf16>(ctx, Shape<2>{n, n}, 2);
  DeviceTensor<bf16, 2> const c{ctx, Shape<2>{n, n}};
  double const ms = milliseconds(
      ctx, 4, [&](int) { linear(ctx, LinearArgs<bf16>{.x = a.view(), .weight = b.view(), .bias = {}, .y = c}); }, 11);
  return 2e3 * static_cast<double>(n) * n * n / ms;
}

}  // namespace bench
