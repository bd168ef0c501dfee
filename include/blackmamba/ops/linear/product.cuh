#pragma once
/// \file
/// Matrix products on a GPU: cuBLASLt's, and a plain one for what it does not do.

#include <blackmamba/core/cuda/cublas.cuh>
#include <blackmamba/core/cuda/math.cuh>

namespace blackmamba::detail {

inline constexpr int plain_tile = 32, plain_rows = 4;

/// Any strides: tiles of out (32, 32), 8 rows of threads with 4 outputs each, both operands through shared memory.
template <class T, class Out>
__global__ void __launch_bounds__(plain_tile* plain_tile / plain_rows)
    plain_product_kernel(__grid_constant__ MatrixProduct<T, Out> const p) {
  using A = accumulator_t<T>;
  __shared__ A left[plain_tile][plain_tile + 1], right[plain_tile][plain_tile + 1];
  int const x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  constexpr int step = plain_tile / plain_rows;
  Index const I = p.out.extent(0), J = p.out.extent(1), K = p.left.extent(1);
  Index const wide = (J + plain_tile - 1) / plain_tile, tiles = (I + plain_tile - 1) / plain_tile * wide;
  for (Index t = blockIdx.x; t < tiles; t += gridDim.x) {
    Index const i0 = t / wide * plain_tile, j0 = t % wide * plain_tile;
    A sums[plain_rows] = {};
    for (Index k0 = 0; k0 < K; k0 += plain_tile) {
#pragma unroll
      for (int r = 0; r < plain_rows; ++r) {
        int const row = y + r * step;
        left[row][x] = i0 + row < I && k0 + x < K ? device_widen(p.left(i0 + row, k0 + x)) : A(0);
        right[row][x] = k0 + row < K && j0 + x < J ? device_widen(p.right(k0 + row, j0 + x)) : A(0);
      }
      __syncthreads();
#pragma unroll 8
      for (int k = 0; k < plain_tile; ++k)
#pragma unroll
        for (int r = 0; r < plain_rows; ++r) sums[r] += left[y + r * step][k] * right[k][x];
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < plain_rows; ++r) {
      Index const i = i0 + y + r * step, j = j0 + x;
      if (i >= I || j >= J) continue;
      A sum = sums[r];
      if (p.bias) sum += device_widen(p.bias[j]);
      if constexpr (std::is_same_v<Out, A>) {
        if (p.add) sum += p.out(i, j);
      }
      p.out(i, j) = device_round<Out>(sum);
    }
  }
}

/// out = bias in every row.
template <class T>
__global__ void __launch_bounds__(256)
    fill_rows_kernel(__grid_constant__ View<T, 2> const out, __grid_constant__ View<T const, 1> const bias) {
  Index const J = out.extent(1), count = out.extent(0) * J;
  for (Index n = Index{blockIdx.x} * blockDim.x + threadIdx.x; n < count; n += Index{gridDim.x} * blockDim.x)
    out(n / J, n % J) = bias[n % J];
}

/// Queues a product of any extents and strides. `out` aliases nothing. Sums that are added to have the type of the sums.
template <Scalar T, Scalar Out>
void multiply(Cuda const& ctx, MatrixProduct<T, Out> p) {
  if (p.out.size() == 0 || (p.add && p.left.extent(1) == 0)) return;
  if (p.left.extent(1) > 0) {
    if constexpr (std::is_same_v<T, double>) {
      // Nothing there adds a bias in float64: it is what the product is added to.
      if (p.bias) {
        fill_rows_kernel<<<1024, 256, 0, ctx.stream()>>>(p.out, p.bias);
        check_launch("fill_rows_kernel");
        p.bias = {}, p.add = true;
      }
    }
    if (Cublas::of(ctx).multiply(ctx, p)) return;
  }
  Index const tiles = ceil_div(p.out.extent(0), Index{plain_tile}) * ceil_div(p.out.extent(1), Index{plain_tile});
  dim3 const threads{plain_tile, plain_tile / plain_rows};
  plain_product_kernel<<<static_cast<unsigned>(std::min(tiles, Index{1} << 20)), threads, 0, ctx.stream()>>>(p);
  check_launch("plain_product_kernel");
}

}  // namespace blackmamba::detail
