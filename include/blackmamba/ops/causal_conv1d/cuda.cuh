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

/// Blocks that run at once of a kernel whose blocks have `shared` bytes, `most` of them at most on a multiprocessor; the kernel is
/// told to take the memory that they need.
template <class Kernel>
Index conv_blocks_at_once(Cuda const& ctx, Kernel* kernel, int most, std::size_t shared) {
  constexpr int reserved = 1024;  // bytes of each block that the driver takes
  int memory = 0;
  check_cuda(cudaDeviceGetAttribute(&memory, cudaDevAttrMaxSharedMemoryPerMultiprocessor, ctx.device()), "cudaDeviceGetAttribute");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute");
  return Index{ctx.multiprocessors()} * std::clamp(memory / (static_cast<int>(shared) + reserved), 1, most);
}

}  // namespace detail

/// Fast where K = 4, x, y and the weight are contiguous in their last dimension and aligned to 4 elements, rows are less than
/// 2^25 bytes apart and there are fewer than 2^31 times in all; elsewhere one thread an output. Offsets are device memory: where
/// they do not ascend from 0 to L, nothing outside of the length is touched, and the next wait throws.
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
    fast = a.weight.extent(1) == Tuning::taps && detail::fours_align(a.x) && detail::fours_align(a.weight) &&
           detail::fours_align(a.y) && detail::conv_rows_near(a.x) && detail::conv_rows_near(a.y) &&
           detail::ConvPlan::fits(a.x.extent(0), L);
    if (fast && a.x.size() > 0) {
      auto const launch = [&](auto* kernel) {
        constexpr std::size_t shared = sizeof(typename detail::ConvRing<T, 1, Tuning::stages>::Memory);
        Index const at_once = detail::conv_blocks_at_once(ctx, kernel, Tuning::blocks, shared);
        detail::ConvPlan const plan{a.x.extent(0), L, D, Tuning::waves * at_once};
        detail::launch_overlapping(ctx, "conv_kernel", kernel, plan.blocks, threads, 0, a, plan);
      };
      launch(a.silu ? detail::conv_kernel<T, true> : detail::conv_kernel<T, false>);
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
