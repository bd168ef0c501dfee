#pragma once
/// \file
/// Gradients of the experts' weights on tensor cores: products along the rows of each expert.

#include <blackmamba/ops/expert_mlp/tensor_core.cuh>

namespace blackmamba::detail {

struct WeightsTuning {
  static constexpr int stages = 4, threads = 384;
  static constexpr unsigned shared_bytes = stages * TensorTuning::stage_bytes + 1024;
  static constexpr int producer_registers = 40, consumer_registers = 232;
};

/// A product along the rows of each expert, added to `out` (E, M, N): left (rows, M), right (rows, N).
struct WeightsProduct {
  CUtensorMap left, right;
  Groups groups;
  TileTurns turns;
  int M, N;
  View<float, 3> out;
};

/// The tiles of all experts' weights, by number: the narrow ones last.
struct WeightTile {
  int expert, m, n;
  bool narrow;
  static __host__ __device__ int rest(int N) { return N % TensorTuning::columns; }
  static __host__ __device__ bool has_narrow(int N) { return rest(N) > 0 && rest(N) <= TensorTuning::columns / 2; }
  static __host__ __device__ int down(int M) { return (M + TensorTuning::rows - 1) / TensorTuning::rows; }
  static __host__ __device__ int across(int N) { return N / TensorTuning::columns + (rest(N) > 0 && !has_narrow(N)); }
  static __host__ __device__ int count(int E, int M, int N) { return E * down(M) * (across(N) + has_narrow(N)); }

  __device__ WeightTile(int number, int E, int M, int N) {
    int const wide = E * down(M) * across(N);
    narrow = number >= wide;
    int const local = narrow ? number - wide : number, of_expert = down(M) * (narrow ? 1 : across(N));
    expert = local / of_expert;
    int const in_expert = local - expert * of_expert, column = in_expert / down(M);
    m = (in_expert - column * down(M)) * TensorTuning::rows;
    n = (narrow ? across(N) : column) * TensorTuning::columns;
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
  bool const pairs = across == 1 && down % 2 == 0 && p.out.stride(0) % 2 == 0 && reinterpret_cast<std::uintptr_t>(out) % 8 == 0;
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    if (8 * j >= last) break;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      if (row + 8 * lower >= p.M) continue;
      float* const at = out + 8 * j * across + 8 * lower * down;
      float2 const sum{sums[4 * j + 2 * lower], sums[4 * j + 2 * lower + 1]};
#if __CUDA_ARCH__ >= 900
      if (pairs) {
        atomicAdd(reinterpret_cast<float2*>(at), sum);
        continue;
      }
#endif
      atomicAdd(at, sum.x), atomicAdd(at + across, sum.y);
    }
  }
}

#endif

template <class T>
__global__ void __launch_bounds__(WeightsTuning::threads, 1) weights_tensor_kernel(__grid_constant__ WeightsProduct const p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tensor = TensorTuning;
  using Stages = Pipeline<WeightsTuning::stages>;
  extern __shared__ unsigned char tile_memory[];
  __shared__ typename Stages::Shared barriers;
  if (!groups_right(p.groups)) return;
  Stages pipeline{tile_memory, barriers};
  if (threadIdx.x == 0) barriers_ready();
  __syncthreads();
  int const warp_group = static_cast<int>(threadIdx.x) / 128, E = static_cast<int>(p.groups.experts());
  int const count = WeightTile::count(E, p.M, p.N);
  if (warp_group == 0) {
    give_registers<WeightsTuning::producer_registers>();
    if (threadIdx.x > 0) return;
    TileNumbers numbers{p.turns};
    for (int number = numbers.take(); number < count; number = numbers.take()) {
      WeightTile const tile{number, E, p.M, p.N};
      int const begin = static_cast<int>(p.groups.offsets[tile.expert]), end = static_cast<int>(p.groups.offsets[tile.expert + 1]);
      unsigned const right_bytes = tile.narrow ? Tensor::right_bytes / 2 : Tensor::right_bytes;
      for (int k = begin; k < end; k += Tensor::depth, pipeline.next()) {
        pipeline.wait_empty();
        if (k == begin) pipeline.shared->number[pipeline.stage] = number;
        std::uint32_t const full = pipeline.full_here();
        barrier_expect(full, Tensor::left_bytes + right_bytes);
        for (unsigned i = 0; i < 2; ++i)
          bring_tile(p.left, full, pipeline.left() + i * Tensor::box_bytes, tile.m + static_cast<int>(64 * i), k);
        for (unsigned i = 0; i * Tensor::box_bytes < right_bytes; ++i)
          bring_tile(p.right, full, pipeline.right() + i * Tensor::box_bytes, tile.n + static_cast<int>(64 * i), k);
      }
    }
    pipeline.finish();
  } else {
    take_registers<WeightsTuning::consumer_registers>();
    int const group = warp_group - 1;
    float sums[128];
    for (;;) {
      int const number = pipeline.wait_number();
      if (number < 0) break;
      WeightTile const tile{number, E, p.M, p.N};
      Index const depth = p.groups.offsets[tile.expert + 1] - p.groups.offsets[tile.expert];
      if (tile.narrow)
        sum_tile<T, true, true, true>(sums, pipeline, group, depth);
      else
        sum_tile<T, true, true, false>(sums, pipeline, group, depth);
      add_sums(sums, p, tile.expert, tile.m + 64 * group, tile.n, tile.narrow ? Tensor::columns / 2 : Tensor::columns);
    }
  }
#else
  __trap();  // the host has asked `has_wgmma`; where files for several architectures are mixed it can be told wrong
#endif
}

}  // namespace blackmamba::detail
