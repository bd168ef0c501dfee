#pragma once
/// \file
/// Gradients of the experts' weights on tensor cores: products along the rows of each expert.

#include <blackmamba/ops/expert_mlp/tensor_core.cuh>

namespace blackmamba::detail {

struct WeightsTuning {
  static constexpr int stages = 4, threads = 384;
  static constexpr int rows = 64, columns = 32;                            ///< of what the copy engine adds at once
  static constexpr unsigned place_bytes = rows * columns * 4, places = 2;  ///< where that waits, of each group
  static constexpr unsigned shared_bytes = stages * TensorTuning::stage_bytes + 2 * places * place_bytes + 1024;
  static constexpr int producer_registers = 40, consumer_registers = 232;
};

/// A product along the rows of each expert, added to `out` (E, M, N): left (rows, M), right (rows, N).
struct WeightsProduct {
  CUtensorMap left, right;
  CUtensorMap sums;  ///< of `out`, where the copy engine adds
  bool engine_adds;
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
  static __host__ __device__ int down(int M) { return (M + TensorTuning::rows - 1) / TensorTuning::rows; }
  static __host__ __device__ int across(int N) { return N / TensorTuning::columns + (rest(N) > 0 && !has_narrow(N)); }

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
      m = (in_expert - column * down(M)) * TensorTuning::rows;
      n = (narrow ? across(N) : column) * TensorTuning::columns;
      return true;
    }
    return false;
  }
};

#if defined(__CUDACC__)

/// Has the copy engine add a group's sums of a tile, (64, 256), to where they belong, 32 columns at a time: while it reads some,
/// the next are left in the group's other place. An even number of them, so that the next tile begins with the place that is free
/// first.
__device__ inline void add_sums_by_engine(float const (&sums)[128], WeightsProduct const& p, WeightTile const& tile, int group,
                                          std::uint32_t places) {
  using Tuning = WeightsTuning;
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4, q = lane % 4;
  int const row = 16 * warp + lane / 4;
  bool const leads = threadIdx.x % 128 == 0;
  auto const together = [&] { asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory"); };
#pragma unroll
  for (int part = 0; part < TensorTuning::columns / Tuning::columns; ++part) {
    if (tile.narrow && part == TensorTuning::columns / Tuning::columns / 2) break;
    std::uint32_t const place = places + static_cast<unsigned>(part % 2) * Tuning::place_bytes;
    if (leads) wait_tiles_read<1>();
    together();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t const at = place + static_cast<unsigned>(row * 128 + (((2 * j + q / 2) ^ (row & 7)) * 16 + q % 2 * 8));
      float const* const from = sums + 4 * (4 * part + j);
      store_shared(at, float2{from[0], from[1]}), store_shared(at + 8 * 128, float2{from[2], from[3]});
    }
    publish_to_engines();
    together();
    if (leads) {
      add_tile(p.sums, place, tile.n + Tuning::columns * part, tile.m + Tuning::rows * group, tile.expert);
      commit_tiles();
    }
  }
}

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

#endif

template <class T>
__global__ void __launch_bounds__(WeightsTuning::threads, 1) weights_tensor_kernel(__grid_constant__ WeightsProducts const p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tensor = TensorTuning;
  using Stages = Pipeline<WeightsTuning::stages, WeightTile>;
  extern __shared__ unsigned char tile_memory[];
  __shared__ typename Stages::Shared barriers;
  if (!groups_right(p.groups)) return;
  Stages pipeline{tile_memory, barriers};
  if (threadIdx.x == 0) barriers_ready();
  __syncthreads();
  int const group = static_cast<int>(threadIdx.x) / 128 - 1;
  WeightTile tile;
  if (group < 0) {
    give_registers<WeightsTuning::producer_registers>();
    if (threadIdx.x > 0) return;
    TileNumbers numbers{p.turns};
    while (tile.find(numbers.take(), p)) {
      int const begin = static_cast<int>(p.groups.offsets[tile.expert]), end = static_cast<int>(p.groups.offsets[tile.expert + 1]);
      tile.depth = end - begin;
      WeightsProduct const& product = p.of[tile.which];
      unsigned const right_bytes = tile.narrow ? Tensor::right_bytes / 2 : Tensor::right_bytes;
      for (int k = begin; k < end; k += Tensor::depth, pipeline.next()) {
        pipeline.wait_empty();
        if (k == begin) pipeline.shared->notes[pipeline.stage] = tile;
        std::uint32_t const full = pipeline.full_here();
        barrier_expect(full, Tensor::left_bytes + right_bytes);
        for (unsigned i = 0; i < 2; ++i)
          bring_tile(product.left, full, pipeline.left() + i * Tensor::box_bytes, tile.m + static_cast<int>(64 * i), k);
        for (unsigned i = 0; i * Tensor::box_bytes < right_bytes; ++i)
          bring_tile(product.right, full, pipeline.right() + i * Tensor::box_bytes, tile.n + static_cast<int>(64 * i), k);
      }
    }
    pipeline.finish();
  } else {
    take_registers<WeightsTuning::consumer_registers>();
    std::uint32_t const places =
        pipeline.tiles + Stages::bytes + static_cast<unsigned>(group) * WeightsTuning::places * WeightsTuning::place_bytes;
    float sums[128];
    for (;;) {
      tile = pipeline.wait_note();
      if (tile.expert < 0) break;
      if (tile.narrow)
        sum_tile<T, true, true, TileColumns::narrow>(sums, pipeline, group, tile.depth);
      else
        sum_tile<T, true, true, TileColumns::all>(sums, pipeline, group, tile.depth);
      WeightsProduct const& product = p.of[tile.which];
      if (product.engine_adds)
        add_sums_by_engine(sums, product, tile, group, places);
      else
        add_sums(sums, product, tile.expert, tile.m + 64 * group, tile.n, tile.narrow ? Tensor::columns / 2 : Tensor::columns);
    }
    if (threadIdx.x % 128 == 0) wait_tiles_added();
  }
#else
  __trap();  // the host has asked `has_wgmma`; where files for several architectures are mixed it can be told wrong
#endif
}

}  // namespace blackmamba::detail
