#pragma once
/// \file
/// Sums over rows that many blocks had a part in: each leaves its own, and a second kernel adds them in their order.

#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/core/view.hpp>

namespace blackmamba::detail {

inline constexpr int part_warps = 32;

/// Blocks (columns by 32, outputs): of a column each warp sums every 32nd of the parts.
static __global__ void __launch_bounds__(32 * part_warps)
    add_parts_kernel(__grid_constant__ View<float const, 3> const parts, __grid_constant__ View<float, 2> const to,
                     __grid_constant__ View<float, 1> const last) {
  __shared__ float sums[part_warps][32];
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  Index const column = Index{blockIdx.x} * 32 + lane, output = blockIdx.y;
  let_next_start();
  await_kernels_before();
  float sum = 0;
  if (column < parts.extent(2)) {
#pragma unroll 8
    for (Index i = warp; i < parts.extent(0); i += part_warps) sum += parts(i, output, column);
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= parts.extent(2)) return;
  for (int w = 1; w < part_warps; ++w) sum += sums[w][lane];
  if (output + 1 < parts.extent(1)) {
    if (to) to(output, column) += sum;
  } else if (last) {
    last[column] += sum;
  }
}

/// Adds the parts (count, outputs, columns) to `to` (outputs - 1, columns) and to `last` (columns), where those are there.
inline void add_parts(Cuda const& ctx, View<float const, 3> parts, View<float, 2> to, View<float, 1> last) {
  dim3 const blocks{static_cast<unsigned>(ceil_div(parts.extent(2), Index{32})), static_cast<unsigned>(parts.extent(1))};
  launch_overlapping(ctx, "add_parts_kernel", &add_parts_kernel, blocks, 32 * part_warps, 0, parts, to, last);
}

}  // namespace blackmamba::detail
