#pragma once
/// \file
/// The sum of losses on a GPU: one block, for there are a few thousand of them.

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/loss_sum/loss_sum.hpp>

namespace blackmamba {

namespace detail {

inline constexpr int loss_sum_threads = 512;

/// Thread t adds rows t, t + 512, …; then the threads' sums are added as a tree.
template <class A>
__global__ void __launch_bounds__(loss_sum_threads) loss_sum_kernel(__grid_constant__ LossSumArgs<A> const a) {
  __shared__ A sums[loss_sum_threads];
  __shared__ Index counts[loss_sum_threads];
  int const t = static_cast<int>(threadIdx.x);
  A sum{0};
  Index count = 0;
  for (Index i = t; i < a.losses.extent(0); i += loss_sum_threads) {
    sum += a.losses[i];
    count += a.targets[i] != a.ignore_index;
  }
  sums[t] = sum, counts[t] = count;
  for (int half_of = loss_sum_threads / 2; half_of > 0; half_of /= 2) {
    __syncthreads();
    if (t < half_of) sums[t] += sums[t + half_of], counts[t] += counts[t + half_of];
  }
  if (t == 0) a.sum[0] += sums[0], a.count[0] += counts[0];
}

}  // namespace detail

template <Scalar A>
void loss_sum_on(Cuda const& ctx, LossSumArgs<A> const& a) {
  if (a.losses.extent(0) == 0) return;
  detail::DeviceScope const device{ctx.device()};
  detail::loss_sum_kernel<A><<<1, detail::loss_sum_threads, 0, ctx.stream()>>>(a);
  detail::check_launch("loss_sum_kernel");
}

}  // namespace blackmamba
