#pragma once
/// \file
/// Products of all experts at once on any GPU, for any strides: tiles in shared memory, by `mma.sync` for 2-byte scalars (128 × 128
/// × 32) and by multiply-adds for float and double (64 × 64 × 16). The next tiles are read from memory while these are multiplied.

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/core/view.hpp>
#include <blackmamba/ops/activation/device.cuh>
#include <blackmamba/ops/expert_mlp/groups.cuh>

namespace blackmamba::detail {

template <class T>
struct PlainTuning {
  static constexpr bool mma = sizeof(T) == 2;
  static constexpr int side = mma ? 128 : 64, depth = mma ? 32 : 16, threads = 256;
  static constexpr int vector = mma ? 8 : 4, vectors = side * depth / (threads * vector);
  static constexpr int pitch = mma ? depth + 8 : side + 4;  ///< of rows along the sum with mma, else of rows across
  static constexpr int slots = mma ? side * pitch : depth * pitch;
  static constexpr int sums = side * side / threads;
};

/// One operand: its element (i, k), of output index i and index k of the sum, is data[i · across + k · along].
template <class T>
struct PlainOperand {
  T const* data = nullptr;
  Index across = 0, along = 0, expert = 0;
};

/// out (rows, N) = left (rows, K) right_e (N, K)ᵀ + bias_e; or with `Weights`, out_e (M, N) += left (M, rows) right (N, rows)ᵀ.
template <class T, bool Weights>
struct PlainProduct {
  using Out = std::conditional_t<Weights, accumulator_t<T>, T>;
  PlainOperand<T> left, right;
  Groups groups;
  Index M, N, K;
  View<T const, 2> bias;
  Out* out;
  Index out_row, out_column, out_expert;
};

#if defined(__CUDACC__)

/// A thread's share of a tile on its way from memory to shared memory.
template <class T>
struct PlainShare {
  using Tuning = PlainTuning<T>;
  static constexpr int V = Tuning::vector;
  struct alignas(16) Vector {
    T of[V];
  };
  Vector held[Tuning::vectors];

  /// Where vector v begins: output index and index of the sum.
  static __device__ void place(int v, bool along, int& i, int& k) {
    int const n = v * Tuning::threads + static_cast<int>(threadIdx.x);
    constexpr int in_row = Tuning::depth / V, in_column = Tuning::side / V;
    if (along)
      i = n / in_row, k = n % in_row * V;
    else
      k = n / in_column, i = n % in_column * V;
  }

  /// Elements (i0 + i, k0 + k), those past `i_end` or `k_end` as zero.
  __device__ void load(PlainOperand<T> const& from, bool along, bool whole, Index i0, Index i_end, Index k0, Index k_end) {
#pragma unroll
    for (int v = 0; v < Tuning::vectors; ++v) {
      int i, k;
      place(v, along, i, k);
      Index const row = i0 + i, at = k0 + k;
      T const* const p = from.data + row * from.across + at * from.along;
      Index const left = along ? k_end - at : i_end - row;
      bool const inside = along ? row < i_end : at < k_end;
      if (whole && inside && left >= V) {
        held[v] = *reinterpret_cast<Vector const*>(p);
      } else {
        Index const step = along ? from.along : from.across;
#pragma unroll
        for (int x = 0; x < V; ++x) held[v].of[x] = inside && x < left ? p[x * step] : T(0.0f);
      }
    }
  }

  __device__ void store(T* to, bool along) const {
#pragma unroll
    for (int v = 0; v < Tuning::vectors; ++v) {
      int i, k;
      place(v, along, i, k);
      if (Tuning::mma && along) {
        *reinterpret_cast<Vector*>(to + i * Tuning::pitch + k) = held[v];
        continue;
      }
#pragma unroll
      for (int x = 0; x < V; ++x) {
        int const row = along ? i : i + x, at = along ? k + x : k;
        to[Tuning::mma ? row * Tuning::pitch + at : at * Tuning::pitch + row] = held[v].of[x];
      }
    }
  }
};

/// Whether vectors of an operand can be read in one access in tiles that begin at (first, k).
template <class T>
__device__ bool vectors_align(PlainOperand<T> const& x, bool along, Index first, Index k) {
  constexpr Index V = PlainTuning<T>::vector;
  return (along ? x.along : x.across) == 1 && (along ? x.across : x.along) % V == 0 && x.expert % V == 0 &&
         reinterpret_cast<std::uintptr_t>(x.data) % (V * sizeof(T) < 16 ? V * sizeof(T) : 16) == 0 && (along ? k : first) % V == 0;
}

__device__ inline void load_matrices(std::uint32_t (&to)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/// d (16, 8) += a (16, 16) b (16, 8), by a warp.
template <class T>
__device__ void mma_16(float* d, std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::is_same_v<T, half>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Adds the product of two tiles in shared memory to a thread's sums.
template <class T>
__device__ void multiply_tiles(accumulator_t<T> (&sums)[PlainTuning<T>::sums], T const* left, T const* right) {
  using Tuning = PlainTuning<T>;
  int const thread = static_cast<int>(threadIdx.x);
  if constexpr (Tuning::mma) {
    // Warps 2 by 4, each 64 rows by 32 columns.
    int const lane = thread % 32, warp = thread / 32;
    std::uint32_t const a0 = static_cast<std::uint32_t>(__cvta_generic_to_shared(left)) +
                             2 * static_cast<unsigned>((warp / 4 * 64 + lane % 16) * Tuning::pitch + lane / 16 * 8);
    std::uint32_t const b0 =
        static_cast<std::uint32_t>(__cvta_generic_to_shared(right)) +
        2 * static_cast<unsigned>((warp % 4 * 32 + lane / 16 * 8 + lane % 8) * Tuning::pitch + lane / 8 % 2 * 8);
#pragma unroll
    for (unsigned k = 0; k < Tuning::depth; k += 16) {
      std::uint32_t a[4][4], b[2][4];
#pragma unroll
      for (unsigned i = 0; i < 4; ++i) load_matrices(a[i], a0 + 2 * (i * 16 * Tuning::pitch + k));
#pragma unroll
      for (unsigned j = 0; j < 2; ++j) load_matrices(b[j], b0 + 2 * (j * 16 * Tuning::pitch + k));
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_16<T>(sums + 4 * (4 * i + j), a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
  } else {
    // Threads 16 by 16, each 4 by 4.
    T const *const l = left + thread / 16 * 4, *const r = right + thread % 16 * 4;
#pragma unroll
    for (int k = 0; k < Tuning::depth; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[4 * i + j] += l[k * Tuning::pitch + i] * r[k * Tuning::pitch + j];
  }
}

/// Row and column in the tile of a thread's sum i.
template <class T>
__device__ void plain_place(int i, int& row, int& column) {
  int const thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  if constexpr (PlainTuning<T>::mma) {
    row = warp / 4 * 64 + i / 16 * 16 + i / 2 % 2 * 8 + lane / 4;
    column = warp % 4 * 32 + i / 4 % 4 * 8 + lane % 4 * 2 + i % 2;
  } else {
    row = thread / 16 * 4 + i / 4, column = thread % 16 * 4 + i % 4;
  }
}

#endif

template <class T, bool Weights>
__global__ void __launch_bounds__(PlainTuning<T>::threads)
    plain_product_kernel(__grid_constant__ PlainProduct<T, Weights> const p) {
  using Tuning = PlainTuning<T>;
  using A = accumulator_t<T>;
  __shared__ alignas(16) T tiles[2][2][Tuning::slots];
  if (!groups_right(p.groups)) return;
  constexpr Index side = Tuning::side;
  bool const left_along = p.left.across != 1 || p.left.along == 1, right_along = p.right.across != 1 || p.right.along == 1;
  GroupWalk<Tuning::side, Tuning::side, false, false> walk{p.groups, static_cast<int>(p.N)};
  int const down = static_cast<int>((p.M + side - 1) / side), across = static_cast<int>((p.N + side - 1) / side);
  int const count = Weights ? static_cast<int>(p.groups.experts()) * down * across : 0x7fffffff;
  for (int number = static_cast<int>(blockIdx.x); number < count; number += static_cast<int>(gridDim.x)) {
    GroupTile tile;
    Index first_row, row_end, k, k_end;
    if constexpr (Weights) {
      tile.expert = number / (down * across);
      int const in_expert = number - tile.expert * down * across;
      tile.column = in_expert / down * Tuning::side;
      first_row = in_expert % down * side, row_end = p.M;
      k = p.groups.offsets[tile.expert], k_end = p.groups.offsets[tile.expert + 1];
      if (k == k_end) continue;
    } else {
      if (!walk.find(number, tile)) break;
      first_row = tile.begin, row_end = tile.end, k = 0, k_end = p.K;
    }
    PlainOperand<T> left = p.left, right = p.right;
    if constexpr (!Weights) right.data += tile.expert * right.expert;
    bool const left_whole = vectors_align(left, left_along, first_row, k), right_whole = vectors_align(right, right_along, 0, k);
    A sums[Tuning::sums]{};
    PlainShare<T> of_left, of_right;
    auto const load = [&](Index at) {
      of_left.load(left, left_along, left_whole, first_row, row_end, at, k_end);
      of_right.load(right, right_along, right_whole, tile.column, p.N, at, k_end);
    };
    int buffer = 0;
    if (k < k_end) load(k);
    for (; k < k_end; k += Tuning::depth, buffer ^= 1) {
      of_left.store(tiles[buffer][0], left_along), of_right.store(tiles[buffer][1], right_along);
      __syncthreads();
      if (k + Tuning::depth < k_end) load(k + Tuning::depth);
      multiply_tiles<T>(sums, tiles[buffer][0], tiles[buffer][1]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Tuning::sums; ++i) {
      int row, column;
      plain_place<T>(i, row, column);
      Index const r = first_row + row, c = tile.column + column;
      if (r >= row_end || c >= p.N) continue;
      auto& out = p.out[r * p.out_row + c * p.out_column + tile.expert * p.out_expert];
      if constexpr (Weights) {
        out += sums[i];
      } else {
        A sum = sums[i];
        if (p.bias) sum += device_widen(p.bias(tile.expert, c));
        out = device_round<T>(sum);
      }
    }
  }
}

/// What lies between the two products, element by element, of the rows that experts have: a from h; with `Backward` also d_h from
/// d_a, which may be where a is.
template <class T, bool Backward>
struct ExpertInner {
  Groups groups;
  Activation kind;
  bool gated;
  View<T const, 2> hidden;
  View<T, 2> active;
  View<T const, 2> d_active;
  View<T, 2> d_hidden;
};

template <class T, bool Backward>
__global__ void __launch_bounds__(256) expert_inner_kernel(__grid_constant__ ExpertInner<T, Backward> const p) {
  using A = accumulator_t<T>;
  if (!groups_right(p.groups)) return;
  Index const F = p.active.extent(1), count = p.groups.offsets[p.groups.experts()] * F;
  for (Index at = Index{blockIdx.x} * blockDim.x + threadIdx.x; at < count; at += Index{gridDim.x} * blockDim.x) {
    Index const r = at / F, f = at - r * F;
    A const gate = device_widen(p.hidden(r, f)), value = p.gated ? device_widen(p.hidden(r, F + f)) : A(1);
    if constexpr (Backward) {
      A const d = device_widen(p.d_active(r, f));
      auto const [activated, slope] = device_activated(p.kind, gate);
      p.d_hidden(r, f) = device_round<T>(p.gated ? d * value * slope : d * slope);
      if (p.gated) p.d_hidden(r, F + f) = device_round<T>(d * activated);
      p.active(r, f) = device_round<T>(p.gated ? activated * value : activated);
    } else {
      A const activated = device_activate(p.kind, gate);
      p.active(r, f) = device_round<T>(p.gated ? activated * value : activated);
    }
  }
}

/// out (E, columns) += the sums of x over the rows of each expert. Blocks (columns by 32, experts): a warp takes every 16th row.
template <class T>
__global__ void __launch_bounds__(512)
    expert_sums_kernel(__grid_constant__ Groups const groups, __grid_constant__ View<T const, 2> const x,
                       __grid_constant__ View<accumulator_t<T>, 2> const out) {
  using A = accumulator_t<T>;
  __shared__ A shares[16][32];
  if (!groups_right(groups)) return;
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  Index const column = Index{blockIdx.x} * 32 + lane;
  bool const inside = column < x.extent(1);
  for (Index e = blockIdx.y; e < groups.experts(); e += gridDim.y) {
    Index const begin = groups.offsets[e], end = groups.offsets[e + 1];
    if (begin == end) continue;
    A sum{0};
    if (inside) {
#pragma unroll 8
      for (Index r = begin + warp; r < end; r += 16) sum += device_widen(x(r, column));
    }
    __syncthreads();
    shares[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || !inside) continue;
    for (int w = 1; w < 16; ++w) sum += shares[w][lane];
    out(e, column) += sum;
  }
}

}  // namespace blackmamba::detail
