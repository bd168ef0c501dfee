#pragma once
/// \file
/// How many assignments each expert has, on a GPU.

#include <algorithm>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/dispatch/load.hpp>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind load_expert_outside{"expert_load", "the expert of assignment ", " is ", ", outside -1 to E - 1"};

struct LoadTuning {
  static constexpr int threads = 512, most_experts = 4096;  ///< that a block counts for itself
};

/// Each block counts its share, then adds its counts. Integers: the order does not matter.
static __global__ void __launch_bounds__(LoadTuning::threads)
    expert_load_kernel(__grid_constant__ ExpertLoadArgs const a, bool flat, FaultSlot* fault) {
  __shared__ unsigned counts[LoadTuning::most_experts];
  Index const E = a.load.extent(0), k = a.experts.extent(1), count = a.experts.size();
  Index const step = Index{gridDim.x} * blockDim.x;
  int const lane = static_cast<int>(threadIdx.x) % 32,
            own = static_cast<int>(E < LoadTuning::most_experts ? E : LoadTuning::most_experts);
  auto const add = [&](Index e, Index n) {
    atomicAdd(reinterpret_cast<unsigned long long*>(&a.load(e)), static_cast<unsigned long long>(n));
  };
  for (int e = static_cast<int>(threadIdx.x); e < own; e += static_cast<int>(blockDim.x)) counts[e] = 0;
  __syncthreads();
  // Warps go round together: lanes of the same expert are counted at once.
  for (Index round = Index{blockIdx.x} * blockDim.x + threadIdx.x - lane; round < count; round += step) {
    Index const i = round + lane;
    int e = i < count ? (flat ? a.experts.data()[i] : a.experts(i / k, i % k)) : -1;
    if (e < -1 || e >= E) report_fault(fault, i, e), e = -1;
    unsigned const same = __match_any_sync(~0u, e);
    if (e < 0 || lane + 1 != __ffs(static_cast<int>(same))) continue;
    if (e < own)
      atomicAdd(&counts[e], static_cast<unsigned>(__popc(same)));
    else
      add(e, __popc(same));
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < own; e += static_cast<int>(blockDim.x))
    if (counts[e] > 0) add(e, counts[e]);
}

}  // namespace detail

/// An assignment whose expert is outside is not counted, and told at the next wait; the others are counted.
template <std::derived_from<Cuda> Ctx>
void expert_load_on(Ctx const& ctx, ExpertLoadArgs const& a) {
  constexpr int threads = detail::LoadTuning::threads;
  Index const count = a.experts.size();
  if (count == 0) return;
  detail::DeviceScope const device{ctx.device()};
  auto const blocks = static_cast<unsigned>(std::min(ceil_div(count, Index{4 * threads}), Index{2} * ctx.multiprocessors()));
  detail::expert_load_kernel<<<blocks, threads, 0, ctx.stream()>>>(a, a.experts.contiguous(),
                                                                   ctx.fault(detail::load_expert_outside));
  detail::check_launch("expert_load_kernel");
}

}  // namespace blackmamba
