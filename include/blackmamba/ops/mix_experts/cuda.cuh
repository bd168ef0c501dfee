#pragma once
/// \file
/// Tokens through their experts on a GPU: two kernels for few tokens; for many with an expert each, products of which the last one
/// puts its rows back; elsewhere the parts of the operation.

#include <algorithm>

#include <blackmamba/ops/cuda_operations.cuh>
#include <blackmamba/ops/expert_mlp/launch.cuh>
#include <blackmamba/ops/mix_experts/kernel.cuh>
#include <blackmamba/ops/mix_experts/mix_experts.hpp>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind mix_expert_outside{"mix_experts", "the expert of assignment ", " is ", ", outside -1 to E - 1"};

/// `tiles`: what can be done at once.
template <MixEnd End, int Eights, class T>
void launch_mix(Cuda const& ctx, MixProduct<T> const& p, Index tiles) {
  using Tuning = MixTuning<End, Eights>;
  auto* const kernel = &mix_kernel<T, End, Eights>;
  // Blocks of the second product find room beside those of the first.
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute");
  launch_overlapping(ctx, "mix_kernel", kernel, dim3{tile_blocks("mix_experts", tiles, Tuning::blocks * ctx.multiprocessors())},
                     Tuning::threads, Tuning::shared_bytes, p);
}

/// Both products; false, and nothing queued, where the driver refuses to describe the weights.
template <int Eights, class T>
bool mix_few(Cuda const& ctx, MixExpertsArgs<T> const& a) {
  Index const rows = a.experts.size(), E = a.fc2.extent(0), D = a.fc2.extent(1), F = a.fc2.extent(2);
  auto const active = ctx.scratch().template take<T>(Shape<2>{rows, F});
  MixProduct<T> up{}, down{};
  constexpr int height = MixTuning<MixEnd::combine, Eights>::rows;
  if (!describe_tiles(up.weights, a.fc1, height) || !describe_tiles(down.weights, a.fc2, height)) return false;
  up.experts = down.experts = a.experts;
  up.E = down.E = static_cast<int>(E);
  up.slot = ctx.fault(mix_expert_outside);
  up.x = RowsOf<T const>{a.x}, up.bias = a.bias1, up.kind = a.activation, up.active = RowsOf<T>{active};
  up.K = down.N = static_cast<int>(D), up.N = down.K = static_cast<int>(F);
  down.x = RowsOf<T const>{active}, down.bias = a.bias2, down.slot_weights = a.weights, down.y = a.y;
  Index const tiles = std::min(E, rows) * ceil_div(F, Index{height});
  if (a.gated)
    launch_mix<MixEnd::gate, Eights>(ctx, up, tiles);
  else
    launch_mix<MixEnd::activate, Eights>(ctx, up, tiles);
  launch_mix<MixEnd::combine, Eights>(ctx, down, ceil_div(D, Index{height}));
  return true;
}

/// Tokens with one expert each: dispatch, gather, and the rest at once.
template <class T>
void mix_one_each(Cuda const& ctx, MixExpertsArgs<T> const& a) {
  auto const scope = ctx.scratch().scope();
  auto const sorted = sort_tokens(ctx, a);
  expert_mlp_combine_on(
      ctx,
      ExpertMlpCombineArgs<T>{.mlp = mlp_of(a, sorted, a.y), .order = sorted.order, .places = sorted.places, .weights = a.weights});
}

}  // namespace detail

/// Fast for bf16 and half on compute capability 9.0 in programs compiled for sm_90a, where matrices are contiguous in their last
/// dimension and aligned to 8 elements, for up to 8 assignments, or 8 an expert on average and 256: two kernels, which read the
/// weights of the chosen experts once, at the pace of the memory; and for more than 16 tokens an expert on average with one expert
/// each: dispatch, gather and two products on the tensor cores. Elsewhere dispatch, gather, `expert_mlp` and combine. Two runs give
/// the same bits.
template <Scalar T>
void mix_experts_on(Cuda const& ctx, MixExpertsArgs<T> const& a) {
  Index const rows = a.experts.size();
  detail::DeviceScope const device{ctx.device()};
  if constexpr (sizeof(T) == 2) {
    bool const few = rows <= 8 || (rows <= 256 && rows <= 8 * a.fc2.extent(0));
    if (rows > 0 && few && detail::has_wgmma(ctx.device()) && detail::tiles_align(a.x) && detail::tiles_align(a.fc1) &&
        detail::tiles_align(a.fc2)) {
      auto const scope = ctx.scratch().scope();
      if (rows <= 8 ? detail::mix_few<1>(ctx, a) : detail::mix_few<2>(ctx, a)) return;
    }
  }
  if (a.experts.extent(1) == 1)
    detail::mix_one_each(ctx, a);
  else
    detail::mix_experts_by_parts(ctx, a);
}

}  // namespace blackmamba
