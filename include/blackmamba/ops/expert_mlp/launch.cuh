#pragma once
/// \file
/// Which kernels of the experts' products, and how many blocks of them. Nothing here depends on how the rows are spread.

#include <algorithm>
#include <utility>
#include <vector>

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

/// How many pairs of a kernel's blocks a context's device runs at once: not always half as many as it has multiprocessors.
class PairTable {
 public:
  template <class Kernel>
  int most(Kernel* kernel, cudaLaunchConfig_t const& config) {
    auto const* const key = reinterpret_cast<void const*>(kernel);
    for (auto const& [known, count] : known_)
      if (known == key) return count;
    int count = 0;
    check_cuda(cudaOccupancyMaxActiveClusters(&count, kernel, &config), "cudaOccupancyMaxActiveClusters");
    known_.emplace_back(key, std::max(count, 1));
    return known_.back().second;
  }

 private:
  std::vector<std::pair<void const*, int>> known_;
};

/// Launches a kernel whose blocks stay on their multiprocessors, as many as run at once, one by one or in pairs. It may start
/// before the kernels before it have ended.
template <bool Pairs, class Product>
void launch_tensor(Cuda const& ctx, char const* op, void (*kernel)(Product), Index tiles, unsigned threads, unsigned bytes,
                   Product const& p) {
  bool const overlaps =
      ctx.resource<OverlapTable>([] { return std::make_shared<OverlapTable>(); }).allows(kernel, bytes);  // allows the memory, too
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.blockDim = dim3{threads}, config.dynamicSmemBytes = bytes, config.stream = ctx.stream(), config.attrs = attributes;
  if constexpr (Pairs) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = 2, attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.gridDim = dim3{2};
    int const most = ctx.resource<PairTable>([] { return std::make_shared<PairTable>(); }).most(kernel, config);
    config.gridDim = dim3{2 * tile_blocks(op, tiles, most)};
  } else {
    config.gridDim = dim3{tile_blocks(op, tiles, ctx.multiprocessors())};
  }
  if (overlaps) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  check_cuda(cudaLaunchKernelEx(&config, kernel, p), op);
}

/// The product of rows on tensor cores; p has all but the descriptions of the operands. False where the driver refuses these.
template <RowsEnd End, bool Turned, class T>
bool tensor_rows(Cuda const& ctx, char const* op, RowsProduct<T>& p, View<T const, 2> x, View<T const, 3> weight) {
  using Tuning = RowsTuning<End>;
  if (!describe_tiles(p.left, x, TensorTuning::rows) || !describe_tiles(p.right, weight, Turned ? 64 : 128)) return false;
  Index const tiles = most_group_tiles(p.groups.rows, p.groups.experts(), p.columns, Tuning::rows, Tuning::columns);
  launch_tensor<Tuning::pair>(ctx, op, rows_tensor_kernel<T, End, Turned>, tiles, Tuning::threads, Tuning::shared_bytes, p);
  return true;
}

/// A product along rows, out_e (M, N) += left (rows, M)ᵀ right (rows, N).
template <class T>
struct AlongRows {
  View<T const, 2> left, right;
  View<float, 3> out;  ///< nothing is done where there is none
};

/// Such a product for the tensor cores, or with the operands exchanged where that wastes less of the tiles. False where the driver
/// refuses to describe the operands.
template <class T>
bool describe_weights(WeightsProduct& p, AlongRows<T> const& of) {
  auto const cost = [](Index M, Index N) {  // of the tiles, narrow ones a little more than half
    int const m = static_cast<int>(M), n = static_cast<int>(N);
    return Index{WeightTile::down(m)} * (WeightTile::across(n) * 32 + (WeightTile::has_narrow(n) ? 17 : 0));
  };
  if (cost(of.out.extent(2), of.out.extent(1)) < cost(of.out.extent(1), of.out.extent(2)))
    return describe_weights(p, AlongRows<T>{of.right, of.left, of.out.transposed(1, 2)});
  p.out = of.out, p.M = static_cast<int>(of.out.extent(1)), p.N = static_cast<int>(of.out.extent(2));
  return describe_tiles(p.left, of.left, 64) && describe_tiles(p.right, of.right, 64);
}

/// Products along rows on tensor cores, two at most. False where the driver refuses one: then nothing is done.
template <class T, class... Products>
bool tensor_weights(Cuda const& ctx, char const* op, Groups const& groups, TileTurns turns, AlongRows<T> const& first,
                    Products const&... others) {
  using Tuning = WeightsTuning;
  WeightsProducts p{};
  p.groups = groups, p.turns = turns;
  Index tiles = 0;
  auto const add = [&](AlongRows<T> const& of) {
    if (!of.out) return true;
    auto& here = p.of[p.count++];
    bool const described = describe_weights(here, of);
    tiles += WeightTile::count(static_cast<int>(groups.experts()), here.M, here.N);
    return described;
  };
  if (!(add(first) && ... && add(others))) return false;
  if (p.count > 0) launch_tensor<Tuning::pair>(ctx, op, weights_tensor_kernel<T>, tiles, Tuning::threads, Tuning::shared_bytes, p);
  return true;
}
template <class T>
bool tensor_weights(Cuda const& ctx, char const* op, Groups const& groups, TileTurns turns, View<T const, 2> left,
                    View<T const, 2> right, View<float, 3> out) {
  return tensor_weights(ctx, op, groups, turns, AlongRows<T>{left, right, out});
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
