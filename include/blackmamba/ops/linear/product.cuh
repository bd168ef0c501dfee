#pragma once
/// \file
/// Matrix products on a GPU: cuBLASLt's, and a plain one for what it does not do.

#include <blackmamba/core/cuda/cublas.cuh>
#include <blackmamba/core/cuda/math.cuh>

namespace blackmamba::detail {

inline constexpr int plain_tile = 32, plain_linear_rows = 4;

/// Any strides: tiles of out (32, 32), 8 rows of threads with 4 outputs each, both operands through shared memory.
template <class T, class Out>
__global__ void __launch_bounds__(plain_tile* plain_tile / plain_linear_rows)
    plain_product_kernel(__grid_constant__ MatrixProduct<T, Out> const p) {
  using A = accumulator_t<T>;
  __shared__ A left[plain_tile][plain_tile + 1], right[plain_tile][plain_tile + 1];
  int const x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  constexpr int step = plain_tile / plain_linear_rows;
  Index const I = p.out.extent(0), J = p.out.extent(1), K = p.left.extent(1);
  Index const wide = (J + plain_tile - 1) / plain_tile, tiles = (I + plain_tile - 1) / plain_tile * wide;
  for (Index t = blockIdx.x; t < tiles; t += gridDim.x) {
    Index const i0 = t / wide * plain_tile, j0 = t % wide * plain_tile;
    A sums[plain_linear_rows] = {};
    for (Index k0 = 0; k0 < K; k0 += plain_tile) {
#pragma unroll
      for (int r = 0; r < plain_linear_rows; ++r) {
        int const row = y + r * step;
        left[row][x] = i0 + row < I && k0 + x < K ? device_widen(p.left(i0 + row, k0 + x)) : A(0);
        right[row][x] = k0 + row < K && j0 + x < J ? device_widen(p.right(k0 + row, j0 + x)) : A(0);
      }
      __syncthreads();
#pragma unroll 8
      for (int k = 0; k < plain_tile; ++k)
#pragma unroll
        for (int r = 0; r < plain_linear_rows; ++r) sums[r] += left[y + r * step][k] * right[k][x];
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < plain_linear_rows; ++r) {
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

/// A warp a row.
template <class T>
__global__ void __launch_bounds__(256)
    copy_rows_kernel(__grid_constant__ View<T const, 2> const from, __grid_constant__ View<T, 2> const to) {
  for (Index row = Index{blockIdx.x} * 8 + threadIdx.x / 32; row < to.extent(0); row += Index{gridDim.x} * 8)
#pragma unroll 4
    for (Index i = threadIdx.x % 32; i < to.extent(1); i += 32) to(row, i) = from(row, i);
}
template <class T>
void copy_rows(Cuda const& ctx, View<T const, 2> from, View<T, 2> to) {
  auto const blocks = static_cast<unsigned>(std::min(ceil_div(to.extent(0), Index{8}), Index{1} << 16));
  copy_rows_kernel<<<blocks, 256, 0, ctx.stream()>>>(from, to);
  check_launch("copy_rows_kernel");
}

/// Whether cuBLASLt's fast kernels read it: one dimension contiguous, the other at steps of 16 bytes.
template <class T>
bool fits_products(View<T, 2> const& view) {
  auto const steps = [&](int across, int along) {
    return (view.extent(along) == 1 || view.stride(along) == 1) &&
           (view.extent(across) == 1 || view.stride(across) * static_cast<Index>(sizeof(T)) % 16 == 0);
  };
  return reinterpret_cast<std::uintptr_t>(view.data()) % 16 == 0 && (steps(0, 1) || steps(1, 0));
}
/// Scratch memory of a view's shape that fits, in the view's order of dimensions.
template <class T>
View<std::remove_const_t<T>, 2> fitting_scratch(Cuda const& ctx, View<T, 2> const& like) {
  using E = std::remove_const_t<T>;
  constexpr Index step = 16 / sizeof(T);
  int const along = like.stride(0) == 1 && like.stride(1) != 1 ? 0 : 1;
  Index const width = ceil_div(like.extent(along), step) * step;
  auto const out = ctx.scratch().template take<E>(Shape<2>{like.extent(1 - along), width}).slice(1, 0, like.extent(along));
  return along == 1 ? out : out.transposed(0, 1);
}
template <class T>
View<T const, 2> fitting(Cuda const& ctx, View<T const, 2> const& from) {
  if (fits_products(from)) return from;
  auto const to = fitting_scratch(ctx, from);
  if (to.stride(1) == 1)
    copy_rows(ctx, from, to);
  else
    copy_rows(ctx, from.transposed(0, 1), to.transposed(0, 1));
  return to;
}

/// Queues a product of any extents and strides. `out` aliases nothing. Sums that are added to have the type of the sums.
template <Scalar T, Scalar Out>
void multiply(Cuda const& ctx, MatrixProduct<T, Out> p) {
  Index const I = p.out.extent(0), J = p.out.extent(1), K = p.left.extent(1);
  if (I == 0 || J == 0 || (p.add && K == 0)) return;
  auto const scope = ctx.scratch().scope();
  if (K > 0) {
    bool direct = true;
    if constexpr (std::is_same_v<T, double>) {
      // Nothing there adds a bias in float64: it is what the product is added to.
      if (p.bias) {
        fill_rows_kernel<<<1024, 256, 0, ctx.stream()>>>(p.out, p.bias);
        check_launch("fill_rows_kernel");
        p.bias = {}, p.add = true;
      }
    } else if constexpr (sizeof(T) == 2) {
      // Of 16-bit operands that are not aligned cuBLASLt makes two to four times as long as of copies that are, and rounds some
      // products before it adds the bias.
      constexpr double worth_copies = 1 << 24;
      bool const out_fits = fits_products(p.out) && p.out.stride(1) == 1;
      if (static_cast<double>(I) * static_cast<double>(J) * static_cast<double>(K) >= worth_copies) {
        p.left = fitting(ctx, p.left), p.right = fitting(ctx, p.right);
        if (p.bias && !fits_products(View<T const, 2>{p.bias.data(), Shape<2>{1, J}, Shape<2>{J, p.bias.stride(0)}})) {
          auto const bias = ctx.scratch().template take<T>(Shape<2>{1, J});
          copy_rows(ctx, View<T const, 2>{p.bias.data(), Shape<2>{1, J}, Shape<2>{0, p.bias.stride(0)}}, bias);
          p.bias = bias[0];
        }
        if (!out_fits && !p.add) {
          auto const out = p.out;
          p.out = fitting_scratch(ctx, View<Out, 2>{out.data(), out.shape()});
          if (Cublas::of(ctx).multiply(ctx, p)) return copy_rows(ctx, View<Out const, 2>{p.out}, out);
          p.out = out;
        }
      } else {
        direct = !p.bias || (out_fits && fits_products(p.left) && fits_products(p.right));
      }
    }
    if (direct && Cublas::of(ctx).multiply(ctx, p)) return;
  }
  Index const tiles = ceil_div(I, Index{plain_tile}) * ceil_div(J, Index{plain_tile});
  dim3 const threads{plain_tile, plain_tile / plain_linear_rows};
  plain_product_kernel<<<static_cast<unsigned>(std::min(tiles, Index{1} << 20)), threads, 0, ctx.stream()>>>(p);
  check_launch("plain_product_kernel");
}

}  // namespace blackmamba::detail
