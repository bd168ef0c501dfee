#pragma once
/// \file
/// Kernels of the selective scan's backward pass, in the order they run.

#include <blackmamba/ops/selective_scan/backward_forward.cuh>
#include <blackmamba/ops/selective_scan/backward_tile.cuh>

namespace blackmamba::detail {

/// A warp half a tile and a segment.
template <class T>
__global__ void __launch_bounds__(ScanBackwardTuning::threads, ScanBackwardTuning::forward_blocks_per_multiprocessor)
    scan_backward_forward_kernel(__grid_constant__ SelectiveScanBackwardArgs<T> const a,
                                 __grid_constant__ ScanBackwardLayout const plan) {
  using Warp = ScanForwardWarp<T>;
  __shared__ typename Warp::Shared shared[Warp::warps];
  int const warp = static_cast<int>(threadIdx.x) / 32, unit = static_cast<int>(blockIdx.x) * Warp::warps + warp, half = unit % 2;
  int const tile = unit / 2 % plan.tiles, part = unit / 2 / plan.tiles;
  if (part < plan.rows * plan.segments) Warp{a, plan, shared[warp], tile, half, part}.run();
}

/// A block a tile and segment, tiles first.
template <class T>
__global__ void __launch_bounds__(ScanBackwardTuning::threads, ScanBackwardTuning::blocks_per_multiprocessor)
    scan_backward_kernel(__grid_constant__ SelectiveScanBackwardArgs<T> const a, __grid_constant__ ScanBackwardLayout const plan) {
  extern __shared__ uint4 memory[];
  ScanBackwardTile<T>{a, plan, *reinterpret_cast<typename ScanBackwardTile<T>::Shared*>(memory)}.run();
}

/// One number of each segment of a row in turn: states from the first segment on (y = 0), their gradients from the last one back.
/// Each is replaced by what reaches the segment. Blocks (8 to a tile and row).
static __global__ void __launch_bounds__(ScanBackwardTuning::threads)
    scan_backward_compose_kernel(__grid_constant__ ScanBackwardLayout const plan, __grid_constant__ View<float const, 2> const A,
                                 __grid_constant__ View<Index const, 1> const offsets, int per_group) {
  using Tuning = ScanBackwardTuning;
  constexpr unsigned of_tile = 8 * Tuning::threads;
  constexpr int batch = 8;
  int const tile = static_cast<int>(blockIdx.x / 8) % plan.tiles, row = static_cast<int>(blockIdx.x / 8) / plan.tiles;
  unsigned const at = blockIdx.x % 8 * Tuning::threads + threadIdx.x;
  ScanBackwardPlace const place{at / 4 % Tuning::threads};
  int const channel = 16 * place.warp + place.channel(static_cast<int>(at / 4 / Tuning::threads)),
            n = place.state(static_cast<int>(at % 4));
  int const within = tile % plan.tiles_per_group * Tuning::channels + channel;
  float const rate =
      within < per_group && n < A.extent(1) ? A(tile / plan.tiles_per_group * per_group + within, n) * 1.44269504088896f : 0.0f;
  bool const back = blockIdx.y;
  float* const values = reinterpret_cast<float*>(back ? plan.d_states : plan.states);
  ScanSlots slots{offsets, plan.length, row};
  float x = 0;
  for (int begin = 0; begin < plan.segments; begin += batch) {
    float own[batch], decay[batch];
    auto const segment = [&](int k) { return back ? plan.segments - 1 - begin - k : begin + k; };
    auto const part = [&](int k) { return (Index{row} * plan.segments + segment(k)) * plan.tiles + tile; };
    int const count = min(batch, plan.segments - begin);
#pragma unroll
    for (int k = 0; k < batch; ++k)
      if (k < count) own[k] = values[part(k) * of_tile + at], decay[k] = plan.decays[part(k) * Tuning::channels + channel];
#pragma unroll
    for (int k = 0; k < batch; ++k)
      if (k < count) {
        int const first = segment(k) * plan.segment, last = min(plan.slots, first + plan.segment) - 1;
        // Whether what comes to one end of the segment reaches the other: a sequence goes all the way.
        slots.seek(back ? first : last);
        bool const through = back ? slots.last() > last : slots.first < first;
        values[part(k) * of_tile + at] = x;
        x = through ? fmaf(device_exp2(fmaxf(rate, -3.4e38f) * decay[k]), x, own[k]) : own[k];
      }
  }
}

/// d_B and d_C from the tiles' parts: a thread sums 4 states of one of them at one time over the tiles of a group.
template <class T>
__global__ void __launch_bounds__(256) scan_backward_rows_kernel(__grid_constant__ SelectiveScanBackwardArgs<T> const a,
                                                                 __grid_constant__ ScanBackwardLayout const plan) {
  constexpr int quads = 2 * ScanBackwardTuning::states / 4;
  Index const i = Index{blockIdx.x} * blockDim.x + threadIdx.x, rows = Index{plan.rows} * plan.length, groups = a.B.extent(2);
  if (i >= rows * groups * quads) return;
  Index const g = i / quads / rows, row = i / quads % rows, of_tile = rows * quads;
  float4 const* const from =
      reinterpret_cast<float4 const*>(plan.d_BC) + g * plan.tiles_per_group * of_tile + row * quads + i % quads;
  float4 sum{0, 0, 0, 0};
#pragma unroll 8
  for (int tile = 0; tile < plan.tiles_per_group; ++tile) {
    float4 const x = __ldcs(from + tile * of_tile);
    sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
  }
  bool const is_C = i % quads >= quads / 2;
  View<T, 4> const& to = is_C ? a.d_C : a.d_B;
  if (!to) return;
  float const of[4]{sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    Index const n = i % (quads / 2) * 4 + k;
    if (n < a.A.extent(1)) to(row / plan.length, row % plan.length, g, n) = device_round<T>(of[k]);
  }
}

/// d_A, d_D and d_delta_bias from the segments' parts. Blocks (8 to a tile, as to compose, and one for the channels).
template <class T>
__global__ void __launch_bounds__(ScanBackwardTuning::threads)
    scan_backward_parameters_kernel(__grid_constant__ SelectiveScanBackwardArgs<T> const a,
                                    __grid_constant__ ScanBackwardLayout const plan) {
  using Tuning = ScanBackwardTuning;
  constexpr int of_tile = 8 * Tuning::threads;
  int const tile = static_cast<int>(blockIdx.x) / 9, block = static_cast<int>(blockIdx.x) % 9, parts = plan.rows * plan.segments;
  int const per_group = static_cast<int>(a.u.extent(2) / a.B.extent(2)), group_begin = tile / plan.tiles_per_group * per_group,
            tile_begin = tile % plan.tiles_per_group * Tuning::channels;
  auto const sum = [&](float const* from, int stride, int offset) {
    float total = 0;
#pragma unroll 16
    for (int part = 0; part < parts; ++part) total += from[(Index{part} * plan.tiles + tile) * stride + offset];
    return total;
  };
  if (block < 8) {
    int const at = block * Tuning::threads + static_cast<int>(threadIdx.x);
    ScanBackwardPlace const place{static_cast<unsigned>(at) / 4 % Tuning::threads};
    int const within = tile_begin + 16 * place.warp + place.channel(at / 4 / Tuning::threads), n = place.state(at % 4);
    if (a.d_A && within < per_group && n < a.A.extent(1))
      a.d_A(group_begin + within, n) += sum(reinterpret_cast<float const*>(plan.d_A), of_tile, at);
  } else {
    // The first half of the threads has d_D, the other one d_delta_bias.
    bool const of_D = threadIdx.x < Tuning::channels;
    int const channel = static_cast<int>(threadIdx.x) % Tuning::channels;
    View<float, 1> const& to = of_D ? a.d_D : a.d_delta_bias;
    if (to && tile_begin + channel < per_group)
      to[group_begin + tile_begin + channel] += sum(of_D ? plan.d_D : plan.d_bias, Tuning::channels, channel);
  }
}

}  // namespace blackmamba::detail
