#pragma once
/// \file
/// Products on tensor cores whose rows are those of the experts, with what follows them.
///
/// Where little is done with the sums, the groups that multiply do it. What lies between the two linear maps takes longer, and
/// there the groups leave their sums, rounded, in shared memory and go on, and a group of its own works on them meanwhile.

#include <blackmamba/ops/expert_mlp/tensor_core.cuh>

namespace blackmamba::detail {

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

template <RowsEnd End>
struct RowsTuning {
  static constexpr bool apart = End != RowsEnd::store;  ///< whether warps of their own do it
  static constexpr int stages = apart ? 3 : 4, threads = 384, finishers = 3;
  static constexpr int columns = End == RowsEnd::gate ? 128 : 256;  ///< of the output
  static constexpr unsigned waiting_bytes = apart ? TensorTuning::rows * 512 : 0;
  static constexpr unsigned shared_bytes = stages * TensorTuning::stage_bytes + waiting_bytes + 1024;
  static constexpr int other_registers = apart ? 104 : 40, consumer_registers = apart ? 200 : 232;
};

/// A product whose rows are those of the experts: (rows, depth) by (E, columns, depth), or by (E, depth, columns) where it is
/// turned.
template <class T>
struct RowsProduct {
  CUtensorMap left, right;
  Groups groups;
  TileTurns turns;
  unsigned* clear = nullptr;  ///< `counters` of later launches, set to 0
  int depth, columns;
  Activation kind;
  bool gated;
  View<T const, 2> bias;
  RowsOf<T> y;
  RowsOf<T> hidden;         ///< written: h by `store` and `gate`, d_h by `d_hidden`
  RowsOf<T const> forward;  ///< h, for `d_hidden`
};

/// Launches after one that clears their counters.
inline constexpr int cleared_counters = 4;

#if defined(__CUDACC__)

/// The biases of columns `column` and the next; 0 where there are none.
template <class T>
__device__ float2 two_biases(View<T const, 2> const& bias, int expert, int column) {
  if (!bias || column >= bias.extent(1)) return {0, 0};
  return {device_widen(bias(expert, column)), device_widen(bias(expert, column + 1))};
}

/// y, and h where it is wanted, from the sums in this thread's registers.
template <class T>
__device__ void store_sums(float const (&sums)[128], RowsProduct<T> const& p, GroupTile const& tile, int group) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4, q = lane % 4;
  Index const row = tile.begin + 64 * group + 16 * warp + lane / 4;
#pragma unroll
  for (int span = 0; span < 8; ++span) {
    int const column = tile.column + 32 * span + 8 * q;
    if (column - 8 * q >= p.columns || (tile.narrow && span >= 4)) break;
    float2 bias[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) bias[c] = two_biases(p.bias, tile.expert, column - 8 * q + 8 * c + 2 * q);
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      Index const r = row + 8 * lower;
      Piece x;
#pragma unroll
      for (int c = 0; c < 4; ++c)
        x.words[c] =
            round_pair<T>(sums[16 * span + 4 * c + 2 * lower] + bias[c].x, sums[16 * span + 4 * c + 2 * lower + 1] + bias[c].y);
      turn_piece(x);
      if (column >= p.columns || r >= tile.end) continue;
      if (p.hidden) store_piece(p.hidden.at(r, column), x);
      if (p.kind != Activation::identity) x = activated_piece<T>(p.kind, x);
      store_piece(p.y.at(r, column), x);
    }
  }
}

/// Where eight columns of a row wait, of 32 eights in a row: exchanged within 128 bytes, so that neither side meets itself.
__device__ inline std::uint32_t waiting_place(std::uint32_t memory, int row, int eight) {
  return memory + static_cast<unsigned>(row) * 512 + static_cast<unsigned>((eight ^ (row & 7)) * 16);
}

/// The sums of a group with their biases, rounded, to where the finishing warps find them. Of the 32 eights of columns those from
/// 16 on are `split` columns further than they would be.
template <class T>
__device__ void leave_sums(float const (&sums)[128], std::uint32_t memory, int group, View<T const, 2> const& bias,
                           GroupTile const& tile, int split) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4;
  int const row = 64 * group + 16 * warp + lane % 16;
#pragma unroll
  for (int j = 0; j < 32; j += 2) {
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const column = tile.column + 8 * (j + i / 2) + 2 * (lane % 4) + (j >= 16 ? split : 0);
      float2 const b = two_biases(bias, tile.expert, column);
      words[i] = round_pair<T>(sums[4 * j + 2 * i] + b.x, sums[4 * j + 2 * i + 1] + b.y);
    }
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(waiting_place(memory, row, j + lane / 16)),
        "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
        : "memory");
  }
}

__device__ inline Piece waiting_piece(std::uint32_t memory, int row, int eight) {
  float4 const x = load_shared(waiting_place(memory, row, eight));
  return {{__float_as_uint(x.x), __float_as_uint(x.y), __float_as_uint(x.z), __float_as_uint(x.w)}};
}

/// a, and h where it is wanted, from the halves of h that wait: half a warp a row.
template <class T>
__device__ void finish_gate(RowsProduct<T> const& p, GroupTile const& tile, std::uint32_t memory) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 - 1, eight = lane % 16;
  int const column = tile.column + 8 * eight;
  int const rows = static_cast<int>(tile.end - tile.begin < TensorTuning::rows ? tile.end - tile.begin : TensorTuning::rows);
  if (column >= p.columns) return;
  with_activation(p.kind, [&](auto kind) {
#pragma unroll 2
    for (int row = 2 * warp + lane / 16; row < rows; row += 6) {
      Piece const gate = waiting_piece(memory, row, eight), value = waiting_piece(memory, row, 16 + eight);
      Index const r = tile.begin + row;
      if (p.hidden) {
        store_piece(p.hidden.at(r, column), gate);
        store_piece(p.hidden.at(r, p.columns + column), value);
      }
      float a[8], v[8];
      widen_piece<T>(gate, a), widen_piece<T>(value, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) a[i] = device_activate(kind.value, a[i]) * v[i];
      store_piece(p.y.at(r, column), round_piece<T>(a));
    }
  });
}

/// d_h and a from d_a that waits and from h: a warp a row, four rows of h ahead.
template <class T>
__device__ void finish_d_hidden(RowsProduct<T> const& p, GroupTile const& tile, std::uint32_t memory) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 - 1;
  int const column = tile.column + 8 * lane;
  int const rows = static_cast<int>(tile.end - tile.begin < TensorTuning::rows ? tile.end - tile.begin : TensorTuning::rows);
  if (column >= p.columns || (tile.narrow && lane >= 16)) return;
  with_activation(p.kind, [&](auto kind) {
    constexpr int ahead = 4;
    for (int first = warp; first < rows; first += 3 * ahead) {
      Piece gates[ahead], values[ahead];
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        int const row = first + 3 * i;
        if (row >= rows) break;
        gates[i] = load_piece(p.forward.at(tile.begin + row, column));
        values[i] = p.gated ? load_piece(p.forward.at(tile.begin + row, p.columns + column)) : Piece{};
      }
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        int const row = first + 3 * i;
        if (row >= rows) break;
        Index const r = tile.begin + row;
        float d[8], a[8];
        widen_piece<T>(waiting_piece(memory, row, lane), d), widen_piece<T>(gates[i], a);
        if (p.gated) {
          float v[8], d_value[8];
          widen_piece<T>(values[i], v);
#pragma unroll
          for (int k = 0; k < 8; ++k) {
            auto const both = device_activated(kind.value, a[k]);
            d_value[k] = d[k] * both.value, d[k] = d[k] * v[k] * both.slope, a[k] = both.value * v[k];
          }
          store_piece(p.hidden.at(r, p.columns + column), round_piece<T>(d_value));
        } else {
#pragma unroll
          for (int k = 0; k < 8; ++k) {
            auto const both = device_activated(kind.value, a[k]);
            d[k] *= both.slope, a[k] = both.value;
          }
        }
        store_piece(p.hidden.at(r, column), round_piece<T>(d));
        store_piece(p.y.at(r, column), round_piece<T>(a));
      }
    }
  });
}

/// h of a tile is brought to the L2 cache while its sums are made, by 128 threads.
template <class T>
__device__ void fetch_hidden(RowsProduct<T> const& p, GroupTile const& tile) {
  Index const row = tile.begin + static_cast<int>(threadIdx.x) % 128;
  if (row >= tile.end) return;
  int const most = tile.narrow ? 128 : 256;
  for (int side = 0; side < (p.gated ? 2 : 1); ++side)
    for (int c = 0; c < most && tile.column + c < p.columns; c += 64)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(p.forward.at(row, side * p.columns + tile.column + c)));
}

#endif

template <class T, RowsEnd End, bool Turned>
__global__ void __launch_bounds__(RowsTuning<End>::threads, 1) rows_tensor_kernel(__grid_constant__ RowsProduct<T> const p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tensor = TensorTuning;
  using Tuning = RowsTuning<End>;
  using Stages = Pipeline<Tuning::stages>;
  constexpr bool gate = End == RowsEnd::gate;
  using Walk = GroupWalk<Tensor::rows, Tuning::columns, !gate, true>;
  extern __shared__ unsigned char tile_memory[];
  __shared__ typename Stages::Shared barriers;
  __shared__ unsigned long long waiting_barriers[2];
  __shared__ int waiting_number;
  if (p.clear && blockIdx.x == 0 && threadIdx.x < cleared_counters) p.clear[threadIdx.x] = 0;
  if (!groups_right(p.groups)) return;
  Stages pipeline{tile_memory, barriers};
  // What waits for the finishing warps: full after a word of each of 8 others, empty after one of each of them.
  std::uint32_t const waiting = pipeline.tiles + Stages::bytes,
                      waiting_full = static_cast<std::uint32_t>(__cvta_generic_to_shared(waiting_barriers)),
                      waiting_empty = waiting_full + 8;
  if (threadIdx.x == 0) {
    barrier_init(waiting_full, 8), barrier_init(waiting_empty, Tuning::finishers);
    barriers_ready();
  }
  __syncthreads();
  int const warp_group = static_cast<int>(threadIdx.x) / 128;
  bool const leads = static_cast<int>(threadIdx.x) % 32 == 0;
  GroupTile tile;
  if (warp_group == 0) {
    give_registers<Tuning::other_registers>();
    Walk walk{p.groups, p.columns};
    if (threadIdx.x >= 32) {
      if constexpr (Tuning::apart) {
        for (unsigned parity = 0;; parity ^= 1) {
          barrier_wait(waiting_full, parity);
          int const number = waiting_number;
          if (number < 0) return;
          walk.find(number, tile);
          if constexpr (gate)
            finish_gate(p, tile, waiting);
          else
            finish_d_hidden(p, tile, waiting);
          __syncwarp();
          if (leads) barrier_arrive(waiting_empty);
        }
      }
      return;
    }
    TileNumbers numbers{p.turns};
    for (;;) {
      int number = leads ? numbers.take() : 0;
      number = __shfl_sync(~0u, number, 0);
      if (!walk.find(number, tile)) break;
      unsigned const right_bytes = tile.narrow ? Tensor::right_bytes / 2 : Tensor::right_bytes;
      for (int k = 0; k < p.depth; k += Tensor::depth, pipeline.next()) {
        if (!leads) continue;
        pipeline.wait_empty();
        if (k == 0) pipeline.shared->number[pipeline.stage] = number;
        std::uint32_t const full = pipeline.full_here(), right = pipeline.right();
        barrier_expect(full, Tensor::left_bytes + right_bytes);
        bring_tile(p.left, full, pipeline.left(), k, static_cast<int>(tile.begin));
        if constexpr (Turned) {
          for (unsigned i = 0; i * Tensor::box_bytes < right_bytes; ++i)
            bring_tile(p.right, full, right + i * Tensor::box_bytes, tile.column + static_cast<int>(64 * i), k, tile.expert);
        } else {
          bring_tile(p.right, full, right, k, tile.column, tile.expert);
          if (!tile.narrow)
            bring_tile(p.right, full, right + Tensor::right_bytes / 2, k, gate ? p.columns + tile.column : tile.column + 128,
                       tile.expert);
        }
      }
    }
    if (leads) pipeline.finish();
  } else {
    take_registers<Tuning::consumer_registers>();
    int const group = warp_group - 1;
    float sums[128];
    Walk walk{p.groups, p.columns};
    for (unsigned parity = 1;; parity ^= 1) {
      int const number = pipeline.wait_number();
      if (number >= 0) {
        walk.find(number, tile);
        if (End == RowsEnd::d_hidden && group == 0) fetch_hidden(p, tile);
        if (tile.low && group == 1)
          pass_tile(pipeline, p.depth);
        else if (!gate && tile.narrow)
          sum_tile<T, false, Turned, true>(sums, pipeline, group, p.depth);
        else
          sum_tile<T, false, Turned, false>(sums, pipeline, group, p.depth);
      }
      if constexpr (Tuning::apart) {
        barrier_wait(waiting_empty, parity);
        if (number >= 0 && !(tile.low && group == 1)) leave_sums(sums, waiting, group, p.bias, tile, p.columns - 128);
        if (threadIdx.x == 128) waiting_number = number;
        __syncwarp();
        if (leads) barrier_arrive(waiting_full);
        if (number < 0) break;
      } else {
        if (number < 0) break;
        if (!(tile.low && group == 1)) store_sums(sums, p, tile, group);
      }
    }
  }
#else
  __trap();  // the host has asked `has_wgmma`; where files for several architectures are mixed it can be told wrong
#endif
}

}  // namespace blackmamba::detail
