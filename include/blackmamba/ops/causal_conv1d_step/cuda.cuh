#pragma once
/// \file
/// One step of the causal convolution on a GPU.

#include <algorithm>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>

namespace blackmamba {

namespace detail {

inline constexpr int conv_step_threads = 128;

/// A thread a channel. Blocks (channels, entries of the batch).
template <class T>
__global__ void __launch_bounds__(conv_step_threads) conv_step_kernel(__grid_constant__ CausalConv1dStepArgs<T> const a) {
  using Acc = accumulator_t<T>;
  Index const d = Index{blockIdx.x} * blockDim.x + threadIdx.x, before = a.weight.extent(1) - 1;
  let_next_start();
  if (d < a.x.extent(1)) {
    hint_to_l2(&a.weight(d, 0));
    if (a.bias) hint_to_l2(&a.bias[d]);
    for (Index k = 0; k < before; ++k) hint_to_l2(&a.state(blockIdx.y, k, d));
  }
  await_kernels_before();
  if (d >= a.x.extent(1)) return;
  for (Index b = blockIdx.y; b < a.x.extent(0); b += gridDim.y) {
    T const newest = a.x(b, d);
    Acc sum = a.bias ? device_widen(a.bias[d]) : Acc(0);
#pragma unroll 4
    for (Index k = 0; k < before; ++k) {
      T const old = a.state(b, k, d);
      sum += device_widen(a.weight(d, k)) * device_widen(old);
      if (k > 0) a.state(b, k - 1, d) = old;
    }
    if (before > 0) a.state(b, before - 1, d) = newest;
    sum += device_widen(a.weight(d, before)) * device_widen(newest);
    a.y(b, d) = device_round<T>(a.silu ? device_silu(sum) : sum);
  }
}

}  // namespace detail

template <Scalar T>
void causal_conv1d_step_on(Cuda const& ctx, CausalConv1dStepArgs<T> const& a) {
  Index const batch = a.x.extent(0), D = a.x.extent(1);
  if (batch == 0 || D == 0) return;
  detail::DeviceScope const device{ctx.device()};
  dim3 const blocks{static_cast<unsigned>(ceil_div(D, Index{detail::conv_step_threads})),
                    static_cast<unsigned>(std::min(batch, Index{65535}))};
  detail::launch_overlapping(ctx, "causal_conv1d_step: conv_step_kernel", &detail::conv_step_kernel<T>, blocks,
                             detail::conv_step_threads, 0, a);
}

}  // namespace blackmamba
