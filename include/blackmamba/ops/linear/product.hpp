#pragma once
/// \file
/// The linear map of many rows: Eigen's product on fixed tiles, the tiles over threads.

#include <algorithm>
#include <atomic>
#include <type_traits>

#include <blackmamba/core/eigen.hpp>
#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/linear/linear.hpp>

namespace blackmamba::detail {

/// A tile of y: at most `outputs` rows of the weight by `rows` rows of x, summed over `depth` inputs at a time. Packed, a block
/// of the weight fits into half a megabyte of second-level cache beside what streams past it.
struct linear_tile {
  static constexpr Index outputs = 192, rows = 256, depth = 256;
};

/// res += lhs · rhs on the calling thread, with lhs (rows, depth) row-major, rhs (depth, cols) column-major, unless said otherwise,
/// and res (rows, cols) column-major.
///
/// Goes to the kernel below Eigen's operators. The operators would allocate, would choose blocks from the size of the machine's
/// caches, and, outside a parallel region, would start threads of their own: none of the three is ours to hand over.
template <class A, int LhsOrder = Eigen::RowMajor, int RhsOrder = Eigen::ColMajor>
class TileProduct : Eigen::internal::level3_blocking<A, A> {
 public:
  /// Elements of temporary memory that one thread needs, and where they are: 64-byte aligned.
  static constexpr Index scratch = (linear_tile::outputs + linear_tile::rows) * linear_tile::depth;
  explicit TileProduct(A* memory) {
    this->m_blockA = memory;
    this->m_blockB = memory + linear_tile::outputs * linear_tile::depth;
  }

  void operator()(Index rows, Index cols, Index depth, A const* lhs, Index lhs_stride, A const* rhs, Index rhs_stride, A* res,
                  Index res_stride) {
    this->m_mc = rows, this->m_nc = cols, this->m_kc = depth;
    Eigen::internal::general_matrix_matrix_product<Eigen::Index, A, LhsOrder, false, A, RhsOrder, false, Eigen::ColMajor, 1>::run(
        rows, cols, depth, lhs, lhs_stride, rhs, rhs_stride, res, 1, res_stride, A(1), *this, nullptr);
  }
};

/// Rows of `from` (count, width) from element (row, column) on, widened into row-major memory.
template <class T>
void widen_block(View<T const, 2> const& from, Index row, Index column, Index count, Index width, accumulator_t<T>* to) {
  using namespace simd;
  constexpr Index W = simd::width<accumulator_t<T>>;
  for (Index r = 0; r < count; ++r, to += width) {
    T const* const p = from.data() + (row + r) * from.stride(0) + column;
    Index i = 0;
    for (; i + W <= width; i += W) store(to + i, load(p + i));
    for (; i < width; ++i) to[i] = widen(p[i]);
  }
}

/// Calls `body(memory, tile)` for every tile on the context's threads; `memory` is the thread's own, of `elements` elements. It is
/// taken for every thread, however many tiles there are, so that what is taken follows from less than the number of tiles.
template <class A, class Body>
void over_tiles(Cpu const& ctx, Index tiles, Index elements, Body&& body) {
  auto const scope = ctx.scratch().scope();
  auto const memory = ctx.scratch().template take<A>(Shape{static_cast<Index>(ctx.threads()), elements});
  Index const slots = std::min<Index>(ctx.threads(), tiles);
  std::atomic<Index> next{0};
  parallel_for(static_cast<int>(slots), slots, [&](Index slot) {
    for (Index tile; (tile = next.fetch_add(1, std::memory_order_relaxed)) < tiles;) body(&memory(slot, 0), tile);
  });
}

/// y = x Wᵀ + b cut into tiles, which may be done in any order. x, weight and y have contiguous rows.
template <Scalar T>
struct ProductTiles {
  using A = accumulator_t<T>;
  using Tile = linear_tile;
  static constexpr bool narrow = !std::is_same_v<T, A>;
  /// A thread's memory: packed operands, and for narrow storage their widened blocks and the sums.
  static constexpr Index elements =
      TileProduct<A>::scratch + (narrow ? (Tile::outputs + Tile::rows) * Tile::depth + Tile::outputs * Tile::rows : 0);

  static Index count(LinearArgs<T> const& a) {
    return ceil_div(a.weight.extent(0), Tile::outputs) * ceil_div(a.x.extent(0), Tile::rows);
  }

  static void run(LinearArgs<T> const& a, A* memory, Index tile) {
    Index const M = a.x.extent(0), K = a.x.extent(1), N = a.weight.extent(0), tiles_of_outputs = ceil_div(N, Tile::outputs);
    TileProduct<A> product{memory};
    A* const wide_w = memory + TileProduct<A>::scratch;
    A* const wide_x = wide_w + Tile::outputs * Tile::depth;
    A* const wide_y = wide_x + Tile::rows * Tile::depth;
    Index const n = tile % tiles_of_outputs * Tile::outputs, outputs = std::min(Tile::outputs, N - n);
    Index const m = tile / tiles_of_outputs * Tile::rows, rows = std::min(Tile::rows, M - m);
    A* sums;
    Index sums_stride;
    if constexpr (narrow)
      sums = wide_y, sums_stride = outputs;
    else
      sums = &a.y(m, n), sums_stride = a.y.stride(0);
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < outputs; ++j) sums[i * sums_stride + j] = a.bias ? widen(a.bias(n + j)) : A(0);

    for (Index k = 0; k < K; k += Tile::depth) {
      Index const depth = std::min(Tile::depth, K - k);
      if constexpr (narrow) {
        widen_block(a.weight, n, k, outputs, depth, wide_w);
        widen_block(a.x, m, k, rows, depth, wide_x);
        product(outputs, rows, depth, wide_w, depth, wide_x, depth, sums, sums_stride);
      } else {
        product(outputs, rows, depth, &a.weight(n, k), a.weight.stride(0), &a.x(m, k), a.x.stride(0), sums, sums_stride);
      }
    }
    if constexpr (narrow) {
      constexpr Index W = simd::width<A>;
      for (Index i = 0; i < rows; ++i) {
        Index j = 0;
        for (; j + W <= outputs; j += W) simd::store(&a.y(m + i, n + j), simd::load(sums + i * sums_stride + j));
        for (; j < outputs; ++j) a.y(m + i, n + j) = static_cast<T>(sums[i * sums_stride + j]);
      }
    }
  }
};

/// All tiles of the maps `of(i)`, i in [0, maps), as one heap of work: `Tiles` says what a tile is. `of` answers the same each
/// time.
template <class Tiles, class Of>
void over_tiles_of(Cpu const& ctx, Index maps, Of&& of) {
  Index total = 0;
  for (Index i = 0; i < maps; ++i) total += Tiles::count(of(i));
  over_tiles<typename Tiles::A>(ctx, total, Tiles::elements, [&](auto* memory, Index tile) {
    for (Index i = 0;; ++i) {
      auto const args = of(i);
      Index const here = Tiles::count(args);
      if (tile < here) return Tiles::run(args, memory, tile);
      tile -= here;
    }
  });
}

template <Scalar T>
void linear_product(Cpu const& ctx, LinearArgs<T> const& a) {
  over_tiles_of<ProductTiles<T>>(ctx, 1, [&](Index) { return a; });
}

}  // namespace blackmamba::detail
