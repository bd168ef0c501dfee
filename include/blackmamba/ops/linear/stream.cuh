#pragma once
/// \file
/// The linear map of few rows on a GPU, and of many rows to few outputs: one operand comes from memory once, the other is small.
///
/// A block has 8 · Rows rows of the big operand times all of the small one; its warps, and those of the other blocks of its
/// cluster, have a piece of the depth each. A lane reads 16 bytes of one row, a quarter of 64 neighbouring bytes, and so the
/// fragments of m16n8k16 without shared memory: the depth is summed in an order of its own, the same for both operands.

#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/ops/linear/linear.hpp>

namespace blackmamba::detail {

/// out(j, i) = sum_k big(j, k) small(i, k) + bias. Rows of both operands are contiguous and aligned to a lane's read, and so is
/// the depth.
template <class T>
struct Streamed {
  T const* big;
  Index big_rows, big_stride;
  T const* small;
  Index small_rows, small_stride, depth;
  T const* bias;  ///< optional; of a row of big, or of small
  Index bias_big_stride, bias_small_stride;
  T* out;
  Index out_big_stride, out_small_stride;
  bool prefetch;  ///< big comes from no kernel just before
};

/// `Words` words of 4 bytes in one read, zeros where there is nothing to read. The compiler leaves it where it is.
template <int Words>
__device__ void load_words(std::uint32_t (&to)[Words], void const* from, bool there) {
#pragma unroll
  for (int w = 0; w < Words; ++w) to[w] = 0;
  if constexpr (Words == 4)
    asm volatile("{.reg .pred p; setp.ne.s32 p, %5, 0; @p ld.global.v4.u32 {%0, %1, %2, %3}, [%4];}"
                 : "+r"(to[0]), "+r"(to[1]), "+r"(to[2]), "+r"(to[3])
                 : "l"(from), "r"(static_cast<int>(there))
                 : "memory");
  else
    asm volatile("{.reg .pred p; setp.ne.s32 p, %3, 0; @p ld.global.v2.u32 {%0, %1}, [%2];}"
                 : "+r"(to[0]), "+r"(to[1])
                 : "l"(from), "r"(static_cast<int>(there))
                 : "memory");
}

template <class T>
__device__ void multiply_tile(float (&sums)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, bf16>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/// A warp's sums of 8 · Rows rows of big by 8 · Eights of small, by tensor cores.
template <class T, int Eights, int Rows, int Words>
struct StreamTile {
  static constexpr int small_rows = 8 * Eights, small_reads = Eights, pairs = (Eights + 1) / 2;
  float sums[pairs][Rows][4] = {};

  /// The row of small that a lane reads i-th.
  static __device__ unsigned small_row(unsigned i, unsigned lane) { return 8 * i + lane / 4; }

  __device__ void add(std::uint32_t const (&big)[Rows][Words], std::uint32_t const (&small)[Eights][Words]) {
#pragma unroll
    for (int w = 0; w < Words; w += 2)
#pragma unroll
      for (int i = 0; i < pairs; ++i) {
        std::uint32_t a[4] = {small[2 * i][w], 0, small[2 * i][w + 1], 0};
        if constexpr (Eights > 1) a[1] = small[2 * i + 1][w], a[3] = small[2 * i + 1][w + 1];
#pragma unroll
        for (int r = 0; r < Rows; ++r) multiply_tile<T>(sums[i][r], a, big[r][w], big[r][w + 1]);
      }
  }

  /// To shared memory, (small_rows, ≥ 8 · Rows).
  __device__ void store(float* to, unsigned pitch, unsigned lane) {
#pragma unroll
    for (int i = 0; i < pairs; ++i)
#pragma unroll
      for (int half = 0; half < (Eights > 1 ? 2 : 1); ++half)
#pragma unroll
        for (int r = 0; r < Rows; ++r)
          *reinterpret_cast<float2*>(to + (16 * i + 8 * half + lane / 4) * pitch + 8 * r + lane % 4 * 2) = {
              sums[i][r][2 * half], sums[i][r][2 * half + 1]};
  }
};

/// In float32: a lane has a quarter of the depth of a row of big.
template <int Eights, int Rows, int Words>
struct StreamTile<float, Eights, Rows, Words> {
  static constexpr int small_rows = Eights, small_reads = Eights;
  float sums[Eights][Rows] = {};

  static __device__ unsigned small_row(unsigned i, unsigned) { return i; }

  __device__ void add(std::uint32_t const (&big)[Rows][Words], std::uint32_t const (&small)[Eights][Words]) {
#pragma unroll
    for (int w = 0; w < Words; ++w)
#pragma unroll
      for (int i = 0; i < Eights; ++i)
#pragma unroll
        for (int r = 0; r < Rows; ++r) sums[i][r] = fmaf(__uint_as_float(big[r][w]), __uint_as_float(small[i][w]), sums[i][r]);
  }

  __device__ void store(float* to, unsigned pitch, unsigned lane) {
#pragma unroll
    for (int i = 0; i < Eights; ++i)
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        float sum = sums[i][r];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (lane % 4 == 0) to[i * pitch + 8 * r + lane / 4] = sum;
      }
  }
};

/// How a block is laid out: `Depth` warps along the depth times `Wide` along the rows of big; a lane has `Ahead` reads of each of
/// its rows under way. `Eights` as StreamTile has it.
template <int Eights_, int Rows_, int Depth_, int Wide_, int Ahead_, int Words_ = 4, int Blocks_ = 1>
struct StreamLayout {
  static constexpr int Eights = Eights_, Rows = Rows_, Depth = Depth_, Wide = Wide_, Ahead = Ahead_, Words = Words_,
                       Blocks = Blocks_;
  static constexpr int threads = 32 * Depth * Wide, columns = 8 * Rows * Wide;
  static constexpr int pitch = columns + (columns % 32 == 0 ? 8 : 0);
};

/// Blocks (tiles of rows of big by ranks in the cluster of 2^cluster_log2).
template <class T, class L>
__global__ void __launch_bounds__(L::threads, L::Blocks)
    stream_kernel(__grid_constant__ Streamed<T> const p, unsigned cluster_log2) {
  using Tile = StreamTile<T, L::Eights, L::Rows, L::Words>;
  constexpr unsigned chunk = 16 * L::Words / sizeof(T);  // elements of a row that four lanes read at once
  constexpr unsigned one = chunk / 4;
  extern __shared__ __align__(16) float parts[];  // (Depth, small_rows, pitch)
  let_next_start();
  unsigned const thread = threadIdx.x, lane = thread % 32, warp = thread / 32, cluster = 1u << cluster_log2;
  unsigned const warp_depth = warp % L::Depth, rank = cluster > 1 ? cluster_rank() : 0;
  Index const begin = Index{blockIdx.x >> cluster_log2} * L::columns;
  unsigned const chunks = (static_cast<unsigned>(p.depth) + chunk - 1) / chunk;
  auto const piece_begin = [&](unsigned piece) { return chunks * piece / L::Depth >> cluster_log2; };

  if (p.prefetch) {
    unsigned const from = piece_begin(rank * L::Depth) * chunk;
    unsigned const to = min(static_cast<unsigned>(p.depth), piece_begin((rank + 1) * L::Depth) * chunk);
    if (thread < L::columns && begin + thread < p.big_rows && from < to)
      prefetch_to_l2(p.big + (begin + thread) * p.big_stride + from, (to - from) * static_cast<unsigned>(sizeof(T)));
  }

  // Rows beyond the last are read again from the last: their sums go nowhere.
  T const* big[L::Rows];
#pragma unroll
  for (int r = 0; r < L::Rows; ++r)
    big[r] = p.big + min(begin + (warp / L::Depth * L::Rows + r) * 8 + lane / 4, p.big_rows - 1) * p.big_stride + lane % 4 * one;
  T const* small[Tile::small_reads];
#pragma unroll
  for (int i = 0; i < Tile::small_reads; ++i)
    small[i] = p.small + min(Index{Tile::small_row(i, lane)}, p.small_rows - 1) * p.small_stride + lane % 4 * one;

  Tile tile;
  unsigned const last = piece_begin(rank * L::Depth + warp_depth + 1);
  await_kernels_before();
#pragma unroll 1
  for (unsigned first = piece_begin(rank * L::Depth + warp_depth); first < last; first += L::Ahead) {
    std::uint32_t of_big[L::Ahead][L::Rows][L::Words], of_small[L::Ahead][Tile::small_reads][L::Words];
#pragma unroll
    for (int u = 0; u < L::Ahead; ++u) {
      unsigned const k = (first + u) * chunk;
      bool const there = first + u < last && k + lane % 4 * one < static_cast<unsigned>(p.depth);
#pragma unroll
      for (int r = 0; r < L::Rows; ++r) load_words(of_big[u][r], big[r] + k, there);
#pragma unroll
      for (int i = 0; i < Tile::small_reads; ++i) load_words(of_small[u][i], small[i] + k, there);
    }
#pragma unroll
    for (int u = 0; u < L::Ahead; ++u) tile.add(of_big[u], of_small[u]);
  }

  constexpr int size = Tile::small_rows * L::pitch;
  tile.store(parts + warp_depth * size + warp / L::Depth * L::Rows * 8, L::pitch, lane);
  __syncthreads();
  unsigned const rows = static_cast<unsigned>(min(p.small_rows, Index{Tile::small_rows}));
  auto const each_output = [&](unsigned from, unsigned step, auto const& body) {
    bool const along_small = p.out_small_stride == 1;
#pragma unroll 1
    for (unsigned n = from; n < rows * L::columns; n += step) {
      unsigned const i = along_small ? n % rows : n / L::columns, j = along_small ? n / rows : n % L::columns;
      body(i, begin + j, i * L::pitch + j);
    }
  };
  auto const write = [&](unsigned i, Index j, float sum) {
    if (j >= p.big_rows) return;
    if (p.bias) sum += device_widen(p.bias[i * p.bias_small_stride + j * p.bias_big_stride]);
    p.out[i * p.out_small_stride + j * p.out_big_stride] = device_round<T>(sum);
  };
  auto const sum_of_warps = [&](unsigned at) {
    float sum = parts[at];
#pragma unroll
    for (int d = 1; d < L::Depth; ++d) sum += parts[at + d * size];
    return sum;
  };
  if (cluster == 1) {
    each_output(thread, L::threads, [&](unsigned i, Index j, unsigned at) { write(i, j, sum_of_warps(at)); });
  } else {
    each_output(thread, L::threads, [&](unsigned, Index, unsigned at) { parts[at] = sum_of_warps(at); });
    synchronize_cluster();
    each_output(rank * L::threads + thread, cluster * L::threads, [&](unsigned i, Index j, unsigned at) {
      float sum = 0;
#pragma unroll 4
      for (unsigned c = 0; c < cluster; ++c) sum += load_shared_of(c, parts + at);
      write(i, j, sum);
    });
    synchronize_cluster();  // before a block's shared memory goes
  }
}

/// In clusters of 2^cluster_log2 blocks, where the device has them.
template <class L, class T>
void launch_stream(Cuda const& ctx, Streamed<T> const& p, int cluster_log2) {
  auto* const kernel = &stream_kernel<T, L>;
  constexpr std::size_t shared = sizeof(float) * L::Depth * StreamTile<T, L::Eights, L::Rows, L::Words>::small_rows * L::pitch;
  if (!can_overlap(ctx, kernel, shared)) cluster_log2 = 0;
  auto const blocks = static_cast<unsigned>(ceil_div(p.big_rows, Index{L::columns})) << cluster_log2;
  launch_overlapping(ctx, "stream_kernel", kernel, blocks, L::threads, shared, 1u << cluster_log2, p,
                     static_cast<unsigned>(cluster_log2));
}

}  // namespace blackmamba::detail
