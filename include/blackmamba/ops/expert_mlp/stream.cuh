#pragma once
/// \file
/// Products of few rows with large weights: each weight is read once, straight into the registers that `mma.sync` takes it from,
/// and what counts is that all of the chip reads.
///
/// The weights are the left operand, 16 of their rows, and the experts' rows the right one, 8 at a time. A lane reads 16 bytes
/// along the sum of a row of either: which index of the sum a register stands for is the same in both, and so does not matter. A
/// block has 16 rows of an expert's weights (and the 16 that they gate), which its warps split along the sum; their parts are added
/// in the order of the warps.

#include <blackmamba/ops/expert_mlp/plain.cuh>
#include <blackmamba/ops/expert_mlp/tensor_rows.cuh>

namespace blackmamba::detail {

struct StreamTuning {
  static constexpr int warps = 8, threads = 32 * warps, rows = 16;
  static constexpr int eights = 4;             ///< of rows of x at once
  static constexpr int tokens = 8 * eights;    ///< rows of x at once
  static constexpr Index rows_an_expert = 16;  ///< at most on average, for this to be worth it
};

/// y = act(x W_eᵀ + b_e), or act of the first N rows of W_e times the others.
template <class T>
struct StreamProduct {
  RowsOf<T const> x;
  Groups groups;
  View<T const, 3> weight;
  View<T const, 2> bias;
  int K, N;
  Activation kind;
  RowsOf<T> y;
  RowsOf<T> hidden;
  bool early =
      false;  ///< the kernel before writes x alone, after all before it had ended: the weights and offsets can be read meanwhile
};

#if defined(__CUDACC__)

/// 16 bytes that are read once.
__device__ inline Piece stream_piece(void const* from) {
  Piece x;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(x.words[0]), "=r"(x.words[1]), "=r"(x.words[2]), "=r"(x.words[3])
      : "l"(from));
  return x;
}

#endif

template <class T, bool Gated>
__global__ void __launch_bounds__(StreamTuning::threads, Gated ? 2 : 3)
    stream_product_kernel(__grid_constant__ StreamProduct<T> const p) {
  using Tuning = StreamTuning;
  constexpr int frames = Gated ? 2 : 1, width = 16 * frames, pitch = width + 4;
  __shared__ float parts[Tuning::warps][Tuning::tokens][pitch];
  if (!groups_right(p.groups)) return;
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, q = lane % 4;
  int const n0 = static_cast<int>(blockIdx.x) * Tuning::rows;
  for (int e = static_cast<int>(blockIdx.y); e < p.groups.experts(); e += static_cast<int>(gridDim.y)) {
    Index const begin = p.groups.offsets[e], end = p.groups.offsets[e + 1];
    T const* rows[frames][2];
#pragma unroll
    for (int f = 0; f < frames; ++f)
#pragma unroll
      for (int lower = 0; lower < 2; ++lower) {
        int const n = n0 + g + 8 * lower;
        rows[f][lower] =
            p.weight.data() + e * p.weight.stride(0) + ((n < p.N ? n : p.N - 1) + f * p.N) * p.weight.stride(1) + 8 * q;
      }
    for (Index first = begin; first < end; first += Tuning::tokens) {
      int const count = static_cast<int>(end - first < Tuning::tokens ? end - first : Tuning::tokens), eights = (count + 7) / 8;
      float sums[frames][Tuning::eights][4]{};
      // Two steps of 32, which are the two halves of a cache line. All that a lane reads is asked for before it is used.
#pragma unroll(Gated ? 1 : 2)
      for (int k = 64 * warp; k < p.K; k += 64 * Tuning::warps) {
        Piece a[2][frames][2];
#pragma unroll
        for (int s = 0; s < 2; ++s)
#pragma unroll
          for (int f = 0; f < frames; ++f)
#pragma unroll
            for (int lower = 0; lower < 2; ++lower)
              a[s][f][lower] = k + 32 * s + 8 * q < p.K ? stream_piece(rows[f][lower] + k + 32 * s) : Piece{};
#pragma unroll
        for (int j = 0; j < Tuning::eights; ++j) {
          if (j >= eights) break;
          int const token = 8 * j + g;
          T const* const x = p.x.at(first + (token < count ? token : count - 1), k + 8 * q);
          Piece b[2];
#pragma unroll
          for (int s = 0; s < 2; ++s) b[s] = k + 32 * s + 8 * q < p.K ? load_piece(x + 32 * s) : Piece{};
#pragma unroll
          for (int s = 0; s < 2; ++s)
#pragma unroll
            for (int f = 0; f < frames; ++f)
#pragma unroll
              for (int i = 0; i < 4; i += 2) {
                std::uint32_t const left[4]{a[s][f][0].words[i], a[s][f][1].words[i], a[s][f][0].words[i + 1],
                                            a[s][f][1].words[i + 1]};
                mma_16<T>(sums[f][j], left, b[s].words[i], b[s].words[i + 1]);
              }
        }
      }
      __syncthreads();  // the parts of the rows before have been read
#pragma unroll
      for (int j = 0; j < Tuning::eights; ++j) {
        if (j >= eights) break;
#pragma unroll
        for (int f = 0; f < frames; ++f)
#pragma unroll
          for (int i = 0; i < 4; ++i) parts[warp][8 * j + 2 * q + i % 2][16 * f + g + 8 * (i / 2)] = sums[f][j][i];
      }
      __syncthreads();
      int const n = static_cast<int>(threadIdx.x) % 16;
      for (int token = static_cast<int>(threadIdx.x) / 16; token < count && n0 + n < p.N; token += Tuning::threads / 16) {
        Index const r = first + token;
        T h[frames];
#pragma unroll
        for (int f = 0; f < frames; ++f) {
          float sum = 0;
#pragma unroll
          for (int w = 0; w < Tuning::warps; ++w) sum += parts[w][token][16 * f + n];
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
}

}  // namespace blackmamba::detail
