#pragma once
/// \file
/// The backward pass of the linear map on the CPU: two products on the forward's tiles, and column sums on packs.

#include <blackmamba/ops/linear/backward_reference.hpp>
#include <blackmamba/ops/linear/product.hpp>

namespace blackmamba {

namespace detail {

/// d_x = d_y W cut into tiles, each summed over N in order. Seen by columns, the tile of d_x is Wᵀ · d_yᵀ.
template <Scalar T>
struct InputGradientTiles {
  using A = accumulator_t<T>;
  using Tile = linear_tile;
  using Product = TileProduct<A, Eigen::ColMajor, Eigen::ColMajor>;
  static constexpr bool narrow = !std::is_same_v<T, A>;
  static constexpr Index elements =
      Product::scratch + (narrow ? (Tile::outputs + Tile::rows) * Tile::depth + Tile::outputs * Tile::rows : 0);

  static Index count(LinearBackwardArgs<T> const& a) {
    return ceil_div(a.x.extent(1), Tile::outputs) * ceil_div(a.x.extent(0), Tile::rows);
  }

  static void run(LinearBackwardArgs<T> const& a, A* memory, Index tile) {
    Index const M = a.x.extent(0), K = a.x.extent(1), N = a.weight.extent(0), tiles_of_inputs = ceil_div(K, Tile::outputs);
    Product product{memory};
    A* const wide_w = memory + Product::scratch;
    A* const wide_y = wide_w + Tile::outputs * Tile::depth;
    A* const wide_x = wide_y + Tile::rows * Tile::depth;
    Index const k = tile % tiles_of_inputs * Tile::outputs, inputs = std::min(Tile::outputs, K - k);
    Index const m = tile / tiles_of_inputs * Tile::rows, rows = std::min(Tile::rows, M - m);
    A* sums;
    Index sums_stride;
    if constexpr (narrow)
      sums = wide_x, sums_stride = inputs;
    else
      sums = &a.d_x(m, k), sums_stride = a.d_x.stride(0);
    if (!a.add_to_d_x)
      for (Index i = 0; i < rows; ++i) std::fill_n(sums + i * sums_stride, inputs, A(0));
    else if constexpr (narrow)
      widen_block(View<T const, 2>{a.d_x}, m, k, rows, inputs, sums);

    for (Index n = 0; n < N; n += Tile::depth) {
      Index const depth = std::min(Tile::depth, N - n);
      if constexpr (narrow) {
        widen_block(a.weight, n, k, depth, inputs, wide_w);
        widen_block(a.d_y, m, n, rows, depth, wide_y);
        product(inputs, rows, depth, wide_w, inputs, wide_y, depth, sums, sums_stride);
      } else {
        product(inputs, rows, depth, &a.weight(n, k), a.weight.stride(0), &a.d_y(m, n), a.d_y.stride(0), sums, sums_stride);
      }
    }
    if constexpr (narrow) {
      constexpr Index W = simd::width<A>;
      for (Index i = 0; i < rows; ++i) {
        Index j = 0;
        for (; j + W <= inputs; j += W) simd::store(&a.d_x(m + i, k + j), simd::load(sums + i * sums_stride + j));
        for (; j < inputs; ++j) a.d_x(m + i, k + j) = static_cast<T>(sums[i * sums_stride + j]);
      }
    }
  }
};

/// d_weight += d_yᵀ x cut into tiles, each summed over M in order. Seen by columns, a tile of d_weight is xᵀ · d_y.
template <Scalar T>
struct WeightGradientTiles {
  using A = accumulator_t<T>;
  using Tile = linear_tile;
  using Product = TileProduct<A, Eigen::ColMajor, Eigen::RowMajor>;
  static constexpr bool narrow = !std::is_same_v<T, A>;
  static constexpr Index elements = Product::scratch + (narrow ? (Tile::outputs + Tile::rows) * Tile::depth : 0);

  static Index count(LinearBackwardArgs<T> const& a) {
    return a.x.extent(0) == 0 ? 0 : ceil_div(a.x.extent(1), Tile::outputs) * ceil_div(a.weight.extent(0), Tile::rows);
  }

  static void run(LinearBackwardArgs<T> const& a, A* memory, Index tile) {
    sum(a, memory, tile, 0, a.x.extent(0), a.d_weight, false);
  }

  /// Adds the rows [begin, end) to a tile of `sums`, which `fresh` sets to zero first.
  static void sum(LinearBackwardArgs<T> const& a, A* memory, Index tile, Index begin, Index end, View<A, 2> sums, bool fresh) {
    Index const K = a.x.extent(1), N = a.weight.extent(0), tiles_of_inputs = ceil_div(K, Tile::outputs);
    Product product{memory};
    A* const wide_x = memory + Product::scratch;
    A* const wide_y = wide_x + Tile::outputs * Tile::depth;
    Index const k = tile % tiles_of_inputs * Tile::outputs, inputs = std::min(Tile::outputs, K - k);
    Index const n = tile / tiles_of_inputs * Tile::rows, outputs = std::min(Tile::rows, N - n);
    if (fresh)
      for (Index i = 0; i < outputs; ++i) std::fill_n(&sums(n + i, k), inputs, A(0));
    for (Index m = begin; m < end; m += Tile::depth) {
      Index const depth = std::min(Tile::depth, end - m);
      if constexpr (narrow) {
        widen_block(a.x, m, k, depth, inputs, wide_x);
        widen_block(a.d_y, m, n, depth, outputs, wide_y);
        product(inputs, outputs, depth, wide_x, inputs, wide_y, outputs, &sums(n, k), sums.stride(0));
      } else {
        product(inputs, outputs, depth, &a.x(m, k), a.x.stride(0), &a.d_y(m, n), a.d_y.stride(0), &sums(n, k), sums.stride(0));
      }
    }
  }
};

/// d_weight += d_yᵀ x. A small weight has few tiles to share among threads and many rows to sum over, so the rows are cut into
/// pieces with sums of their own, which are added in order afterwards.
template <Scalar T>
void linear_backward_weight(Cpu const& ctx, LinearBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  using Tiles = WeightGradientTiles<T>;
  constexpr Index enough_tiles = 16, depth = linear_tile::depth, fewest_rows = 2 * depth;
  Index const M = a.x.extent(0), K = a.x.extent(1), N = a.weight.extent(0), tiles = Tiles::count(a);
  if (tiles == 0) return;
  Index const wanted = std::min(ceil_div(enough_tiles, tiles), ceil_div(M, fewest_rows));
  Index const piece_rows = ceil_div(ceil_div(M, wanted), depth) * depth, pieces = ceil_div(M, piece_rows);

  auto const scope = ctx.scratch().scope();
  View<A, 3> partial;
  if (pieces > 1) partial = ctx.scratch().template take<A>(Shape{pieces, N, K});
  over_tiles<A>(ctx, pieces * tiles, Tiles::elements, [&](A* memory, Index tile) {
    Index const piece = tile / tiles, begin = piece * piece_rows;
    Tiles::sum(a, memory, tile % tiles, begin, std::min(M, begin + piece_rows), partial ? partial[piece] : a.d_weight, pieces > 1);
  });
  if (!partial) return;
  parallel_ranges(ctx.threads(), N, 1 + (1 << 14) / K, [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n)
      for (Index piece = 0; piece < pieces; ++piece) {
        A* const to = &a.d_weight(n, 0);
        A const* const from = &partial(piece, n, 0);
        for (Index k = 0; k < K; ++k) to[k] += from[k];
      }
  });
}

/// The weights' gradients of the maps `of(i)`, i in [0, maps), each map with a weight of its own. Those with many rows are cut one
/// by one; the tiles of the others are one heap of work.
template <Scalar T, class Of>
void linear_backward_weights(Cpu const& ctx, Index maps, Of&& of) {
  constexpr Index many = 4 * linear_tile::depth;
  over_tiles_of<WeightGradientTiles<T>>(ctx, maps, [&](Index i) {
    LinearBackwardArgs<T> args = of(i);
    if (args.x.extent(0) > many) args.x = args.x.slice(0, 0, 0);
    return args;
  });
  for (Index i = 0; i < maps; ++i)
    if (auto const args = of(i); args.x.extent(0) > many) linear_backward_weight(ctx, args);
}

/// d_bias += the sums of the columns of d_y, as many at once as the registers hold. Going down the rows is a stride in which the
/// machine may see no stream, so what comes some rows later is asked for.
template <Scalar T>
void linear_backward_bias(Cpu const& ctx, LinearBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>, packs = 8, line = 64 / static_cast<Index>(sizeof(T)), rows_ahead = 8;
  Index const M = a.d_y.extent(0), N = a.d_y.extent(1), stride = a.d_y.stride(0);
  parallel_ranges(ctx.threads(), M == 0 ? 0 : N, packs * W, [&](Index begin, Index end) {
    T const* row = a.d_y.data() + begin;
    if (end - begin == packs * W) {
      simd::pack<A> sums[packs] = {};
      for (Index m = 0; m < M; ++m, row += stride) {
        if (m + rows_ahead < M)
          for (Index i = 0; i < packs * W; i += line) __builtin_prefetch(row + rows_ahead * stride + i);
        for (Index i = 0; i < packs; ++i) sums[i] += simd::load(row + i * W);
      }
      for (Index i = 0; i < packs * W; ++i) a.d_bias(begin + i) += sums[i / W][i % W];
    } else {
      A sums[packs * W] = {};
      for (Index m = 0; m < M; ++m, row += stride)
        for (Index i = 0; i < end - begin; ++i) sums[i] += widen(row[i]);
      for (Index i = 0; i < end - begin; ++i) a.d_bias(begin + i) += sums[i];
    }
  });
}

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void linear_backward_on(Cpu const& ctx, LinearBackwardArgs<T> const& a) {
  bool const fast = a.x.contiguous_rows() && a.weight.contiguous_rows() && a.d_y.contiguous_rows() &&
                    (!a.d_x || a.d_x.contiguous_rows()) && (!a.d_weight || a.d_weight.contiguous_rows());
  if (!fast) return linear_backward_on(static_cast<Reference const&>(ctx), a);
  if (a.d_weight) detail::linear_backward_weight(ctx, a);
  if (a.d_bias) detail::linear_backward_bias(ctx, a);
  if (a.d_x) detail::over_tiles_of<detail::InputGradientTiles<T>>(ctx, 1, [&](Index) { return a; });
}

}  // namespace blackmamba
