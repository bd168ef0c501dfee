#pragma once
/// \file
/// The linear map of few rows on a GPU, and of many rows to few outputs: one operand comes from memory once, the other is small.
///
/// A block has 8 · Rows rows of the big operand times all of the small one; its warps have a piece of the depth each. A lane reads
/// 16 bytes of one row, a quarter of 64 neighbouring bytes, and so the fragments of m16n8k16 without shared memory: the depth is
/// summed in an order of its own, the same for both operands.

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
  bool prefetch;  ///< big is likely to come from memory, and from no kernel just before
  bool at_rest;   ///< big is not being written: see WeightsAtRest
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

/// A warp's sums of 8 · Rows rows of big by 8 · Eights of small, by tensor cores. Few of them are several sums each, so that one
/// multiplication does not wait for the one before.
template <class T, int Eights, int Rows, int Words>
struct StreamTile {
  static constexpr int small_rows = 8 * Eights, small_reads = Eights, pairs = (Eights + 1) / 2;
  static constexpr int sets = pairs * Rows >= 4 ? 1 : 4 / (pairs * Rows);
  float sums[sets][pairs][Rows][4] = {};

  /// The row of small that a lane reads i-th.
  static __device__ unsigned small_row(unsigned i, unsigned lane) { return 8 * i + lane / 4; }

  /// The u-th chunk: u is known when this is compiled.
  __device__ void add(int u, std::uint32_t const (&big)[Rows][Words], std::uint32_t const (&small)[Eights][Words]) {
#pragma unroll
    for (int w = 0; w < Words; w += 2)
#pragma unroll
      for (int i = 0; i < pairs; ++i) {
        std::uint32_t a[4] = {small[2 * i][w], 0, small[2 * i][w + 1], 0};
        if constexpr (Eights > 1) a[1] = small[2 * i + 1][w], a[3] = small[2 * i + 1][w + 1];
#pragma unroll
        for (int r = 0; r < Rows; ++r) multiply_tile<T>(sums[(u * Words + w) / 2 % sets][i][r], a, big[r][w], big[r][w + 1]);
      }
  }

  /// To shared memory, (small_rows, ≥ 8 · Rows).
  __device__ void store(float* to, unsigned pitch, unsigned lane) {
#pragma unroll
    for (int i = 0; i < pairs; ++i)
#pragma unroll
      for (int half = 0; half < (Eights > 1 ? 2 : 1); ++half)
#pragma unroll
        for (int r = 0; r < Rows; ++r) {
          float2 sum{0, 0};
#pragma unroll
          for (int set = 0; set < sets; ++set) sum.x += sums[set][i][r][2 * half], sum.y += sums[set][i][r][2 * half + 1];
          *reinterpret_cast<float2*>(to + (16 * i + 8 * half + lane / 4) * pitch + 8 * r + lane % 4 * 2) = sum;
        }
  }
};

/// In float32: a lane has a quarter of the depth of a row of big.
template <int Eights, int Rows, int Words>
struct StreamTile<float, Eights, Rows, Words> {
  static constexpr int small_rows = Eights, small_reads = Eights;
  float sums[Eights][Rows] = {};

  static __device__ unsigned small_row(unsigned i, unsigned) { return i; }

  __device__ void add(int, std::uint32_t const (&big)[Rows][Words], std::uint32_t const (&small)[Eights][Words]) {
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
/// its rows under way. `Eights` as StreamTile has it; with 0 small is one row, which the block keeps in shared memory.
template <int Eights_, int Rows_, int Depth_, int Wide_, int Ahead_, int Words_ = 4, int Blocks_ = 1>
struct StreamLayout {
  static constexpr bool kept = Eights_ == 0;
  static constexpr int Eights = kept ? 1 : Eights_, Rows = Rows_, Depth = Depth_, Wide = Wide_, Ahead = Ahead_, Words = Words_,
                       Blocks = Blocks_;
  static constexpr int threads = 32 * Depth * Wide, columns = 8 * Rows * Wide;
  static constexpr int pitch = columns + (columns % 32 == 0 ? 8 : 0);
  static_assert(columns <= threads);
};

/// Blocks (rows of big by `columns`, rows of small by as many as a tile has).
template <class T, class L>
__global__ void __launch_bounds__(L::threads, L::Blocks) stream_kernel(__grid_constant__ Streamed<T> const p) {
  using Tile = StreamTile<T, L::Eights, L::Rows, L::Words>;
  constexpr unsigned chunk = 16 * L::Words / sizeof(T);  // elements of a row that four lanes read at once
  constexpr unsigned one = chunk / 4;
  constexpr unsigned size = Tile::small_rows * L::pitch;
  extern __shared__ __align__(16) float parts[];  // (Depth, small_rows, pitch), and the kept row
  using Read = std::conditional_t<L::Words == 4, uint4, uint2>;
  Read* const kept = reinterpret_cast<Read*>(parts + L::Depth * size);
  let_next_start();
  unsigned const thread = threadIdx.x, lane = thread % 32, warp = thread / 32, warp_depth = warp % L::Depth;
  unsigned const depth = static_cast<unsigned>(p.depth), chunks = (depth + chunk - 1) / chunk;
  unsigned const small_begin = L::kept ? 0 : blockIdx.y * Tile::small_rows;
  Index const begin = Index{blockIdx.x} * L::columns;
  auto const piece_begin = [&](unsigned piece) { return chunks * piece / L::Depth; };
  if (p.prefetch && thread < L::columns && begin + thread < p.big_rows)
    prefetch_to_l2(p.big + (begin + thread) * p.big_stride, depth * static_cast<unsigned>(sizeof(T)));

  // Rows beyond the last are read again from the last: their sums go nowhere.
  T const* big[L::Rows];
#pragma unroll
  for (int r = 0; r < L::Rows; ++r)
    big[r] = p.big + min(begin + (warp / L::Depth * L::Rows + r) * 8 + lane / 4, p.big_rows - 1) * p.big_stride + lane % 4 * one;
  T const* small[Tile::small_reads];
#pragma unroll
  for (int i = 0; i < Tile::small_reads; ++i)
    small[i] = p.small + min(Index{small_begin + Tile::small_row(i, lane)}, p.small_rows - 1) * p.small_stride + lane % 4 * one;
  // Outputs are dealt out in the order in which they lie in memory. A thread's first has its bias read early.
  bool const along_small = p.out_small_stride == 1;
  unsigned const rows = static_cast<unsigned>(min(p.small_rows - small_begin, Index{Tile::small_rows})),
                 outputs = rows * L::columns;
  auto const small_of = [&](unsigned n) { return L::kept ? 0 : along_small ? n % rows : n / L::columns; };
  auto const big_of = [&](unsigned n) { return L::kept ? n : along_small ? n / rows : n % L::columns; };
  auto const bias_of = [&](unsigned n) -> float {
    if (!p.bias || begin + big_of(n) >= p.big_rows) return 0;
    return device_widen(p.bias[(small_begin + small_of(n)) * p.bias_small_stride + (begin + big_of(n)) * p.bias_big_stride]);
  };

  Tile tile;
  unsigned first = piece_begin(warp_depth);
  unsigned const last = piece_begin(warp_depth + 1);
  std::uint32_t of_big[L::Ahead][L::Rows][L::Words], of_small[L::Ahead][Tile::small_reads][L::Words];
  auto const there = [&](int u) { return first + u < last && (first + u) * chunk + lane % 4 * one < depth; };
  auto const read_big = [&] {
#pragma unroll
    for (int u = 0; u < L::Ahead; ++u)
#pragma unroll
      for (int r = 0; r < L::Rows; ++r) load_words(of_big[u][r], big[r] + (first + u) * chunk, there(u));
  };
  auto const read_small = [&] {
    if constexpr (!L::kept) {
#pragma unroll
      for (int u = 0; u < L::Ahead; ++u)
#pragma unroll
        for (int i = 0; i < Tile::small_reads; ++i) load_words(of_small[u][i], small[i] + (first + u) * chunk, there(u));
    }
  };
  auto const add = [&] {
#pragma unroll
    for (int u = 0; u < L::Ahead; ++u) {
      if constexpr (L::kept) {
        Read read{};
        if (there(u)) read = kept[(first + u) * 4 + lane % 4];
        of_small[u][0][0] = read.x, of_small[u][0][1] = read.y;
        if constexpr (L::Words == 4) of_small[u][0][2] = read.z, of_small[u][0][3] = read.w;
      }
      tile.add(u, of_big[u], of_small[u]);
    }
    first += L::Ahead;
  };
  if (!p.at_rest) await_kernels_before();
  read_big();
  if (p.at_rest) await_kernels_before();
  float const first_bias = thread < outputs ? bias_of(thread) : 0;
  read_small();
  if constexpr (L::kept) {
    for (unsigned n = thread; n < chunks * 4; n += L::threads) {
      std::uint32_t words[L::Words];
      load_words(words, p.small + n * one, n * one < depth);
      if constexpr (L::Words == 4)
        kept[n] = {words[0], words[1], words[2], words[3]};
      else
        kept[n] = {words[0], words[1]};
    }
    __syncthreads();
  }
  add();
#pragma unroll 1
  while (first < last) {
    read_big(), read_small();
    add();
  }

  tile.store(parts + warp_depth * size + warp / L::Depth * L::Rows * 8, L::pitch, lane);
  __syncthreads();
#pragma unroll 1
  for (unsigned n = thread; n < outputs; n += L::threads) {
    unsigned const i = small_of(n), j = big_of(n), at = i * L::pitch + j;
    float sum = parts[at];
#pragma unroll
    for (int d = 1; d < L::Depth; ++d) sum += parts[at + d * size];
    sum += n == thread ? first_bias : bias_of(n);
    if (begin + j < p.big_rows)
      p.out[(small_begin + i) * p.out_small_stride + (begin + j) * p.out_big_stride] = device_round<T>(sum);
  }
}

template <class L, class T>
void launch_stream(Cuda const& ctx, Streamed<T> const& p) {
  constexpr int small_rows = StreamTile<T, L::Eights, L::Rows, L::Words>::small_rows;
  std::size_t shared = sizeof(float) * L::Depth * small_rows * L::pitch;
  if (L::kept) shared += static_cast<std::size_t>(ceil_div(p.depth * static_cast<Index>(sizeof(T)), Index{64}) * 64);
  dim3 const blocks{static_cast<unsigned>(ceil_div(p.big_rows, Index{L::columns})),
                    static_cast<unsigned>(ceil_div(p.small_rows, Index{small_rows}))};
  launch_overlapping(ctx, "stream_kernel", &stream_kernel<T, L>, blocks, L::threads, shared, p);
}

}  // namespace blackmamba::detail
