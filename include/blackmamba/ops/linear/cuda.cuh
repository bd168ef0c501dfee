#pragma once
/// \file
/// The linear map on a GPU: few rows, or few outputs, stream the other operand once; the rest are cuBLASLt's products.

#include <blackmamba/ops/linear/product.cuh>
#include <blackmamba/ops/linear/reference.hpp>
#include <blackmamba/ops/linear/stream.cuh>

namespace blackmamba {

namespace detail {

/// Whether `bytes` of neighbouring elements of any row can be read at once.
template <class T>
bool rows_align(View<T, 2> const& view, Index bytes) {
  auto const size = static_cast<Index>(sizeof(T));
  return (view.extent(1) == 1 || view.stride(1) == 1) && view.extent(1) * size % bytes == 0 &&
         (view.extent(0) == 1 || view.stride(0) * size % bytes == 0) && reinterpret_cast<std::uintptr_t>(view.data()) % bytes == 0;
}

/// Rows of the small operand up to which streaming the big one is the faster way. A weight of few elements may be read several
/// times, by 16 rows each.
template <class T>
Index most_streamed(Index weight_elements) {
  return std::is_same_v<T, float> ? 8 : weight_elements <= Index{1} << 19 ? 64 : 16;
}

template <int Words, class T>
void stream_words(Cuda const& ctx, Streamed<T> const& p) {
  constexpr Index chunk = 16 * Words / static_cast<Index>(sizeof(T)), most_kept = 1 << 15;  // bytes
  Index const chunks = ceil_div(p.depth, chunk);
  bool const few_blocks = p.big_rows <= 4 * ctx.multiprocessors();
  // Each as measured, with the weights at rest: docs/benchmarks/linear.md. Whether they are changes no bit, and so no layout.
  if (p.small_rows == 1 && p.depth * static_cast<Index>(sizeof(T)) <= most_kept) {
    if (chunks <= 6)
      launch_stream<StreamLayout<0, 1, 2, 4, 3, Words, 2>>(ctx, p);
    else if (chunks > 48)
      launch_stream<StreamLayout<0, 1, 16, 1, 6, Words, 2>>(ctx, p);
    else if (!few_blocks && p.big_rows <= 64 * ctx.multiprocessors())
      launch_stream<StreamLayout<0, 2, 4, 1, 9, Words, 4>>(ctx, p);
    else
      launch_stream<StreamLayout<1, 1, 8, 1, 5, Words, 3>>(ctx, p);
  } else if constexpr (std::is_same_v<T, float>) {
    launch_stream<StreamLayout<8, 2, 8, 1, 1, Words>>(ctx, p);
  } else if (p.small_rows <= 8) {
    launch_stream<StreamLayout<1, 1, 8, 1, 5, Words, 3>>(ctx, p);
  } else if (few_blocks) {
    launch_stream<StreamLayout<2, 1, 16, 1, 5, Words>>(ctx, p);
  } else if (chunks > 48) {
    launch_stream<StreamLayout<2, 2, 16, 1, 3, Words>>(ctx, p);
  } else {
    launch_stream<StreamLayout<2, 2, 8, 1, 2, Words, 3>>(ctx, p);
  }
}

/// Streams the big operand, unless the map is none for that.
template <Scalar T>
bool stream_linear(Cuda const& ctx, LinearArgs<T> const& a) {
  if constexpr (std::is_same_v<T, double>) {
    return false;
  } else {
    constexpr Index few_outputs = std::is_same_v<T, float> ? 8 : 16;
    Index const M = a.x.extent(0), N = a.weight.extent(0), K = a.x.extent(1), most_depth = Index{1} << 22;
    bool const few_rows = M <= most_streamed<T>(N * K) && M <= N, few_columns = N <= few_outputs && N < M;
    if (!(few_rows || few_columns) || std::max(M, N) > Index{1} << 30 || K > most_depth) return false;
    Index const aligned = rows_align(a.x, 16) && rows_align(a.weight, 16) ? 16
                          : rows_align(a.x, 8) && rows_align(a.weight, 8) ? 8
                                                                          : 0;
    if (aligned == 0) return false;
    Streamed<T> p{};
    auto const& big = few_rows ? a.weight : a.x;
    auto const& small = few_rows ? a.x : a.weight;
    p.big = big.data(), p.big_rows = big.extent(0), p.big_stride = big.stride(0);
    p.small = small.data(), p.small_rows = small.extent(0), p.small_stride = small.stride(0), p.depth = K;
    if (a.bias) p.bias = a.bias.data(), (few_rows ? p.bias_big_stride : p.bias_small_stride) = a.bias.stride(0);
    p.out = a.y.data();
    p.out_big_stride = a.y.stride(few_rows ? 1 : 0), p.out_small_stride = a.y.stride(few_rows ? 0 : 1);
    p.at_rest = few_rows && WeightsAtRest::said(ctx);
    p.prefetch = few_rows && aligned == 16 && !p.at_rest;
    if (aligned == 16)
      stream_words<4>(ctx, p);
    else
      stream_words<2>(ctx, p);
    return true;
  }
}

}  // namespace detail

/// Fast where the last dimension of x, weight and y is contiguous: up to 16 rows (8 of float; 64 of the others where the weight has
/// at most 2^19 elements) and up to 16 outputs (8 of float) at the pace of the memory, where rows are aligned to 16 bytes, or 8;
/// otherwise at cuBLASLt's. float is true float32. The first product of a context that is cuBLASLt's makes its handle and allocates
/// its workspace. Two runs give the same bits.
template <Scalar T>
void linear_on(Cuda const& ctx, LinearArgs<T> const& a) {
  if (a.y.size() == 0) return;
  detail::DeviceScope const device{ctx.device()};
  if (a.x.extent(1) > 0 && detail::stream_linear(ctx, a)) return;
  detail::multiply(ctx, detail::MatrixProduct<T, T>{.left = a.x, .right = a.weight.transposed(0, 1), .out = a.y, .bias = a.bias});
}

}  // namespace blackmamba
