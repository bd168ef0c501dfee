#pragma once
/// \file
/// Products of all experts at once on the tensor cores of compute capability 9.0a.
///
/// A block stays on its multiprocessor and takes every n-th tile of 128 × 256. One warp of it asks the copy engine for tiles of the
/// operands, four steps of 64 ahead; two groups of four warps each multiply 64 rows by 256 columns, 128 sums a thread, and then do
/// with the sums what the product is for. The second group runs about two steps behind the first, so that one multiplies while the
/// other stores.

#include <algorithm>

#include <blackmamba/core/cuda/tma.cuh>
#include <blackmamba/core/cuda/wgmma.cuh>
#include <blackmamba/ops/expert_mlp/groups.cuh>
#include <blackmamba/ops/expert_mlp/pieces.cuh>

namespace blackmamba::detail {

struct TensorTuning {
  static constexpr int rows = 128, columns = 256, depth = 64, stages = 4, threads = 384;
  static constexpr unsigned left_bytes = rows * depth * 2, right_bytes = columns * depth * 2;
  static constexpr unsigned stage_bytes = left_bytes + right_bytes;
  static constexpr unsigned box_bytes = 64 * 64 * 2;  ///< of a turned operand
  static constexpr unsigned shared_bytes = stages * stage_bytes + 1024;
  static constexpr int producer_registers = 40, consumer_registers = 232;
};

/// A matrix in global memory whose rows are contiguous.
template <class T>
struct RowsOf {
  T* data = nullptr;
  Index stride = 0;
  RowsOf() = default;
  template <class U>
  explicit RowsOf(View<U, 2> const& view) : data{view.data()}, stride{view.stride(0)} {}
  __device__ T* at(Index row, Index column) const { return data + row * stride + column; }
  __host__ __device__ explicit operator bool() const { return data != nullptr; }
};

/// What is done with the sums of a tile.
enum class RowsEnd {
  store,     ///< y = act(sum + bias); h = sum + bias is stored too where it is wanted
  gate,      ///< the columns are 128 of the gate and the 128 of the value that go with them: y = act(gate) · value
  d_hidden,  ///< the sums are d_a: d_h and a from it and from h
};

/// A product whose rows are those of the experts: (rows, depth) by (E, columns, depth), or by (E, depth, columns) where it is
/// turned.
template <class T>
struct RowsProduct {
  CUtensorMap left, right;
  Groups groups;
  int depth, columns;
  Activation kind;
  bool gated;
  View<T const, 2> bias;
  RowsOf<T> y;
  RowsOf<T> hidden;         ///< written by `store` and `gate`
  RowsOf<T const> forward;  ///< h, for `d_hidden`
};

/// A product along the rows of each expert, added to `out` (E, M, N): left (rows, M), right (rows, N).
struct WeightsProduct {
  CUtensorMap left, right;
  Groups groups;
  int M, N;
  View<float, 3> out;
};

#if defined(__CUDACC__)

/// Where a block keeps its tiles and what it waits for.
struct Pipeline {
  std::uint32_t tiles, full, empty;  ///< addresses; barriers are 8 bytes apart
  int stage = 0;
  unsigned parity = 0;

  __device__ void next() {
    if (++stage == TensorTuning::stages) stage = 0, parity ^= 1;
  }
  __device__ std::uint32_t left() const { return tiles + static_cast<unsigned>(stage) * TensorTuning::stage_bytes; }
  __device__ std::uint32_t right() const { return left() + TensorTuning::left_bytes; }
  __device__ std::uint32_t full_here() const { return full + 8 * static_cast<unsigned>(stage); }
  __device__ std::uint32_t empty_here() const { return empty + 8 * static_cast<unsigned>(stage); }
};

__device__ inline Pipeline make_pipeline(unsigned char* memory, unsigned long long* barriers) {
  Pipeline p;
  p.tiles = (static_cast<std::uint32_t>(__cvta_generic_to_shared(memory)) + 1023) & ~1023u;
  p.full = static_cast<std::uint32_t>(__cvta_generic_to_shared(barriers));
  p.empty = p.full + 8 * TensorTuning::stages;
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < TensorTuning::stages; ++i) {
      barrier_init(p.full + 8 * i, 1);
      barrier_init(p.empty + 8 * i, 8);  // warps that read a stage
    }
    barriers_ready();
  }
  __syncthreads();
  return p;
}

template <int Id>
__device__ void group_sync() {
  asm volatile("bar.sync %0, 256;" ::"n"(Id) : "memory");
}
template <int Id>
__device__ void group_arrive() {
  asm volatile("bar.arrive %0, 256;" ::"n"(Id) : "memory");
}

/// Rows of a turned tile past the last that counts, as zeros: of this group's 64 columns of the left operand and of half of the
/// right.
__device__ inline void clear_rows(Pipeline const& p, int group, int boxes, int count) {
  int const pieces = (TensorTuning::depth - count) * 8;
  for (int i = static_cast<int>(threadIdx.x) % 128; i < pieces; i += 128) {
    unsigned const at = static_cast<unsigned>(count * 128 + i * 16);
    store_shared(p.left() + static_cast<unsigned>(group) * TensorTuning::box_bytes + at, float4{0, 0, 0, 0});
    for (int box = group; box < boxes; box += 2)
      store_shared(p.right() + static_cast<unsigned>(box) * TensorTuning::box_bytes + at, float4{0, 0, 0, 0});
  }
  publish_to_engines();
  group_sync<1>();
}

/// The sums of a tile over `depth` in steps of 64. Of turned operands the rows past `depth` count as zero.
template <class T, bool TurnedLeft, bool TurnedRight, bool Narrow>
__device__ void sum_tile(float (&sums)[128], Pipeline& p, int group, Index depth, bool& first) {
  constexpr unsigned left_step = TurnedLeft ? 2048 : 32, right_step = TurnedRight ? 2048 : 32;
  int const steps = static_cast<int>((depth + TensorTuning::depth - 1) / TensorTuning::depth);
  bool const leads = static_cast<int>(threadIdx.x) % 32 == 0;
  std::uint32_t before = 0;
  wgmma_hold(sums);
  for (int k = 0; k < steps; ++k) {
    barrier_wait(p.full_here(), p.parity);
    if constexpr (TurnedLeft && TurnedRight)
      if (k + 1 == steps && depth % TensorTuning::depth != 0)
        clear_rows(p, group, Narrow ? 2 : 4, static_cast<int>(depth % TensorTuning::depth));
    std::uint64_t const left = tile_descriptor(p.left() + static_cast<unsigned>(group) * TensorTuning::box_bytes),
                        right = tile_descriptor(p.right(), TurnedRight ? TensorTuning::box_bytes : 16);
    wgmma_begin();
#pragma unroll
    for (unsigned i = 0; i < TensorTuning::depth / 16; ++i) {
      std::uint64_t const a = left + (i * left_step >> 4), b = right + (i * right_step >> 4);
      if constexpr (Narrow)
        wgmma_128<T, TurnedLeft, TurnedRight>(sums, a, b, k > 0 || i > 0);
      else
        wgmma_256<T, TurnedLeft, TurnedRight>(sums, a, b, k > 0 || i > 0);
    }
    wgmma_commit();
    wgmma_wait<1>();
    if (k > 0 && leads) barrier_arrive(before);
    before = p.empty_here();
    p.next();
    // Once, so that the second group starts behind the first and stays there.
    if (first && group == 0 && k == (steps > 1 ? 1 : 0)) group_arrive<2>(), first = false;
  }
  wgmma_wait<0>();
  wgmma_hold(sums);
  if (leads) barrier_arrive(before);
}

/// The two columns of each of four eights that this thread has sums of, rounded, as eight columns of one row.
template <class T>
__device__ Piece sums_piece(float const (&sums)[128], float const (&bias)[8], int first, int lower) {
  Piece x;
#pragma unroll
  for (int c = 0; c < 4; ++c)
    x.words[c] =
        round_pair<T>(sums[first + 4 * c + 2 * lower] + bias[2 * c], sums[first + 4 * c + 2 * lower + 1] + bias[2 * c + 1]);
  turn_piece(x);
  return x;
}

/// The biases of those columns, from `column` on.
template <class T>
__device__ void load_biases(View<T const, 2> const& bias, int expert, int column, float (&to)[8]) {
  int const q = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    Index const at = column + i / 2 * 8 + 2 * q + i % 2;
    to[i] = bias && at < bias.extent(1) ? device_widen(bias(expert, at)) : 0.0f;
  }
}

template <RowsEnd End, class T>
__device__ void finish_rows(float const (&sums)[128], RowsProduct<T> const& p, GroupTile const& tile, int group) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4, q = lane % 4;
  Index const row = tile.begin + 64 * group + 16 * warp + lane / 4;
  constexpr int spans = End == RowsEnd::gate ? 4 : 8;
#pragma unroll
  for (int span = 0; span < spans; ++span) {
    int const first = tile.column + 32 * span, column = first + 8 * q;
    if (first >= p.columns || (tile.narrow && span >= 4)) break;
    bool const inside = column < p.columns;
    float bias[8]{}, value_bias[8]{};
    if constexpr (End != RowsEnd::d_hidden) load_biases(p.bias, tile.expert, first, bias);
    if constexpr (End == RowsEnd::gate) load_biases(p.bias, tile.expert, p.columns + first, value_bias);
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      Index const r = row + 8 * lower;
      bool const here = inside && r < tile.end;
      if constexpr (End == RowsEnd::store) {
        Piece x = sums_piece<T>(sums, bias, 16 * span, lower);
        if (!here) continue;
        if (p.hidden) store_piece(p.hidden.at(r, column), x);
        if (p.kind != Activation::identity) x = activated_piece<T>(p.kind, false, x, x);
        store_piece(p.y.at(r, column), x);
      } else if constexpr (End == RowsEnd::gate) {
        Piece const gate = sums_piece<T>(sums, bias, 16 * span, lower);
        Piece const value = sums_piece<T>(sums, value_bias, 64 + 16 * span, lower);
        if (!here) continue;
        if (p.hidden) {
          store_piece(p.hidden.at(r, column), gate);
          store_piece(p.hidden.at(r, p.columns + column), value);
        }
        store_piece(p.y.at(r, column), activated_piece<T>(p.kind, true, gate, value));
      } else {
        Piece const d_active = sums_piece<T>(sums, bias, 16 * span, lower);
        if (!here) continue;
        float d[8], a[8], slope[8];
        widen_piece<T>(d_active, d);
        widen_piece<T>(load_piece(p.forward.at(r, column)), a);
        activate_sloped_run(p.kind, a, slope);
        if (p.gated) {
          float v[8], d_gate[8], d_value[8];
          widen_piece<T>(load_piece(p.forward.at(r, p.columns + column)), v);
#pragma unroll
          for (int i = 0; i < 8; ++i) d_gate[i] = d[i] * v[i] * slope[i], d_value[i] = d[i] * a[i], a[i] *= v[i];
          store_piece(p.hidden.at(r, p.columns + column), round_piece<T>(d_value));
          store_piece(p.hidden.at(r, column), round_piece<T>(d_gate));
        } else {
#pragma unroll
          for (int i = 0; i < 8; ++i) d[i] *= slope[i];
          store_piece(p.hidden.at(r, column), round_piece<T>(d));
        }
        if (p.y) store_piece(p.y.at(r, column), round_piece<T>(a));
      }
    }
  }
}

/// h of a tile is brought to the L2 cache while its sums are made.
template <class T>
__device__ void fetch_hidden(RowsProduct<T> const& p, GroupTile const& tile, int group) {
  Index const row = tile.begin + 64 * group + static_cast<int>(threadIdx.x) % 64;
  if (row >= tile.end) return;
  int const side = static_cast<int>(threadIdx.x) / 64 % 2;
  if (side == 1 && !p.gated) return;
  int const most = tile.narrow ? 128 : 256;
  for (int c = 0; c < most && tile.column + c < p.columns; c += 64)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p.forward.at(row, side * p.columns + tile.column + c)));
}

#endif

template <class T, RowsEnd End, bool Turned>
__global__ void __launch_bounds__(TensorTuning::threads, 1) rows_tensor_kernel(__grid_constant__ RowsProduct<T> const p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tuning = TensorTuning;
  extern __shared__ unsigned char tile_memory[];
  __shared__ unsigned long long barriers[2 * Tuning::stages];
  if (!groups_right(p.groups)) return;
  Pipeline pipeline = make_pipeline(tile_memory, barriers);
  int const warp_group = static_cast<int>(threadIdx.x) / 128;
  constexpr bool gate = End == RowsEnd::gate;
  using Walk = GroupWalk<Tuning::rows, gate ? Tuning::columns / 2 : Tuning::columns, !gate>;
  GroupTile tile;
  if (warp_group == 0) {
    give_registers<Tuning::producer_registers>();
    if (threadIdx.x >= 32) return;
    bool const leads = threadIdx.x == 0;
    Walk walk{p.groups, p.columns};
    for (int number = static_cast<int>(blockIdx.x); walk.find(number, tile); number += static_cast<int>(gridDim.x))
      for (int k = 0; k < p.depth; k += Tuning::depth, pipeline.next()) {
        if (!leads) continue;
        barrier_wait(pipeline.empty_here(), pipeline.parity ^ 1);
        std::uint32_t const full = pipeline.full_here(), right = pipeline.right();
        unsigned const right_bytes = tile.narrow ? Tuning::right_bytes / 2 : Tuning::right_bytes;
        barrier_expect(full, Tuning::left_bytes + right_bytes);
        bring_tile(p.left, full, pipeline.left(), k, static_cast<int>(tile.begin));
        if constexpr (Turned) {
          for (unsigned i = 0; i * Tuning::box_bytes < right_bytes; ++i)
            bring_tile(p.right, full, right + i * Tuning::box_bytes, tile.column + static_cast<int>(64 * i), k, tile.expert);
        } else {
          bring_tile(p.right, full, right, k, tile.column, tile.expert);
          if (!tile.narrow)
            bring_tile(p.right, full, right + Tuning::right_bytes / 2, k, gate ? p.columns + tile.column : tile.column + 128,
                       tile.expert);
        }
      }
  } else {
    take_registers<Tuning::consumer_registers>();
    int const group = warp_group - 1;
    bool first = true;
    float sums[128];
    Walk walk{p.groups, p.columns};
    for (int number = static_cast<int>(blockIdx.x); walk.find(number, tile); number += static_cast<int>(gridDim.x)) {
      if (first && group == 1) group_sync<2>(), first = false;
      if constexpr (End == RowsEnd::d_hidden) fetch_hidden(p, tile, group);
      if (!gate && tile.narrow)
        sum_tile<T, false, Turned, true>(sums, pipeline, group, p.depth, first);
      else
        sum_tile<T, false, Turned, false>(sums, pipeline, group, p.depth, first);
      finish_rows<End>(sums, p, tile, group);
    }
  }
#endif
}

/// Adds a tile's sums to where they belong; what is there is read 16 sums at a time.
__device__ inline void add_sums(float const (&sums)[128], WeightsProduct const& p, int expert, int m, int n, int columns) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4, q = lane % 4;
  int const row = m + 16 * warp + lane / 4, last = p.N - n < columns ? p.N - n : columns;
  float* const out = p.out.data() + expert * p.out.stride(0) + (n + 2 * q) * p.out.stride(2) + row * p.out.stride(1);
  bool const pairs = p.out.stride(2) == 1 && p.out.stride(1) % 2 == 0 && p.out.stride(0) % 2 == 0 &&
                     reinterpret_cast<std::uintptr_t>(p.out.data()) % 8 == 0;
#pragma unroll
  for (int j = 0; j < 32; j += 4) {
    if (8 * j >= last) break;
    float old[16];
#pragma unroll
    for (int i = 0; i < 16; i += 2) {
      int const c = j + i / 4, lower = i / 2 % 2;
      float const* const at = out + 8 * c * p.out.stride(2) + 8 * lower * p.out.stride(1);
      bool const here = 8 * c < last && row + 8 * lower < p.M;
      if (pairs) {
        float2 const two = here ? *reinterpret_cast<float2 const*>(at) : float2{0, 0};
        old[i] = two.x, old[i + 1] = two.y;
      } else {
        old[i] = here ? at[0] : 0.0f, old[i + 1] = here ? at[p.out.stride(2)] : 0.0f;
      }
    }
#pragma unroll
    for (int i = 0; i < 16; i += 2) {
      int const c = j + i / 4, lower = i / 2 % 2;
      float* const at = out + 8 * c * p.out.stride(2) + 8 * lower * p.out.stride(1);
      if (8 * c >= last || row + 8 * lower >= p.M) continue;
      float2 const sum{old[i] + sums[4 * j + i], old[i + 1] + sums[4 * j + i + 1]};
      if (pairs)
        *reinterpret_cast<float2*>(at) = sum;
      else
        at[0] = sum.x, at[p.out.stride(2)] = sum.y;
    }
  }
}

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

template <class T>
__global__ void __launch_bounds__(TensorTuning::threads, 1) weights_tensor_kernel(__grid_constant__ WeightsProduct const p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tuning = TensorTuning;
  extern __shared__ unsigned char tile_memory[];
  __shared__ unsigned long long barriers[2 * Tuning::stages];
  if (!groups_right(p.groups)) return;
  Pipeline pipeline = make_pipeline(tile_memory, barriers);
  int const warp_group = static_cast<int>(threadIdx.x) / 128, E = static_cast<int>(p.groups.experts());
  int const count = WeightTile::count(E, p.M, p.N);
  if (warp_group == 0) {
    give_registers<Tuning::producer_registers>();
    if (threadIdx.x > 0) return;
    for (int number = static_cast<int>(blockIdx.x); number < count; number += static_cast<int>(gridDim.x)) {
      WeightTile const tile{number, E, p.M, p.N};
      int const begin = static_cast<int>(p.groups.offsets[tile.expert]), end = static_cast<int>(p.groups.offsets[tile.expert + 1]);
      for (int k = begin; k < end; k += Tuning::depth, pipeline.next()) {
        barrier_wait(pipeline.empty_here(), pipeline.parity ^ 1);
        std::uint32_t const full = pipeline.full_here();
        unsigned const right_bytes = tile.narrow ? Tuning::right_bytes / 2 : Tuning::right_bytes;
        barrier_expect(full, Tuning::left_bytes + right_bytes);
        for (unsigned i = 0; i < 2; ++i)
          bring_tile(p.left, full, pipeline.left() + i * Tuning::box_bytes, tile.m + static_cast<int>(64 * i), k);
        for (unsigned i = 0; i * Tuning::box_bytes < right_bytes; ++i)
          bring_tile(p.right, full, pipeline.right() + i * Tuning::box_bytes, tile.n + static_cast<int>(64 * i), k);
      }
    }
  } else {
    take_registers<Tuning::consumer_registers>();
    int const group = warp_group - 1;
    bool first = true;
    float sums[128];
    for (int number = static_cast<int>(blockIdx.x); number < count; number += static_cast<int>(gridDim.x)) {
      WeightTile const tile{number, E, p.M, p.N};
      Index const depth = p.groups.offsets[tile.expert + 1] - p.groups.offsets[tile.expert];
      if (depth == 0) continue;
      if (first && group == 1) group_sync<2>(), first = false;
      if (tile.narrow)
        sum_tile<T, true, true, true>(sums, pipeline, group, depth, first);
      else
        sum_tile<T, true, true, false>(sums, pipeline, group, depth, first);
      add_sums(sums, p, tile.expert, tile.m + 64 * group, tile.n, tile.narrow ? Tuning::columns / 2 : Tuning::columns);
    }
  }
#endif
}

}  // namespace blackmamba::detail
