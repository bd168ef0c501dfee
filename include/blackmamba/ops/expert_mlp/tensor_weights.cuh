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

/// Brings the `columns` (128 or 256) of 64 rows from (m, n) on of an expert's `out` to the L2 cache; by 128 threads.
__device__ inline void fetch_out(WeightsProduct const& p, int expert, int m, int n, int columns) {
  int const thread = static_cast<int>(threadIdx.x) % 128;
  bool const along = p.out.stride(2) == 1;
  float const* const out = p.out.data() + expert * p.out.stride(0);
  // Lines of 32 floats: 64 rows of `columns` of them, or `columns` rows of 64.
  int const in_row = (along ? columns : 64) / 32;
  for (int i = thread; i < 64 * columns / 32; i += 128) {
    int const row = i / in_row, at = i % in_row * 32;
    int const r = m + (along ? row : at), c = n + (along ? at : row);
    if (r < p.M && c < p.N) asm volatile("prefetch.global.L2 [%0];" ::"l"(out + r * p.out.stride(1) + c * p.out.stride(2)));
  }
}

/// Adds a tile's sums to where they belong. One thread in all adds to each element, so that the order of additions says nothing,
/// and it need not wait for what was there.
template <int Columns>
__device__ void add_sums(float const (&sums)[128], WeightsProduct const& p, int expert, int m, int n, int columns) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4, q = lane % 4;
  int const row = m + 16 * warp + lane / 4, last = p.N - n < columns ? p.N - n : columns;
  Index const down = p.out.stride(1), across = p.out.stride(2);
  float* const out = p.out.data() + expert * p.out.stride(0) + (n + 2 * q) * across + row * down;
  bool const pairs = across == 1 && down % 2 == 0 && p.out.stride(0) % 2 == 0 && reinterpret_cast<std::uintptr_t>(out) % 8 == 0;
#pragma unroll
  for (int j = 0; j < Columns / 8; ++j) {
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
      int const columns = tile.narrow ? Tensor::columns / 2 : Tensor::columns;
      fetch_out(p, tile.expert, tile.m + 64 * group, tile.n, columns);
      if (tile.narrow)
        sum_tile<T, true, true, true>(sums, pipeline, group, depth);
      else
        sum_tile<T, true, true, false>(sums, pipeline, group, depth);
      add_sums<Tensor::columns>(sums, p, tile.expert, tile.m + 64 * group, tile.n, columns);
    }
  }
#endif
}

/// The same with tiles of 128 × 128 and two blocks a multiprocessor, of which one multiplies while the other adds.
struct HalfWeightsTuning {
  static constexpr int stages = 3, threads = 288, side = 128, depth = 64;
  static constexpr unsigned operand_bytes = side * depth * 2, stage_bytes = 2 * operand_bytes, box_bytes = 64 * 64 * 2;
  static constexpr unsigned shared_bytes = stages * stage_bytes + 1024;
};

template <class T>
__global__ void __launch_bounds__(HalfWeightsTuning::threads, 2) weights_half_kernel(__grid_constant__ WeightsProduct const p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tuning = HalfWeightsTuning;
  extern __shared__ unsigned char tile_memory[];
  __shared__ unsigned long long barriers[2 * Tuning::stages];
  __shared__ int numbers[Tuning::stages];  // with the first stage of a tile; negative: no more
  std::uint32_t const tiles = (static_cast<std::uint32_t>(__cvta_generic_to_shared(tile_memory)) + 1023) & ~1023u;
  std::uint32_t const full = static_cast<std::uint32_t>(__cvta_generic_to_shared(barriers)), empty = full + 8 * Tuning::stages;
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < Tuning::stages; ++i) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, 8);
    barriers_ready();
  }
  if (!groups_right(p.groups)) return;  // a barrier of the block, too
  int const down = (p.M + Tuning::side - 1) / Tuning::side, across = (p.N + Tuning::side - 1) / Tuning::side;
  int const of_expert = down * across, count = static_cast<int>(p.groups.experts()) * of_expert;
  unsigned stage = 0, parity = 0;
  auto const next = [&] {
    if (++stage == Tuning::stages) stage = 0, parity ^= 1;
  };
  if (threadIdx.x >= 256) {
    if (threadIdx.x > 256) return;
    TileNumbers turns{p.turns};
    for (int number = turns.take(); number < count; number = turns.take()) {
      int const expert = number / of_expert, in_expert = number % of_expert;
      int const m = in_expert % down * Tuning::side, n = in_expert / down * Tuning::side;
      int const begin = static_cast<int>(p.groups.offsets[expert]), end = static_cast<int>(p.groups.offsets[expert + 1]);
      for (int k = begin; k < end; k += Tuning::depth, next()) {
        barrier_wait(empty + 8 * stage, parity ^ 1);
        if (k == begin) numbers[stage] = number;
        std::uint32_t const here = full + 8 * stage, left = tiles + stage * Tuning::stage_bytes,
                            right = left + Tuning::operand_bytes;
        barrier_expect(here, Tuning::stage_bytes);
        for (unsigned i = 0; i < 2; ++i) {
          bring_tile(p.left, here, left + i * Tuning::box_bytes, m + static_cast<int>(64 * i), k);
          bring_tile(p.right, here, right + i * Tuning::box_bytes, n + static_cast<int>(64 * i), k);
        }
      }
    }
    barrier_wait(empty + 8 * stage, parity ^ 1);
    numbers[stage] = -1;
    barrier_arrive(full + 8 * stage);
  } else {
    int const group = static_cast<int>(threadIdx.x) / 128;
    bool const leads = static_cast<int>(threadIdx.x) % 32 == 0;
    float sums[128];  // the first half of them
    for (;;) {
      barrier_wait(full + 8 * stage, parity);
      int const number = numbers[stage];
      if (number < 0) break;
      int const expert = number / of_expert, in_expert = number % of_expert;
      int const m = in_expert % down * Tuning::side + 64 * group, n = in_expert / down * Tuning::side;
      int const depth = static_cast<int>(p.groups.offsets[expert + 1] - p.groups.offsets[expert]);
      fetch_out(p, expert, m, n, Tuning::side);
      std::uint32_t before = 0;
      wgmma_hold<64>(sums);
      for (int k = 0; k < depth; k += Tuning::depth, next()) {
        barrier_wait(full + 8 * stage, parity);
        std::uint32_t const left = tiles + stage * Tuning::stage_bytes + static_cast<unsigned>(group) * Tuning::box_bytes;
        std::uint32_t const right = tiles + stage * Tuning::stage_bytes + Tuning::operand_bytes;
        if (k + Tuning::depth > depth) {
          // Rows past the expert's count as zero: each group its half of either operand.
          int const first = depth - k;
          for (int i = static_cast<int>(threadIdx.x) % 128; i < (Tuning::depth - first) * 8; i += 128) {
            unsigned const at = static_cast<unsigned>(first * 128 + i * 16);
            store_shared(left + at, float4{0, 0, 0, 0});
            store_shared(right + static_cast<unsigned>(group) * Tuning::box_bytes + at, float4{0, 0, 0, 0});
          }
          publish_to_engines();
          group_sync<1>();
        }
        std::uint64_t const a = tile_descriptor(left, Tuning::box_bytes), b = tile_descriptor(right, Tuning::box_bytes);
        wgmma_begin();
#pragma unroll
        for (unsigned i = 0; i < Tuning::depth / 16; ++i)
          wgmma_128<T, true, true>(sums, a + (i * 2048 >> 4), b + (i * 2048 >> 4), k > 0 || i > 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (k > 0 && leads) barrier_arrive(before);
        before = empty + 8 * stage;
      }
      wgmma_wait<0>();
      wgmma_hold<64>(sums);
      if (leads) barrier_arrive(before);
      add_sums<128>(sums, p, expert, m, n, Tuning::side);
    }
  }
#endif
}

}  // namespace blackmamba::detail
