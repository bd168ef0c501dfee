#pragma once
/// \file
/// Kernel of one step: four lanes share a channel, each with every fourth group of four states, so a warp reads and writes the
/// state in whole lines.

#include <cuda_runtime.h>

#include <blackmamba/core/cuda/fours.cuh>
#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>

namespace blackmamba::detail {

inline constexpr int step_lanes = 4, step_threads = 128;

/// Blocks over channels, and over entries of the batch. `fours`: A, the state, B and C can be read four at a time.
template <class T>
__global__ void __launch_bounds__(step_threads) scan_step_kernel(__grid_constant__ SelectiveScanStepArgs<T> const a, bool fours) {
  using Acc = accumulator_t<T>;
  let_next_start();
  await_kernels_before();
  auto const D = static_cast<unsigned>(a.u.extent(1)), per_group = D / static_cast<unsigned>(a.B.extent(1));
  unsigned const lane = threadIdx.x % step_lanes, channel = blockIdx.x * (step_threads / step_lanes) + threadIdx.x / step_lanes;
  // Lanes past the end come along to the sum, so that every warp is whole there.
  bool const real = channel < D;
  unsigned const d = real ? channel : D - 1, g = d / per_group;
  int const N = static_cast<int>(a.A.extent(1)), first = 4 * static_cast<int>(lane);
  constexpr Acc log2_e = Acc(1.44269504088896340735992468100189214);
  for (Index b = blockIdx.y; b < a.u.extent(0); b += gridDim.y) {
    Acc const u = widen(a.u(b, d));
    Acc delta = widen(a.delta(b, d));
    Acc const z = a.z ? widen(a.z(b, d)) : Acc(0);
    if (a.delta_bias) delta += widen(a.delta_bias[d]);
    auto const* const rates = &a.A(d, first);
    auto const *const B = &a.B(b, g, first), *const C = &a.C(b, g, first);
    auto* const after = &a.state(b, d, first);
    Acc y = 0;
    auto const update = [&](Acc& h, Acc rate, T B_n, T C_n, Acc step, Acc input) {
      h = device_exp2(step * (rate * log2_e)) * h + input * widen(B_n);
      y += h * widen(C_n);
    };
    if (fours) {
      for (int n = 0; real && first + n < N; n += 4 * step_lanes) {
        auto const A4 = *reinterpret_cast<Four<Acc> const*>(rates + n);
        auto h4 = *reinterpret_cast<Four<Acc> const*>(after + n);
        auto const B4 = *reinterpret_cast<Four<T> const*>(B + n), C4 = *reinterpret_cast<Four<T> const*>(C + n);
        Acc const step = a.delta_softplus ? device_softplus(delta) : delta, input = step * u;
#pragma unroll
        for (int k = 0; k < 4; ++k) update(h4.of[k], A4.of[k], B4.of[k], C4.of[k], step, input);
        *reinterpret_cast<Four<Acc>*>(after + n) = h4;
      }
    } else {
      Acc const step = a.delta_softplus ? device_softplus(delta) : delta, input = step * u;
      for (int n = first; real && n < N; n += 4 * step_lanes)
        for (int k = n; k < min(n + 4, N); ++k) {
          Acc h = a.state(b, d, k);
          update(h, a.A(d, k), a.B(b, g, k), a.C(b, g, k), step, input);
          a.state(b, d, k) = h;
        }
    }
    y += __shfl_xor_sync(~0u, y, 1);
    y += __shfl_xor_sync(~0u, y, 2);
    if (lane != 0 || !real) continue;
    if (a.D) y += widen(a.D[d]) * u;
    if (a.z) y *= device_silu(z);
    a.y(b, d) = static_cast<T>(y);
  }
}

}  // namespace blackmamba::detail
