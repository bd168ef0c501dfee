#pragma once
/// \file
/// The causal convolution on a GPU.

#include <algorithm>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/cuda/sequences.cuh>
#include <blackmamba/ops/causal_conv1d/kernel.cuh>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind conv_offset_fault = offset_fault("causal_conv1d");

}  // namespace detail

/// Fast where K = 4, x, y and the weight are contiguous in their last dimension and aligned to 4 elements, and L is at most
/// 2,097,120; elsewhere one thread an output. Offsets are device memory: where they do not ascend from 0 to L, nothing outside of
/// the length is touched, and the next wait throws.
template <Scalar T>
void causal_conv1d_on(Cuda const& ctx, CausalConv1dArgs<T> const& a) {
  Index const sequences = sequence_count("causal_conv1d", a.offsets, a.x.extent(0)), L = a.x.extent(1), D = a.x.extent(2);
  if (sequences == 0 || D == 0) return;
  detail::DeviceScope const device{ctx.device()};
  detail::check_offsets(ctx, detail::conv_offset_fault, a.offsets, L);
  constexpr int threads = detail::ConvTuning::threads;
  bool fast = false;
  if constexpr (!std::is_same_v<T, double>) {
    using Tuning = detail::ConvTuning;
    detail::ConvPlan const plan{a.x.extent(0), L, D, Index{Tuning::blocks} * ctx.multiprocessors()};
    fast = a.weight.extent(1) == Tuning::taps && detail::fours_align(a.x) && detail::fours_align(a.weight) &&
           detail::fours_align(a.y) && detail::conv_rows_near(a.x) && detail::conv_rows_near(a.y) && plan.fits();
    if (fast && plan.total > 0) {
      if (a.silu)
        detail::conv_kernel<T, true><<<plan.blocks, threads, 0, ctx.stream()>>>(a, plan);
      else
        detail::conv_kernel<T, false><<<plan.blocks, threads, 0, ctx.stream()>>>(a, plan);
    }
  }
  if (!fast && a.x.size() > 0)
    detail::conv_plain_kernel<T><<<static_cast<unsigned>(ceil_div(a.x.size(), Index{threads})), threads, 0, ctx.stream()>>>(a);
  if (a.last_state && a.last_state.size() > 0)
    detail::conv_state_kernel<T>
        <<<dim3{static_cast<unsigned>(ceil_div(D, Index{threads})), static_cast<unsigned>(std::min(sequences, Index{65535}))},
           threads, 0, ctx.stream()>>>(a);
  detail::check_launch("causal_conv1d");
}

}  // namespace blackmamba
