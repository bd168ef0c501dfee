#pragma once
/// \file
/// The sum of squares on a GPU, in two stages: pieces of the array to blocks, then the pieces' sums in one block.

#include <algorithm>

#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/sum_squares/sum_squares.hpp>

namespace blackmamba {

namespace detail {

inline constexpr int sum_squares_threads = 256;
inline constexpr Index sum_squares_blocks = 4096;  // at most; a whole number of waves on no device, and many on each

/// The threads' sums as a tree, in thread 0.
__device__ inline double sum_of_block(double x) {
  __shared__ double warps[32];
  for (int step = 16; step > 0; step /= 2) x += __shfl_down_sync(~0u, x, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  if (threadIdx.x >= 32) return 0;
  x = threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : 0.0;
  for (int step = 16; step > 0; step /= 2) x += __shfl_down_sync(~0u, x, step);
  return x;
}

/// Block b sums 16 bytes a thread at a time, every gridDim.x-th such piece from b on. \param whole  x is contiguous and aligned
template <class T>
__global__ void __launch_bounds__(sum_squares_threads)
    sum_squares_kernel(__grid_constant__ View<T const, 1> const x, bool whole, double* parts) {
  constexpr int V = lanes_of<T>, ahead = 4;
  Index const n = x.extent(0), step = Index{gridDim.x} * sum_squares_threads;
  Index piece = Index{blockIdx.x} * sum_squares_threads + threadIdx.x;
  double sums[2]{};
  auto const add = [&](Lanes<T, V> const& lanes) {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      double const wide = static_cast<double>(device_widen(lanes.of[k]));
      sums[k % 2] = fma(wide, wide, sums[k % 2]);
    }
  };
  if (whole) {
    for (; (piece + (ahead - 1) * step + 1) * V <= n; piece += ahead * step) {
      Lanes<T, V> lanes[ahead];
#pragma unroll
      for (int i = 0; i < ahead; ++i) lanes[i] = *reinterpret_cast<Lanes<T, V> const*>(x.data() + (piece + i * step) * V);
#pragma unroll
      for (int i = 0; i < ahead; ++i) add(lanes[i]);
    }
  }
  for (; piece * V < n; piece += step) {
    Lanes<T, V> lanes;
#pragma unroll
    for (int k = 0; k < V; ++k) lanes.of[k] = piece * V + k < n ? x[piece * V + k] : T{};
    add(lanes);
  }
  double const sum = sum_of_block(sums[0] + sums[1]);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(1024) sum_parts_kernel(double const* parts, int count, double* sum) {
  double mine = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += 1024) mine += parts[i];
  double const all = sum_of_block(mine);
  if (threadIdx.x == 0) *sum = all;
}

}  // namespace detail

/// Fast where `x` is contiguous and aligned to 16 bytes. The order of the sum depends on the array's length alone.
template <Scalar T>
void sum_squares_on(Cuda const& ctx, SumSquaresArgs<T> const& a) {
  constexpr int V = detail::lanes_of<T>;
  Index const n = a.x.extent(0);
  bool const whole = (n <= 1 || a.x.stride(0) == 1) && reinterpret_cast<std::uintptr_t>(a.x.data()) % 16 == 0;
  Index const pieces = std::max(ceil_div(n, Index{V}), Index{1});
  Index const blocks = std::min(ceil_div(pieces, Index{detail::sum_squares_threads}), detail::sum_squares_blocks);
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  auto const parts = ctx.scratch().template take<double>(Shape<1>{blocks});
  detail::sum_squares_kernel<T>
      <<<static_cast<unsigned>(blocks), detail::sum_squares_threads, 0, ctx.stream()>>>(a.x, whole, parts.data());
  detail::check_launch("sum_squares_kernel");
  detail::sum_parts_kernel<<<1, 1024, 0, ctx.stream()>>>(parts.data(), static_cast<int>(blocks), a.sum.data());
  detail::check_launch("sum_parts_kernel");
}

}  // namespace blackmamba
