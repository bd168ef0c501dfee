#pragma once
/// \file
/// Kernel of one step: four lanes share a channel, each with every fourth group of four states, so a warp reads and writes the
/// state in whole lines.

#include <cuda_runtime.h>

#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>

namespace blackmamba::detail {

inline constexpr int step_lanes = 4, step_threads = 128;

/// Four elements that are read and written at once.
template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Four {
  T of[4];
};

/// Whether the last dimension can be read four at a time.
template <class T, int Rank>
bool fours_align(View<T, Rank> const& view) {
  bool aligns = view.stride(Rank - 1) == 1 && view.extent(Rank - 1) % 4 == 0 &&
                reinterpret_cast<std::uintptr_t>(view.data()) % alignof(Four<T>) == 0;
  for (int i = 0; i < Rank - 1; ++i) aligns = aligns && (view.extent(i) == 1 || view.stride(i) % 4 == 0);
  return aligns;
}

template <class T>
__global__ void __launch_bounds__(step_threads) scan_step_kernel(__grid_constant__ SelectiveScanStepArgs<T> const a, bool fours) {
  using Acc = accumulator_t<T>;
  Index const batch = a.u.extent(0), D = a.u.extent(1), N = a.A.extent(1);
  Index const i = Index{blockIdx.x} * step_threads + threadIdx.x, channel = i / step_lanes;
  int const lane = static_cast<int>(i % step_lanes);
  // Lanes past the end come along to the sum, so that every warp is whole there.
  bool const real = channel < batch * D;
  Index const b = real ? channel / D : batch - 1, d = real ? channel % D : D - 1, g = d / (D / a.B.extent(1));
  Acc const u = widen(a.u(b, d));
  Acc delta = widen(a.delta(b, d));
  if (a.delta_bias) delta += widen(a.delta_bias[d]);
  if (a.delta_softplus) delta = device_softplus(delta);
  Acc const input = delta * u;
  constexpr Acc log2_e = Acc(1.44269504088896340735992468100189214);
  Acc y = 0;
  for (Index n = 4 * lane; real && n < N; n += 4 * step_lanes) {
    Four<Acc> A, h;
    if (fours) {
      A = *reinterpret_cast<Four<Acc> const*>(&a.A(d, n));
      h = *reinterpret_cast<Four<Acc> const*>(&a.state(b, d, n));
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (n + k >= N) break;
      Acc const rate = fours ? A.of[k] : a.A(d, n + k), before = fours ? h.of[k] : a.state(b, d, n + k);
      h.of[k] = device_exp2(delta * (rate * log2_e)) * before + input * widen(a.B(b, g, n + k));
      y += h.of[k] * widen(a.C(b, g, n + k));
      if (!fours) a.state(b, d, n + k) = h.of[k];
    }
    if (fours) *reinterpret_cast<Four<Acc>*>(&a.state(b, d, n)) = h;
  }
  y += __shfl_xor_sync(~0u, y, 1);
  y += __shfl_xor_sync(~0u, y, 2);
  if (lane != 0 || !real) return;
  if (a.D) y += widen(a.D[d]) * u;
  if (a.z) y *= device_silu(widen(a.z(b, d)));
  a.y(b, d) = static_cast<T>(y);
}

}  // namespace blackmamba::detail
