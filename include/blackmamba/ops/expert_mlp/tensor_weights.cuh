#pragma once
/// \file
/// Gradients of the experts' weights on tensor cores: products along the rows of each expert.

#include <blackmamba/ops/expert_mlp/tensor_core.cuh>

namespace blackmamba::detail {

struct WeightsTuning {
  static constexpr bool pair = BLACKMAMBA_TRY_PAIRS >> 3 & 1;               ///< whether blocks work in pairs
  static constexpr int stages = 4, threads = 384, rows = pair ? 256 : 128;  ///< rows of one block or of two
  static constexpr unsigned shared_bytes = stages * TensorTuning::stage_bytes + 1024;
  static constexpr int producer_registers = 64, consumer_registers = 216;
};

/// A product along the rows of each expert, added to `out` (E, M, N): left (rows, M), right (rows, N).
struct WeightsProduct {
  CUtensorMap left, right;
  int M, N;
  View<float, 3> out;
};

/// Up to two such products, whose tiles are dealt together: the end of one does not wait.
struct WeightsProducts {
  WeightsProduct of[2];
  int count = 0;
  Groups groups;
  TileTurns turns;
};

/// The tiles of all experts' weights, by number: the narrow ones last.
struct WeightTile {
  int which, expert, m, n, depth;
  bool narrow;

  static __host__ __device__ int rest(int N) { return N % TensorTuning::columns; }
  static __host__ __device__ bool has_narrow(int N) { return rest(N) > 0 && rest(N) <= TensorTuning::columns / 2; }
  static __host__ __device__ int down(int M) { return (M + WeightsTuning::rows - 1) / WeightsTuning::rows; }
  static __host__ __device__ int across(int N) { return N / TensorTuning::columns + (rest(N) > 0 && !has_narrow(N)); }
  static __host__ __device__ int count(int E, int M, int N) { return E * down(M) * (across(N) + has_narrow(N)); }

  /// False past the last. What the rows say is not looked at: `depth` is left out.
  __device__ bool find(int number, WeightsProducts const& p) {
    int const E = static_cast<int>(p.groups.experts());
    for (int section = 0; section < 2 * p.count; ++section) {
      narrow = section >= p.count, which = narrow ? section - p.count : section;
      int const M = p.of[which].M, N = p.of[which].N;
      int const of_expert = down(M) * (narrow ? static_cast<int>(has_narrow(N)) : across(N));
      if (number >= E * of_expert) {
        number -= E * of_expert;
        continue;
      }
      expert = number / of_expert;
      int const in_expert = number - expert * of_expert, column = in_expert / down(M);
      m = (in_expert - column * down(M)) * WeightsTuning::rows;
      n = (narrow ? across(N) : column) * TensorTuning::columns;
      return true;
    }
    return false;
  }
};

#if defined(__CUDACC__)

/// Adds a tile's sums to where they belong. One thread in all adds to each element, so that the order of additions says nothing,
/// and it need not wait for what was there.
__device__ inline void add_sums(float const (&sums)[128], WeightsProduct const& p, int expert, int m, int n, int columns) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4, q = lane % 4;
  int const row = m + 16 * warp + lane / 4, last = p.N - n < columns ? p.N - n : columns;
  Index const down = p.out.stride(1), across = p.out.stride(2);
  float* const out = p.out.data() + expert * p.out.stride(0) + (n + 2 * q) * across + row * down;
  bool const upper = row < p.M, lower = row + 8 < p.M;
#if __CUDA_ARCH__ >= 900
  if (across == 1 && down % 2 == 0 && p.out.stride(0) % 2 == 0 && reinterpret_cast<std::uintptr_t>(p.out.data()) % 8 == 0) {
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      if (8 * j >= last) break;
      if (upper) atomicAdd(reinterpret_cast<float2*>(out + 8 * j), float2{sums[4 * j], sums[4 * j + 1]});
      if (lower) atomicAdd(reinterpret_cast<float2*>(out + 8 * j + 8 * down), float2{sums[4 * j + 2], sums[4 * j + 3]});
    }
    return;
  }
#endif
  float* at = out;
#pragma unroll
  for (int j = 0; j < 32; ++j, at += 8 * across) {
    if (8 * j >= last) break;
    if (upper) atomicAdd(at, sums[4 * j]), atomicAdd(at + across, sums[4 * j + 1]);
    if (lower) atomicAdd(at + 8 * down, sums[4 * j + 2]), atomicAdd(at + 8 * down + across, sums[4 * j + 3]);
  }
}

/// Brings the places of a tile's sums to the L2 cache while the sums are made, a part with each step, by a warp: additions there
/// then wait for no memory.
class PlacesAhead {
 public:
  __device__ PlacesAhead(WeightsProduct const& p, WeightTile const& tile) : next_{static_cast<int>(threadIdx.x) % 32} {
    int const rows = min(TensorTuning::rows, p.M - tile.m);
    int const columns = min(tile.narrow ? TensorTuning::columns / 2 : TensorTuning::columns, p.N - tile.n);
    Index const down = p.out.stride(1), across = p.out.stride(2);
    first_ = p.out.data() + tile.expert * p.out.stride(0) + tile.m * down + tile.n * across;
    step_ = across == 1 ? down : across;
    of_run_ = ((across == 1 ? columns : down == 1 ? rows : 0) + 31) / 32;
    lines_ = rows <= 0 ? 0 : of_run_ * (across == 1 ? rows : columns);
    int const steps = (tile.depth + TensorTuning::depth - 1) / TensorTuning::depth;
    each_ = (lines_ + 32 * steps - 1) / (32 * steps);
  }
  __device__ void step() {
    for (int i = 0; i < each_ && next_ < lines_; ++i, next_ += 32) {
      int const run = next_ / of_run_;
      asm volatile("prefetch.global.L2 [%0];" ::"l"(first_ + run * step_ + 32 * (next_ - run * of_run_)));
    }
  }

 private:
  float const* first_;
  Index step_;
  int next_, of_run_, lines_, each_;
};

#ifndef BLACKMAMBA_TRY_PLACES_AHEAD
#define BLACKMAMBA_TRY_PLACES_AHEAD 1
#endif

/// Asks for what a stage needs of a tile, rows from `row` on; both blocks of a pair for half of what both need.
template <class Stages>
__device__ void bring_along(WeightsProduct const& p, Stages const& stages, WeightTile const& tile, int row) {
  using Tensor = TensorTuning;
  int const boxes = tile.narrow ? 2 : 4, each = Stages::pair ? boxes / 2 : boxes, rank = Stages::pair ? rank_in_pair() : 0;
  std::uint32_t const full = stages.full_here();
  barrier_expect(full, Tensor::left_bytes + static_cast<unsigned>(boxes) * Tensor::box_bytes);
  for (int i = 0; i < 2; ++i)
    bring_tile(p.left, full, stages.left() + static_cast<unsigned>(i) * Tensor::box_bytes, tile.m + 64 * i, row);
  for (int i = rank * each; i < (rank + 1) * each; ++i) {
    std::uint32_t const to = stages.right() + static_cast<unsigned>(i) * Tensor::box_bytes;
    if constexpr (Stages::pair)
      bring_tile_to_pair(p.right, full, to, tile.n + 64 * i, row);
    else
      bring_tile(p.right, full, to, tile.n + 64 * i, row);
  }
}

#endif

template <class T>
__global__ void __launch_bounds__(WeightsTuning::threads, 1) weights_tensor_kernel(__grid_constant__ WeightsProducts const p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tensor = TensorTuning;
  using Stages = Pipeline<WeightsTuning::stages, WeightTile, WeightsTuning::pair>;
  extern __shared__ unsigned char tile_memory[];
  __shared__ typename Stages::Shared barriers;
  Stages pipeline{tile_memory, barriers};
  if (BLACKMAMBA_TRY_OVERLAP) let_next_start();
  await_kernels_before();
  if (!groups_right(p.groups)) return;
  Stages::begin();
  int const group = static_cast<int>(threadIdx.x) / 128 - 1;
  WeightTile tile;
  if (group < 0) {
    give_registers<WeightsTuning::producer_registers>();
    if (threadIdx.x >= 32) return;
    bool const leads = threadIdx.x == 0;
    TileNumbers<Stages> numbers{p.turns, pipeline};
    auto const begins = [&](int expert) { return static_cast<int>(p.groups.offsets[expert]); };
    for (;;) {
      int number = 0;
      if (leads) number = numbers.take([&](int n) { return !tile.find(n, p) || begins(tile.expert) < begins(tile.expert + 1); });
      number = __shfl_sync(~0u, number, 0);
      if (!tile.find(number, p)) break;
      if constexpr (Stages::pair) tile.m += rank_in_pair() * Tensor::rows;
      int const begin = begins(tile.expert);
      tile.depth = begins(tile.expert + 1) - begin;
      WeightsProduct const& product = p.of[tile.which];
      PlacesAhead places{product, tile};
      for (int k = 0; k < tile.depth; k += Tensor::depth, pipeline.next()) {
        if (leads) {
          pipeline.wait_empty();
          if (k == 0) pipeline.shared->notes[pipeline.stage] = tile;
          bring_along(product, pipeline, tile, begin + k);
        }
        __syncwarp();
        if (BLACKMAMBA_TRY_PLACES_AHEAD) places.step();
      }
    }
    if (leads) pipeline.finish();
  } else {
    take_registers<WeightsTuning::consumer_registers>();
    float sums[128];
    for (;;) {
      tile = pipeline.wait_note();
      if (tile.expert < 0) break;
      if (tile.narrow)
        sum_tile<T, true, true, TileColumns::narrow>(sums, pipeline, group, tile.depth);
      else
        sum_tile<T, true, true, TileColumns::all>(sums, pipeline, group, tile.depth);
      add_sums(sums, p.of[tile.which], tile.expert, tile.m + 64 * group, tile.n,
               tile.narrow ? Tensor::columns / 2 : Tensor::columns);
    }
  }
  Stages::end();
#else
  __trap();  // the host has asked `has_wgmma`; where files for several architectures are mixed it can be told wrong
#endif
}

}  // namespace blackmamba::detail
