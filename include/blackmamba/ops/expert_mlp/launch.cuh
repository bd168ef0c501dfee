#pragma once
/// \file
/// Which kernels of the experts' products, and how many blocks of them. Nothing here depends on how the rows are spread.

#include <algorithm>
#include <initializer_list>

#include <blackmamba/ops/expert_mlp/plain.cuh>
#include <blackmamba/ops/expert_mlp/stream_ring.cuh>
#include <blackmamba/ops/expert_mlp/tensor_rows.cuh>
#include <blackmamba/ops/expert_mlp/tensor_weights.cuh>

namespace blackmamba::detail {

/// Blocks that take tiles in turn: as many as there are tiles, `most` at most.
inline unsigned tile_blocks(char const* op, Index tiles, Index most) {
  if (tiles > 0x3fffffff) throw value_error(concat(op, ": ", tiles, " tiles are more than a launch can have"));
  return static_cast<unsigned>(std::min(tiles, most));
}

/// The plain product of rows: y (rows, N) = x (rows, K) W_e (N, K)ᵀ + b_e.
template <class T>
void plain_rows(Cuda const& ctx, char const* op, Groups const& groups, View<T const, 2> x, View<T const, 3> weight,
                View<T const, 2> bias, View<T, 2> y) {
  Index const N = weight.extent(1), K = weight.extent(2);
  if (groups.rows == 0 || N == 0) return;
  PlainProduct<T, false> const p{.left = {x.data(), x.stride(0), x.stride(1), 0},
                                 .right = {weight.data(), weight.stride(1), weight.stride(2), weight.stride(0)},
                                 .groups = groups,
                                 .M = groups.rows,
                                 .N = N,
                                 .K = K,
                                 .bias = bias,
                                 .out = y.data(),
                                 .out_row = y.stride(0),
                                 .out_column = y.stride(1),
                                 .out_expert = 0};
  constexpr Index side = PlainTuning<T>::side;
  plain_product_kernel<T, false>
      <<<tile_blocks(op, most_group_tiles(groups.rows, groups.experts(), N, side, side), 8 * ctx.multiprocessors()),
         PlainTuning<T>::threads, 0, ctx.stream()>>>(p);
  check_launch(op);
}

/// The plain product along rows: out_e (M, N) += left (rows, M)ᵀ right (rows, N).
template <class T>
void plain_weights(Cuda const& ctx, char const* op, Groups const& groups, View<T const, 2> left, View<T const, 2> right,
                   View<accumulator_t<T>, 3> out) {
  Index const M = out.extent(1), N = out.extent(2);
  if (!out || groups.rows == 0 || M == 0 || N == 0) return;
  PlainProduct<T, true> const p{.left = {left.data(), left.stride(1), left.stride(0), 0},
                                .right = {right.data(), right.stride(1), right.stride(0), 0},
                                .groups = groups,
                                .M = M,
                                .N = N,
                                .K = 0,
                                .bias = {},
                                .out = out.data(),
                                .out_row = out.stride(1),
                                .out_column = out.stride(2),
                                .out_expert = out.stride(0)};
  constexpr Index side = PlainTuning<T>::side;
  plain_product_kernel<T, true>
      <<<tile_blocks(op, groups.experts() * ceil_div(M, side) * ceil_div(N, side), 8 * ctx.multiprocessors()),
         PlainTuning<T>::threads, 0, ctx.stream()>>>(p);
  check_launch(op);
}

template <class T, bool Backward>
void expert_inner(Cuda const& ctx, char const* op, ExpertInner<T, Backward> const& p) {
  Index const count = p.active.size();
  if (count == 0) return;
  expert_inner_kernel<T, Backward>
      <<<static_cast<unsigned>(std::min(ceil_div(count, Index{256}), Index{16} * ctx.multiprocessors())), 256, 0, ctx.stream()>>>(
          p);
  check_launch(op);
}

/// out (E, columns) += sums over each expert's rows of x.
template <class T>
void expert_sums(Cuda const& ctx, char const* op, Groups const& groups, View<T const, 2> x, View<accumulator_t<T>, 2> out) {
  if (!out || x.size() == 0) return;
  dim3 const blocks{static_cast<unsigned>(ceil_div(x.extent(1), Index{32})),
                    static_cast<unsigned>(std::min(groups.experts(), Index{65535}))};
  expert_sums_kernel<T><<<blocks, 512, 0, ctx.stream()>>>(groups, x, out);
  check_launch(op);
}

template <class Kernel>
void allow_shared_memory(Kernel kernel, unsigned bytes) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "cudaFuncSetAttribute");
}

/// The product of rows on tensor cores; p has all but the descriptions of the operands. False where the driver refuses these.
template <RowsEnd End, bool Turned, class T>
bool tensor_rows(Cuda const& ctx, char const* op, RowsProduct<T>& p, View<T const, 2> x, View<T const, 3> weight) {
  using Tuning = RowsTuning<End>;
  if (!describe_tiles(p.left, x, TensorTuning::rows) || !describe_tiles(p.right, weight, Turned ? 64 : 128)) return false;
  allow_shared_memory(rows_tensor_kernel<T, End, Turned>, Tuning::shared_bytes);
  Index const tiles = most_group_tiles(p.groups.rows, p.groups.experts(), p.columns, TensorTuning::rows, Tuning::columns);
  rows_tensor_kernel<T, End, Turned>
      <<<tile_blocks(op, tiles, ctx.multiprocessors()), Tuning::threads, Tuning::shared_bytes, ctx.stream()>>>(p);
  check_launch(op);
  return true;
}

/// A product along rows, out_e (M, N) += left (rows, M)ᵀ right (rows, N); nothing where there is no out.
template <class T>
struct AlongRows {
  View<T const, 2> left, right;
  View<float, 3> out;
};

/// Such a product for the tensor cores, with the operands exchanged where that wastes less of the tiles, or lets the copy engine
/// add the sums: without it a tile takes about a quarter longer. False where the driver refuses to describe the operands.
template <class T>
bool describe_weights(WeightsProduct& p, AlongRows<T> const& of) {
  auto const cost = [](View<float, 3> const& out) {  // of the tiles, narrow ones a little more than half
    int const m = static_cast<int>(out.extent(1)), n = static_cast<int>(out.extent(2));
    return Index{WeightTile::down(m)} * (WeightTile::across(n) * 32 + (WeightTile::has_narrow(n) ? 17 : 0)) *
           (tiles_align(out) ? 4 : 5);
  };
  if (View<float, 3> const exchanged = of.out.transposed(1, 2); cost(exchanged) < cost(of.out))
    return describe_weights(p, AlongRows<T>{of.right, of.left, exchanged});
  p.out = of.out, p.M = static_cast<int>(of.out.extent(1)), p.N = static_cast<int>(of.out.extent(2));
  p.engine_adds = tiles_align(of.out) && describe_tiles(p.sums, View<float const, 3>{of.out}, WeightsTuning::rows);
  return describe_tiles(p.left, of.left, 64) && describe_tiles(p.right, of.right, 64);
}

/// Products along rows on tensor cores, two at most, by one launch. False where the driver refuses one: then nothing is done.
template <class T>
bool tensor_weights(Cuda const& ctx, char const* op, Groups const& groups, TileTurns turns,
                    std::initializer_list<AlongRows<T>> products) {
  using Tuning = WeightsTuning;
  WeightsProducts p{};
  p.groups = groups, p.turns = turns;
  Index tiles = 0;
  for (auto const& of : products) {
    if (!of.out) continue;
    auto& here = p.of[p.count++];
    if (!describe_weights(here, of)) return false;
    tiles += groups.experts() * WeightTile::down(here.M) * (WeightTile::across(here.N) + WeightTile::has_narrow(here.N));
  }
  if (p.count == 0) return true;
  allow_shared_memory(weights_tensor_kernel<T>, Tuning::shared_bytes);
  weights_tensor_kernel<T>
      <<<tile_blocks(op, tiles, ctx.multiprocessors()), Tuning::threads, Tuning::shared_bytes, ctx.stream()>>>(p);
  check_launch(op);
  return true;
}

/// One linear map of few rows, with what follows it.
template <class T>
void stream_rows(Cuda const& ctx, char const* op, StreamProduct<T> const& p, bool gated) {
  // As many experts as can have rows.
  Index const most = std::min(p.groups.experts(), p.groups.rows), panels = ceil_div(Index{p.N}, Index{StreamTuning::rows});
  RingProduct<T> ring;
  if (has_wgmma(ctx.device()) && describe_tiles(ring.weights, p.weight, StreamTuning::rows)) {
    ring.of = p;
    auto const launch = [&](auto kernel, int threads, unsigned bytes) {
      launch_overlapping(ctx, op, kernel, dim3{tile_blocks(op, most * panels, ctx.multiprocessors())},
                         static_cast<unsigned>(threads), bytes, ring);
    };
    if (gated)
      launch(&ring_product_kernel<T, true>, RingTuning<true>::threads, RingTuning<true>::shared_bytes);
    else
      launch(&ring_product_kernel<T, false>, RingTuning<false>::threads, RingTuning<false>::shared_bytes);
  } else {
    dim3 const blocks{static_cast<unsigned>(panels), static_cast<unsigned>(std::min(p.groups.experts(), Index{65535}))};
    if (gated)
      stream_product_kernel<T, true><<<blocks, StreamTuning::threads, 0, ctx.stream()>>>(p);
    else
      stream_product_kernel<T, false><<<blocks, StreamTuning::threads, 0, ctx.stream()>>>(p);
  }
  check_launch(op);
}

}  // namespace blackmamba::detail
