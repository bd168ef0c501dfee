#pragma once
/// \file
/// The stable counting sort of assignments by expert, and what else needs to know how many of its expert come before one.
///
/// Assignments are cut into chunks, one a block. A first kernel counts the experts of each chunk; the second adds up those counts,
/// (experts, chunks), which gives each block the rank of its first assignment of each expert, and ranks its own: 32 at a time by
/// matching lanes, warp after warp by a scan. Few assignments take one block, which ranks them before it knows the offsets, and one
/// launch. Experts beyond the first 256 take further passes, 256 at a time.

#include <algorithm>

#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/core/view.hpp>

namespace blackmamba::detail {

/// Measured choices: docs/benchmarks/dispatch.md has the measurements.
struct SortTuning {
  static constexpr int most_threads = 1024, most_warps = most_threads / 32;
  static constexpr int items = 4;     ///< of a lane in one round
  static constexpr int window = 256;  ///< experts of a pass
  static constexpr int alone = 2048;  ///< assignments of one block that does all, at most: fewer than those of a round
};

/// What a pass does, for experts [first, first + E).
struct SortPass {
  View<int const, 2> experts{};
  Index count, k;  ///< assignments, and those of a token
  Index all;       ///< experts of all passes
  Index first, E;
  Index chunk;  ///< assignments of a block
  bool flat;    ///< whether neighbouring assignments are neighbours in memory, wherever they are
  FaultSlot* fault;

  __device__ bool last() const { return first + E == all; }
  template <class T>
  __device__ T& at(View<T, 2> const& of, Index i) const {
    return flat ? of.data()[i] : of(i / k, i % k);
  }
  /// The expert of assignment i within the pass, or -1.
  __device__ int within(int expert) const { return expert >= first && expert < first + E ? static_cast<int>(expert - first) : -1; }
  __device__ bool outside(int expert) const { return expert < -1 || expert >= all; }
};

/// Calls body(its number, its expert) for each of the items of this lane in a round that begins at `begin`; -1 past `end`.
template <class Body>
__device__ __forceinline__ void sort_round(SortPass const& p, Index begin, Index end, Body const& body) {
  constexpr int items = SortTuning::items;
  Index const from = begin + Index{threadIdx.x / 32} * (32 * items) + threadIdx.x % 32;
  int expert[items];
#pragma unroll
  for (int r = 0; r < items; ++r) expert[r] = from + r * 32 < end ? p.at(p.experts, from + r * 32) : -1;
#pragma unroll
  for (int r = 0; r < items; ++r) body(r, from + r * 32, expert[r]);
}

/// How many of expert e the warp has counted before this lane; adds the warp's lanes to its counts. No expert (-1): any number.
__device__ inline int rank_in_warp(int e, int* counts) {
  unsigned const lane = threadIdx.x % 32, same = __match_any_sync(~0u, e);
  int const before = e >= 0 ? counts[e] : 0;
  __syncwarp();
  if (e >= 0 && lane + 1 == static_cast<unsigned>(__ffs(static_cast<int>(same)))) counts[e] = before + __popc(same);
  __syncwarp();
  return before + __popc(same & ((1u << lane) - 1));
}

template <class N>
__device__ N scan_lanes(N x) {
  int const lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    N const below = __shfl_up_sync(~0u, x, d);
    if (lane >= d) x += below;
  }
  return x;
}

/// Counts (E, blocks) of each block's chunk.
static __global__ void __launch_bounds__(SortTuning::most_threads)
    sort_count_kernel(__grid_constant__ SortPass const p, int* counts) {
  __shared__ int of_warp[SortTuning::most_warps * (SortTuning::window + 1)];
  int const threads = static_cast<int>(blockDim.x), warps = threads / 32, t = static_cast<int>(threadIdx.x);
  int const E = static_cast<int>(p.E), width = E | 1;
  for (int i = t; i < warps * width; i += threads) of_warp[i] = 0;
  let_next_start();
  await_kernels_before();
  __syncthreads();
  Index const begin = Index{blockIdx.x} * p.chunk, end = begin + p.chunk < p.count ? begin + p.chunk : p.count;
  for (Index round = begin; round < end; round += Index{threads} * SortTuning::items)
    sort_round(p, round, end, [&](int, Index i, int expert) {
      if (p.first == 0 && p.outside(expert)) report_fault(p.fault, i, expert);
      rank_in_warp(p.within(expert), of_warp + t / 32 * width);
    });
  __syncthreads();
  for (int e = t / 32; e < E; e += warps) {
    int const lane = t % 32;
    int const sum = __reduce_add_sync(~0u, lane < warps ? of_warp[lane * width + e] : 0);
    if (lane == 0) counts[Index{e} * gridDim.x + blockIdx.x] = sum;
  }
}

/// Gives `of.begin(…)` the counts and `of.item(…)` each assignment with its rank. `counts` is absent where there is one block, and
/// one round of it is enough.
template <class Of>
__global__ void __launch_bounds__(SortTuning::most_threads)
    sort_rank_kernel(__grid_constant__ SortPass const p, int const* counts, __grid_constant__ Of const of) {
  constexpr int items = SortTuning::items;
  __shared__ int of_warp[SortTuning::most_warps * (SortTuning::window + 1)];
  __shared__ int carried[SortTuning::window];                                  // the block's, of the rounds before
  __shared__ Index before[SortTuning::window], total[SortTuning::window + 1];  // of blocks before; of all
  int const threads = static_cast<int>(blockDim.x), warps = threads / 32, t = static_cast<int>(threadIdx.x), lane = t % 32;
  int const E = static_cast<int>(p.E), width = E | 1;
  int* const mine = of_warp + t / 32 * width;
  let_next_start();
  await_kernels_before();
  Index const begin = Index{blockIdx.x} * p.chunk, end = begin + p.chunk < p.count ? begin + p.chunk : p.count;

  if (counts)
    for (int e = t / 32; e < E; e += warps) {
      Index all = 0, below = 0;
      for (Index b = lane; b < gridDim.x; b += 32) {
        int const n = counts[Index{e} * gridDim.x + b];
        all += n, below += b < blockIdx.x ? n : 0;
      }
#pragma unroll
      for (int mask = 16; mask > 0; mask /= 2) all += __shfl_xor_sync(~0u, all, mask), below += __shfl_xor_sync(~0u, below, mask);
      if (lane == 0) total[e] = all, before[e] = below, carried[e] = 0;
    }
  else
    for (int e = t; e < E; e += threads) before[e] = 0, carried[e] = 0;
  if (counts) {
    __syncthreads();
    of.begin(p, before, total);
  }
  __syncthreads();

  Index round = begin;
  do {
    int expert[items], rank[items];
    for (int e = lane; e < E; e += 32) mine[e] = 0;
    __syncwarp();
    sort_round(p, round, end, [&](int r, Index i, int x) {
      if (!counts && p.outside(x)) report_fault(p.fault, i, x);
      expert[r] = x;
      rank[r] = rank_in_warp(p.within(x), mine);
    });
    __syncthreads();
    for (int e = t / 32; e < E; e += warps) {
      int const n = lane < warps ? of_warp[lane * width + e] : 0;
      int const upto = scan_lanes(n), sum = __shfl_sync(~0u, upto, 31), so_far = carried[e];
      if (lane < warps) of_warp[lane * width + e] = so_far + upto - n;
      __syncwarp();
      if (lane == 0) {
        carried[e] = so_far + sum;
        if (!counts) total[e] = sum;
      }
    }
    __syncthreads();
    if (!counts) {
      of.begin(p, before, total);
      __syncthreads();
    }
    Index const from = round + Index{t / 32} * (32 * items) + lane;
#pragma unroll
    for (int r = 0; r < items; ++r) {
      Index const i = from + r * 32;
      if (i >= end) continue;
      int const e = p.within(expert[r]);
      if (e >= 0)
        of.item(p, i, before[e] + mine[e] + rank[r]);
      else if (p.first == 0 && (expert[r] < 0 || p.outside(expert[r])))
        of.none(p, i);
    }
    __syncwarp();
    round += Index{threads} * items;
  } while (round < end);
  of.end(p, total);
}

/// Sorts: what is written of each assignment.
struct SortTo {
  View<Index, 1> offsets{}, order{};
  View<Index, 2> places{};

  /// `before` becomes the first place of the block, `total[0]` the end of the pass.
  __device__ void begin(SortPass const& p, Index* before, Index* total) const {
    if (threadIdx.x >= 32) return;
    int const lane = static_cast<int>(threadIdx.x), E = static_cast<int>(p.E);
    Index at = p.first == 0 ? 0 : offsets[p.first];
    if (p.first == 0 && lane == 0 && blockIdx.x == 0) offsets[0] = 0;
    for (int group = 0; group < E; group += 32) {
      int const e = group + lane;
      Index const n = e < E ? total[e] : 0, upto = scan_lanes(n);
      if (e < E) {
        before[e] += at + upto - n;
        if (blockIdx.x == 0) offsets[p.first + e + 1] = at + upto;
      }
      at += __shfl_sync(~0u, upto, 31);
    }
    __syncwarp();
    if (lane == 0) total[0] = at;
  }
  __device__ void item(SortPass const& p, Index i, Index place) const {
    p.at(places, i) = place;
    order[place] = i;
  }
  __device__ void none(SortPass const& p, Index i) const { p.at(places, i) = -1; }
  __device__ void end(SortPass const& p, Index const* total) const {
    if (!p.last()) return;
    Index const step = Index{gridDim.x} * blockDim.x;
    for (Index i = total[0] + Index{blockIdx.x} * blockDim.x + threadIdx.x; i < p.count; i += step) order[i] = -1;
  }
};

/// Limits: an assignment of rank `capacity` or more loses its expert.
struct SortLimit {
  View<int, 2> experts{};
  Index capacity;
  View<Index, 1> dropped{};

  __device__ void begin(SortPass const& p, Index*, Index const* total) const {
    if (threadIdx.x >= 32 || blockIdx.x > 0 || !dropped) return;
    Index over = 0;
    for (Index e = threadIdx.x; e < p.E; e += 32) over += total[e] > capacity ? total[e] - capacity : 0;
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) over += __shfl_xor_sync(~0u, over, mask);
    if (threadIdx.x == 0) dropped[0] = p.first == 0 ? over : dropped[0] + over;
  }
  __device__ void item(SortPass const& p, Index i, Index rank) const {
    if (rank >= capacity) p.at(experts, i) = -1;
  }
  __device__ void none(SortPass const& p, Index i) const { p.at(experts, i) = -1; }
  __device__ void end(SortPass const&, Index const*) const {}
};

/// Queues all passes. \param like  the other matrix that is addressed as `experts` is
template <class Like, class Of>
void sort_assignments(Cuda const& ctx, View<int const, 2> experts, Index E, View<Like, 2> like, FaultSlot* fault, Of const& of) {
  constexpr int most = SortTuning::most_threads, items = SortTuning::items;
  Index const count = experts.size(), k = experts.extent(1);
  auto const scope = ctx.scratch().scope();
  bool const flat = experts.contiguous() && like.contiguous(), alone = count <= Index{SortTuning::alone};
  // Few assignments need as many warps as there are experts, which are scanned a warp each; more go to half blocks of a round each,
  // until every multiprocessor has one.
  Index const alone_threads = std::max(ceil_div(count, Index{32 * items}), std::min(E, Index{most / 32})) * 32;
  Index const threads = alone                                                        ? std::max(Index{32}, alone_threads)
                        : count <= Index{ctx.multiprocessors()} * (most / 2) * items ? most / 2
                                                                                     : most;
  Index const round = threads * items, blocks = std::min(ceil_div(count, round), Index{ctx.multiprocessors()});
  Index const chunk = alone ? count : ceil_div(ceil_div(count, blocks), round) * round;
  auto const grid = static_cast<unsigned>(alone ? 1 : ceil_div(count, chunk)), block = static_cast<unsigned>(threads);
  int* counts = nullptr;
  if (!alone) counts = ctx.scratch().template take<int>(Shape<2>{std::min(E, Index{SortTuning::window}), Index{grid}}).data();
  Index first = 0;
  do {
    SortPass const pass{experts, count, k, E, first, std::min(E - first, Index{SortTuning::window}), chunk, flat, fault};
    if (counts) launch_overlapping(ctx, "sort_count_kernel", &sort_count_kernel, grid, block, 0, pass, counts);
    launch_overlapping(ctx, "sort_rank_kernel", &sort_rank_kernel<Of>, grid, block, 0, pass, counts, of);
    first += SortTuning::window;
  } while (first < E);
}

}  // namespace blackmamba::detail
