#pragma once
/// \file
/// Products on tensor cores whose rows are those of the experts, with what follows them.
///
/// The two groups that multiply leave their sums, rounded, in shared memory and go on; warps of their own do meanwhile what
/// follows, of one group's rows and then of the other's.

#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/ops/activation/device.cuh>
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
  store,     ///< y = sum + bias, with `RowsBack` back where its token is
  activate,  ///< y = act(sum + bias); h = sum + bias is stored too where it is wanted
  gate,      ///< the columns are 128 of the gate and the 128 of the value that go with them: y = act(gate) · value
  d_hidden,  ///< the sums are d_a: d_h and a from it and from h
};

template <RowsEnd End>
struct RowsTuning {
  static constexpr int others = End == RowsEnd::d_hidden ? 2 : 1;  ///< groups of four warps that do not multiply
  static constexpr int places = End == RowsEnd::store ? 1 : 2;     ///< where sums wait, of both groups in turn or of one each
  static constexpr int stages = places == 2 ? 3 : 4, threads = 128 * (others + 2), finishers = 4 * others - 1;
  static constexpr int columns = End == RowsEnd::gate ? 128 : 256;  ///< of the output
  static constexpr unsigned waiting_bytes = TensorTuning::rows / 2 * 512;
  static constexpr unsigned shared_bytes = stages * TensorTuning::stage_bytes + places * waiting_bytes + 1024;
  static constexpr TileColumns wide = others == 2 ? TileColumns::halves : TileColumns::all;
  static constexpr int other_registers = others == 2 ? 88 : 104;
  static constexpr int consumer_registers = others == 2 ? 168 : 200;
};

/// Where the rows of a product belong: row r is that of token order[r], times the token's weight. Tokens without a place get 0.
struct RowsBack {
  View<Index const, 1> order{};  ///< where there is none, rows stay where they are
  View<Index const, 2> places{};
  View<float const, 2> weights{};
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
  RowsBack back{};
  RowsOf<T> hidden;         ///< written: h by `activate` and `gate`, d_h by `d_hidden`
  RowsOf<T const> forward;  ///< h, for `d_hidden`
};

/// Launches after one that clears their counters.
inline constexpr int cleared_counters = 4;

#if defined(__CUDACC__)

/// The biases that a thread's sums want, of columns of which those from the tile's 128th on are `split` further than they would be.
template <class T, bool There>
class TileBiases {
 public:
  __device__ TileBiases(View<T const, 2> const& bias, GroupTile const& tile, int split)
      : first_{There ? bias.data() + tile.expert * bias.stride(0) : nullptr},
        step_{bias.stride(1)},
        column_{tile.column + 2 * (static_cast<int>(threadIdx.x) % 4)},
        count_{static_cast<int>(bias.extent(1))},
        split_{split} {}
  /// Of columns 8 j and the next, both or neither of which there are.
  __device__ float2 operator()(int j) const {
    int const column = column_ + 8 * j + (j >= 16 ? split_ : 0);
    if (!There || column >= count_) return {0, 0};
    T const* const at = first_ + column * step_;
    return {device_widen(at[0]), device_widen(at[step_])};
  }

 private:
  T const* first_;
  Index step_;
  int column_, count_, split_;
};

/// Where eight columns of a row wait, of 32 eights in a row: exchanged within 128 bytes, so that neither side meets itself.
__device__ inline std::uint32_t waiting_place(std::uint32_t memory, int row, int eight) {
  return memory + static_cast<unsigned>(row) * 512 + static_cast<unsigned>((eight ^ (row & 7)) * 16);
}

/// The sums of a group, rounded, to where the finishing warps find them. The group's tensor cores wait meanwhile: nothing else is
/// done.
template <bool Biased, class T>
__device__ void leave_sums(float const (&sums)[128], RowsProduct<T> const& p, GroupTile const& tile, std::uint32_t memory,
                           int split) {
  TileBiases<T, Biased> const biases{p.bias, tile, split};
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4;
  int const row = 16 * warp + lane % 16;
#pragma unroll
  for (int low = 0; low < 8; low += 2) {
    std::uint32_t const place = waiting_place(memory, row, low + lane / 16);
#pragma unroll
    for (int j = low; j < 32; j += 8) {
      std::uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float2 const bias = biases(j + i / 2);
        float const first = sums[4 * j + 2 * i], second = sums[4 * j + 2 * i + 1];
        words[i] = Biased ? round_pair<T>(first + bias.x, second + bias.y) : round_pair<T>(first, second);
      }
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(place + 16 * (j - low)), "r"(words[0]),
                   "r"(words[1]), "r"(words[2]), "r"(words[3])
                   : "memory");
    }
  }
}

__device__ inline Piece waiting_piece(std::uint32_t memory, int row, int eight) {
  float4 const x = load_shared(waiting_place(memory, row, eight));
  return {{__float_as_uint(x.x), __float_as_uint(x.y), __float_as_uint(x.z), __float_as_uint(x.w)}};
}

/// Rows of a group's half of a tile that there are.
__device__ inline int rows_there(GroupTile const& half) {
  return static_cast<int>(max(Index{0}, min(Index{TensorTuning::rows / 2}, half.end - half.begin)));
}

/// y from the sums that wait: a warp a row. Where they go and what they are multiplied with a lane has read of each row before.
template <class T, int Warps>
__device__ void finish_rows(RowsProduct<T> const& p, GroupTile const& tile, std::uint32_t memory, int warp) {
  static_assert(TensorTuning::rows / 2 <= 32 * Warps);
  int const lane = static_cast<int>(threadIdx.x) % 32, column = tile.column + 8 * lane, rows = rows_there(tile);
  bool const there = column < p.columns && !(tile.narrow && lane >= 16);
  Index place = tile.begin + warp + lane * Warps;
  float weight = 1;
  if (p.back.order && warp + lane * Warps < rows) {
    place = p.back.order[place];
    weight = p.back.weights(place, 0);
  }
#pragma unroll 4
  for (int row = warp, from = 0; row < rows; row += Warps, ++from) {
    Index const to = __shfl_sync(~0u, place, from);
    Piece x = waiting_piece(memory, row, lane);
    if (p.back.order) {
      float const times = __shfl_sync(~0u, weight, from);
      float y[8];
      widen_piece<T>(x, y);
#pragma unroll
      for (int i = 0; i < 8; ++i) y[i] = fmaf(times, y[i], 0.0f);  // as a sum of one: 0 has no sign
      x = round_piece<T>(y);
    }
    if (there) store_piece(p.y.at(to, column), x);
  }
}

/// Zeros to the tokens that have no place, by the finishing warps of all blocks, before there is anything to finish.
template <class T, int Warps>
__device__ void clear_left_out(RowsProduct<T> const& p, int warp) {
  int const lane = static_cast<int>(threadIdx.x) % 32;
  Index const tokens = p.back.places.extent(0);
  for (Index first = 32 * (Index{blockIdx.x} * Warps + warp); first < tokens; first += Index{32} * Warps * gridDim.x) {
    bool const out = first + lane < tokens && p.back.places(first + lane, 0) < 0;
    for (unsigned left = __ballot_sync(~0u, out); left; left &= left - 1)
      for (int column = 8 * lane; column < p.columns; column += 256)
        store_piece(p.y.at(first + __ffs(static_cast<int>(left)) - 1, column), Piece{});
  }
}

/// y, and h where it is wanted, from h that waits: a warp a row.
template <class T, int Warps>
__device__ void finish_activation(RowsProduct<T> const& p, GroupTile const& tile, std::uint32_t memory, int warp) {
  int const lane = static_cast<int>(threadIdx.x) % 32, column = tile.column + 8 * lane, rows = rows_there(tile);
  if (column >= p.columns || (tile.narrow && lane >= 16)) return;
  T *y = p.y.at(tile.begin + warp, column), *hidden = p.hidden.at(tile.begin + warp, column);
  Index const y_step = Warps * p.y.stride, hidden_step = Warps * p.hidden.stride;
  with_activation(p.kind, [&](auto kind) {
    for (int row = warp; row < rows; row += Warps, y += y_step, hidden += hidden_step) {
      Piece const x = waiting_piece(memory, row, lane);
      if (p.hidden) store_piece(hidden, x);
      float a[8];
      widen_piece<T>(x, a);
#pragma unroll
      for (int i = 0; i < 8; ++i) a[i] = device_activate(kind.value, a[i]);
      store_piece(y, round_piece<T>(a));
    }
  });
}

/// a, and h where it is wanted, from the halves of h that wait: half a warp a row.
template <class T, int Warps>
__device__ void finish_gate(RowsProduct<T> const& p, GroupTile const& tile, std::uint32_t memory, int warp) {
  int const lane = static_cast<int>(threadIdx.x) % 32, eight = lane % 16, column = tile.column + 8 * eight, rows = rows_there(tile);
  if (column >= p.columns) return;
  int const first = 2 * warp + lane / 16;
  T *y = p.y.at(tile.begin + first, column), *hidden = p.hidden.at(tile.begin + first, column);
  Index const y_step = 2 * Warps * p.y.stride, hidden_step = 2 * Warps * p.hidden.stride;
  with_activation(p.kind, [&](auto kind) {
#pragma unroll 2
    for (int row = first; row < rows; row += 2 * Warps, y += y_step, hidden += hidden_step) {
      Piece const gate = waiting_piece(memory, row, eight), value = waiting_piece(memory, row, 16 + eight);
      if (p.hidden) {
        store_piece(hidden, gate);
        store_piece(hidden + p.columns, value);
      }
      float a[8], v[8];
      widen_piece<T>(gate, a), widen_piece<T>(value, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) a[i] = device_activate(kind.value, a[i]) * v[i];
      store_piece(y, round_piece<T>(a));
    }
  });
}

/// d_h and a from d_a that waits and from h: a warp a row, the next two rows of h on their way.
template <class T, int Warps, bool Gated>
__device__ void finish_d_hidden(RowsProduct<T> const& p, GroupTile const& tile, std::uint32_t memory, int warp) {
  int const lane = static_cast<int>(threadIdx.x) % 32, column = tile.column + 8 * lane, rows = rows_there(tile);
  if (column >= p.columns || (tile.narrow && lane >= 16)) return;
  struct Row {
    Piece gate, value;
  };
  T const* from = p.forward.at(tile.begin + warp, column);
  T *y = p.y.at(tile.begin + warp, column), *d_hidden = p.hidden.at(tile.begin + warp, column);
  Index const from_step = Warps * p.forward.stride, y_step = Warps * p.y.stride, d_hidden_step = Warps * p.hidden.stride;
  auto const fetch = [&](int row) {
    Row out{};
    if (row >= rows) return out;
    out.gate = load_piece(from);
    if constexpr (Gated) out.value = load_piece(from + p.columns);
    from += from_step;
    return out;
  };
  with_activation(p.kind, [&](auto kind) {
    Row next = fetch(warp), after = fetch(warp + Warps);
#pragma unroll 2  // the two rows that come change places, and no register waits to be copied
    for (int row = warp; row < rows; row += Warps, y += y_step, d_hidden += d_hidden_step) {
      Row const here = next;
      next = after, after = fetch(row + 2 * Warps);
      float d[8], a[8];
      widen_piece<T>(waiting_piece(memory, row, lane), d), widen_piece<T>(here.gate, a);
      if constexpr (Gated) {
        float v[8], d_value[8];
        widen_piece<T>(here.value, v);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          auto const both = device_activated(kind.value, a[k]);
          d_value[k] = d[k] * both.value, d[k] = d[k] * v[k] * both.slope, a[k] = both.value * v[k];
        }
        store_piece(d_hidden + p.columns, round_piece<T>(d_value));
      } else {
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          auto const both = device_activated(kind.value, a[k]);
          d[k] *= both.slope, a[k] = both.value;
        }
      }
      store_piece(d_hidden, round_piece<T>(d));
      store_piece(y, round_piece<T>(a));
    }
  });
}

/// What waits of a group's half of a tile, finished by warp `warp` of so many.
template <RowsEnd End, int Warps, class T>
__device__ void finish_tile(RowsProduct<T> const& p, GroupTile const& tile, std::uint32_t memory, int warp) {
  if constexpr (End == RowsEnd::store)
    finish_rows<T, Warps>(p, tile, memory, warp);
  else if constexpr (End == RowsEnd::activate)
    finish_activation<T, Warps>(p, tile, memory, warp);
  else if constexpr (End == RowsEnd::gate)
    finish_gate<T, Warps>(p, tile, memory, warp);
  else if (p.gated)
    finish_d_hidden<T, Warps, true>(p, tile, memory, warp);
  else
    finish_d_hidden<T, Warps, false>(p, tile, memory, warp);
}

#endif

template <class T, RowsEnd End, bool Turned>
__global__ void __launch_bounds__(RowsTuning<End>::threads, 1) rows_tensor_kernel(__grid_constant__ RowsProduct<T> const p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tensor = TensorTuning;
  using Tuning = RowsTuning<End>;
  using Stages = Pipeline<Tuning::stages, GroupTile>;
  constexpr bool gate = End == RowsEnd::gate;
  extern __shared__ unsigned char tile_memory[];
  __shared__ typename Stages::Shared barriers;
  __shared__ unsigned long long waiting_barriers[4];
  __shared__ GroupTile waiting_tiles[2];
  if (p.clear && blockIdx.x == 0 && threadIdx.x < cleared_counters) p.clear[threadIdx.x] = 0;
  if (!groups_right(p.groups)) return;
  Stages pipeline{tile_memory, barriers};
  // What waits for the finishing warps, of each group: full after a word of each of its threads, free after one of each of theirs.
  std::uint32_t const waiting = pipeline.tiles + Stages::bytes,
                      waiting_full = static_cast<std::uint32_t>(__cvta_generic_to_shared(waiting_barriers)),
                      waiting_free = waiting_full + 16;
  constexpr unsigned next_place = Tuning::places == 2 ? Tuning::waiting_bytes : 0;
  if (threadIdx.x == 0) {
    for (unsigned g = 0; g < 2; ++g)
      barrier_init(waiting_full + 8 * g, 4 * 32), barrier_init(waiting_free + 8 * g, Tuning::finishers * 32);
    barriers_ready();
  }
  __syncthreads();
  int const group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0) - Tuning::others;  // one for a warp: a register less
  bool const leads = static_cast<int>(threadIdx.x) % 32 == 0;
  GroupTile tile;
  if (group < 0) {
    give_registers<Tuning::other_registers>();
    if (threadIdx.x >= 32) {
      int const warp = static_cast<int>(threadIdx.x) / 32 - 1;
      if constexpr (End == RowsEnd::store)
        if (p.back.order) clear_left_out<T, Tuning::finishers>(p, warp);
      for (unsigned half = 0;; ++half) {
        unsigned const g = half % 2;
        barrier_wait(waiting_full + 8 * g, half / 2 % 2);
        tile = waiting_tiles[g];
        if (tile.expert < 0) return;
        tile.begin += g * (Tensor::rows / 2);
        finish_tile<End, Tuning::finishers>(p, tile, waiting + g * next_place, warp);
        __syncwarp();  // no lane waits for the next half while others finish this one
        barrier_arrive(waiting_free + 8 * (Tuning::places == 2 ? g : g ^ 1));
      }
    }
    GroupWalk<Tensor::rows, Tuning::columns, !gate, true> walk{p.groups, p.columns};
    TileNumbers numbers{p.turns};
    for (;;) {
      int number = leads ? numbers.take() : 0;
      number = __shfl_sync(~0u, number, 0);
      if (!walk.find(number, tile)) break;
      unsigned const right_bytes = tile.narrow ? Tensor::right_bytes / 2 : Tensor::right_bytes;
      for (int k = 0; k < p.depth; k += Tensor::depth, pipeline.next()) {
        if (leads) {
          pipeline.wait_empty();
          if (k == 0) pipeline.shared->notes[pipeline.stage] = tile;
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
    }
    if (leads) pipeline.finish();
  } else {
    take_registers<Tuning::consumer_registers>();
    bool const biased = End != RowsEnd::d_hidden && p.bias;
    float sums[128];
    for (unsigned parity = 1;; parity ^= 1) {
      tile = pipeline.wait_note();
      bool const more = tile.expert >= 0, there = more && !(tile.low && group == 1);
      if (more) {
        if (!there)
          pass_tile(pipeline, p.depth);
        else if (!gate && tile.narrow)
          sum_tile<T, false, Turned, TileColumns::narrow>(sums, pipeline, group, p.depth);
        else
          sum_tile<T, false, Turned, Tuning::wide>(sums, pipeline, group, p.depth);
      }
      auto const g = static_cast<unsigned>(group);
      if (!more && g == 1) break;  // the other group says so
      // Where both have one place, the second group's turn comes after the first one's of the same tile, not of the tile before.
      barrier_wait(waiting_free + 8 * g, Tuning::places == 2 ? parity : parity ^ g);
      int const split = gate ? p.columns - 128 : 0;
      if (there && biased)
        leave_sums<true>(sums, p, tile, waiting + g * next_place, split);
      else if (there)
        leave_sums<false>(sums, p, tile, waiting + g * next_place, split);
      if (threadIdx.x % 128 == 0) waiting_tiles[g] = tile;
      barrier_arrive(waiting_full + 8 * g);
      if (!more) break;
    }
  }
#else
  __trap();  // the host has asked `has_wgmma`; where files for several architectures are mixed it can be told wrong
#endif
}

}  // namespace blackmamba::detail
