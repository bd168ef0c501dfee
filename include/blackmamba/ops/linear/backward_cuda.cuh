#pragma once
/// \file
/// The backward pass of the linear map on a GPU: two of cuBLASLt's products, and sums of columns.

#include <blackmamba/core/cuda/parts.cuh>
#include <blackmamba/ops/linear/backward_reference.hpp>
#include <blackmamba/ops/linear/cuda.cuh>

namespace blackmamba {

namespace detail {

inline constexpr int column_warps = 8;

/// Sums of `Wide` neighbouring columns a lane, over a piece of the rows a block: blocks (columns by 32 · Wide, pieces). A warp has
/// every eighth row. With one piece they are added to `to`, otherwise left in `parts` (pieces, columns).
template <class T, int Wide>
__global__ void __launch_bounds__(32 * column_warps)
    sum_columns_kernel(__grid_constant__ View<T const, 2> const from, Index piece_rows,
                       __grid_constant__ View<accumulator_t<T>, 2> const parts,
                       __grid_constant__ View<accumulator_t<T>, 1> const to) {
  using A = accumulator_t<T>;
  struct alignas(sizeof(T) * Wide) Read {
    T of[Wide];
  };
  __shared__ A all[column_warps][32 * Wide];
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  Index const first = (Index{blockIdx.x} * 32) * Wide, column = first + lane * Wide;
  for (Index piece = blockIdx.y; piece * piece_rows < from.extent(0); piece += gridDim.y) {
    Index const begin = piece * piece_rows, end = min(from.extent(0), begin + piece_rows);
    A sums[Wide] = {};
    if (column < from.extent(1)) {
#pragma unroll 8
      for (Index row = begin + warp; row < end; row += column_warps) {
        Read const read = *reinterpret_cast<Read const*>(&from(row, column));
#pragma unroll
        for (int i = 0; i < Wide; ++i) sums[i] += device_widen(read.of[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < Wide; ++i) all[warp][i * 32 + lane] = sums[i];
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < 32 * Wide; i += 32 * column_warps) {
      if (first + i >= from.extent(1)) break;
      A sum = 0;
#pragma unroll
      for (int w = 0; w < column_warps; ++w) sum += all[w][i % Wide * 32 + i / Wide];
      if (parts)
        parts(piece, first + i) = sum;
      else
        to[first + i] += sum;
    }
    __syncthreads();
  }
}

template <Scalar T>
void add_column_sums(Cuda const& ctx, View<T const, 2> from, View<accumulator_t<T>, 1> to) {
  using A = accumulator_t<T>;
  constexpr int wide = 16 / static_cast<int>(sizeof(T));
  Index const M = from.extent(0), N = from.extent(1);
  if (M == 0 || N == 0) return;
  bool const aligned = N % wide == 0 && rows_align(from, 16);
  Index const blocks = ceil_div(N, Index{aligned ? 32 * wide : 32});
  // As many pieces as keep the memory busy; of double, which is for checking, one.
  Index piece_rows = M;
  if constexpr (std::is_same_v<A, float>) {
    Index const wanted = std::max<Index>(1, ceil_div(8 * ctx.multiprocessors(), blocks));
    piece_rows = std::max<Index>(ceil_div(M, wanted), 8 * column_warps);
  }
  Index const pieces = ceil_div(M, piece_rows);
  auto const scope = ctx.scratch().scope();
  View<A, 2> parts;
  if (pieces > 1) parts = ctx.scratch().template take<A>(Shape<2>{pieces, N});
  dim3 const grid{static_cast<unsigned>(blocks), static_cast<unsigned>(std::min(pieces, Index{65535}))};
  if (aligned)
    sum_columns_kernel<T, wide><<<grid, 32 * column_warps, 0, ctx.stream()>>>(from, piece_rows, parts, to);
  else
    sum_columns_kernel<T, 1><<<grid, 32 * column_warps, 0, ctx.stream()>>>(from, piece_rows, parts, to);
  check_launch("sum_columns_kernel");
  if constexpr (std::is_same_v<A, float>) {
    if (parts) add_parts(ctx, View<float const, 3>{parts.data(), Shape<3>{pieces, 1, N}}, {}, to);
  }
}

}  // namespace detail

/// Fast where `linear` is. Two runs give the same bits.
template <Scalar T>
void linear_backward_on(Cuda const& ctx, LinearBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::DeviceScope const device{ctx.device()};
  if (a.d_weight)
    detail::multiply(
        ctx, detail::MatrixProduct<T, A>{.left = a.d_y.transposed(0, 1), .right = a.x, .out = a.d_weight, .bias = {}, .add = true});
  if (a.d_bias) detail::add_column_sums(ctx, a.d_y, a.d_bias);
  // Last: it may be written over x.
  if (a.d_x)
    detail::multiply(ctx,
                     detail::MatrixProduct<T, T>{.left = a.d_y, .right = a.weight, .out = a.d_x, .bias = {}, .add = a.add_to_d_x});
}

}  // namespace blackmamba
