#pragma once
/// \file
/// Products on tensor cores between which much is to be done with the sums: tiles of 128 × 128 and two blocks a multiprocessor, so
/// that one multiplies while the other finishes.

#include <blackmamba/ops/expert_mlp/tensor_rows.cuh>

namespace blackmamba::detail {

template <RowsEnd End>
struct HalfTuning {
  static constexpr int stages = 3, threads = 288, rows = 128, depth = 64;
  static constexpr int columns = End == RowsEnd::gate ? 64 : 128;  ///< of the output
  static constexpr unsigned operand_bytes = rows * depth * 2, stage_bytes = 2 * operand_bytes, box_bytes = 64 * 64 * 2;
  static constexpr unsigned shared_bytes = stages * stage_bytes + 1024;
};

#if defined(__CUDACC__)

/// A tile as the warp that finds it tells the others; `expert` is negative where there are no more.
struct ToldTile {
  int expert, begin, end, column, low;
};

/// Two columns of each of four eights, with their biases, as eight columns of one row.
template <class T>
__device__ Piece half_piece(float const (&sums)[128], int first, int lower, View<T const, 2> const& bias, int expert, int column) {
  int const q = static_cast<int>(threadIdx.x) % 4;
  Piece x;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    float2 const b = two_biases(bias, expert, column + 8 * c + 2 * q);
    x.words[c] = round_pair<T>(sums[first + 4 * c + 2 * lower] + b.x, sums[first + 4 * c + 2 * lower + 1] + b.y);
  }
  turn_piece(x);
  return x;
}

/// a from the halves of h, in place of the gate: two elements at a time, which few registers hold.
template <class T>
__device__ void apply_gate(Activation kind, Piece& gate, Piece const& value) {
  with_activation(kind, [&](auto constant) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const g = StoredPair<T>{gate.words[i]}.widen(), v = StoredPair<T>{value.words[i]}.widen();
      gate.words[i] = round_pair<T>(device_activate(constant.value, g.x) * v.x, device_activate(constant.value, g.y) * v.y);
    }
  });
}

/// d_h and a from d_a and h, each in place: of the gate in `d`, of the value in `value`, a in `gate`.
template <class T>
__device__ void apply_slope(Activation kind, bool gated, Piece& d, Piece& gate, Piece& value) {
  with_activation(kind, [&](auto constant) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const g = StoredPair<T>{gate.words[i]}.widen(), by = StoredPair<T>{d.words[i]}.widen();
      auto const x = device_activated(constant.value, g.x), y = device_activated(constant.value, g.y);
      float2 v{1, 1};
      if (gated) v = StoredPair<T>{value.words[i]}.widen();
      d.words[i] = round_pair<T>(by.x * v.x * x.slope, by.y * v.y * y.slope);
      value.words[i] = round_pair<T>(by.x * x.value, by.y * y.value);
      gate.words[i] = round_pair<T>(x.value * v.x, y.value * v.y);
    }
  });
}

/// What `RowsEnd` says, of 64 rows by 128 columns of sums in the registers of a group.
template <RowsEnd End, class T>
__device__ void finish_half(float const (&sums)[128], RowsProduct<T> const& p, ToldTile const& tile, int group) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4, q = lane % 4;
  int const row = tile.begin + 64 * group + 16 * warp + lane / 4;
  int const column = tile.column + 8 * q;
  auto const here = [&](int span, int lower) { return row + 8 * lower < tile.end && column + 32 * span < p.columns; };
  if constexpr (End == RowsEnd::gate) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const span = i / 2, lower = i % 2, first = tile.column + 32 * span;
      Piece gate = half_piece(sums, 16 * span, lower, p.bias, tile.expert, first);
      Piece const value = half_piece(sums, 32 + 16 * span, lower, p.bias, tile.expert, p.columns + first);
      if (!here(span, lower)) continue;
      int const r = row + 8 * lower;
      if (p.hidden) {
        store_piece(p.hidden.at(r, column + 32 * span), gate);
        store_piece(p.hidden.at(r, p.columns + column + 32 * span), value);
      }
      apply_gate<T>(p.kind, gate, value);
      store_piece(p.y.at(r, column + 32 * span), gate);
    }
  } else {
    Piece next_gate{}, next_value{};
    auto const load = [&](int i) {
      if (!here(i / 2, i % 2)) return;
      T const* const from = p.forward.at(row + 8 * (i % 2), column + i / 2 * 32);
      next_gate = load_piece(from);
      if (p.gated) next_value = load_piece(from + p.columns);
    };
    load(0);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      int const span = i / 2, lower = i % 2;
      Piece d = half_piece(sums, 16 * span, lower, View<T const, 2>{}, 0, 0);
      Piece gate = next_gate, value = next_value;
      if (i < 7) load(i + 1);  // while this one is worked on
      if (!here(span, lower)) continue;
      int const r = row + 8 * lower;
      apply_slope<T>(p.kind, p.gated, d, gate, value);
      T* const to = p.hidden.at(r, column + 32 * span);
      store_piece(to, d);
      if (p.gated) store_piece(to + p.columns, value);
      store_piece(p.y.at(r, column + 32 * span), gate);
    }
  }
}

#endif

template <class T, RowsEnd End, bool Turned>
__global__ void __launch_bounds__(HalfTuning<End>::threads, 2) half_tensor_kernel(__grid_constant__ RowsProduct<T> const p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tuning = HalfTuning<End>;
  constexpr bool gate = End == RowsEnd::gate;
  using Walk = GroupWalk<Tuning::rows, Tuning::columns, false, true>;
  extern __shared__ unsigned char tile_memory[];
  __shared__ unsigned long long barriers[2 * Tuning::stages];
  __shared__ ToldTile told[Tuning::stages];  // with the first stage of a tile
  if (p.clear && blockIdx.x == 0 && threadIdx.x < cleared_counters) p.clear[threadIdx.x] = 0;
  std::uint32_t const tiles = (static_cast<std::uint32_t>(__cvta_generic_to_shared(tile_memory)) + 1023) & ~1023u;
  std::uint32_t const full = static_cast<std::uint32_t>(__cvta_generic_to_shared(barriers)), empty = full + 8 * Tuning::stages;
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < Tuning::stages; ++i) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, 8);
    barriers_ready();
  }
  if (!groups_right(p.groups)) return;  // a barrier of the block, too
  unsigned stage = 0, parity = 0;
  auto const next = [&] {
    if (++stage == Tuning::stages) stage = 0, parity ^= 1;
  };
  bool const leads = static_cast<int>(threadIdx.x) % 32 == 0;
  if (threadIdx.x >= 256) {
    GroupTile tile;
    Walk walk{p.groups, p.columns};
    for (int number = static_cast<int>(blockIdx.x); walk.find(number, tile); number += static_cast<int>(gridDim.x))
      for (int k = 0; k < p.depth; k += Tuning::depth, next()) {
        if (!leads) continue;
        barrier_wait(empty + 8 * stage, parity ^ 1);
        if (k == 0) told[stage] = {tile.expert, static_cast<int>(tile.begin), static_cast<int>(tile.end), tile.column, tile.low};
        std::uint32_t const here = full + 8 * stage, left = tiles + stage * Tuning::stage_bytes,
                            right = left + Tuning::operand_bytes;
        barrier_expect(here, Tuning::stage_bytes);
        bring_tile(p.left, here, left, k, static_cast<int>(tile.begin));
        for (unsigned i = 0; i < 2; ++i) {
          std::uint32_t const to = right + i * Tuning::box_bytes;
          int const shift = static_cast<int>(i) * (gate ? p.columns : 64);
          if constexpr (Turned)
            bring_tile(p.right, here, to, tile.column + shift, k, tile.expert);
          else
            bring_tile(p.right, here, to, k, tile.column + shift, tile.expert);
        }
      }
    if (leads) {
      barrier_wait(empty + 8 * stage, parity ^ 1);
      told[stage].expert = -1;
      barrier_arrive(full + 8 * stage);
    }
  } else {
    int const group = static_cast<int>(threadIdx.x) / 128;
    float sums[128];  // the first half of them
    for (;;) {
      barrier_wait(full + 8 * stage, parity);
      ToldTile const tile = told[stage];
      if (tile.expert < 0) break;
      if constexpr (End == RowsEnd::d_hidden) {
        // h is brought to the L2 cache meanwhile, a row a thread of each group.
        int const r = tile.begin + static_cast<int>(threadIdx.x) % 128;
        if (r < tile.end && (group == 0 || p.gated))
          for (int c = 0; c < Tuning::columns && tile.column + c < p.columns; c += 64)
            asm volatile("prefetch.global.L2 [%0];" ::"l"(p.forward.at(r, group * p.columns + tile.column + c)));
      }
      bool const works = !(tile.low && group == 1);
      std::uint32_t before = 0;
      wgmma_hold<64>(sums);
      for (int k = 0; k < p.depth; k += Tuning::depth, next()) {
        barrier_wait(full + 8 * stage, parity);
        if (works) {
          std::uint32_t const at = tiles + stage * Tuning::stage_bytes;
          std::uint64_t const left = tile_descriptor(at + static_cast<unsigned>(group) * Tuning::box_bytes),
                              right = tile_descriptor(at + Tuning::operand_bytes, Turned ? Tuning::box_bytes : 16);
          wgmma_begin();
#pragma unroll
          for (unsigned i = 0; i < Tuning::depth / 16; ++i)
            wgmma_128<T, false, Turned>(sums, left + (i * 32 >> 4), right + (i * (Turned ? 2048 : 32) >> 4), k > 0 || i > 0);
          wgmma_commit();
          wgmma_wait<1>();
        }
        __syncwarp();
        if (k > 0 && leads) barrier_arrive(before);
        before = empty + 8 * stage;
      }
      wgmma_wait<0>();
      wgmma_hold<64>(sums);
      if (leads) barrier_arrive(before);
      if (works) finish_half<End>(sums, p, tile, group);
    }
  }
#endif
}

}  // namespace blackmamba::detail
