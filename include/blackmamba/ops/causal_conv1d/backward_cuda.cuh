#pragma once
/// \file
/// The backward pass of the causal convolution on a GPU.

#include <algorithm>

#include <blackmamba/core/cuda/parts.cuh>
#include <blackmamba/ops/causal_conv1d/backward_kernel.cuh>
#include <blackmamba/ops/causal_conv1d/cuda.cuh>

namespace blackmamba {

namespace detail {
inline constexpr FaultKind conv_backward_offset_fault = offset_fault("causal_conv1d_backward");
}

/// Fast where K = 4, x, the weight, d_y and d_x are contiguous in their last dimension and aligned to 4 elements, rows are less
/// than 2^25 bytes apart and there are fewer than 2^31 times in all; elsewhere a thread an input, which takes K² products. Sums
/// over time have an order that is fixed by shapes and the device: two runs give the same bits. Offsets are device memory: where
/// they do not ascend from 0 to L, nothing outside of the length is touched, and the next wait throws.
template <Scalar T>
void causal_conv1d_backward_on(Cuda const& ctx, CausalConv1dBackwardArgs<T> const& a) {
  using Tuning = detail::ConvTuning;
  Index const sequences = sequence_count("causal_conv1d_backward", a.offsets, a.x.extent(0));
  Index const rows = a.x.extent(0), L = a.x.extent(1), D = a.x.extent(2), K = a.weight.extent(1);
  if (sequences == 0 || D == 0) return;
  detail::DeviceScope const device{ctx.device()};
  detail::check_offsets(ctx, detail::conv_backward_offset_fault, a.offsets, L);
  auto const scope = ctx.scratch().scope();
  auto const stream = ctx.stream();
  auto const blocks = [](Index threads) { return static_cast<unsigned>(ceil_div(threads, Index{Tuning::threads})); };
  bool const parameters = a.d_weight || a.d_bias;
  bool fast = false;
  if constexpr (!std::is_same_v<T, double>) {
    fast = K == Tuning::taps && detail::fours_align(a.x) && detail::fours_align(a.weight) && detail::fours_align(a.d_y) &&
           (!a.d_x || (detail::fours_align(a.d_x) && detail::conv_rows_near(a.d_x))) && detail::conv_rows_near(a.x) &&
           detail::conv_rows_near(a.d_y) && detail::ConvPlan::fits(rows, L);
    if (fast && a.x.size() > 0) {
      auto const launch = [&](auto* kernel) {
        constexpr std::size_t shared = sizeof(typename detail::ConvRing<T, 2, Tuning::backward_stages>::Memory);
        detail::ConvPlan const plan{rows, L, D, detail::conv_blocks_at_once(ctx, kernel, Tuning::backward_blocks, shared)};
        View<float, 3> parts;
        if (parameters) parts = ctx.scratch().template take<float>(Shape<3>{plan.blocks.y, Tuning::taps + 1, D});
        detail::launch_overlapping(ctx, "conv_backward_kernel", kernel, plan.blocks, Tuning::threads, 0, a, plan, parts);
        if (parameters) detail::add_parts(ctx, parts, a.d_weight ? a.d_weight.transposed(0, 1) : View<float, 2>{}, a.d_bias);
      };
      launch(a.silu ? detail::conv_backward_kernel<T, true> : detail::conv_backward_kernel<T, false>);
    }
  }
  if (!fast && L > 0) {
    detail::conv_backward_plain_kernel<T><<<blocks(a.x.size()), Tuning::threads, 0, stream>>>(a);
    if (parameters) detail::conv_parameters_plain_kernel<T><<<blocks(32 * D * (K + 1)), Tuning::threads, 0, stream>>>(a);
  }
  if (a.d_initial_state && a.d_initial_state.size() > 0)
    detail::conv_pass_kernel<T>
        <<<dim3{blocks(D), static_cast<unsigned>(std::min(sequences, Index{65535}))}, Tuning::threads, 0, stream>>>(a);
  detail::check_launch("causal_conv1d_backward");
}

}  // namespace blackmamba
