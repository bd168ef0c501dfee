#pragma once
/// \file
/// Products of few rows with large weights where the copy engine can bring the weights: a ring of tiles in shared memory is always
/// being filled, across the ends of sums and of experts, so that the memory never waits.
///
/// As in stream.cuh the weights are the left operand of `mma.sync`, 16 of their rows (and the 16 that they gate) for one block, and
/// what index of the sum a register stands for does not matter. Eight warps take the parts of each tile along the sum; their sums
/// are added in the order of the warps.

#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/ops/expert_mlp/stream.cuh>

namespace blackmamba::detail {

template <bool Gated>
struct RingTuning {
  static constexpr int warps = 8, threads = 32 * (warps + 1), rows = 16, eights = 4, tokens = 8 * eights;
  static constexpr int frames = Gated ? 2 : 1;           ///< rows of the gate and of the value, or just rows
  static constexpr int boxes = Gated ? 4 : 8;            ///< of 64 along the sum, in a stage
  static constexpr int steps = Gated ? 1 : 2;            ///< of 32 along the sum, of a warp in a stage
  static constexpr int stages = 10, depth = 64 * boxes;  ///< of a stage, along the sum
  static constexpr unsigned box_bytes = 16 * 128, stage_bytes = frames * boxes * box_bytes;
  static constexpr int pitch = 16 * frames + 4;
  static constexpr unsigned shared_bytes = stages * stage_bytes + warps * tokens * pitch * 4 + 1024;
};

/// A `StreamProduct` whose weights the copy engine brings, 16 rows by 64.
template <class T>
struct RingProduct {
  CUtensorMap weights;
  StreamProduct<T> of;
};

#if defined(__CUDACC__)

/// The k-th expert that has rows, counted from 0, or -1; by a warp.
__device__ inline int expert_with_rows(Groups const& groups, int k) {
  for (int base = 0; base < groups.experts(); base += 32) {
    int const e = base + static_cast<int>(threadIdx.x) % 32;
    unsigned const has = __ballot_sync(~0u, e < groups.experts() && groups.offsets[e] < groups.offsets[e + 1]);
    int const count = __popc(has);
    if (k < count) return base + static_cast<int>(__fns(has, 0, k + 1));
    k -= count;
  }
  return -1;
}

#endif

template <class T, bool Gated>
__global__ void __launch_bounds__(RingTuning<Gated>::threads, 1) ring_product_kernel(__grid_constant__ RingProduct<T> const ring) {
#if __CUDA_ARCH__ >= 900
  using Tuning = RingTuning<Gated>;
  constexpr int frames = Tuning::frames;
  extern __shared__ unsigned char tile_memory[];
  __shared__ unsigned long long barriers[2 * Tuning::stages];
  StreamProduct<T> const& p = ring.of;
  std::uint32_t const tiles = (static_cast<std::uint32_t>(__cvta_generic_to_shared(tile_memory)) + 1023) & ~1023u;
  std::uint32_t const full = static_cast<std::uint32_t>(__cvta_generic_to_shared(barriers)), empty = full + 8 * Tuning::stages;
  auto* const parts =
      reinterpret_cast<float*>(tile_memory + (tiles - static_cast<std::uint32_t>(__cvta_generic_to_shared(tile_memory))) +
                               Tuning::stages * Tuning::stage_bytes);
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, q = lane % 4;
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < Tuning::stages; ++i) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, Tuning::warps);
    barriers_ready();
  }
  auto const await = [] {
    await_kernels_before();
    let_next_start();  // not sooner: what the next reads early is there then
  };
  if (!p.early) await();
  bool const right = groups_right(p.groups);  // a barrier of the block, too
  if (p.early && (warp < Tuning::warps || !right)) await();
  if (!right) return;
  int const panels = (p.N + Tuning::rows - 1) / Tuning::rows;
  int stage = 0;
  unsigned parity = 0;
  auto const next = [&] {
    if (++stage == Tuning::stages) stage = 0, parity ^= 1;
  };
  for (int panel = static_cast<int>(blockIdx.x);; panel += static_cast<int>(gridDim.x)) {
    int const e = expert_with_rows(p.groups, panel / panels), n0 = panel % panels * Tuning::rows;
    if (e < 0) break;
    Index const begin = p.groups.offsets[e], end = p.groups.offsets[e + 1];
    for (Index first = begin; first < end; first += Tuning::tokens) {
      if (warp == Tuning::warps) {
        for (int k = 0; k < p.K; k += Tuning::depth, next()) {
          if (lane > 0) continue;
          std::uint32_t const here = full + 8 * static_cast<unsigned>(stage),
                              to = tiles + static_cast<unsigned>(stage) * Tuning::stage_bytes;
          int const boxes = min(Tuning::boxes, (p.K - k + 63) / 64);
          barrier_wait(empty + 8 * static_cast<unsigned>(stage), parity ^ 1);
          barrier_expect(here, static_cast<unsigned>(frames * boxes) * Tuning::box_bytes);
          for (int f = 0; f < frames; ++f)
            for (int b = 0; b < boxes; ++b)
              bring_tile(ring.weights, here, to + static_cast<unsigned>(f * Tuning::boxes + b) * Tuning::box_bytes, k + 64 * b,
                         f * p.N + n0, e);
        }
        continue;
      }
      int const count = static_cast<int>(end - first < Tuning::tokens ? end - first : Tuning::tokens), eights = (count + 7) / 8;
      float sums[frames][Tuning::eights][4]{};
      for (int k = 0; k < p.K; k += Tuning::depth, next()) {
        // This warp's part of the stage: from index `mine` on, in box `box`.
        int const box = Gated ? warp / 2 : warp, mine = k + (Gated ? 32 * warp : 64 * warp);
        Piece x[Tuning::eights][Tuning::steps];
#pragma unroll
        for (int j = 0; j < Tuning::eights; ++j) {
          if (j >= eights) break;
          int const token = 8 * j + g;
          T const* const from = p.x.at(first + (token < count ? token : count - 1), mine + 8 * q);
#pragma unroll
          for (int s = 0; s < Tuning::steps; ++s) x[j][s] = mine + 32 * s + 8 * q < p.K ? load_piece(from + 32 * s) : Piece{};
        }
        barrier_wait(full + 8 * static_cast<unsigned>(stage), parity);
        bool const there = mine < p.K;
        Piece w[Tuning::steps][frames][2];
        if (there) {
          std::uint32_t const at =
              tiles + static_cast<unsigned>(stage) * Tuning::stage_bytes + static_cast<unsigned>(box) * Tuning::box_bytes;
#pragma unroll
          for (int s = 0; s < Tuning::steps; ++s)
#pragma unroll
            for (int f = 0; f < frames; ++f)
#pragma unroll
              for (int lower = 0; lower < 2; ++lower) {
                int const piece = 4 * (Gated ? warp % 2 : s) + q;
                float4 const v = load_shared(at + static_cast<unsigned>(f * Tuning::boxes) * Tuning::box_bytes +
                                             static_cast<unsigned>((g + 8 * lower) * 128 + ((piece ^ g) * 16)));
                w[s][f][lower] = {{__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)}};
              }
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(empty + 8 * static_cast<unsigned>(stage));
        if (!there) continue;
#pragma unroll
        for (int j = 0; j < Tuning::eights; ++j) {
          if (j >= eights) break;
#pragma unroll
          for (int s = 0; s < Tuning::steps; ++s)
#pragma unroll
            for (int f = 0; f < frames; ++f)
#pragma unroll
              for (int i = 0; i < 4; i += 2) {
                std::uint32_t const left[4]{w[s][f][0].words[i], w[s][f][1].words[i], w[s][f][0].words[i + 1],
                                            w[s][f][1].words[i + 1]};
                mma_16<T>(sums[f][j], left, x[j][s].words[i], x[j][s].words[i + 1]);
              }
        }
      }
      group_sync<1>();  // the parts of the rows before have been read
#pragma unroll
      for (int j = 0; j < Tuning::eights; ++j) {
        if (j >= eights) break;
#pragma unroll
        for (int f = 0; f < frames; ++f)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            parts[(warp * Tuning::tokens + 8 * j + 2 * q + i % 2) * Tuning::pitch + 16 * f + g + 8 * (i / 2)] = sums[f][j][i];
      }
      group_sync<1>();
      int const n = static_cast<int>(threadIdx.x) % 16;
      for (int token = static_cast<int>(threadIdx.x) / 16; token < count && n0 + n < p.N; token += 16) {
        Index const r = first + token;
        T h[frames];
#pragma unroll
        for (int f = 0; f < frames; ++f) {
          float sum = 0;
#pragma unroll
          for (int v = 0; v < Tuning::warps; ++v) sum += parts[(v * Tuning::tokens + token) * Tuning::pitch + 16 * f + n];
          int const column = f * p.N + n0 + n;
          if (p.bias) sum += device_widen(p.bias(e, column));
          h[f] = device_round<T>(sum);
          if (p.hidden) *p.hidden.at(r, column) = h[f];
        }
        float a = device_activate(p.kind, device_widen(h[0]));
        if constexpr (Gated) a *= device_widen(h[1]);
        *p.y.at(r, n0 + n) = device_round<T>(a);
      }
    }
  }
#endif
}

}  // namespace blackmamba::detail
