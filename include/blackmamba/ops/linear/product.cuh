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
      if (p.add) sum += device_widen(p.out(i, j));
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

/// to (+)= from where there is any, 0 beyond. A warp takes 256 columns of a row: weights have few rows, and long ones.
template <class T, bool Add>
__global__ void __launch_bounds__(256)
    copy_rows_kernel(__grid_constant__ View<T const, 2> const from, __grid_constant__ View<T, 2> const to) {
  for (Index row = Index{blockIdx.x} * 8 + threadIdx.x / 32; row < to.extent(0); row += Index{gridDim.x} * 8)
    for (Index begin = Index{blockIdx.y} * 256 + threadIdx.x % 32; begin < to.extent(1); begin += Index{gridDim.y} * 256) {
      T x[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        Index const i = begin + 32 * k;
        x[k] = row < from.extent(0) && i < from.extent(1) ? from(row, i) : T{};
      }
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        Index const i = begin + 32 * k;
        if (i >= to.extent(1)) break;
        if constexpr (Add)
          to(row, i) = device_round<T>(device_widen(to(row, i)) + device_widen(x[k]));
        else
          to(row, i) = x[k];
      }
    }
}
template <bool Add = false, class T>
void copy_rows(Cuda const& ctx, View<T const, 2> from, View<T, 2> to) {
  dim3 const blocks{static_cast<unsigned>(std::min(ceil_div(to.extent(0), Index{8}), Index{1} << 16)),
                    static_cast<unsigned>(std::min(ceil_div(to.extent(1), Index{256}), Index{1} << 10))};
  copy_rows_kernel<T, Add><<<blocks, 256, 0, ctx.stream()>>>(from, to);
  check_launch("copy_rows_kernel");
}

/// Whether the first dimension is the one that is contiguous.
template <class T>
bool by_columns(View<T, 2> const& view) {
  return view.stride(0) == 1 && view.stride(1) != 1;
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

/// A view of that shape, zeros beyond `from`, that fits: `from` itself, or scratch memory in its order of dimensions.
template <class T>
View<T const, 2> fitting(Cuda const& ctx, View<T const, 2> const& from, Shape<2> shape) {
  if (fits_products(from) && from.shape() == shape) return from;
  bool const turned = by_columns(from);
  auto const seen = turned ? from.transposed(0, 1) : from;
  auto const to = ctx.scratch().template take<T>(turned ? Shape<2>{shape[1], shape[0]} : shape);
  copy_rows(ctx, seen, to);
  return turned ? to.transposed(0, 1) : to;
}

/// Of 16-bit operands that are not aligned, or whose contiguous extents are no multiples of 16 bytes, cuBLASLt makes two to four
/// times as long as of padded copies, and rounds some products before it adds the bias. Queues the product of such copies.
template <Scalar T, Scalar Out>
bool multiply_padded(Cuda const& ctx, MatrixProduct<T, Out> const& p) {
  constexpr Index step = 16 / sizeof(T);
  auto const padded = [&](Index extent, bool contiguous) { return contiguous ? ceil_div(extent, step) * step : extent; };
  Index const I = p.out.extent(0), J = p.out.extent(1), K = p.left.extent(1);
  Index const wide_I = padded(I, by_columns(p.left)), wide_J = padded(J, true),
              wide_K = padded(K, !by_columns(p.left) || by_columns(p.right));
  MatrixProduct<T, Out> q = p;
  q.left = fitting(ctx, p.left, Shape<2>{wide_I, wide_K}), q.right = fitting(ctx, p.right, Shape<2>{wide_K, wide_J});
  if (p.bias) {
    View<T const, 2> const row{p.bias.data(), Shape<2>{1, J}, Shape<2>{J, p.bias.stride(0)}};
    if (!fits_products(row) || J != wide_J) {
      auto const bias = ctx.scratch().template take<T>(Shape<2>{1, wide_J});
      copy_rows(ctx, row, bias);
      q.bias = bias[0];
    }
  }
  if (I == wide_I && J == wide_J && fits_products(p.out) && !by_columns(p.out)) return Cublas::of(ctx).multiply(ctx, q);
  q.out = ctx.scratch().template take<Out>(Shape<2>{wide_I, wide_J}), q.add = false;
  if (!Cublas::of(ctx).multiply(ctx, q)) return false;
  View<Out const, 2> const part{q.out.data(), p.out.shape(), q.out.strides()};
  if (p.add)
    copy_rows<true>(ctx, part, p.out);
  else
    copy_rows(ctx, part, p.out);
  return true;
}

/// Queues a product of any extents and strides. `out` aliases nothing. Narrow products may be rounded before they are added to it,
/// and after.
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
      constexpr double worth_copies = 1 << 24;
      if (static_cast<double>(I) * static_cast<double>(J) * static_cast<double>(K) >= worth_copies) {
        if (multiply_padded(ctx, p)) return;
        direct = !p.bias;
      } else {
        direct = !p.bias || (fits_products(p.left) && fits_products(p.right) && fits_products(p.out));
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
